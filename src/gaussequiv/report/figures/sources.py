"""Where inputs come from: samples, spectra, and how an estimate of their moments became accurate."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.report.figures.drawing import PRACTICE, STYLE, THEORY, TWIN, canvas
from gaussequiv.report.portraits import Portrait


def samples(images: Array, title: str = "") -> Figure:
    """A grid of images (n, channels, height, width) with values in [-1, 1]."""
    with mpl.rc_context(STYLE):
        figure = canvas(5.0, 5.2)
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
        figure = canvas(4.6, 3.4)
        _spectrum_panel(figure.subplots(), model.spectrum[::-1])
        return figure


def portrait(shown: Portrait) -> Figure:
    """Samples of a generator or data set beside its spectrum; without pictures the spectrum alone."""
    with mpl.rc_context(STYLE):
        if shown.images is None:
            figure = canvas(5.4, 4.2)
            panel = figure.subplots()
        else:
            figure = canvas(10.0, 5.0)
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
        figure = canvas(9.0, 3.6)
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
