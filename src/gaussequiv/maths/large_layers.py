r"""The covariance of one layer of units on Gaussian fields as products, block by block: it is never held.

For $u = F c$ with $c \sim N(0, I)$, correlations $r = G G^T$ of the rows $G_i = F_i / |F_i|$ and the Hermite
coefficients $c_k(i)$ of $\sigma(|F_i| z)$,

    Omega_ij = sum_{k >= 1} c_k(i) c_k(j) r_ij^k,

of which sign, erf, ReLU and their kin have closed forms. A block of rows is made, multiplied from both sides (Omega is
symmetric) and forgotten: N^2 D / 2 multiplications for all columns of a product together.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gaussequiv.errors import InputError, integer
from gaussequiv.maths import averages
from gaussequiv.maths.activations import Activation, Erf, Homogeneous, Linear
from gaussequiv.maths.averages import TERMS, Array
from gaussequiv.maths.threads import one_blas_thread

BLOCK = 1024  # rows of a block
SLICE = 8192  # rows whose averages are taken together
PRECISIONS = {"float32": np.float32, "float64": np.float64}

Block = Callable[[Array, slice, slice], Array]  # correlations (rows, columns) to covariances


@dataclass(frozen=True, eq=False)
class LayerCovariance:
    r"""$\Omega$ of $x = \sigma(F c)$, $c \sim N(0, I_D)$, which multiplies blocks of columns by `@`.

    Args:
        sigma: the activation.
        F: (N, D), rows as given, none of them zero.
        precision: of the entries of Omega, "float32" or "float64"; they are multiplied in float64.
        threads: that share the blocks; the result does not depend on it.

    """

    sigma: Activation
    F: Array
    precision: str = "float32"
    threads: int = 1
    _rows: Array = field(init=False, repr=False)
    _squares: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision={self.precision!r}; expected {' or '.join(map(repr, PRECISIONS))}")
        integer("threads", self.threads)
        if not isinstance(self.sigma, Linear) and not self.variance.all():
            raise InputError(f"row {int(np.argmin(self.variance))} of F is zero; expected rows of positive norm")
        scale = np.sqrt(1 + self.variance) if isinstance(self.sigma, Erf) else self.deviation
        object.__setattr__(self, "_rows", (self.F / scale[:, None]).astype(PRECISIONS[self.precision]))

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return len(self.F), len(self.F)

    @cached_property
    def variance(self) -> Array:
        """Variances of the fields, (N,)."""
        return np.einsum("ij,ij->i", self.F, self.F)

    @cached_property
    def deviation(self) -> Array:
        """Their standard deviations, (N,)."""
        return np.sqrt(self.variance)

    @cached_property
    def mean(self) -> Array:
        """Means of the units, (N,)."""
        return np.concatenate([np.asarray(self.sigma.mean(part), dtype=float) for part in _sliced(self.variance)])

    @cached_property
    def slope(self) -> Array:
        r"""$E \sigma'(u)$, (N,)."""
        variance = np.maximum(self.variance, np.finfo(float).tiny)
        return np.concatenate([np.asarray(self.sigma.slope(part), dtype=float) for part in _sliced(variance)])

    @cached_property
    def diagonal(self) -> Array:
        """Variances of the units, (N,)."""
        square = lambda u: self.sigma(u) ** 2  # noqa: E731
        return np.concatenate([averages.single(square, part) for part in _sliced(self.variance)]) - self.mean**2

    def moments(self) -> tuple[float, float]:
        r"""$\mathrm{tr}\, \Omega / N$ and $\mathrm{tr}\, \Omega^2 / N$; the second is found along with a product."""
        N = len(self.F)
        if isinstance(self.sigma, Linear):
            return float(self.variance.mean()), float(np.sum((self.F.T @ self.F) ** 2)) / N
        if not self._squares:
            self @ np.zeros((N, 1))
        return float(self.diagonal.mean()), sum(self._squares[start] for start in sorted(self._squares)) / N

    def __matmul__(self, X: Array) -> Array:
        """The product with X (N, n)."""
        X = np.asarray(X, dtype=np.float64)
        if isinstance(self.sigma, Linear):
            return np.asarray(self.F @ (self.F.T @ X))
        columns = X.reshape(len(X), -1)
        starts = range(0, len(X), BLOCK)
        total = np.zeros(columns.shape)
        with one_blas_thread, ThreadPoolExecutor(self.threads) as pool:
            for first, part in pool.map(lambda start: self._row(start, columns), starts):
                total[first:] += part
        return total.reshape(X.shape)

    def _row(self, start: int, X: Array) -> tuple[int, Array]:
        """What a row of blocks, from its diagonal on, adds to the product from row `start` on."""
        rows = slice(start, min(start + BLOCK, len(X)))
        G, own = self._rows, X[rows]
        found, squares = np.zeros((len(X) - start, X.shape[1])), 0.0
        for first in range(start, len(X), BLOCK):
            columns = slice(first, min(first + BLOCK, len(X)))
            block = self._block(G[rows] @ G[columns].T, rows, columns).astype(np.float64)
            if first == start:
                np.fill_diagonal(block, self.diagonal[rows])
                squares += float(np.vdot(block, block))
            else:
                squares += 2 * float(np.vdot(block, block))
                found[first - start : columns.stop - start] += block.T @ own
            found[: rows.stop - start] += block @ X[columns]
        self._squares[start] = squares
        return start, found

    @cached_property
    def _block(self) -> Block:
        match self.sigma:
            case Erf():
                return _erf
            case Homogeneous():
                return _homogeneous(self.sigma, self.deviation.astype(self._rows.dtype))
        return _series(self.sigma, self.variance, self._rows.dtype)


