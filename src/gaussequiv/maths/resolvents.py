r"""Resolvent sums of a covariance, all that full-batch learning sees of its inputs and of the teacher's direction.

With eigenvalues $\omega_i$ of Omega (N of them), the teacher's part $\pi_i = \tau_i / (N \omega_i)$ along each,
$\tau_i = N (e_i \cdot E[x \nu])^2$, and $f_i = \omega_i / (\kappa + \omega_i)$,

    A1 = mean f        A2 = mean f^2        B = A1 - A2 = mean f (1 - f)
    T1 = sum pi f      T2 = sum pi f^2      miss = rho - 2 T1 + T2 = unseen + sum pi (1 - f)^2
    gap = rho T2 - T1^2 = unseen T2 + (sum pi)^2 Var_pi f

where rho is the variance of the teacher's field and $\text{unseen} = \rho - \sum \pi$ what is not linear in the inputs, noise
included. Differences are formed so that nothing cancels.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import chebyshev

from gaussequiv.maths.averages import Array

DIRECT = 1024  # eigenvalues up to which sums are taken as they stand
NODES = 768  # of Chebyshev's interpolation in log kappa
DECADES = (-20.0, 8.0)  # its range, relative to the largest eigenvalue
ROUNDING = 1e-15  # spread of f, relative to its mean, below which it is rounding
NOTHING = 1e-13  # part of rho below which an unseen rest is rounding


@dataclass(frozen=True)
class Sums:
    """The sums at points kappa, (points,) each."""

    A1: Array
    A2: Array
    B: Array
    T1: Array
    T2: Array
    miss: Array
    gap: Array


@dataclass(frozen=True)
class Resolvents:
    r"""The spectrum of a problem.

    Args:
        omega: eigenvalues, (N,), at least 0.
        tau: $N (e_i \cdot E[x \nu])^2$, (N,).
        rho: variance of the teacher's field, without noise.
        noise: variance of the noise.

    """

    omega: Array
    tau: Array
    rho: float
    noise: float

    @cached_property
    def parts(self) -> Array:
        """pi_i, 0 on modes without variance."""
        there = self.omega > 0
        return np.where(there, self.tau / np.where(there, self.omega, 1.0), 0.0) / len(self.omega)

    @cached_property
    def seen(self) -> float:
        """The part of the field's variance that is linear in the inputs."""
        return float(self.parts.sum())

    @cached_property
    def unseen(self) -> float:
        """The rest of it, and the noise."""
        rest = self.rho - self.seen
        return (rest if rest > NOTHING * self.rho else 0.0) + self.noise

    @cached_property
    def total(self) -> float:
        """Variance of field and noise."""
        return self.seen + self.unseen

    def __call__(self, kappa: Array) -> Sums:
        """The sums at kappa > 0, (points,)."""
        kappa = np.asarray(kappa, dtype=float)
        A1, A2, B, T1, T2, missed, spread = (
            self._direct(kappa) if len(self.omega) <= DIRECT else self._interpolated(kappa)
        )
        return Sums(A1, A2, B, T1, T2, self.unseen + missed, self.unseen * T2 + self.seen * spread)

    def _direct(self, kappa: Array) -> tuple[Array, ...]:
        """A1, A2, B, T1, T2, sum pi (1 - f)^2 and (sum pi) Var f, by blocks of points."""
        found = []
        size = max(1, 2**21 // len(self.omega))
        for start in range(0, len(kappa), size):
            below = kappa[start : start + size, None] + self.omega
            f, rest = self.omega / below, kappa[start : start + size, None] / below
            mean = np.stack([f @ self.parts, rest @ self.parts]) / (self.seen or 1.0)
            smaller = np.where((mean[0] < mean[1])[:, None], f, rest)  # its rounding is that of the smaller numbers
            least = mean.min(axis=0)
            variance = np.maximum((smaller - least[:, None]) ** 2 @ self.parts, self.seen * (ROUNDING * least) ** 2)
            means = (f.mean(1), (f**2).mean(1), (f * rest).mean(1))
            found.append([*means, f @ self.parts, f**2 @ self.parts, rest**2 @ self.parts, variance])
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))

    @cached_property
    def _table(self) -> tuple[float, float, list[Array]]:
        """The range of log kappa and the Chebyshev coefficients of the logarithms of the sums."""
        top = np.log(self.omega.max())
        low, high = (float(top + np.log(10) * d) for d in DECADES)
        x = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
        sums = self._direct(np.exp((low + high) / 2 + x * (high - low) / 2))
        tiny = np.finfo(float).tiny
        polynomials = chebyshev.chebvander(x, NODES - 1) * (2 / NODES)  # orthogonal at these nodes
        polynomials[:, 0] /= 2
        logs = [np.asarray(polynomials.T @ np.log(np.maximum(part, tiny)), dtype=float) for part in sums]
        return low, high, logs

    def _interpolated(self, kappa: Array) -> tuple[Array, ...]:
        low, high, coefficients = self._table
        x = (2 * np.log(kappa) - low - high) / (high - low)
        if np.any(np.abs(x) > 1):
            return self._direct(kappa)
        return tuple(np.exp(chebyshev.chebval(x, c)) for c in coefficients)
