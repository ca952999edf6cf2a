"""What the commands print: tables of curves and comparisons, and sentences."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaussequiv.models.curves import Curve
    from gaussequiv.models.gaussian import GaussianModel
    from gaussequiv.models.sweeps import Curves
    from gaussequiv.report.batch_runs import BatchRun
    from gaussequiv.report.experiments import Run

MOST_ROWS = 100  # of a table on the terminal
MOST_DOUBTS = 10  # points that are listed with the reason for which they have no number
MOST_PENALTIES = 8  # columns of one


def show_model(run: "Run | BatchRun", model: "GaussianModel") -> None:
    """What was estimated, how accurately, and where it is."""
    say(f"{model!r}")
    rho = model.spectrum
    say(f"top eigenvalue {rho[-1]:.4g} ({rho[-1] / rho.sum():.1%} of the trace)")
    convergence = model.provenance.get("convergence")
    if convergence:
        say_table(
            ("samples", "relative error"),
            [[str(row["samples"]), f"{row['relative_error']:.2e}"] for row in convergence["rows"]],
        )
        if not convergence["reached"]:
            most = convergence["rows"][-1]["samples"]
            say(
                f"rtol = {convergence['rtol']:g} is not reached with {most} samples; set estimate.samples, the limit, higher"
            )
    elif run.experiment.estimate.rtol is not None:
        say("the moments are exact, so rtol is not needed")
    for name, error in model.provenance.get("relative_error", {}).items():
        say(f"relative standard error of {name}: {error:.2e}")
    say("written: " + ", ".join(map(str, [run.folder / "model.safetensors", *run.draw_convergence()])))


def show_comparison(run: "Run | BatchRun") -> None:
    """A comparison in a table and sentences; its figures and page are drawn."""
    from gaussequiv.report.batches import BatchComparison
    from gaussequiv.report.grids import GridComparison, table

    comparison, twin = run.comparisons
    paths = run.draw()
    if isinstance(comparison, GridComparison):
        say(f"test errors at t = {comparison.theory.times[-1]:g}:")
    head, rows = table(comparison, twin)
    say_table(head, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        say(f"the first {MOST_ROWS} of {len(rows)} points; all of them are in the page")
    if isinstance(comparison, BatchComparison):
        say_all(comparison.doubts)
    say(comparison.summary)
    if twin is not None:
        say(f"On the Gaussian twin: {twin.summary}")
    if not isinstance(comparison, BatchComparison) and (comparison.theory.status != "ok").any():
        say(comparison.theory.message)
    for curve in (comparison.theory, comparison.practice, *([twin.practice] if twin is not None else [])):
        warn(curve)
    say("written: " + ", ".join(str(path) for path in paths))


def say_how(curves: "Curve | Curves") -> None:
    """How the points of a curve, or of the curves of a sweep, ended: of a full-batch curve each that is not good."""
    from gaussequiv.models.curves import Curve

    if isinstance(curves, Curve) and "time" not in curves.axes and curves.doubts:
        say_all([f"at {doubt}" for doubt in curves.doubts])
    else:
        say(curves.message)


def say_all(sentences: Sequence[str]) -> None:
    """The first of many sentences, and how many more there are."""
    for line in sentences[:MOST_DOUBTS]:
        say(line)
    if len(sentences) > MOST_DOUBTS:
        say(f"and {len(sentences) - MOST_DOUBTS} more points without a value, or with a doubtful one")


def show_curves(curves: "Curve | Curves", name: str, columns: Sequence[str]) -> None:
    """A table of a curve, or of the last points of the curves of a sweep, and the warnings."""
    from gaussequiv.models.curves import Curve

    if isinstance(curves, Curve) and "time" not in curves.axes:
        show_batch(curves)
        return
    titles = (name, "standard error")[: len(columns)]
    values = [curves.data[column].values for column in columns]
    if isinstance(curves, Curve):
        head, labels = ["t"], [[f"{t:.4g}"] for t in curves.times]
    else:
        say(f"test errors at t = {curves.times[-1]:g}:")
        head, labels = list(curves.axes), [[f"{value:g}" for value in point.values()] for point in curves.points]
        values = [column[..., -1].ravel() for column in values]
    rows = [
        [*words, *(f"{x:{form}}" for x, form in zip(row, (".6g", ".2g"), strict=False))]
        for words, *row in zip(labels, *values, strict=True)
    ]
    say_table((*head, *titles), rows)
    warn(curves)


def show_batch(curve: "Curve") -> None:
    """A table of a full-batch curve: errors and losses of one penalty at every alpha, or test errors of up to eight."""
    import numpy as np

    problem, data = curve.provenance.get("problem", {}), curve.data
    title = f"{problem.get('loss', 'any')} loss on {problem.get('output', 'any')} labels"

    def shown(name: str) -> Any:
        """Values as text, with their standard errors where there are any."""
        if f"{name}_se" not in data or curve.provenance.get("kind") != "simulation":
            return np.vectorize(lambda x: f"{x:.5g}", otypes=[object])(data[name].values)
        join = lambda x, error: f"{x:.4g} ± {error:.1g}"  # noqa: E731
        return np.vectorize(join, otypes=[object])(data[name].values, data[f"{name}_se"].values)

    if "penalty" in curve.axes:
        count = len(curve.penalty)
        at = np.unique(np.rint(np.linspace(0, count - 1, min(count, MOST_PENALTIES))).astype(int))
        some = f", {len(at)} of {count} penalties" if len(at) < count else ""
        say(f"test errors, {title}{some}:")
        head = ["alpha", *(f"penalty {curve.penalty[i]:.3g}" for i in at)]
        columns = [shown("test_error")[:, i] for i in at]
    else:
        say(f"{title}:" if np.ndim(curve.penalty) else f"{title}, penalty {float(curve.penalty):.3g}:")
        best = {"best penalty": np.array([f"{x:.4g}" for x in curve.penalty])} if np.ndim(curve.penalty) else {}
        names = {"test error": "test_error", "training loss": "train_loss", "training error": "train_error"}
        table = best | {words: shown(name) for words, name in names.items()}
        head, columns = ["alpha", *table], list(table.values())
    say_table(head, [[f"{a:.4g}", *row] for a, *row in zip(curve.alpha, *columns, strict=True)])
    warn(curve)


def warn(curves: "Curve | Curves") -> None:
    """The warnings of a curve, on the stream of errors."""
    for warning in curves.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text under their titles."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        say(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def say(text: str) -> None:
    """One line."""
    print(text, flush=True)
