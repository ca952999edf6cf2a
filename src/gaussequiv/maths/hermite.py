r"""How far a law is from a Gaussian, by Hermite coefficients: sums that one pass keeps, and the distance that they give.

In coordinates y in which the Gaussian is N(0, I) a density $1 + \sum_k h_k \cdot he_k$ has the linearised Wasserstein distance

    W^2 = sum_k |h_k|^2 / k,    |h_k|^2 = |H_k|_F^2 / k!,    H_k = E He_k(y)  (a symmetric tensor with d^k entries),

in units of the standard deviation of a field. The orders 1 and 2 are what is wrong with means and covariances, `moments`; the
orders 3 and 4 are the `shape`, in coordinates whitened by the sample itself: in one dimension
$\sqrt{\mathrm{skew}^2 / 18 + \mathrm{kurt}^2 / 96}$.

A squared norm of averages is larger than the square of what is estimated. With samples in G groups it is estimated without bias,

    U = (|sum_g w_g h_g|^2 - sum_g w_g^2 |h_g|^2) / (1 - sum_g w_g^2),    w_g = n_g / n,

a U-statistic of groups; leaving out one group at a time gives its error, and the bias of order 1 / n that the whitening leaves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from math import comb, factorial
from typing import Any

import numpy as np
from scipy import stats

from gaussequiv.maths.averages import Array
from gaussequiv.maths.jackknife import jackknife, reach
from gaussequiv.maths.whitening import inverse_root

STACK = 4_000_000  # numbers of tensors that are turned together


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
        A = inverse_root(self.covariance)
        return A, -A @ self.mean


def coefficients(sums: Sequence[Powers], A: Array, b: Array) -> Iterator[tuple[Array, Array, Array, Array]]:
    r"""H_1 to H_4 of A y + b for many sums, with A (G, d, d) and b (G, d) or one for all, as stacks.

    With the averages M_k of products, symmetrised, $H_3 = M_3 - 3\, \delta m$ and
    $H_4 = M_4 - 6\, \delta M_2 + 3\, \delta\delta$.
    """
    d, G = sums[0].dim, len(sums)
    A, b = np.broadcast_to(A, (G, d, d)), np.broadcast_to(b, (G, d))
    step = max(STACK // d**4, 1)
    unit = np.eye(d)
    for start in range(0, G, step):
        some = slice(start, start + step)
        m1, m2, m3, m4 = _mapped(sums[some], A[some], b[some])
        units = np.broadcast_to(unit, (len(m1), d, d))
        yield (
            m1,
            m2 - unit,
            m3 - _symmetrised(units, m1),
            m4 - _symmetrised(units, m2) + _symmetrised(units, units) / 2,
        )


def _mapped(sums: Sequence[Powers], A: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Averages of products of one, two, three and four of the numbers A y + b, as stacks of full tensors."""
    place = _place(sums[0].dim)
    tensors = (
        np.stack([one.mean for one in sums]),
        np.stack([one.square for one in sums]),
        np.stack([one.third[place] / one.count for one in sums]),
        np.stack([one.fourth[place][:, :, place] / one.count for one in sums]),
    )
    m1, m2, m3, m4 = (_turned(tensor, A) for tensor in tensors)
    if not b.any():
        return m1, m2, m3, m4
    bb = _outer(b, b)
    bbb = _outer(bb, b)
    return (
        m1 + b,
        m2 + _symmetrised(m1, b) + bb,
        m3 + _symmetrised(m2, b) + _symmetrised(m1, bb) + bbb,
        m4 + _symmetrised(m3, b) + _symmetrised(m2, bb) + _symmetrised(m1, bbb) + _outer(bbb, b),
    )


@dataclass(frozen=True)
class Squared:
    """An estimate of a squared distance, its error, and how probable a larger one would be for a Gaussian.

    Args:
        value: without bias, so that it may be negative.
        error: standard error.
        left_out: values without one group of samples at a time, (G,).
        p: probability of a larger value, if the law is Gaussian.
        unseen: by how much it may be too small, beside its error.

    """

    value: float
    error: float
    left_out: Array
    p: float
    unseen: float = 0.0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the distance itself, by Student's law of G - 1 degrees."""
        half = float(reach(self.error, len(self.left_out), level))
        low, high = self.value - half, self.value + half + self.unseen
        return float(np.sqrt(max(low, 0.0))), float(np.sqrt(max(high, 0.0)))

    @property
    def distance(self) -> float:
        """The root, 0 for negative values."""
        return float(np.sqrt(max(self.value, 0.0)))


def shape(groups: Sequence[Powers]) -> Squared:
    r"""Distance of the law from the Gaussian with its mean and covariance, $|h_3|^2 / 3 + |h_4|^2 / 4$, from groups of samples.

    For a Gaussian n W^2 follows $\chi^2_p / 3 + \chi^2_q / 4$ with p and q the numbers of coefficients of either order.
    """
    total = sum(groups[1:], groups[0])
    own = _norms(groups, *total.whitening(), (3, 4))
    wholes = [total, *(total - group for group in groups)]
    maps = [one.whitening() for one in wholes]
    norms = _norms(wholes, np.stack([A for A, _ in maps]), np.stack([b for _, b in maps]), (3, 4))
    d = total.dim
    return _estimated(groups, norms, own, [(comb(d + 2, 3), 3), (comb(d + 3, 4), 4)])


