"""The portrait of a generator or of a data set: its sizes, card, means, spectrum and pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv.maths.averages import Array
from gaussequiv.maths.spectra import PowerLaw, power_law

if TYPE_CHECKING:
    from gaussequiv.generators import Dataset, Generator

SAMPLES = 4000  # of a generator, from which its spectrum is
PICTURES = 36
MANY = 20  # eigenvalues that a power law is fitted to, at least
DEAD = 1e-6  # of the largest standard deviation: an input that varies less is called constant


@dataclass(frozen=True, eq=False)
class Portrait:
    r"""What is shown of a source of inputs.

    Args:
        name: what it is called.
        sizes: one line on latents, inputs and precision.
        card: the model card, where there is one.
        samples: what mean and covariance are those of, in words.
        mean: of each input, (N,).
        deviation: standard deviation of each, (N,).
        spectrum: eigenvalues of the covariance, (N,), descending.
        images: up to 36 pictures (n, channels, rows, columns) from -1 to 1, where there are any.

    """

    name: str
    sizes: str
    card: Mapping[str, Any]
    samples: str
    mean: Array
    deviation: Array
    spectrum: Array
    images: Array | None

    @property
    def top_share(self) -> float:
        """Share of the first eigenvalue in the trace."""
        return float(self.spectrum[0] / self.spectrum.sum())

    @property
    def participation_ratio(self) -> float:
        r"""$(\mathrm{tr}\,\Omega)^2 / \mathrm{tr}\,\Omega^2$."""
        return float(self.spectrum.sum() ** 2 / (self.spectrum**2).sum())

    @property
    def power_law(self) -> PowerLaw | None:
        """The power of the rank that the eigenvalues fall with; None of so few of them that there is no law to see."""
        return power_law(self.spectrum) if np.count_nonzero(self.spectrum > DEAD * self.spectrum[0]) >= MANY else None

    @property
    def lines(self) -> list[str]:
        """All of it in words."""
        constant = int((self.deviation <= DEAD * self.deviation.max()).sum())
        law = self.power_law
        falls = (
            f", eigenvalues fall as rank^-{law.exponent:.2f} (ranks {law.first} to {law.last}, up to {law.error:.0%})"
            if law is not None
            else ""
        )
        return [
            f"{self.name}: {self.sizes}",
            *_card(self.card, "  "),
            f"{self.samples}: means of the inputs from {self.mean.min():.3g} to {self.mean.max():.3g}, standard deviations from "
            f"{self.deviation.min():.3g} to {self.deviation.max():.3g}"
            + (f" ({constant} constant)" if constant else ""),
            f"their covariance: top eigenvalue {self.top_share:.1%} of the trace, participation ratio "
            f"{self.participation_ratio:.1f}{falls}",
        ]


def _card(card: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A card line by line, its tables indented."""
    for key, value in card.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _card(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value:.5g}" if isinstance(value, float) else f"{indent}{key}: {value}"


def portrait(source: "Generator | Dataset", card: Mapping[str, Any]) -> Portrait:
    """The portrait of a generator from 4,000 samples, or of a data set from all of it."""
    from gaussequiv.generators import Dataset, estimate, zoo

    shape = " x ".join(map(str, source.output_shape))
    shaped = f" ({shape})" if len(source.output_shape) > 1 else ""
    if isinstance(source, Dataset):
        model = estimate(source)
        mean, covariance = model.mean_x, model.Omega
        sizes = f"{len(source)} samples of N = {source.input_dim} inputs{shaped}, {source.dtype}, latents unknown"
        samples, pictured = f"all {len(source)} samples", source.sample(PICTURES, 0)[1]
    else:
        inputs = source.sample(SAMPLES, 0)[1]
        mean, covariance = inputs.mean(axis=0, dtype=float), np.cov(inputs.T, bias=True)
        sizes = f"D = {source.latent_dim} latents, N = {source.input_dim} inputs{shaped}, {source.dtype}"
        samples, pictured = f"{SAMPLES} samples", inputs[:PICTURES]
    rho = np.linalg.eigvalsh(np.atleast_2d(covariance))[::-1].clip(0.0)
    deviation = np.sqrt(np.diag(np.atleast_2d(covariance)).clip(0.0))
    return Portrait(source.name, sizes, card, samples, mean, deviation, rho, zoo.images(source, pictured))
