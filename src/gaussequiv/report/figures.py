"""Figures (the only importer of matplotlib): learning curves with z-scores, heat maps, sample grids, spectra."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.sweeps import Curves, label
from gaussequiv.report.batches import QUANTITIES, BatchComparison
from gaussequiv.report.comparison import Comparison
from gaussequiv.report.grids import Compared, GridComparison
from gaussequiv.report.portraits import Portrait

FORMATS = (".png", ".pdf", ".svg")
THEORY, PRACTICE, TWIN = "#1f4e8c", "#c8553d", "#777777"
COLOURS = ("#1f4e8c", "#c8553d", "#3d8c5a", "#8c6d1f", "#6b3d8c", "#3d828c", "#8c3d66", "#555555")
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "gaussequiv"}
LINES, MARKERS = ("-", "--", ":", "-."), "os^D"
MOST_ROWS = 4  # combinations of the third and further axes of a sweep that are drawn
MOST_TICKS = 8  # values of the first axis that are all written below the axis
MOST_BOUND = 9.0  # beyond it the largest |z| that chance explains is left out of view: z would be flat
MOST_LINES = 12  # overlaps drawn in one panel; beyond that lines can no longer be told apart
MOST_PENALTIES = 8  # drawn as curves; all of them are in the heat map
FEW_PENALTIES = 3  # from which there is a heat map
SMOOTH = 5  # penalties from which it has contour lines
WIDE = 20.0  # ratio of the largest to the smallest value from which an axis is logarithmic
DEEP = 1e-8  # of the largest value: what is smaller is left out of view
LIMITS = {"interpolation": "interpolation", "separability": "← separable"}  # thresholds and their short names


def learning_curve(comparison: Comparison, twin: Comparison | None = None) -> Figure:
    """Test error (theory as a line, simulation as points with error bars), overlaps beside, z-scores below.

    A `twin`, the same training on Gaussian samples, is drawn as open squares.
    """
    theory, practice = comparison.theory, comparison.practice
    with mpl.rc_context(STYLE):
        figure = _figure(10.0, 6.0)
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 1), width_ratios=(1.15, 1))
        errors = figure.add_subplot(grid[0, 0])
        t = _shown(comparison.times)
        errors.plot(t, theory.test_error, color=THEORY, label="theory")
        _band(errors, t, theory.test_error, theory.reach())
        seeds = practice.data.sizes["seed"]
        label = f"simulation, {seeds} seeds"
        errors.errorbar(
            t, practice.test_error, comparison.standard_error, fmt="o", color=PRACTICE, label=label, ms=4, capsize=2
        )
        if twin is not None:
            bars = (twin.practice.test_error, twin.standard_error)
            errors.errorbar(t, *bars, fmt="s", mfc="none", color=TWIN, label="Gaussian twin", ms=4, capsize=2)
        errors.set(ylabel=r"test error $\epsilon_g$", title=_title(practice))
        _log_time(errors, comparison.times)
        errors.set_yscale("log")
        errors.legend(frameon=False)
        scores = figure.add_subplot(grid[1, 0], sharex=errors)
        _z_panel(scores, t, comparison, twin)
        practices = [practice] if twin is None else [practice, twin.practice]
        _overlap_panel(figure.add_subplot(grid[0, 1]), theory, practices, "Q")
        _overlap_panel(figure.add_subplot(grid[1, 1]), theory, practices, "v")
        return figure


def compared(comparison: Compared, twin: Compared | None = None, bayes: Curve | None = None) -> Figure:
    """The figure of a comparison, of one problem or of a sweep; of full-batch learning, with the Bayes-optimal error."""
    match comparison:
        case GridComparison():
            other = twin.practice if isinstance(twin, GridComparison) else None
            return sweep(comparison.theory, comparison.practice, other)
        case BatchComparison():
            same = twin if isinstance(twin, BatchComparison) else None
            return full_batch(comparison.theory, comparison.practice, bayes, comparison, same)
    return learning_curve(comparison, twin if isinstance(twin, Comparison) else None)


def theory_curve(theory: Curve) -> Figure:
    """The predicted test error and overlaps alone."""
    with mpl.rc_context(STYLE):
        figure = _figure(9.0, 3.6)
        errors, overlaps = figure.subplots(1, 2)
        theory = theory.corrected
        errors.plot(_shown(theory.times), theory.test_error, color=THEORY)
        _band(errors, _shown(theory.times), theory.test_error, theory.reach())
        errors.set(ylabel=r"test error $\epsilon_g$", xlabel=r"$t$ = steps / $N$", title="theory")
        _log_time(errors, theory.times)
        errors.set_yscale("log")
        _overlap_panel(overlaps, theory, [], "Q")
        overlaps.set_xlabel(r"$t$ = steps / $N$")
        return figure


def sweep(theory: Curves | None, practice: Curves | None = None, twin: Curves | None = None) -> Figure:
    """Test errors of a sweep (theory, simulation or both) against t, one line a point, and beside them the last ones.

    Colours follow the first axis, line styles the second; each combination of further axes has a row of its own. Theory
    is drawn as lines, a simulation as points with error bars, the twin's as open ones.
    """
    given = [curves for curves in (theory, practice, twin) if curves is not None]
    names, values = list(given[0].axes), list(given[0].axes.values())
    rest = [dict(zip(names[2:], point, strict=True)) for point in itertools.product(*values[2:])]
    shown = rest[:MOST_ROWS]
    with mpl.rc_context(STYLE):
        figure = _figure(10.0, 3.9 * len(shown))
        panels = figure.subplots(len(shown), 2, squeeze=False)
        for row, (left, right) in enumerate(panels):
            for curves in given:
                style = LINES if curves is theory else MARKERS
                _sweep_lines(left, right, curves, row, len(rest), style, hollow=curves is twin)
            if left.get_yscale() == "log":
                _log_time(left, given[0].times)
            left.set(ylabel=r"test error $\epsilon_g$", xlabel=r"$t$ = steps / $N$", title=label(rest[row]))
            right.set(xlabel=names[0], title=f"at $t$ = {given[0].times[-1]:g}")
            if min(values[0]) > 0 and max(values[0]) >= 10 * min(values[0]):
                right.set_xscale("log")
            if len(values[0]) <= MOST_TICKS:
                right.set_xticks(values[0], [f"{x:g}" for x in values[0]])
                right.set_xticks([], minor=True)
        panels[0, 0].legend(handles=_sweep_keys(theory, practice), frameon=False, fontsize=8)
        if len(shown) < len(rest):
            figure.suptitle(f"the first {len(shown)} of {len(rest)} combinations of {', '.join(names[2:])}")
        return figure


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
        figure = _figure(13.5 if best else 11.0, 6.0 if comparison else 4.0)
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
                _plain(panel.yaxis, np.nanmin(positive), np.nanmax(positive))
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
    x, rows = np.asarray(curve.data[curve.axes[0]].values), _shown(curve.penalty)
    errors = np.ma.masked_invalid(curve.test_error.T)
    with mpl.rc_context(STYLE):
        figure = _figure(6.4, 4.6)
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


def samples(images: Array, title: str = "") -> Figure:
    """A grid of images (n, channels, height, width) with values in [-1, 1]."""
    with mpl.rc_context(STYLE):
        figure = _figure(5.0, 5.2)
        _image_grid(figure, images)
        figure.suptitle(title)
        return figure


def _image_grid(figure: Any, images: Array) -> None:
    """Images side by side on a figure, or on a part of one."""
    n = int(np.ceil(np.sqrt(len(images))))
    axes = np.atleast_1d(figure.subplots(n, n)).ravel()
    for axis, image in zip(axes, images, strict=False):
        pixels = np.clip((np.moveaxis(image, 0, -1) + 1) / 2, 0, 1)
        axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    for axis in axes:
        axis.set_axis_off()


def spectrum(model: GaussianModel) -> Figure:
    """Eigenvalues of Omega against their rank."""
    with mpl.rc_context(STYLE):
        figure = _figure(4.6, 3.4)
        _spectrum_panel(figure.subplots(), model.spectrum[::-1])
        return figure


def portrait(shown: Portrait) -> Figure:
    """Samples of a generator or data set beside its spectrum; without pictures the spectrum alone."""
    with mpl.rc_context(STYLE):
        if shown.images is None:
            figure = _figure(5.4, 4.2)
            panel = figure.subplots()
        else:
            figure = _figure(10.0, 5.0)
            halves: Any = figure.subfigures(1, 2)
            _image_grid(halves[0], shown.images)
            panel = halves[1].subplots()
        law = shown.power_law
        _spectrum_panel(panel, shown.spectrum)
        if law is not None:
            ranks = np.array([law.first, law.last], dtype=float)
            falling = law.scale * ranks**-law.exponent
            panel.loglog(ranks, falling, color=PRACTICE, lw=1.5, label=f"rank$^{{-{law.exponent:.2f}}}$")
            panel.legend(frameon=False)
        figure.suptitle(f"{shown.name}\n{shown.sizes}", fontsize=10)
        return figure


def convergence(found: Mapping[str, Any]) -> Figure:
    """The relative error of an estimate against its samples, and its quantities beside, with their errors."""
    samples = [row["samples"] for row in found["rows"]]
    reached = [row["relative_error"] for row in found["rows"]]
    values = np.array([row["values"] for row in found["rows"]])
    with mpl.rc_context(STYLE):
        figure = _figure(9.0, 3.6)
        errors, quantities = figure.subplots(1, 2)
        errors.loglog(samples, reached, "o-", color=THEORY, ms=4)
        falling = reached[0] * np.sqrt(samples[0] / np.array(samples))
        errors.loglog(samples, falling, ":", color=TWIN, label=r"samples$^{-1/2}$")
        errors.axhline(found["rtol"], color=PRACTICE, lw=1, label="asked for")
        errors.set(xlabel="samples", ylabel="largest standard error, relative", title="accuracy")
        errors.legend(frameon=False)
        scale = np.abs(values[-1]).max() or 1.0
        for column in ((values - values[-1]) / scale).T:
            quantities.plot(samples, column, ".-", lw=1, ms=4)
        quantities.fill_between(samples, -np.array(reached), reached, color=TWIN, alpha=0.2, lw=0)
        quantities.set(
            xlabel="samples", ylabel="distance from the last, relative", xscale="log", title="what has to be accurate"
        )
        return figure


def _spectrum_panel(axis: Any, spectrum: Array) -> None:
    """Descending eigenvalues against their rank, without those that are rounding."""
    rho = spectrum[spectrum > 1e-12 * spectrum[0]]
    axis.loglog(np.arange(1, len(rho) + 1), rho, ".", ms=3, color=THEORY)
    share, ratio = rho[0] / rho.sum(), rho.sum() ** 2 / (rho**2).sum()
    axis.set(xlabel="rank", ylabel=r"eigenvalue of $\Omega$")
    axis.set_title(f"top share {share:.1%}, participation ratio {ratio:.1f}", fontsize=10)


def save(figure: Figure, path: str | Path) -> None:
    """Save a figure as PNG, PDF or SVG, by the suffix of the path, atomically."""
    from gaussequiv.models.storage import atomic_write

    path = figure_path(path)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=150, metadata=_undated(path.suffix)))


def figure_path(path: str | Path) -> Path:
    """The path of a figure; refuses a suffix that figures are not saved with."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"a figure cannot be saved as {path.name!r}; expected the suffix {', '.join(FORMATS)}")
    return path


