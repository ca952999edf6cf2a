r"""Resolvent sums of a covariance, all that full-batch learning sees of its inputs and of the teacher's direction.

With eigenvalues $\omega_i$ of Omega, their weights (1/N each, or the multiplicities of a kernel), the teacher's part
$\pi_i = \tau_i / (N \omega_i)$ along each, $\tau_i = N (e_i \cdot E[x \nu])^2$, and $f_i = \omega_i / (\kappa + \omega_i)$,

    A1 = mean f        A2 = mean f^2        B = A1 - A2 = mean f (1 - f)
    T1 = sum pi f      T2 = sum pi f^2      D = T1 - T2 = sum pi f (1 - f)
    miss = rho - 2 T1 + T2 = unseen + sum pi (1 - f)^2
    gap = rho T2 - T1^2 = unseen T2 + (sum pi)^2 Var_pi f

where rho is the variance of the teacher's field and $\text{unseen} = \rho - \sum \pi$ what is not linear in the inputs, noise
included. Differences are formed so that nothing cancels.

As functions of log kappa all sums are analytic within pi of the real axis. For more than a few eigenvalues they are
interpolated between 16 Chebyshev nodes in every half decade, made when they are first asked for: the cost of a point does not
depend on N.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.polynomial import chebyshev

from gaussequiv.maths.averages import Array

DIRECT = 64  # eigenvalues up to which sums are taken as they stand
NODES = 16  # of Chebyshev's interpolation in a panel
WIDTH = np.log(10) / 2  # of a panel, in log kappa
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
    D: Array
    miss: Array
    gap: Array


@dataclass(frozen=True)
class Resolvents:
    r"""The spectrum of a problem.

    Args:
        omega: eigenvalues, (modes,), at least 0.
        parts: pi, the part of the variance of the teacher's field along each, (modes,); 0 where omega is 0.
        rho: variance of the teacher's field, without noise.
        noise: variance of the noise.
        weights: of the eigenvalues in means, (modes,); 1 / modes if left out.

    """

    omega: Array
    parts: Array
    rho: float
    noise: float
    weights: Array = None  # type: ignore[assignment]
    _panels: dict[int, Array] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given: Array | None = self.weights
        if given is None:
            object.__setattr__(self, "weights", np.full(len(self.omega), 1 / len(self.omega)))

    @classmethod
    def of_directions(cls, omega: Array, tau: Array, rho: float, noise: float) -> "Resolvents":
        r"""Those of $\tau_i = N (e_i \cdot E[x \nu])^2$."""
        there = omega > 0
        return cls(omega, np.where(there, tau / np.where(there, omega, 1.0), 0.0) / len(omega), rho, noise)

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

    @cached_property
    def rank(self) -> float:
        """The mean of f as kappa goes to 0: rank / N, to a dozen digits."""
        return round(float(self.weights[self.omega > 0].sum()), 12)

    @property
    def least(self) -> float:
        """The smallest eigenvalue that is not zero."""
        return float(self.omega[self.omega > 0].min())

    @property
    def mean(self) -> float:
        """The weighted sum of the eigenvalues."""
        return float(self.weights @ self.omega)

    def __call__(self, kappa: Array) -> Sums:
        """The sums at kappa > 0, (points,)."""
        kappa = np.asarray(kappa, dtype=float)
        values = self._direct(kappa) if len(self.omega) <= DIRECT else self._interpolated(kappa)
        A1, A2, B, T1, T2, D, missed, spread = values
        return Sums(A1, A2, B, T1, T2, D, self.unseen + missed, self.unseen * T2 + self.seen * spread)

    def _direct(self, kappa: Array) -> Array:
        """A1, A2, B, T1, T2, D, sum pi (1 - f)^2 and (sum pi) Var f, by blocks of points: (8, points)."""
        found = np.empty((8, len(kappa)))
        size = max(1, 2**20 // len(self.omega))
        for start in range(0, len(kappa), size):
            at = slice(start, start + size)
            below = 1 / (kappa[at, None] + self.omega)
            f, rest = self.omega * below, kappa[at, None] * below
            square, product, missed = f * f, f * rest, rest * rest
            mean = np.stack([f @ self.parts, rest @ self.parts]) / (self.seen or 1.0)
            smaller = np.where((mean[0] < mean[1])[:, None], f, rest)  # its rounding is that of the smaller numbers
            least = mean.min(axis=0)
            variance = np.maximum((smaller - least[:, None]) ** 2 @ self.parts, self.seen * (ROUNDING * least) ** 2)
            means = [part @ self.weights for part in (f, square, product)]
            found[:, at] = [*means, *(part @ self.parts for part in (f, square, product, missed)), variance]
        return found

    def _interpolated(self, kappa: Array) -> Array:
        usual = np.isfinite(kappa) & (kappa > 0)  # elsewhere a step of a solver has gone astray
        position = np.log(np.where(usual, kappa, 1.0)) / WIDTH
        panel = np.floor(position).astype(int)
        panels, index = np.unique(panel, return_inverse=True)
        self._make([int(number) for number in panels if int(number) not in self._panels])
        coefficients = np.stack([self._panels[int(number)] for number in panels])[index]  # (points, 8, nodes)
        polynomials = chebyshev.chebvander(2 * (position - panel) - 1, NODES - 1)
        values = np.matmul(coefficients, polynomials[..., None])[..., 0]
        return np.where(usual, values.T, np.nan)

    def _make(self, panels: list[int]) -> None:
        """The Chebyshev coefficients of the sums in some panels."""
        if not panels:
            return
        x = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
        sums = self._direct(np.exp((np.array(panels)[:, None] + (1 + x) / 2) * WIDTH).ravel())
        polynomials = chebyshev.chebvander(x, NODES - 1) * (2 / NODES)  # orthogonal at these nodes
        polynomials[:, 0] /= 2
        coefficients = sums.reshape(8, len(panels), NODES).swapaxes(0, 1) @ polynomials
        self._panels.update(zip(panels, coefficients, strict=True))
