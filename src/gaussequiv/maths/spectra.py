r"""Spectral measures: a few of many eigenvalues that carry the same integrals of relaxation functions.

What relaxes with rates proportional to an eigenvalue rho depends on it through $e^{-\rho s}$ only, with s up to a longest
relaxation time: sums over N modes of such functions times data are, to any accuracy, sums over a few tens of nodes. The
nodes are eigenvalues themselves, chosen by a pivoted QR factorisation (an interpolative decomposition), so they obey the
same equations as the modes they stand for.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg

from gaussequiv.maths.averages import Array

PER_DECADE = 10  # relaxation times per decade in the family of functions
SHORTEST = 0.01  # shortest relaxation time, in units of 1 / the largest eigenvalue
SKETCH = 130  # random combinations of the functions; twice the number of nodes that are ever needed
DEAD = 1e-12  # of the largest eigenvalue: smaller ones are rounding
FLOOR = 1e-6  # modes whose data are below this part of the largest are treated as if they were there


@dataclass(frozen=True)
class Nodes:
    r"""Nodes $\rho_i$ of N eigenvalues and the matrix P (nodes, N) with $f(\rho_\tau) \approx \sum_i f(\rho_i) P_{i\tau}$.

    Data d of the modes become $\sum_\tau P_{i\tau} d_\tau$ at the nodes: $\sum_i f(\rho_i) d_i = \sum_\tau f(\rho_\tau) d_\tau$.
    """

    rho: Array
    P: Array

    def carry(self, data: Array) -> Array:
        """Data (..., N) of the modes as data (..., nodes) of the nodes."""
        return data @ self.P.T


def relaxation_nodes(rho: Array, weight: Array, longest: float, tolerance: float) -> Nodes:
    r"""Nodes for the functions $e^{-\rho s}$, $\rho s\, e^{-\rho s}$ and $(1 - e^{-\rho s}) / (\rho s)$, $0 \le s \le$ `longest`.

    Args:
        rho: eigenvalues, (N,), not negative.
        weight: relative size of the data of each mode, (N,): its functions are matched to `tolerance` / weight.
        longest: the longest relaxation time.
        tolerance: relative accuracy of sums of functions times data.

    """
    weight = np.maximum(weight, FLOOR)
    functions = _relaxation(rho, longest) * weight
    if len(functions) > SKETCH:  # random combinations have the same dependencies, and there are fewer of them
        functions = np.random.default_rng(0).standard_normal((SKETCH, len(functions))) @ functions
    R, order = scipy.linalg.qr(functions, mode="r", pivoting=True, check_finite=False)
    size = np.abs(np.diag(R))
    rank = max(int(np.sum(size > tolerance * size[0])), 1)
    chosen, rest = order[:rank], order[rank:]
    P = np.zeros((rank, len(rho)))
    P[np.arange(rank), chosen] = 1.0
    P[:, rest] = scipy.linalg.solve_triangular(R[:rank, :rank], R[:rank, rank:])
    return Nodes(rho[chosen], weight[chosen, None] * P / weight)


def relaxation_times(top: float, longest: float) -> Array:
    """Times of the family, log-spaced from a part of 1 / `top`, the largest eigenvalue, to `longest`."""
    shortest = SHORTEST / top
    longest = max(longest, 2 * shortest)
    return np.geomspace(shortest, longest, int(np.ceil(PER_DECADE * np.log10(longest / shortest))) + 1)


def relaxation_functions(x: Array) -> tuple[Array, Array, Array]:
    r"""$e^{-x}$, $x e^{-x}$ and $(1 - e^{-x}) / x$ at $x = \rho s \ge 0$, each of the shape of x."""
    decay = np.exp(-x)
    return decay, x * decay, np.divide(-np.expm1(-x), x, out=np.ones_like(x), where=x > 0)


def _relaxation(rho: Array, longest: float) -> Array:
    """The family of functions at every eigenvalue, and one that grows: (functions, N)."""
    top = rho.max()
    if top == 0:
        return np.ones((1, len(rho)))
    x = np.concatenate([[0.0], relaxation_times(top, longest)])[:, None] * rho
    return np.concatenate([*relaxation_functions(x), np.exp(rho / top - 1)[None]])


class PowerLaw(NamedTuple):
    r"""Eigenvalues $\rho_k \approx A k^{-a}$ between two ranks, with the root mean square of the logarithm's error."""

    exponent: float
    scale: float
    first: int
    last: int
    error: float


def power_law(rho: Array) -> PowerLaw:
    r"""The power law $A k^{-a}$ of descending eigenvalues $\rho_k$, by least squares of the logarithms.

    Ranks are weighted by 1 / k, so that every octave counts the same. The first ten are left out, which follow no law, and so are
    the last two thirds, where spectra of finite samples and of finite images end; of fewer than 60 positive ones all count.
    """
    count = int(np.count_nonzero(rho > DEAD * rho[0]))
    first, last = (10, count // 3) if count >= 60 else (1, count)
    ranks = np.arange(first, last + 1)
    x, y = np.log(ranks), np.log(rho[first - 1 : last])
    if len(ranks) < 2:
        return PowerLaw(0.0, float(rho[0]), first, last, 0.0)
    slope, height = np.polyfit(x, y, 1, w=1 / np.sqrt(ranks))  # of residuals, before they are squared
    error = np.sqrt(np.average((y - slope * x - height) ** 2, weights=1 / ranks))
    return PowerLaw(float(-slope), float(np.exp(height)), first, last, float(error))