def svg(figure: Figure) -> str:
    """A figure as an SVG element, to be written into a page."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=_undated(".svg"))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


# --- full batch ---


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
            _band(panel, x, values, None if reach is None else reach.reshape(len(x), -1)[:, index], colour)
            continue
        one = len(shown) == 1
        colour = colour if not one else PRACTICE if filled else TWIN  # noqa: PLW2901
        look: dict[str, Any] = {"color": colour, "mfc": colour if filled else "none", "ms": 4 if filled else 5}
        panel.errorbar(
            x, values, _column(curve, f"{name}_se", index), fmt=marker, capsize=2, lw=1, zorder=3 + filled, **look
        )


def _band(panel: Any, x: Array, middle: Array, reach: Array | None, colour: Any = THEORY) -> None:
    """The 95 % band of a prediction, where it has errors from an estimated model."""
    if reach is not None:
        panel.fill_between(x, middle - reach, middle + reach, color=colour, alpha=0.2, lw=0)


def _scaled(panel: Any, values: list[Array]) -> None:
    """A logarithmic axis for values over a wide range, with what is next to nothing below the view."""
    found = np.concatenate([v[np.isfinite(v)] for v in values])
    found = found[found > DEEP * found.max(initial=0.0)]
    if len(found) and found.max() > WIDE * found.min():
        panel.set_yscale("log")
        panel.set_ylim(found.min() / 1.6, found.max() * 1.6)
        _plain(panel.yaxis, found.min(), found.max())


def _plain(axis: Any, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis: at every decade, within two of them also between."""
    decades = np.log10(high / low)
    if decades > 4:
        return
    axis.set_major_formatter("{x:g}")
    between = "235" if decades < 1 else "25" if decades < 2 else ""
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else "")


