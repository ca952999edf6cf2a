"""Verdicts on the equivalence: fields beside Gaussians, distances beside tolerances, and the rate at which they fall with N."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from gaussequiv.generators.verdicts import Verdict, Word
from gaussequiv.maths.averages import Array
from gaussequiv.report.figures.drawing import COLOURS, PRACTICE, STYLE, TWIN, canvas

OF_WORD = {Word.CONSISTENT: "#3d8c5a", Word.VIOLATED: PRACTICE, Word.INCONCLUSIVE: TWIN}
BINS = 61
WIDEST = 5.0  # standard deviations that are drawn


def verdict(found: Verdict) -> Figure:
    """Marginals of the fields, the worst direction, its quantiles, and all distances and effects beside their tolerances."""
    with mpl.rc_context(STYLE):
        figure = canvas(9.6, 7.2)
        (marginals, worst), (quantiles, bars) = figure.subplots(2, 2)
        for k, field in enumerate(found.marginals.T[: len(COLOURS)]):
            name = f"student {k + 1}" if k < found.units else f"teacher {k + 1 - found.units}"
            _histogram(marginals, field, COLOURS[k], name)
        marginals.set(title="fields, standardised", ylabel="density")
        if found.marginals.shape[1] <= len(COLOURS):
            marginals.legend(frameon=False, fontsize=8)
        _histogram(worst, found.projections, PRACTICE, "")
        worst.set(title="worst direction")
        _quantiles(quantiles, found.projections)
        _bars(bars, found)
        figure.suptitle(f"{found.word.value}: {found.source}, weights: {found.name}", color=OF_WORD[found.word])
        return figure


def _histogram(panel: Any, z: Array, colour: str, label: str) -> None:
    """The logarithmic density of numbers beside the normal one."""
    edges = np.linspace(-WIDEST, WIDEST, BINS)
    counts = np.histogram(z, edges)[0] / (len(z) * (edges[1] - edges[0]))
    middle = (edges[1:] + edges[:-1]) / 2
    seen = counts > 0
    panel.semilogy(middle[seen], counts[seen], ".", ms=4, color=colour, label=label)
    panel.semilogy(middle, stats.norm.pdf(middle), color="black", lw=0.8)
    panel.set(ylim=(0.3 / (len(z) * (edges[1] - edges[0])), 2.0), xlabel="standard deviations")


def _quantiles(panel: Any, z: Array) -> None:
    shares = (np.arange(1, 400) - 0.5) / 399
    shares = np.concatenate([shares, [1 / len(z), 10 / len(z), 1 - 10 / len(z), 1 - 1 / len(z)]])
    normal = stats.norm.ppf(np.sort(shares))
    panel.axline((0, 0), slope=1, color="black", lw=0.8)
    panel.plot(normal, np.quantile(z, np.sort(shares)), ".", ms=4, color=PRACTICE)
    panel.set(title="worst direction, quantiles", xlabel="Gaussian", ylabel="fields")


def _bars(panel: Any, found: Verdict) -> None:
    """Values and intervals in units of the tolerance; those without one in units of that of their kind."""
    rows = [f for f in found.findings if f.tolerance is not None and np.isfinite(f.high)]
    for i, row in enumerate(rows):
        assert row.tolerance is not None
        low, value, high = (x / row.tolerance for x in (row.low, row.value, row.high))
        colour = OF_WORD[row.word]
        panel.plot([low, high], [i, i], color=colour, lw=3, alpha=0.6, solid_capstyle="butt")
        panel.plot(value, i, "o", color=colour, ms=5)
    panel.axvline(1, color="black", lw=0.8)
    if any(row.low < 0 for row in rows):
        panel.axvline(-1, color="black", lw=0.8)
    panel.set_yticks(range(len(rows)), [row.name for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    label = "in units of the tolerance"
    if max((abs(row.high) / (row.tolerance or 1) for row in rows), default=0) > 5:
        label += ", logarithmic beyond 1"
        panel.set_xscale("symlog", linthresh=1.0)
        low, high = panel.get_xlim()
        ticks = [tick for tick in (-100, -10, -1, 0, 1, 2, 5, 10, 30, 100, 1000) if low <= tick <= high]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        panel.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    panel.set(xlabel=label, title="distances and effects, 95 % intervals")


def rate(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Distances from a Gaussian against N, with the certificates' bounds, for several generators and weights."""
    with mpl.rc_context(STYLE):
        figure = canvas(9.6, 4.4)
        distances, bounds = figure.subplots(1, 2)
        names = list(dict.fromkeys(row["case"] for row in rows))
        for name, colour in zip(names, COLOURS, strict=False):
            mine = [row for row in rows if row["case"] == name]
            N = np.array([row["N"] for row in mine], dtype=float)
            value, error = (np.array([row[key] for row in mine]) for key in ("distance", "distance_se"))
            slope = mine[0]["slope"]
            distances.errorbar(
                N, value, error, fmt="o", ms=4, color=colour, capsize=2, label=f"{name}: slope {slope:.2f}"
            )
            line = N ** mine[0]["law"]
            distances.plot(N, line * np.exp(np.mean(np.log(value / line))), ":", color=colour, lw=1)
            if mine[0]["bound"] is not None:
                bounds.plot(N, [row["bound"] for row in mine], "s-", ms=4, color=colour, label=f"{name}: bound on W1")
            bounds.plot(N, [row["sliced"] for row in mine], "o", ms=4, color=colour, mfc="none")
        for panel in (distances, bounds):
            panel.set(xscale="log", yscale="log", xlabel="N")
            panel.legend(frameon=False, fontsize=7.5)
        distances.set(ylabel="distance, standard deviations", title="distance (orders 3 and 4); dotted: the law")
        bounds.set(title="certificate; circles: W2 in the worst direction")
        return figure
