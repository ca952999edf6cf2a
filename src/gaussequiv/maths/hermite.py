r"""How far a law is from a Gaussian, by Hermite coefficients: sums that one pass keeps, and the distance that they give.

In coordinates y in which the Gaussian is N(0, I) a density $1 + \sum_k h_k \cdot he_k$ has the linearised Wasserstein distance

    W^2 = sum_k |h_k|^2 / k,    |h_k|^2 = |H_k|_F^2 / k!,    H_k = E He_k(y)  (a symmetric tensor with d^k entries),

in units of the standard deviation of a field. The orders 1 and 2 are what is wrong with means and covariances, `Powers.moments`;
the orders 3 and 4 are the shape, `Powers.shape`, in coordinates whitened by the sample itself: in one dimension
$\sqrt{\mathrm{skew}^2 / 18 + \mathrm{kurt}^2 / 96}$.

A squared norm of averages is larger than the square of what is estimated. With samples in G groups it is estimated without bias,

    U = (|sum_g w_g h_g|^2 - sum_g w_g^2 |h_g|^2) / (1 - sum_g w_g^2),    w_g = n_g / n,

a U-statistic of groups, and leaving out one group at a time gives its error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import comb, factorial
from typing import Any

import numpy as np
from scipy import stats

from gaussequiv.maths.averages import Array


@dataclass(frozen=True, eq=False)
class Powers:
    """Sums over n samples of products of up to four of d numbers; pairs (i, j) have i <= j.

    `first` (d,), `third` (pairs, d), `fourth` (pairs, pairs); those of two are `second` (pairs,).
    """

    count: int
    first: Array
    second: Array
    third: Array
    fourth: Array

    @classmethod
    def of(cls, y: Any) -> "Powers":
        """Those of samples (n, d), as matrix products."""
        y = np.asarray(y, dtype=float)
        i, j = _pairs(y.shape[1])
        pairs = y[:, i] * y[:, j]
        return cls(len(y), y.sum(axis=0), pairs.sum(axis=0), pairs.T @ y, pairs.T @ pairs)

    def __add__(self, other: "Powers") -> "Powers":
        """Sums over both sets of samples."""
        return Powers(self.count + other.count, *(a + b for a, b in zip(self._sums, other._sums, strict=True)))

    def __sub__(self, part: "Powers") -> "Powers":
        """Sums over the samples that are not in `part`."""
        return Powers(self.count - part.count, *(a - b for a, b in zip(self._sums, part._sums, strict=True)))

    @property
    def _sums(self) -> tuple[Array, ...]:
        return self.first, self.second, self.third, self.fourth

    @property
    def dim(self) -> int:
        """D."""
        return len(self.first)

    @cached_property
    def mean(self) -> Array:
        """E y, (d,)."""
        return np.asarray(self.first / self.count)

    @cached_property
    def square(self) -> Array:
        """E y y^T, (d, d)."""
        return np.asarray((self.second / self.count)[_place(self.dim)])

    @cached_property
    def covariance(self) -> Array:
        """E y y^T - E y E y^T."""
        return self.square - np.outer(self.mean, self.mean)

    def whitening(self) -> tuple[Array, Array]:
        """The affine map after which these samples have mean zero and covariance I: (A, b) of A y + b."""
        values, vectors = np.linalg.eigh(self.covariance)
        A = (vectors / np.sqrt(values)) @ vectors.T
        return A, -A @ self.mean

    def mapped(self, A: Array, b: Array) -> tuple[Array, Array, Array, Array]:
        """Averages of products of one, two, three and four of the numbers A y + b, as full tensors."""
        place, n = _place(self.dim), self.count
        m1, m2 = self.mean, self.square
        m3, m4 = self.third[place] / n, self.fourth[place][:, :, place] / n
        m1, m2, m3, m4 = (_turned(tensor, A) for tensor in (m1, m2, m3, m4))
        return (
            m1 + b,
            m2 + _symmetrised(m1, b) + np.multiply.outer(b, b),
            m3 + _symmetrised(m2, b) + _symmetrised(m1, np.multiply.outer(b, b)) + _outer(b, 3),
            m4
            + _symmetrised(m3, b)
            + _symmetrised(m2, np.multiply.outer(b, b))
            + _symmetrised(m1, _outer(b, 3))
            + _outer(b, 4),
        )

    def coefficients(self, A: Array, b: Array) -> tuple[Array, Array, Array, Array]:
        r"""H_1 to H_4 of A y + b; $H_3 = M_3 - 3\, \delta m$ and $H_4 = M_4 - 6\, \delta M_2 + 3\, \delta\delta$, symmetrised."""
        m1, m2, m3, m4 = self.mapped(A, b)
        unit = np.eye(self.dim)
        return (
            m1,
            m2 - unit,
            m3 - _symmetrised(unit, m1),
            m4 - _symmetrised(unit, m2) + _symmetrised(unit, unit) / 2,
        )


@dataclass(frozen=True)
class Squared:
    """An estimate of a squared distance, its error, and how probable a larger one would be for a Gaussian.

    Args:
        value: without bias, so that it may be negative.
        error: standard error.
        left_out: values without one group of samples at a time, (G,).
        p: probability of a larger value, if the law is Gaussian.

    """

    value: float
    error: float
    left_out: Array
    p: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the distance itself, by Student's law of G - 1 degrees."""
        half = float(stats.t.ppf((1 + level) / 2, len(self.left_out) - 1)) * self.error
        return float(np.sqrt(max(self.value - half, 0.0))), float(np.sqrt(max(self.value + half, 0.0)))

    @property
    def distance(self) -> float:
        """The root, 0 for negative values."""
        return float(np.sqrt(max(self.value, 0.0)))