def _alpha_axis(panel: Any, curve: Curve, *, lowest: bool = True) -> None:
    """A logarithmic axis of sample complexities."""
    x = curve.data[curve.axes[0]].values
    panel.set_xscale("log")
    _plain(panel.xaxis, x[0], x[-1])
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


# --- sweeps, overlaps, scores ---


def _sweep_lines(
    left: Any, right: Any, curves: Curves, row: int, rows: int, styles: Sequence[str], *, hollow: bool
) -> None:
    """The curves of one combination of the third and further axes, and their last points, as lines or as markers."""
    xs, count = next(iter(curves.axes.values())), len(curves.points) // rows
    shape = (len(xs), count // len(xs), rows, len(curves.times))
    errors = curves.test_error.reshape(shape)[:, :, row]
    bars = np.full_like(errors, np.nan)
    if "test_error_se" in curves.data:
        bars = curves.data["test_error_se"].values.reshape(shape)[:, :, row]
    for j in range(shape[1]):
        look: dict[str, Any] = {
            **_look(styles, j),
            "ms": 4,
            "lw": 1.4,
            "capsize": 2,
            **({"mfc": "none"} if hollow else {}),
        }
        for colour, error, bar in zip(_colours(len(xs)), errors[:, j], bars[:, j], strict=True):
            left.errorbar(_shown(curves.times), error, bar, color=colour, **look)
        right.errorbar(xs, errors[:, j, -1], bars[:, j, -1], color="#444444", **look)
    for panel, drawn in ((left, errors), (right, errors[..., -1])):
        if (drawn > 0).any():  # where all points have diverged or were refused there is nothing to take a logarithm of
            panel.set_yscale("log")


def _sweep_keys(theory: Curves | None, practice: Curves | None) -> list[Line2D]:
    """Entries of a legend: a colour for every value of the first axis, a style for every one of the second."""
    (first, xs), *others = (theory or practice).axes.items()  # type: ignore[union-attr]
    keys = [Line2D([], [], color=c, label=f"{first} = {x:g}") for c, x in zip(_colours(len(xs)), xs, strict=True)]
    for name, ys in others[:1]:
        for j, y in enumerate(ys):
            line = _look(LINES, j)["ls"] if theory is not None else ""
            marker = _look(MARKERS, j)["marker"] if practice is not None else ""
            keys.append(Line2D([], [], color="#444444", ls=line, marker=marker, ms=4, label=f"{name} = {y:g}"))
    return keys


def _look(styles: Sequence[str], number: int) -> dict[str, str]:
    style = styles[number % len(styles)]
    return {"ls": style, "marker": ""} if style in LINES else {"ls": "", "marker": style}


def _colours(count: int) -> list[Any]:
    return list(COLOURS[:count] if count <= len(COLOURS) else mpl.colormaps["viridis"](np.linspace(0, 0.95, count)))


def _overlap_panel(axis: Any, theory: Curve, practices: list[Curve], which: str) -> None:
    """Lines and points of Q and R ("Q"), or of the readouts ("v")."""
    names = ("Q", "R") if which == "Q" else ("v",)
    lines = [(name, *index) for name in names for index in np.ndindex(theory.data[name].shape[1:])]
    lines = [(name, *index) for name, *index in lines if name != "Q" or index[0] <= index[1]][:MOST_LINES]
    t = _shown(theory.times)
    for number, (name, *index) in enumerate(lines):
        at = (slice(None), *index)
        colour, style = COLOURS[number % len(COLOURS)], "--" if name == "R" else "-"
        label = f"${name}_{{{''.join(str(i + 1) for i in index)}}}$"
        axis.plot(t, theory.data[name].values[at], style, color=colour, lw=1.3, label=label)
        for practice, marker, face in zip(practices, "os", (colour, "none"), strict=False):
            error = practice.data[f"{name}_se"].values[at]
            axis.errorbar(t, practice.data[name].values[at], error, fmt=marker, mfc=face, ms=2.8, color=colour, lw=1)
    _log_time(axis, theory.times, named=False)
    axis.set(ylabel="overlaps" if which == "Q" else "readout", xlabel="" if which == "Q" else r"$t$ = steps / $N$")
    axis.legend(frameon=False, fontsize=8, ncols=2)


def _z_panel(axis: Any, t: Array, comparison: Comparison, twin: Comparison | None) -> None:
    axis.axhspan(-2, 2, color="#eeeeee")
    axis.axhline(0, color=THEORY, lw=1)
    axis.plot(t, comparison.z, "o", ms=4, color=PRACTICE)
    if twin is not None:
        axis.plot(t, twin.z, "s", ms=4, mfc="none", color=TWIN)
    for sign in (-1, 1):
        axis.axhline(sign * comparison.bound, color="#999999", lw=0.8, ls=":")
    shown = [one.z[np.isfinite(one.z)] for one in (comparison, twin) if one is not None]
    height = max(4.0, 1.3 * float(np.abs(np.concatenate(shown)).max()), 1.1 * min(comparison.bound, MOST_BOUND))
    axis.set(xlabel=r"$t$ = steps / $N$", ylabel="z", ylim=(-height, height))


def _shown(times: Array) -> Array:
    """Times for a logarithmic axis: t = 0 is drawn half a decade before the first positive one."""
    positive = times[times > 0]
    return np.where(times > 0, times, positive[0] / 3 if len(positive) else 1.0)


def _log_time(axis: Any, times: Array, *, named: bool = True) -> None:
    axis.set_xscale("log")
    _plain(axis.xaxis, _shown(times)[0], _shown(times)[-1])
    if times[0] == 0 and len(times) > 1:
        axis.axvline(_shown(times)[0], color="#dddddd", lw=0.8, zorder=0)
        if not named:
            return
        axis.annotate(
            "t = 0", (_shown(times)[0], 0.02), xycoords=("data", "axes fraction"), fontsize=7, color="#888888"
        )


def _title(practice: Curve) -> str:
    return f"one-pass SGD on {practice.provenance.get('inputs', 'samples')}"


def _undated(suffix: str) -> dict[str, Any]:
    return {"Date": None} if suffix == ".svg" else {"CreationDate": None} if suffix == ".pdf" else {}
