r"""Laws of latents that are not standard normal: how they are drawn, and whether a Gaussian can stand for them.

The theory asks of latents c that the teacher's fields, which are few projections of many latents, are Gaussian, and that no
latent comes back. Two effect sizes say so, both zero for Gaussian latents of any covariance. With whitened latents
$u = \Psi^{-1/2} (c - E c)$ of rank r:

    kurtosis of projections    E (v . u)^4 / 3 - 1, averaged over random directions v,
    kurtosis of overlaps       E (u . u')^4 / (3 r (r + 2)) - 1, over pairs of independent latents u, u'.

The first sees heavy tails and few latents (uniform ones: -0.4 / D); the second sees latents that are few points: it is about
D / 3 for one-hot ones, whose single projections look Gaussian for large D.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussequiv.errors import InputError, a_kind
from gaussequiv.generators.calls import Shape
from gaussequiv.models.streams import Purpose, stream

Array = np.ndarray[Any, np.dtype[Any]]
Sampler = Callable[[int, np.random.Generator], Any] | torch.distributions.Distribution

SAMPLES = 4096
DIRECTIONS = 64
WIDEST = 512  # latents of more dimensions are seen through as many random fields
GLOBAL = threading.RLock()  # held while torch's and NumPy's global random numbers are somebody's
TOLERANCES = {"projections": 0.15, "overlaps": 0.3, "fields": 0.15}  # an overlap has the kurtosis of two laws


@dataclass(frozen=True)
class Prior:
    """The law of one latent, or of several that are independent of each other.

    Args:
        parts: name, shape and sampler of each; standard normal where there is no sampler.

    """

    parts: tuple[tuple[str, Shape, Sampler | None], ...]

    @classmethod
    def of(cls, prior: Any, latent: Shape | Mapping[str, Shape]) -> "Prior":
        """From a sampler, or samplers by the names of the latents; a `Prior` is one.

        Raises `InputError` for what is no sampler, and for names of no latent.
        """
        if isinstance(prior, Prior):
            return prior
        if isinstance(latent, Mapping):
            if not isinstance(prior, Mapping) or not set(prior) <= set(latent):
                raise InputError(
                    f"prior={_names(prior)} for the latents {', '.join(latent)}; expected samplers by their names"
                )
            parts = tuple((key, shape, prior.get(key)) for key, shape in latent.items())
        elif isinstance(prior, Mapping):
            raise InputError(
                f"priors for {_names(prior)}, but the latents have no names; expected one prior, or named latents"
            )
        else:
            parts = (("latents", latent, prior),)
        for name, _, sampler in parts:
            if not callable(sampler) and sampler is not None and not _is_distribution(sampler):
                raise InputError(
                    f"the prior of the {name} is {a_kind(sampler)}; expected a function of (n, rng), or a "
                    "torch.distributions object"
                )
        return cls(parts)

    def draw(self, n: int, rng: np.random.Generator) -> Tensor:
        """Flat latents (n, D), in double precision.

        Raises `InputError` for samplers that fail, or return another shape or a NaN.
        """
        return torch.cat([_drawn(name, shape, sampler, n, rng) for name, shape, sampler in self.parts], dim=1)

    def examine(self) -> list["Law"]:
        """Effect sizes of each latent that has a sampler, from 4,096 draws."""
        laws, rng = [], stream(0, Purpose.CHECK, lane=3)
        for name, shape, sampler in self.parts:
            if sampler is not None:
                laws.append(law(name, _drawn(name, shape, sampler, SAMPLES, rng).numpy(), rng))
        return laws

    def require_gaussian_enough(self) -> None:
        """Raise `InputError` for latents that no Gaussian can stand for, with the reason."""
        for found in self.examine():
            if found.reason:
                raise InputError(found.reason)


@dataclass(frozen=True)
class Law:
    """What is known of the law of a latent.

    Args:
        name: of the latent.
        rank: of its covariance.
        distinct: share of different ones among the draws.
        projections: kurtosis of projections, see above.
        overlaps: kurtosis of overlaps.
        fields: kurtosis of projections in the latents' own coordinates, which are those of a random teacher: one direction may
            make most of them.
        draws: of which this is known.

    """

    name: str
    rank: int
    distinct: float
    projections: float
    overlaps: float
    fields: float
    draws: int = SAMPLES

    @property
    def reason(self) -> str:
        """Why no Gaussian stands for it; empty where one does."""
        about = f"the {self.name} are" if self.name == "latents" else f"the latents {self.name} are"
        if self.rank == 0:
            return f"{about} constant; expected ones that vary, so pass a constant as `extra`"
        if self.distinct < 0.5:
            different = round(self.distinct * self.draws)
            return (
                f"{about} few points, as one-hot codes are: of {self.draws} draws {different} are different. A Gaussian cannot "
                "stand for them: fix them by `extra`, one class at a time, or take the outputs as a data set"
            )
        for what, most in TOLERANCES.items():
            size = getattr(self, what)
            if abs(size) > most:
                return (
                    f"{about} not Gaussian enough: the fourth moment of their {what} is off by {size:+.0%} (at most "
                    f"{most:.0%}); take them as functions of Gaussian latents inside the module, or the outputs as a data set"
                )
        return ""


def law(name: str, draws: Array, rng: np.random.Generator) -> Law:
    """Effect sizes of draws (P, D)."""
    c = draws - draws.mean(axis=0)
    if c.shape[1] > WIDEST:
        c = c @ rng.standard_normal((c.shape[1], WIDEST)) / np.sqrt(c.shape[1])
    rho, vectors = np.linalg.eigh(c.T @ c / len(c))
    kept = rho > 1e-10 * max(rho[-1], np.finfo(float).tiny)
    rank = int(kept.sum()) if rho[-1] > 1e-20 * (draws**2).mean() else 0
    distinct = len(np.unique(draws, axis=0)) / len(draws)
    if rank == 0:
        return Law(name, 0, distinct, 0.0, 0.0, 0.0, len(draws))
    u = c @ vectors[:, kept] / np.sqrt(rho[kept])
    v = rng.standard_normal((rank, DIRECTIONS))
    fields = u @ (v / np.linalg.norm(v, axis=0))
    half = len(u) // 2
    overlaps = u[:half] @ u[half : 2 * half].T
    # what the whitening by P draws takes from the moments is of the order rank / P: the same of Gaussian draws is divided out
    z = rng.standard_normal((len(u), rank))
    z -= z.mean(axis=0)
    values, axes = np.linalg.eigh(z.T @ z / len(z))
    z = z @ axes / np.sqrt(values)
    twin = z[:half] @ z[half : 2 * half].T
    projections = float(((fields**4).mean(axis=0) / (fields**2).mean(axis=0) ** 2).mean() / 3 - 1)
    seen = c @ rng.standard_normal((c.shape[1], DIRECTIONS))
    of_fields = float(((seen**4).mean(axis=0) / (seen**2).mean(axis=0) ** 2).mean() / 3 - 1)
    of_overlaps = float((overlaps**4).mean() / (twin**4).mean() - 1)
    return Law(name, rank, distinct, projections, of_overlaps, of_fields, len(draws))


@contextmanager
def seeded_globally(seed: int | None, devices: "Sequence[Any]" = ()) -> Iterator[None]:
    """A state of torch's and NumPy's global random numbers that follows from a seed, if there is one; the old one comes back.

    There is one such state in a process: threads wait for each other.
    """
    with GLOBAL, torch.random.fork_rng(devices=devices):
        numpy_state = np.random.get_state()  # noqa: NPY002 (that of the user's code)
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def _drawn(name: str, shape: Shape, sampler: Sampler | None, n: int, rng: np.random.Generator) -> Tensor:
    if sampler is None:
        return torch.from_numpy(rng.standard_normal((n, int(np.prod(shape)))))
    try:
        if isinstance(sampler, torch.distributions.Distribution) or not callable(sampler):
            with seeded_globally(int(rng.integers(2**62))), torch.no_grad():
                found = sampler.sample((n,))
        else:
            found = sampler(n, rng)
        draws = found.detach().cpu().double() if isinstance(found, Tensor) else torch.from_numpy(np.array(found, float))
    except Exception as error:  # whatever a user's sampler may raise
        sentence = str(error).strip().split("\n")[0]
        raise InputError(f"the prior of the {name} failed: {sentence}; expected latents ({n}, ...)") from error
    if tuple(draws.shape) not in {(n, *shape), (n, int(np.prod(shape)))}:
        hint = "" if callable(sampler) else ": give the distribution the shape of one latent"
        raise InputError(f"the prior of the {name} returned shape {tuple(draws.shape)}; expected {(n, *shape)}{hint}")
    if not torch.isfinite(draws).all():
        raise InputError(f"the prior of the {name} returned a NaN or an infinity; expected finite latents")
    return draws.reshape(n, -1)


def _is_distribution(sampler: Any) -> bool:
    return callable(getattr(sampler, "sample", None))


def _names(prior: Any) -> str:
    return ", ".join(map(str, prior)) if isinstance(prior, Mapping) else type(prior).__name__
