r"""Moments of samples: sums that one pass over a generator keeps, that merge, and what is estimated from them.

The law of the latents is known, $c \sim N(0, I)$, so the inputs are *regressed* on them: with scatter matrices S
of P samples,

    Phi = S_xc S_cc^-1,        residual = (S_xx - Phi S_cc Phi^T) / (P - D - 1),
    Omega = Phi Phi^T + (1 - tr S_cc^-1) residual,        mean_x = mean(x) - Phi mean(c).

The factor before the residual removes the noise of Phi from Phi Phi^T. The result is one joint covariance by construction
and needs 1.6-14 times fewer samples than the plain moments. Where latents have a prior of their own their covariance is not
known: then Omega, Phi and Psi are the plain covariances of the same samples.

Centred moments of chunks are merged by Chan's formula; of the symmetric S_xx one triangle is computed, in bands of rows, so
that its bits depend neither on BLAS threads nor on ours.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
import torch

from gaussequiv.errors import InputError
from gaussequiv.generators.precision import full_precision
from gaussequiv.maths.averages import Array

Estimates = tuple[Array, ...]  # in the order of NAMES, the last two where the law of the latents is not known
NAMES = ("Omega", "Phi", "mean_x", "Psi", "mean_c")
PRODUCTS = ("float64", "float32")
BAND = 512  # rows of S_xx that are summed together


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

        def sums(own: Array, others: Array, a: Array, b: Array) -> Array:
            total = np.multiply.outer(weight * a, b)
            total += own
            if sign > 0:
                total += others
            else:
                total -= others
            return total

        return Moments(
            count,
            self.mean_x + share * dx,
            self.mean_c + share * dc,
            sums(self.xx, other.xx, dx, dx),
            sums(self.xc, other.xc, dx, dc),
            sums(self.cc, other.cc, dc, dc),
        )

    def plain(self) -> Estimates:
        """Omega, Phi, mean_x, Psi and mean_c: covariances and means of the samples."""
        P = self.count - 1
        return self.xx / P, self.xc / P, self.mean_x, self.cc / P, self.mean_c

    def regression(self) -> Estimates:
        """Omega, Phi and mean_x by regression on the latents; where there are none, plain covariances."""
        if not len(self.cc):
            return self.xx / (self.count - 1), self.xc, self.mean_x
        inverse = scipy.linalg.cho_factor(self.cc)
        Phi = scipy.linalg.cho_solve(inverse, self.xc.T).T
        residual = Phi @ self.xc.T
        np.subtract(self.xx, residual, out=residual)
        residual += residual.T.copy()
        noise = np.trace(scipy.linalg.cho_solve(inverse, np.eye(len(self.cc))))
        residual *= (1 - noise) / (2 * (self.count - len(self.cc) - 1))
        residual += Phi @ Phi.T
        return residual, Phi, self.mean_x - Phi @ self.mean_c

    def require_standard_normal(self) -> None:
        """Refuse latents whose means or covariances are ten standard errors from those of N(0, I)."""
        P = self.count
        shift, spread = np.abs(self.mean_c), np.abs(self.cc / P - np.eye(len(self.cc))) / np.sqrt(2)
        if max(shift.max(initial=0.0), spread.max(initial=0.0)) > 10 / np.sqrt(P):
            raise InputError(
                "the latents are not standard normal; the estimate regresses on latents with mean 0 and covariance I"
            )

    # --- as arrays, of which a triangle of S_xx is enough ---

    def arrays(self, dtype: type[np.floating[Any]] = np.float64) -> dict[str, Array]:
        """The numbers, with S_xx as the vector of its upper triangle: for files, or matrices in float32 to be kept in memory."""
        matrices = {"xx": pack(self.xx), "xc": self.xc, "cc": self.cc}
        return {name: matrix.astype(dtype, copy=False) for name, matrix in matrices.items()} | {
            "count": np.array(self.count),
            "mean_x": self.mean_x,
            "mean_c": self.mean_c,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Moments":
        """What `arrays` gave."""
        values = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items() if name != "count"}
        values["xx"] = unpack(values["xx"], len(values["mean_x"]))
        return cls(int(arrays["count"].item()), **values)


class Accumulator:
    """Sums over chunks in their order: the moments of a block, whose S_xx is updated in place.

    Args:
        products: "float64", or "float32" of the sums within a chunk of centred inputs, which are twice as fast; the sums over
            chunks are in float64 in any case. `docs/scale.md` has the bound of their error.
        state: of a block that was begun before.
        threads: that share the columns of S_xx; with `one_blas_thread` around it, the result depends on no number of threads.

    """

    def __init__(self, products: str = "float64", state: Moments | None = None, threads: int = 1) -> None:
        self.products = np.float32 if products == "float32" else np.float64
        self.threads = threads
        self.count = 0
        if state is not None:
            self.count, self.mean_x, self.mean_c = state.count, state.mean_x.copy(), state.mean_c.copy()
            self.cc = state.cc.copy()
            self._begin(state)

    def add(self, latents: Any, inputs: Any) -> None:
        r"""Add a chunk of n samples: $(x - m)^T (x - m) + \frac{P n}{P + n} d d^T$ with $d$ the shift of the means."""
        c = np.asarray(latents, dtype=np.float64)
        n = len(c)
        mean_c, mean_x = c.mean(axis=0), self._mean(inputs)
        if self.count == 0:
            self.mean_x, self.mean_c = np.zeros(len(mean_x)), np.zeros(len(mean_c))
            self.cc = np.zeros((len(mean_c), len(mean_c)))
            self._begin(None)
        total = self.count + n
        root = np.sqrt(self.count * n / total)
        shifted = np.vstack([c - mean_c, root * (mean_c - self.mean_c)])
        self._multiply(inputs, mean_x, root * (mean_x - self.mean_x), shifted)
        self.cc += shifted.T @ shifted
        self.mean_x += (n / total) * (mean_x - self.mean_x)
        self.mean_c += (n / total) * (mean_c - self.mean_c)
        self.count = total

    @property
    def moments(self) -> Moments:
        """The moments of all chunks so far."""
        xx, xc = self._sums()
        return Moments(self.count, self.mean_x.copy(), self.mean_c.copy(), xx, xc, self.cc.copy())

    # --- the sums with N x N and N x D numbers ---

    def _begin(self, state: Moments | None) -> None:
        N, D = len(self.mean_x), len(self.mean_c)
        if state is None:
            self.xx, self.xc = np.zeros((N, N)), np.zeros((N, D))
        else:
            self.xx, self.xc = state.xx.copy(), state.xc.copy()

    @staticmethod
    def _mean(inputs: Any) -> Array:
        return np.asarray(np.asarray(inputs).mean(axis=0, dtype=np.float64))

    def _multiply(self, inputs: Any, mean: Array, shift: Array, latents: Array) -> None:
        """Add products of inputs that are centred, with one more row, with themselves and with latents: a triangle by bands."""
        x = np.asarray(inputs)
        rows = np.empty((len(x) + 1, x.shape[1]), dtype=self.products)
        np.subtract(x, mean, out=rows[:-1], casting="same_kind")
        rows[-1] = shift
        factor = latents.astype(self.products)

        def add(start: int) -> None:
            band = slice(start, start + BAND)
            self.xx[band, : start + BAND] += rows[:, band].T @ rows[:, : start + BAND]
            self.xc[band] += rows[:, band].T @ factor

        starts = range(0, rows.shape[1], BAND)
        if self.threads == 1 or len(starts) == 1:
            for start in starts:
                add(start)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(add, reversed(starts)))  # the longest first

    def _sums(self) -> tuple[Array, Array]:
        return _mirrored(self.xx), self.xc.copy()


class OnDevice(Accumulator):
    """The same, of inputs that are tensors on a device, where their products are summed."""

    def __init__(self, products: str, state: Moments | None, device: torch.device) -> None:
        self.device = device
        super().__init__(products, state)

    def _there(self, array: Array, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.tensor(array, dtype=dtype, device=self.device)

    def _begin(self, state: Moments | None) -> None:
        N, D = len(self.mean_x), len(self.mean_c)
        xx, xc = (np.zeros((N, N)), np.zeros((N, D))) if state is None else (state.xx, state.xc)
        self.totals = self._there(xx), self._there(xc)

    @staticmethod
    def _mean(inputs: torch.Tensor) -> Array:
        return np.asarray(inputs.mean(dim=0, dtype=torch.float64).cpu().numpy())

    def _multiply(self, inputs: torch.Tensor, mean: Array, shift: Array, latents: Array) -> None:
        dtype = torch.float32 if self.products is np.float32 else torch.float64
        rows = torch.cat([inputs - self._there(mean), self._there(shift)[None]]).to(dtype)
        with full_precision:
            for sums, factor in zip(self.totals, (rows, self._there(latents, dtype)), strict=True):
                if dtype == torch.float64:
                    sums.addmm_(rows.T, factor)
                else:
                    sums.add_(rows.T @ factor)

    def _sums(self) -> tuple[Array, Array]:
        xx, xc = self.totals
        lower = torch.tril(xx)
        lower += torch.tril(xx, -1).T
        return lower.cpu().numpy().copy(), xc.cpu().numpy().copy()


def _mirrored(matrix: Array) -> Array:
    """The symmetric matrix of a lower triangle; each entry is a sum of its own, so that going on from it changes no bit."""
    lower = np.tril(matrix)
    lower += np.tril(matrix, -1).T
    return lower


def tree(parts: Iterable[Moments]) -> Moments:
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


def pack(matrix: Array) -> Array:
    """The upper triangle of a symmetric matrix (n, n) as a vector (n (n + 1) / 2,)."""
    return np.concatenate([matrix[i, i:] for i in range(len(matrix))]) if len(matrix) else np.zeros(0)


def unpack(vector: Array, n: int) -> Array:
    """The symmetric matrix (n, n) of a packed triangle."""
    matrix = np.empty((n, n), dtype=vector.dtype)
    starts = _starts(n)
    for i in range(n):
        row = vector[starts[i] : starts[i + 1]]
        matrix[i, i:] = row
        matrix[i:, i] = row
    return matrix


@cache
def _starts(n: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.concatenate([[0], np.cumsum(np.arange(n, 0, -1))]))
