r"""The one direction in which a law is farthest from a Gaussian: max-sliced Wasserstein distance of whitened samples.

For a unit vector e and samples y (n, d) with mean zero and covariance I the projections $z = y \cdot e$, sorted, give

    W^2(e) = 2 - 2 mean_i z_(i) q_i,    q_i = n int_{(i-1)/n}^{i/n} Phi^-1,

the squared Wasserstein distance of the n points from N(0, 1). The largest over e is found from random directions and the axes,
the best of which are turned uphill: its gradient is -2 mean_i y_(i) q_i. It is not zero for Gaussian samples, where it depends
on n and d only. `NULL` holds its mean, standard deviation and skewness from simulated samples, times n
(`benchmarks/sliced_null.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import ndtri

from gaussequiv.maths.averages import Array
from gaussequiv.maths.hermite import Squared
from gaussequiv.maths.jackknife import standard_error
from gaussequiv.maths.sphere import unit, uphill
from gaussequiv.maths.whitening import inverse_root

NULL = Path(__file__).with_name("sliced_null.csv")
MOST = 32_768  # samples that the table goes up to
LEAST = 512
DIRECTIONS = 50  # random ones
STARTS = 4  # of them, and of the axes, that are turned uphill
ROUNDING = 1e-9  # of whitened averages
EXTREMES = 4  # of either kind, from which those of largest skewness and kurtosis are looked for
FIXED = 12


@dataclass(frozen=True)
class Direction:
    """The worst direction e (d,) in whitened coordinates, its squared distance, and the projections of the samples on it."""

    vector: Array
    value: float
    projections: Array


def whitened(y: Any) -> tuple[Array, Array]:
    """Samples (n, d) with mean zero and covariance I, and the matrix A of the map A (y - mean)."""
    y = np.asarray(y, dtype=float)
    centred = y - y.mean(axis=0)
    A = inverse_root(centred.T @ centred / len(y))
    return centred @ A, A


def squared_distance(z: Array) -> float:
    """W^2 of numbers with mean zero and variance one from N(0, 1)."""
    return float(2 - 2 * np.sort(z) @ _bins(len(z)) / len(z))


def worst(y: Array, rng: np.random.Generator, axes: Array | None = None) -> Direction:
    """The direction of the largest distance of whitened samples (n, d) that the search finds.

    It begins with the axes, or other directions of interest (m, d), random ones, and those of largest skewness and kurtosis.
    """
    d = y.shape[1]
    starts = unit(np.eye(d) if axes is None else axes)
    if d > 1:
        random = unit(rng.standard_normal((DIRECTIONS, d)))
        radial = _radial(y)
        promising = np.concatenate([random[:EXTREMES], radial[:EXTREMES]])
        extreme = [_extreme(y, promising, power) for power in (2, 3)]
        starts = np.concatenate([starts, random, radial, *extreme])
    values = [squared_distance(y @ e) for e in starts]
    order = np.argsort(values)[::-1][: STARTS if d > 1 else 1]
    q, n = _bins(len(y)), len(y)

    def gradient(e: Array) -> Array:
        return np.asarray(-q @ y[np.argsort(y @ e)] / n)

    found = [uphill(lambda e: squared_distance(y @ e), gradient, starts[i], values[i]) for i in order]
    e, value = max(found, key=lambda pair: pair[1])
    return Direction(e, value, y @ e)


def _radial(y: Array) -> Array:
    """The direction of E |y|^2 y, and the eigenvectors of E |y|^2 y y^T, those first that are farthest from a Gaussian's."""
    weighted = np.sum(y**2, axis=1)[:, None] * y / len(y)
    values, vectors = np.linalg.eigh(weighted.T @ y)
    order = np.argsort(np.abs(values - (y.shape[1] + 2)))[::-1]
    direction = weighted.sum(axis=0)[None]
    return np.concatenate(
        [unit(direction) if np.linalg.norm(direction) > ROUNDING else direction[:0], vectors.T[order]]
    )


def _extreme(y: Array, starts: Array, power: int) -> Array:
    """Directions of extreme E z^3 (power 2) or E z^4 (power 3), by the fixed point of FastICA from each start."""
    e = starts
    for _ in range(FIXED):
        z = y @ e.T
        e = unit((z**power).T @ y / len(y) - (3 * e if power == 3 else 0.0))
    return e


def max_sliced(
    groups: Iterable[Array], rng: np.random.Generator, axes: Array | None = None
) -> tuple[Squared, Direction]:
    """The squared distance in the worst direction less what Gaussian samples would show, and that direction.

    Its error leaves out one of the groups (n_g, d) at a time, in this direction. Where one direction stands out the search has
    less to choose from than among Gaussian samples, and as little as in one dimension: so much higher is the upper end.
    `axes` (m, d) are linear functions of the samples to begin with.
    """
    parts = list(groups)
    y, A = whitened(np.concatenate(parts))
    direction = worst(y, rng, None if axes is None else axes @ np.linalg.inv(A))
    n, d = y.shape
    mean, deviation, skew = null(n, d)
    z = direction.projections
    order = np.argsort(z)
    member = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[order]
    ordered, left = z[order], []
    for g in range(len(parts)):
        kept = ordered[member != g]
        scaled = (kept - kept.mean()) / kept.std()
        left.append(2 - 2 * scaled @ _bins(len(kept)) / len(kept) - mean * n / len(kept))
    values = np.array(left)
    p = float(stats.pearson3.sf(direction.value, skew, loc=mean, scale=deviation))
    return Squared(direction.value - mean, float(standard_error(values)), values, p, mean - null(n, 1)[0]), direction


def null(n: int, d: int) -> tuple[float, float, float]:
    """Mean, standard deviation and skewness of the largest squared distance of n Gaussian samples in d dimensions."""
    sizes, dims, table = _table()
    at = np.log(np.clip(n, sizes[0], sizes[-1]))
    by_dim = [[float(np.interp(at, np.log(sizes), column)) for column in block.T] for block in table]
    mean, deviation, skew = (float(np.interp(np.log(d), np.log(dims), column)) for column in np.array(by_dim).T)
    return float(np.exp(mean)) / n, float(np.exp(deviation)) / n, skew


@cache
def _table() -> tuple[Array, Array, Array]:
    """Numbers of samples, of dimensions, and (dimensions, samples, 3): logarithms of mean and deviation times n; skewness."""
    rows = np.loadtxt(NULL, delimiter=",", comments="#", skiprows=1)
    sizes, dims = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    ordered = rows[np.lexsort((rows[:, 0], rows[:, 1]))].reshape(len(dims), len(sizes), 5)
    table = ordered[:, :, 2:].copy()
    table[:, :, :2] = np.log(table[:, :, :2])
    table[:, :, 2] = table[:, :, 2].mean(axis=1, keepdims=True)  # which hardly depends on their number, and is noisy
    return sizes, dims, table


@lru_cache(maxsize=64)
def _bins(n: int) -> Array:
    """The averages of the normal quantile function over n bins of equal probability."""
    edges = ndtri(np.arange(1, n) / n)
    density = np.concatenate([[0.0], np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), [0.0]])
    return np.asarray(n * (density[:-1] - density[1:]))