def _sliced(variance: Array) -> list[Array]:
    """Slices of the rows: averages need hundreds of numbers for each."""
    return np.split(variance, range(SLICE, len(variance), SLICE))


def _erf(r: Array, rows: slice, columns: slice) -> Array:
    np.clip(r, -1, 1, out=r)
    np.arcsin(r, out=r)
    r *= r.dtype.type(2 / np.pi)
    return r


def _homogeneous(sigma: Homogeneous, deviation: Array) -> Block:
    r"""$\alpha u + \beta |u| + \gamma\, \mathrm{sign}(u)$ of centred fields."""
    line, fold, jump = sigma.line, sigma.fold, sigma.jump

    def block(r: Array, rows: slice, columns: slice) -> Array:
        number = r.dtype.type
        np.clip(r, -1, 1, out=r)
        arc = np.arcsin(r)
        here, there = deviation[rows, None], deviation[None, columns]
        total = np.zeros_like(r)
        if line or fold:
            if fold:  # 2 / pi (sqrt(1 - r^2) + r arcsin r - 1)
                total += np.sqrt((1 - r) * (1 + r))
                total += r * arc
                total -= 1
                total *= number(2 / np.pi * fold**2)
            total += number(line**2) * r
            total *= here
            total *= there
        if jump:
            total += number(2 / np.pi * jump**2) * arc
            if line:
                total += number(line * jump * np.sqrt(2 / np.pi)) * r * (here + there)
        return total

    return block


def _series(sigma: Activation, variance: Array, dtype: Any) -> Block:
    """Any other: as many powers of the correlations as the largest of a block asks for."""
    parts = [averages.hermite_coefficients_at(sigma, np.zeros(len(part)), part) for part in _sliced(variance)]
    coefficients, own = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    sizes = (coefficients**2).max(axis=0)
    tolerance = np.finfo(dtype).eps * float(own.max())
    columns_of = np.ascontiguousarray(coefficients.T.astype(dtype))

    def block(r: Array, rows: slice, columns: slice) -> Array:
        far = np.abs(r)
        if rows.start == columns.start:
            np.fill_diagonal(far, 0)
        largest = float(far.max())
        left = sizes[1:] * largest ** np.arange(1, TERMS)
        needed = np.flatnonzero(left > tolerance)
        if largest**TERMS * float(own.max()) > 1e3 * tolerance:
            raise InputError(
                f"rows of F have the correlation {largest:.3g}, and {sigma.name} no closed form for it; use a dense model"
            )
        total = np.zeros_like(r)
        for k in range(int(needed[-1]) + 1 if len(needed) else 1, 0, -1):  # Horner's rule
            if sizes[k] > 0:
                total += np.multiply.outer(columns_of[k, rows], columns_of[k, columns])
            total *= r
        return total

    return block
