"""The roof: comparison, figures, the page, experiment files and the commands.

This module stays empty of imports: `gaussequiv --help` passes through it.
"""

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from pathlib import Path

    from gaussequiv.generators.verdicts import Verdict
    from gaussequiv.models.curves import Curve
    from gaussequiv.models.sweeps import Curves
    from gaussequiv.report.batches import BatchComparison
    from gaussequiv.report.comparison import Comparison
    from gaussequiv.report.grids import Compared, GridComparison


def draw_verdict(verdict: "Verdict", path: "str | Path | None" = None) -> Any:
    """The figure of a verdict, which is saved if a path is given: as PNG, PDF or SVG."""
    from gaussequiv.report import figures

    figure = figures.verdict(verdict)
    if path is not None:
        figures.save(figure, path)
    return figure


@overload
def compare(theory: "Curve", practice: "Curve") -> "Comparison | BatchComparison": ...


@overload
def compare(theory: "Curves", practice: "Curves") -> "GridComparison": ...


@overload
def compare(theory: "Curve | Curves", practice: "Curve | Curves") -> "Compared": ...


def compare(theory: "Curve | Curves", practice: "Curve | Curves") -> "Compared":
    """Theory beside simulation, with a z-score at every point: two curves, or the curves of two sweeps, point by point.

    See `comparison.Comparison` for online curves, `batches.BatchComparison` for full-batch ones and `grids.GridComparison`.

    Raises:
        InputError: curves that cannot be compared.

    """
    from gaussequiv.errors import InputError
    from gaussequiv.models.curves import Curve
    from gaussequiv.models.sweeps import Curves
    from gaussequiv.report.batches import BatchComparison
    from gaussequiv.report.comparison import Comparison
    from gaussequiv.report.grids import GridComparison

    match theory, practice:
        case Curve(), Curve():
            online = ["time" in curve.axes for curve in (theory, practice)]
            if any(online) and not all(online):
                raise InputError("an online curve and a full-batch one cannot be compared; expected two of one kind")
            return Comparison.of(theory, practice) if all(online) else BatchComparison.of(theory, practice)
        case Curves(), Curves():
            return GridComparison.of(theory, practice)
        case _:
            kinds = f"{type(theory).__name__} and a {type(practice).__name__}"
            raise InputError(f"a {kinds} cannot be compared; expected two of Curve, or two of Curves")