def shape(groups: Sequence[Powers]) -> Squared:
    r"""Distance of the law from the Gaussian with its mean and covariance, $|h_3|^2 / 3 + |h_4|^2 / 4$, from groups of samples.

    For a Gaussian n W^2 follows $\chi^2_p / 3 + \chi^2_q / 4$ with p and q the numbers of coefficients of either order.
    """
    total = sum(groups[1:], groups[0])
    A, b = total.whitening()
    own = np.array([_weighted(group.coefficients(A, b)[2:], (3, 4)) for group in groups])
    counts = np.array([group.count for group in groups])

    def value(sums: Powers, kept: Any) -> float:
        whole = _weighted(sums.coefficients(*sums.whitening())[2:], (3, 4))
        return _without_bias(whole, own[kept], counts[kept])

    d = total.dim
    return _estimated(groups, total, value, [(comb(d + 2, 3), 3), (comb(d + 3, 4), 4)])


def moments(groups: Sequence[Powers], covariance: Array, noise: float = 0.0) -> Squared:
    r"""Distance of the law's mean and covariance from zero and a given covariance, $|h_1|^2 + |h_2|^2 / 2$.

    Args:
        groups: sums of groups of samples.
        covariance: (d, d), positive definite.
        noise: the expectation of the squared distance that errors of this covariance add.

    """
    total = sum(groups[1:], groups[0])
    values, vectors = np.linalg.eigh(covariance)
    A = (vectors / np.sqrt(values)) @ vectors.T
    b = np.zeros(len(A))

    def coefficients(sums: Powers) -> tuple[Array, Array]:
        return A @ sums.mean, A @ sums.square @ A.T - np.eye(len(b))

    own = np.array([_weighted(coefficients(group), (1, 2)) for group in groups])
    counts = np.array([group.count for group in groups])

    def value(sums: Powers, kept: Any) -> float:
        return _without_bias(_weighted(coefficients(sums), (1, 2)), own[kept], counts[kept]) - noise

    d = total.dim
    return _estimated(groups, total, value, [(d, 1), (comb(d + 1, 2), 2)], noise)


def mardia_kurtosis(total: Powers) -> tuple[float, float]:
    r"""$E |y|^4$ of whitened fields over its value for a Gaussian, d (d + 2), minus one; and how probable a larger one is.

    It falls out of the coefficients: the trace of H_4 (Mardia 1970). Either sign counts.
    """
    A, b = total.whitening()
    fourth = float(np.einsum("iijj->", total.mapped(A, b)[3]))
    d, n = total.dim, total.count
    expected = d * (d + 2) * (n - 1) / (n + 1)
    z = (fourth - expected) / np.sqrt(8 * d * (d + 2) / n)
    return fourth / (d * (d + 2)) - 1, float(2 * stats.norm.sf(abs(z)))


def _estimated(
    groups: Sequence[Powers], total: Powers, value: Any, laws: list[tuple[int, int]], noise: float = 0.0
) -> Squared:
    everything = np.arange(len(groups))
    found = value(total, everything)
    left = np.array([value(total - group, everything != g) for g, group in enumerate(groups)])
    G = len(groups)
    error = float(np.sqrt((G - 1) / G * np.sum((left - left.mean()) ** 2)))
    return Squared(found, error, left, _tail(found * total.count, laws, noise * total.count))


def _tail(value: float, laws: list[tuple[int, int]], noise: float) -> float:
    """P(sum of chi^2_p / k - p / k > value), scaled for noise, by a shifted gamma law of the same three moments."""
    scale = 1 + noise / sum(p / k for p, k in laws)
    variance = sum(2 * p / k**2 for p, k in laws) * scale**2
    third = sum(8 * p / k**3 for p, k in laws) * scale**3
    return float(stats.pearson3.sf(value, third / variance**1.5, scale=np.sqrt(variance)))


def _without_bias(whole: float, own: Array, counts: Array) -> float:
    w2 = (counts / counts.sum()) ** 2
    return float((whole - w2 @ own) / (1 - w2.sum()))


def _weighted(tensors: Sequence[Array], orders: tuple[int, ...]) -> float:
    """The sum of |H_k|^2 / (k! k)."""
    return sum(float(np.sum(H**2)) / (factorial(k) * k) for H, k in zip(tensors, orders, strict=True))


def _turned(tensor: Array, A: Array) -> Array:
    """A on every index."""
    for _ in range(tensor.ndim):
        tensor = np.tensordot(tensor, A, axes=(0, 1))
    return tensor


def _outer(b: Array, order: int) -> Array:
    result = b
    for _ in range(order - 1):
        result = np.multiply.outer(result, b)
    return result


def _symmetrised(tensor: Array, other: Array) -> Array:
    """The sum of tensor x other over all different ways to share out the indices; both are symmetric."""
    from itertools import combinations

    product = np.multiply.outer(tensor, other)
    order, own = product.ndim, tensor.ndim
    total = np.zeros_like(product)
    for chosen in combinations(range(order), own):
        rest = [axis for axis in range(order) if axis not in chosen]
        total += np.moveaxis(product, range(order), (*chosen, *rest))
    return total


@cache
def _pairs(d: int) -> tuple[Any, Any]:
    return np.triu_indices(d)


@cache
def _place(d: int) -> Array:
    """Where the pair (i, j) is: (d, d)."""
    place = np.zeros((d, d), dtype=int)
    i, j = _pairs(d)
    place[i, j] = place[j, i] = np.arange(len(i))
    return place
