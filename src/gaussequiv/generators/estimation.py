r"""Estimation of the equivalent Gaussian model: one streaming pass over a fixed plan of seeded chunks.

The law of the latents is known, $c \sim N(0, I)$, so the inputs are *regressed* on them: with scatter matrices S
of P samples,

    Phi = S_xc S_cc^-1,        residual = (S_xx - Phi S_cc Phi^T) / (P - D - 1),
    Omega = Phi Phi^T + (1 - tr S_cc^-1) residual,        mean_x = mean(x) - Phi mean(c).

Where latents have a prior of their own their covariance is not known: then Omega, Phi and Psi are the plain covariances of the
same samples.

The factor before the residual removes the noise of Phi from Phi Phi^T. The result is one joint covariance by construction
and needs 1.6-14 times fewer samples than the plain moments.

The plan depends on the number of samples only. Chunk i draws its latents from the stream (seed, i); centred float64
moments are merged by Chan's formula in a fixed binary tree inside each of sixteen groups, and the groups in another: the
result is the same to the last bit for any number of workers. Leaving out one group at a time gives the standard errors.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.generators.conformance import require_a_map
from gaussequiv.generators.datasets import Dataset
from gaussequiv.generators.priors import Prior
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream

CHUNK = 1024
GROUPS = 16


Estimates = tuple[Array, ...]  # in the order of NAMES, the last two where the law of the latents is not known
NAMES = ("Omega", "Phi", "mean_x", "Psi", "mean_c")


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments of P samples of (x, c): means and the scatter matrices S_xx, S_xc, S_cc (sums, not averages)."""

    count: int
    mean_x: Array
    mean_c: Array
    xx: Array
    xc: Array
    cc: Array

    @classmethod
    def of(cls, latents: Any, inputs: Any) -> "Moments":
        """Moments of one chunk, in float64, centred before they are multiplied."""
        c, x = np.asarray(latents, dtype=np.float64), np.asarray(inputs, dtype=np.float64)
        mean_c, mean_x = c.mean(axis=0), x.mean(axis=0)
        c, x = c - mean_c, x - mean_x
        return cls(len(c), mean_x, mean_c, x.T @ x, x.T @ c, c.T @ c)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets of samples together (Chan, Golub and LeVeque)."""
        return self._combine(other, 1)

    def without(self, part: "Moments") -> "Moments":
        """Moments of the samples that are not in `part`."""
        return self._combine(part, -1)

    def _combine(self, other: "Moments", sign: int) -> "Moments":
        count = self.count + sign * other.count
        share = sign * other.count / count
        dx, dc = other.mean_x - self.mean_x, other.mean_c - self.mean_c
        weight = share * self.count
        return Moments(
            count,
            self.mean_x + share * dx,
            self.mean_c + share * dc,
            self.xx + sign * other.xx + weight * np.outer(dx, dx),
            self.xc + sign * other.xc + weight * np.outer(dx, dc),
            self.cc + sign * other.cc + weight * np.outer(dc, dc),
        )

    def plain(self) -> "Estimates":
        """Omega, Phi, mean_x, Psi and mean_c: covariances and means of the samples."""
        P = self.count - 1
        return self.xx / P, self.xc / P, self.mean_x, self.cc / P, self.mean_c

    def regression(self) -> tuple[Array, Array, Array]:
        """Omega, Phi and mean_x by regression on the latents; where there are none, plain covariances."""
        if not len(self.cc):
            return self.xx / (self.count - 1), self.xc, self.mean_x
        inverse = scipy.linalg.cho_factor(self.cc)
        Phi = scipy.linalg.cho_solve(inverse, self.xc.T).T
        residual = (self.xx - Phi @ self.xc.T) / (self.count - len(self.cc) - 1)
        noise = np.trace(scipy.linalg.cho_solve(inverse, np.eye(len(self.cc))))
        Omega = Phi @ Phi.T + (1 - noise) * (residual + residual.T) / 2
        return Omega, Phi, self.mean_x - Phi @ self.mean_c


def estimate(
    generator: Inputs,
    samples: int = 100_000,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], Any] | None = None,
) -> GaussianModel:
    r"""The Gaussian model with the means and covariances of a generator, with standard errors.

    Those of a `Dataset` are exact: its samples are drawn from a finite set, whose mean and covariance (divided by its size n)
    are found in one pass over it. There is nothing to estimate, so `samples` and `seed` are not used and `standard_errors` is
    empty. How well the set stands for the law that it came from is another question. Its latents are unknown: D = 0.

    Args:
        generator: anything with `sample(n, rng)`; its latents must be standard normal, those of a `Generator` with a prior, or
            unknown (D = 0).
        samples: P, the number of samples; more than 4 (D + 2).
        seed: of the latents.
        workers: threads that work on the sixteen groups; the result does not depend on it.
        progress: called with (samples done, samples in all).

    Returns:
        A `GaussianModel` with Psi = I, unless the latents have a prior; of a generator one whose `standard_errors` hold those
        of its arrays, entry by entry, from leaving out one sixteenth of the samples at a time.

    Raises:
        InputError: too few samples; a generator that fails or returns a NaN (the chunk is named), whose outputs depend on
            others of their batch or change from call to call; latents that no Gaussian can stand for.

    """
    if not callable(getattr(generator, "sample", None)):
        raise InputError(
            f"the generator is {a_kind(generator)}; expected a Generator, or Generator(it, latent=...)"
        )
    if isinstance(generator, Dataset):
        return _exact(generator, progress)
    D, samples, workers = generator.latent_dim, integer("samples", samples), integer("workers", workers)
    if samples <= 4 * (D + 2):
        raise InputError(f"{samples} samples for D={D} latents; expected more than {4 * (D + 2)} to regress on them")
    prior = getattr(generator, "prior", None)
    require_a_map(generator)
    if isinstance(prior, Prior):
        prior.require_gaussian_enough()
    groups = _plan(samples)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, samples)

    def group_moments(chunks: list[tuple[int, int]]) -> Moments:
        return _tree(_chunk_moments(generator, seed, index, size, report) for index, size in chunks)

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(group_moments, groups))
    total = _tree(parts)
    if prior is None:
        _require_standard_normal(total)
    found = Moments.regression if prior is None else Moments.plain
    full = dict(zip(NAMES, found(total), strict=False))
    errors = _jackknife(total, parts, found)
    size = {
        name: float(np.linalg.norm(errors[name]) / (np.linalg.norm(full[name]) or 1.0)) for name in ("Omega", "Phi")
    }
    provenance = {
        "source": getattr(generator, "name", type(generator).__name__),
        "samples": samples,
        "seed": seed,
        "estimator": "regression on the latents" if D and prior is None else "plain moments",
        "relative_error": size,
    }
    return GaussianModel(**full, standard_errors=errors, provenance=provenance)


def _exact(data: Dataset, progress: Callable[[int, int], Any] | None) -> GaussianModel:
    """The moments of a finite set, in one pass."""
    done = 0

    def parts() -> Iterable[Moments]:
        nonlocal done
        for latents, inputs in data.chunks():
            yield Moments.of(latents, inputs)
            done += len(inputs)
            if progress is not None:
                progress(done, len(data))

    total = _tree(parts())
    provenance = {
        "source": data.name,
        "samples": len(data),
        "estimator": "exact moments of the data set",
        "sha256": data.sha256,
    }
    return GaussianModel(total.xx / total.count, total.xc, mean_x=total.mean_x, provenance=provenance)


def _require_standard_normal(moments: Moments) -> None:
    """Refuse latents whose means or covariances are ten standard errors from those of N(0, I)."""
    P = moments.count
    shift, spread = np.abs(moments.mean_c), np.abs(moments.cc / P - np.eye(len(moments.cc))) / np.sqrt(2)
    off = max(shift.max(initial=0.0), spread.max(initial=0.0))
    if off > 10 / np.sqrt(P):
        raise InputError(
            "the latents are not standard normal; the estimate regresses on latents with mean 0 and covariance I"
        )


def _plan(samples: int) -> list[list[tuple[int, int]]]:
    """Sixteen groups of chunks (index, size): a function of the number of samples only."""
    full, rest = divmod(samples, CHUNK)
    sizes = [CHUNK] * full + ([rest] if rest else [])
    if len(sizes) < GROUPS:
        pieces = min(GROUPS, samples)
        sizes = [(i + 1) * samples // pieces - i * samples // pieces for i in range(pieces)]
    edges = [g * len(sizes) // GROUPS for g in range(GROUPS + 1)]
    groups = ([(i, sizes[i]) for i in range(a, b)] for a, b in zip(edges[:-1], edges[1:], strict=True))
    return [group for group in groups if group]


def _chunk_moments(generator: Inputs, seed: int, index: int, size: int, report: Callable[[int], None]) -> Moments:
    try:
        latents, inputs = generator.sample(size, stream(seed, Purpose.ESTIMATE, chunk=index))
    except InputError as error:
        raise InputError(f"chunk {index} of the estimate (seed {seed}): {error}") from error
    report(size)
    return Moments.of(latents, inputs)


def _tree(parts: Iterable[Moments]) -> Moments:
    """Merge neighbours in a fixed binary tree, holding one partial result a level (a binary counter)."""
    levels: list[Moments | None] = []
    for part in parts:
        carry = part
        for level, waiting in enumerate(levels):
            if waiting is None:
                levels[level] = carry
                break
            carry, levels[level] = waiting.merge(carry), None
        else:
            levels.append(carry)
    waiting_parts = [part for part in levels if part is not None]
    total = waiting_parts[0]
    for part in waiting_parts[1:]:
        total = part.merge(total)
    return total


def _jackknife(total: Moments, parts: list[Moments], found: Callable[[Moments], Estimates]) -> dict[str, Array]:
    """Standard errors of what is found from moments, leaving out one group at a time."""
    full = found(total)
    names = NAMES[: len(full)]
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    squares: dict[str, Any] = dict.fromkeys(names, 0.0)
    for part in parts:
        for name, value, of_all in zip(names, found(total.without(part)), full, strict=True):
            change = value - of_all
            sums[name] = sums[name] + change
            squares[name] = squares[name] + change**2
    G = len(parts)
    return {name: np.sqrt((G - 1) / G * np.maximum(squares[name] - sums[name] ** 2 / G, 0.0)) for name in names}
