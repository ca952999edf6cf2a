"""Full-batch learning: errors and losses against sample complexity, and heat maps over the penalty."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.models.curves import Curve
from gaussequiv.report.batches import QUANTITIES, BatchComparison
from gaussequiv.report.figures.drawing import (
    MOST_BOUND,
    PRACTICE,
    STYLE,
    THEORY,
    TWIN,
    band,
    canvas,
    on_log_axis,
    plain_numbers,
)

MOST_PENALTIES = 8  # drawn as curves; all of them are in the heat map
FEW_PENALTIES = 3  # from which there is a heat map
SMOOTH = 5  # penalties from which it has contour lines
WIDE = 20.0  # ratio of the largest to the smallest value from which an axis is logarithmic
DEEP = 1e-8  # of the largest value: what is smaller is left out of view
LIMITS = {"interpolation": "interpolation", "separability": "← separable"}  # thresholds and their short names


def full_batch(
    theory: Curve | None,
    practice: Curve | None = None,
    bayes: Curve | None = None,
    comparison: BatchComparison | None = None,
    twin: BatchComparison | None = None,
) -> Figure:
    """Test error and training loss of full-batch learning against alpha, a colour for every penalty.

    Theory is drawn as lines, a simulation as points with error bars, the twin's as open ones; z-scores, of a comparison,
    below. Best penalties have a panel of their own.
    """
    theory = comparison.theory if comparison is not None else theory.corrected if theory is not None else None
    curve = theory if theory is not None else practice
    if curve is None:
        raise InputError("there is nothing to draw; pass a curve")
    shown, colours = _shown_penalties(curve)
    best = "penalty" not in curve.axes and "penalty" in curve.data.data_vars
    drawn = [(theory, "-", True), (practice, "o", True), (twin.practice if twin else None, "s", False)]
    with mpl.rc_context(STYLE):
        figure = canvas(13.5 if best else 11.0, 6.0 if comparison else 4.0)
        heights = (3, 1) if comparison else (1,)
        grid = figure.add_gridspec(len(heights), 2 + best, height_ratios=heights)
        for column, name in enumerate(QUANTITIES):
            panel = figure.add_subplot(grid[0, column])
            for one, marker, filled in drawn:
                if one is not None:
                    _penalty_lines(panel, one, name, shown, colours, marker, filled=filled)
            if bayes is not None and name == "test_error":
                panel.plot(bayes.alpha, bayes.test_error, "--", color="#222222", lw=1.2)
            _scaled(panel, [_column(c, name, i) for c, *_ in drawn if c is not None for i in shown])
            _alpha_axis(panel, curve, lowest=comparison is None)
            panel.set_title(f"{QUANTITIES[name]}{_of_labels(curve, name)}", pad=18)
            panel.set_ylabel(QUANTITIES[name])
            _threshold_lines(panel, curve, named=True)
            if comparison is not None:
                scores = figure.add_subplot(grid[1, column], sharex=panel)
                _batch_z_panel(scores, name, shown, colours, comparison, twin)
                _threshold_lines(scores, curve, named=False)
                panel.tick_params(which="both", labelbottom=False)
                _alpha_axis(scores, curve)
        if best:
            panel = figure.add_subplot(grid[:, 2])
            positive = np.where(curve.penalty > 0, curve.penalty, np.nan)
            panel.plot(curve.data[curve.axes[0]], positive, "-o", ms=3, color=THEORY)
            panel.set(yscale="log", ylabel=r"$\lambda$")
            panel.set_title("best penalty", pad=18)
            if np.isfinite(positive).any():
                plain_numbers(panel.yaxis, np.nanmin(positive), np.nanmax(positive))
            _alpha_axis(panel, curve)
        figure.legend(
            handles=_batch_keys(curve, shown, colours, theory, practice, twin, bayes),
            loc="outside right upper",
            frameon=False,
        )
        return figure


def has_heat_map(curve: Curve) -> bool:
    """Whether a curve has penalties and sample complexities enough for a heat map."""
    return "penalty" in curve.axes and (curve.penalty > 0).sum() >= FEW_PENALTIES and curve.test_error.shape[0] > 1


def heat_map(curve: Curve) -> Figure:
    """The test error over sample complexity and penalty, with contour lines and the best penalty at every alpha.

    Points without a finite value are grey; a penalty 0 is the lowest row.

    Raises:
        InputError: a curve with fewer than three positive penalties, or of one sample complexity.

    """
    if not has_heat_map(curve):
        raise InputError(
            f"a heat map needs an axis of at least {FEW_PENALTIES} positive penalties and two values of alpha; "
            f"this curve has the axes {', '.join(curve.axes)}"
        )
    x, rows = np.asarray(curve.data[curve.axes[0]].values), on_log_axis(curve.penalty)
    errors = np.ma.masked_invalid(curve.test_error.T)
    with mpl.rc_context(STYLE):
        figure = canvas(6.4, 4.6)
        panel = figure.subplots()
        panel.set_facecolor("#bbbbbb")
        if errors.count():
            low, high = float(errors.min()), float(errors.max())
            steep = low > 0 and high > WIDE * low
            mesh = panel.pcolormesh(_edges(x), _edges(rows), errors, cmap="viridis", norm="log" if steep else "linear")
            bar = figure.colorbar(mesh, ax=panel, label=QUANTITIES["test_error"])
            levels = np.geomspace(low, high, 9)[1:-1] if steep else np.linspace(low, high, 9)[1:-1]
            if high > low and len(rows) >= SMOOTH:
                lines = panel.contour(x, rows, errors, levels=levels, colors="white", linewidths=0.7, alpha=0.8)
                bar.add_lines(lines)
            seen = ~errors.mask.all(axis=0) if np.ndim(errors.mask) else np.ones(len(x), bool)
            best = rows[np.ma.filled(errors, np.inf).argmin(axis=0)]
            panel.plot(x[seen], best[seen], "o:", ms=4, lw=1.4, color=PRACTICE, mec="white", mew=0.6)
        panel.set(xscale="log", yscale="log", ylabel=r"penalty $\lambda$", xlim=_ends(x), ylim=_ends(rows))
        panel.set_title(
            f"test error{_of_labels(curve, 'test_error')}, {curve.provenance.get('kind', 'curve')}", fontsize=10
        )
        _alpha_axis(panel, curve)
        if curve.penalty[0] == 0:
            panel.annotate(
                r"$\lambda = 0$", (0.01, rows[0]), xycoords=("axes fraction", "data"), fontsize=8, color="white"
            )
        return figure


def _shown_penalties(curve: Curve) -> tuple[list[int], list[Any]]:
    """Indices of the penalties that are drawn, at most eight, and their colours; one line where there is no such axis."""
    count = curve.test_error.shape[1] if "penalty" in curve.axes else 1
    shown = np.unique(np.rint(np.linspace(0, count - 1, min(count, MOST_PENALTIES))).astype(int)).tolist()
    if len(shown) == 1:
        return shown, [THEORY]
    return shown, list(mpl.colormaps["plasma"](np.linspace(0, 0.9, len(shown))))


def _column(curve: Curve, name: str, index: int) -> Array:
    """The values of one penalty, (alphas,)."""
    return np.asarray(curve.data[name].values.reshape(curve.test_error.shape[0], -1)[:, index])


def _penalty_lines(
    panel: Any, curve: Curve, name: str, shown: list[int], colours: list[Any], marker: str, *, filled: bool
) -> None:
    """One quantity of a curve against alpha, a line or markers with error bars for every penalty that is shown."""
    x = curve.data[curve.axes[0]].values
    for index, colour in zip(shown, colours, strict=True):
        values = _column(curve, name, index)
        if marker == "-":
            there = np.pad(np.isfinite(values), 1)
            alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])  # between points without a value: no line
            panel.plot(x, values, "_-", ms=12, markevery=alone.tolist(), color=colour, lw=1.5)
            reach = curve.reach(name)
            band(panel, x, values, None if reach is None else reach.reshape(len(x), -1)[:, index], colour)
            continue
        one = len(shown) == 1
        colour = colour if not one else PRACTICE if filled else TWIN  # noqa: PLW2901
        look: dict[str, Any] = {"color": colour, "mfc": colour if filled else "none", "ms": 4 if filled else 5}
        panel.errorbar(
            x, values, _column(curve, f"{name}_se", index), fmt=marker, capsize=2, lw=1, zorder=3 + filled, **look
        )


def _scaled(panel: Any, values: list[Array]) -> None:
    """A logarithmic axis for values over a wide range, with what is next to nothing below the view."""
    found = np.concatenate([v[np.isfinite(v)] for v in values])
    found = found[found > DEEP * found.max(initial=0.0)]
    if len(found) and found.max() > WIDE * found.min():
        panel.set_yscale("log")
        panel.set_ylim(found.min() / 1.6, found.max() * 1.6)
        plain_numbers(panel.yaxis, found.min(), found.max())


def _alpha_axis(panel: Any, curve: Curve, *, lowest: bool = True) -> None:
    """A logarithmic axis of sample complexities."""
    x = curve.data[curve.axes[0]].values
    panel.set_xscale("log")
    plain_numbers(panel.xaxis, x[0], x[-1])
    if lowest:
        panel.set_xlabel("samples $n$" if curve.axes[0] == "samples" else r"$\alpha = n / N$")


def _threshold_lines(panel: Any, curve: Curve, *, named: bool) -> None:
    """Thin lines where learning without a penalty changes its nature, if they are in view, with their names above."""
    x = curve.data[curve.axes[0]].values
    for name, value in curve.provenance.get("thresholds", {}).items():
        if name not in LIMITS or not x[0] < value < x[-1]:
            continue
        panel.axvline(value, color="#999999", lw=0.8, zorder=0)
        if named:
            at = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom"}
            panel.annotate(LIMITS[name], (value, 1.01), fontsize=8, color="#777777", **at)


def _batch_z_panel(
    panel: Any,
    name: str,
    shown: list[int],
    colours: list[Any],
    comparison: BatchComparison,
    twin: BatchComparison | None,
) -> None:
    panel.axhspan(-2, 2, color="#eeeeee", zorder=-1)
    panel.axhline(0, color="#888888", lw=1)
    heights = [4.0, 1.1 * min(comparison.bound, MOST_BOUND)]
    for one, marker, filled in ((twin, "s", False), (comparison, "o", True)):
        if one is None:
            continue
        z = one.z(name).reshape(len(one.x), -1)
        for index, colour in zip(shown, colours, strict=True):
            colour = colour if len(shown) > 1 else PRACTICE if filled else TWIN  # noqa: PLW2901
            panel.plot(one.x, z[:, index], marker, ms=4, color=colour, mfc=colour if filled else "none")
        heights.append(1.2 * float(np.abs(z[:, shown][np.isfinite(z[:, shown])]).max(initial=0.0)))
    for sign in (-1, 1):
        panel.axhline(sign * comparison.bound, color="#999999", lw=0.8, ls=":")
    panel.set(ylabel="z", ylim=(-max(heights), max(heights)))


def _batch_keys(
    curve: Curve,
    shown: list[int],
    colours: list[Any],
    theory: Curve | None,
    practice: Curve | None,
    twin: BatchComparison | None,
    bayes: Curve | None,
) -> list[Line2D]:
    """Entries of a legend: what lines and markers are, and a colour for every penalty."""
    one = len(shown) == 1
    grey = "#444444"
    keys = []
    if theory is not None:
        keys.append(Line2D([], [], color=THEORY if one else grey, label="theory"))
    if practice is not None:
        label_ = f"simulation, {practice.data.sizes.get('seed', 1)} seeds"
        keys.append(Line2D([], [], ls="", marker="o", ms=4, color=PRACTICE if one else grey, label=label_))
    if twin is not None:
        keys.append(
            Line2D([], [], ls="", marker="s", ms=5, mfc="none", color=TWIN if one else grey, label="Gaussian twin")
        )
    if bayes is not None:
        keys.append(Line2D([], [], ls="--", lw=1.2, color="#222222", label="Bayes-optimal"))
    if "penalty" in curve.axes:
        values = [curve.penalty[i] for i in shown]
        keys += [
            Line2D([], [], lw=3, color=c, label=rf"$\lambda$ = {float(f'{v:.3g}'):g}")
            for v, c in zip(values, colours, strict=True)
        ]
    elif "penalty" in curve.data.variables and np.ndim(curve.penalty) == 0:
        keys.append(Line2D([], [], ls="", label=rf"$\lambda$ = {float(curve.penalty):.3g}"))
    return keys


def _of_labels(curve: Curve, name: str) -> str:
    """What is learned, for a title: the loss, and the labels of the test error."""
    problem = curve.provenance.get("problem", {})
    loss, output = problem.get("loss"), problem.get("output")
    if loss is None:
        return ""
    return f" ({loss})" if name == "train_loss" else f" on {output} labels"


def _edges(values: Array) -> Array:
    """Borders between points of a logarithmic axis, one more than points."""
    logs = np.log(values)
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middles[0]], middles, [2 * logs[-1] - middles[-1]]]))


def _ends(values: Array) -> tuple[float, float]:
    edges = _edges(values)
    return float(edges[0]), float(edges[-1])
