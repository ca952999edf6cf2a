"""Learning curves of one-pass SGD, of one problem with its overlaps and z-scores, or of a sweep."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gaussequiv.maths.averages import Array
from gaussequiv.models.curves import Curve
from gaussequiv.models.sweeps import Curves, label
from gaussequiv.report.comparison import Comparison
from gaussequiv.report.figures.drawing import (
    COLOURS,
    MOST_BOUND,
    PRACTICE,
    STYLE,
    THEORY,
    TWIN,
    band,
    canvas,
    log_time,
    on_log_axis,
)

LINES, MARKERS = ("-", "--", ":", "-."), "os^D"
MOST_ROWS = 4  # combinations of the third and further axes of a sweep that are drawn
MOST_TICKS = 8  # values of the first axis that are all written below the axis
MOST_LINES = 12  # overlaps drawn in one panel; beyond that lines can no longer be told apart


def learning_curve(comparison: Comparison, twin: Comparison | None = None) -> Figure:
    """Test error (theory as a line, simulation as points with error bars), overlaps beside, z-scores below.

    A `twin`, the same training on Gaussian samples, is drawn as open squares.
    """
    theory, practice = comparison.theory, comparison.practice
    with mpl.rc_context(STYLE):
        figure = canvas(10.0, 6.0)
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 1), width_ratios=(1.15, 1))
        errors = figure.add_subplot(grid[0, 0])
        t = on_log_axis(comparison.times)
        errors.plot(t, theory.test_error, color=THEORY, label="theory")
        band(errors, t, theory.test_error, theory.reach())
        seeds = practice.data.sizes["seed"]
        label = f"simulation, {seeds} seeds"
        errors.errorbar(
            t, practice.test_error, comparison.standard_error, fmt="o", color=PRACTICE, label=label, ms=4, capsize=2
        )
        if twin is not None:
            bars = (twin.practice.test_error, twin.standard_error)
            errors.errorbar(t, *bars, fmt="s", mfc="none", color=TWIN, label="Gaussian twin", ms=4, capsize=2)
        errors.set(ylabel=r"test error $\epsilon_g$", title=_title(practice))
        log_time(errors, comparison.times)
        errors.set_yscale("log")
        errors.legend(frameon=False)
        scores = figure.add_subplot(grid[1, 0], sharex=errors)
        _z_panel(scores, t, comparison, twin)
        practices = [practice] if twin is None else [practice, twin.practice]
        _overlap_panel(figure.add_subplot(grid[0, 1]), theory, practices, "Q")
        _overlap_panel(figure.add_subplot(grid[1, 1]), theory, practices, "v")
        return figure


def theory_curve(theory: Curve) -> Figure:
    """The predicted test error and overlaps alone."""
    with mpl.rc_context(STYLE):
        figure = canvas(9.0, 3.6)
        errors, overlaps = figure.subplots(1, 2)
        theory = theory.corrected
        errors.plot(on_log_axis(theory.times), theory.test_error, color=THEORY)
        band(errors, on_log_axis(theory.times), theory.test_error, theory.reach())
        errors.set(ylabel=r"test error $\epsilon_g$", xlabel=r"$t$ = steps / $N$", title="theory")
        log_time(errors, theory.times)
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
        figure = canvas(10.0, 3.9 * len(shown))
        panels = figure.subplots(len(shown), 2, squeeze=False)
        for row, (left, right) in enumerate(panels):
            for curves in given:
                style = LINES if curves is theory else MARKERS
                _sweep_lines(left, right, curves, row, len(rest), style, hollow=curves is twin)
            if left.get_yscale() == "log":
                log_time(left, given[0].times)
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
            left.errorbar(on_log_axis(curves.times), error, bar, color=colour, **look)
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
    t = on_log_axis(theory.times)
    for number, (name, *index) in enumerate(lines):
        at = (slice(None), *index)
        colour, style = COLOURS[number % len(COLOURS)], "--" if name == "R" else "-"
        label = f"${name}_{{{''.join(str(i + 1) for i in index)}}}$"
        axis.plot(t, theory.data[name].values[at], style, color=colour, lw=1.3, label=label)
        for practice, marker, face in zip(practices, "os", (colour, "none"), strict=False):
            error = practice.data[f"{name}_se"].values[at]
            axis.errorbar(t, practice.data[name].values[at], error, fmt=marker, mfc=face, ms=2.8, color=colour, lw=1)
    log_time(axis, theory.times, named=False)
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


def _title(practice: Curve) -> str:
    return f"one-pass SGD on {practice.provenance.get('inputs', 'samples')}"
