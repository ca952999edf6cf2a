"""Figures (the only importers of matplotlib): learning curves with z-scores, heat maps, sample grids, spectra."""

from matplotlib.figure import Figure

from gaussequiv.models.curves import Curve
from gaussequiv.report.batches import BatchComparison
from gaussequiv.report.comparison import Comparison
from gaussequiv.report.figures.curves import LINES, MARKERS, MOST_ROWS, learning_curve, sweep, theory_curve
from gaussequiv.report.figures.drawing import COLOURS, figure_path, save, svg
from gaussequiv.report.figures.full_batches import full_batch, has_heat_map, heat_map
from gaussequiv.report.figures.sources import convergence, portrait, samples, spectrum
from gaussequiv.report.figures.verdicts import rate, verdict
from gaussequiv.report.grids import Compared, GridComparison

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "MOST_ROWS",
    "compared",
    "convergence",
    "figure_path",
    "full_batch",
    "has_heat_map",
    "heat_map",
    "learning_curve",
    "portrait",
    "rate",
    "samples",
    "save",
    "spectrum",
    "svg",
    "sweep",
    "theory_curve",
    "verdict",
]


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