def moments(groups: Sequence[Powers], covariance: Array, noise: float = 0.0, mean: Array | float = 0.0) -> Squared:
    r"""Distance of the law's mean and covariance from given ones, $|h_1|^2 + |h_2|^2 / 2$.

    Args:
        groups: sums of groups of samples.
        covariance: (d, d), positive definite.
        noise: the expectation of the squared distance that errors of mean and covariance add.
        mean: (d,), zero if left out.

    """
    total = sum(groups[1:], groups[0])
    A = inverse_root(covariance)

    def norm(sums: Powers) -> float:
        m = A @ (sums.mean - mean)
        square = A @ sums.covariance @ A.T + np.outer(m, m) - np.eye(len(A))
        return float(m @ m + np.sum(square**2) / 4)

    own = np.array([norm(group) for group in groups])
    norms = np.array([norm(total), *(norm(total - group) for group in groups)])
    d = total.dim
    return _estimated(groups, norms, own, [(d, 1), (comb(d + 1, 2), 2)], noise)


def mardia_kurtosis(sums: Sequence[Powers]) -> tuple[Array, Array]:
    r"""$E |y|^4$ of whitened fields over its value for a Gaussian, d (d + 2), minus one; and how probable a larger one is.

    Of each of several sums. It falls out of the coefficients: the trace of H_4 (Mardia 1970). Either sign counts.
    """
    maps = [one.whitening() for one in sums]
    stacks = coefficients(sums, np.stack([A for A, _ in maps]), np.stack([b for _, b in maps]))
    trace = np.concatenate([np.einsum("giijj->g", H[3]) for H in stacks])
    d, n = sums[0].dim, np.array([one.count for one in sums])
    z = (trace + d * (d + 2) * 2 / (n + 1)) / np.sqrt(8 * d * (d + 2) / n)  # E |y|^4 = d (d + 2) (n - 1) / (n + 1)
    return trace / (d * (d + 2)), 2 * stats.norm.sf(np.abs(z))


def _norms(sums: Sequence[Powers], A: Array, b: Array, orders: tuple[int, ...]) -> Array:
    """The sum of |H_k|^2 / (k! k) over some orders, of each of the sums."""
    found = []
    for H in coefficients(sums, A, b):
        parts = [(H[k - 1].reshape(len(H[0]), -1) ** 2).sum(axis=1) / (factorial(k) * k) for k in orders]
        found.append(np.sum(parts, axis=0))
    return np.concatenate(found)


def _estimated(
    groups: Sequence[Powers], norms: Array, own: Array, laws: list[tuple[int, int]], noise: float = 0.0
) -> Squared:
    """From the squared norms of all samples, and without a group each, and from those of each group."""
    counts, G = np.array([group.count for group in groups]), len(groups)

    def value(whole: float, kept: Any) -> float:
        w2 = (counts[kept] / counts[kept].sum()) ** 2
        return float((whole - w2 @ own[kept]) / (1 - w2.sum())) - noise

    everything = np.arange(G)
    found = value(norms[0], everything)
    left = np.array([value(norms[1 + g], everything != g) for g in everything])
    spread = jackknife(np.array(found), left)
    found -= float(spread.bias)  # a U-statistic has none; what whitening by the sample leaves is taken off
    n = counts.sum()
    lost = 1 - float(np.sum((counts / n) ** 2))  # pairs within a group do not count
    return Squared(found, float(spread.error), left, _tail(found * n * np.sqrt(lost), laws, noise * n))


def _tail(value: float, laws: list[tuple[int, int]], noise: float) -> float:
    """P(sum of chi^2_p / k - p / k > value), scaled for noise, by a shifted gamma law of the same three moments."""
    scale = 1 + noise / sum(p / k for p, k in laws)
    variance = sum(2 * p / k**2 for p, k in laws) * scale**2
    third = sum(8 * p / k**3 for p, k in laws) * scale**3
    return float(stats.pearson3.sf(value, third / variance**1.5, scale=np.sqrt(variance)))


def _turned(tensors: Array, A: Array) -> Array:
    """A on every index of a stack of tensors (G, d, ..., d): each turn takes the first index and puts it last."""
    G, *shape = tensors.shape
    for _ in shape:
        tensors = np.moveaxis((A @ tensors.reshape(G, shape[0], -1)).reshape(G, *shape), 1, -1)
    return tensors


def _outer(tensors: Array, others: Array) -> Array:
    """Outer products of stacks."""
    G = len(tensors)
    product = tensors.reshape(G, -1, 1) * others.reshape(G, 1, -1)
    return np.asarray(product.reshape(G, *tensors.shape[1:], *others.shape[1:]))


def _symmetrised(tensors: Array, others: Array) -> Array:
    """The sum of outer products over all different ways to share out the indices; both are symmetric."""
    product = _outer(tensors, others)
    order, own = product.ndim - 1, tensors.ndim - 1
    total = np.zeros_like(product)
    for chosen in combinations(range(1, order + 1), own):
        rest = [axis for axis in range(1, order + 1) if axis not in chosen]
        total += np.moveaxis(product, range(1, order + 1), (*chosen, *rest))
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
