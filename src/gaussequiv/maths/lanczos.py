r"""Spectral measures of operators that are known by their products only: block Lanczos and stochastic quadrature.

For a symmetric positive semidefinite A with eigenpairs $(\rho_\tau, e_\tau)$ and a block X of p vectors, $x_\tau = X^T e_\tau$,
the eigenpairs $(\theta_i, y_i)$ of A within the Krylov space of m steps, spanned by $X, A X, \dots, A^{m-1} X$, give

    sum_tau f(rho_tau) x_tau x_tau^T  =  sum_i f(theta_i) f_i f_i^T,      f_i = X^T y_i,

exactly where f is a polynomial of degree at most 2 m - 1: Gauss quadrature of a matrix measure. Every new vector is made
orthogonal to all before, twice, and directions in which a block loses rank are left out, so nothing breaks down.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from gaussequiv.errors import InputError, integer, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.spectra import relaxation_functions, relaxation_times

LOST = 1e-12  # a direction below this part of the operator's norm is rounding
NEGATIVE = 1e-10  # eigenvalues down to minus this part of the largest are rounding
CONVERGED = 1e-10  # residual of an eigenvector, as a part of the largest eigenvalue
EQUAL = 1e-8  # eigenvalues closer than this part of the largest may be copies of one
ROUNDING = 1e-14  # differences below this part of the natural size of a sum are not looked at
FIRST = 4  # steps of the first rule
LARGEST = 100_000_000  # numbers in a basis: 0.8 GB


@dataclass(frozen=True)
class BlockRule:
    r"""Nodes and vectors with $X^T f(A) X \approx \sum_i f(\rho_i) f_i f_i^T$.

    Args:
        rho: nodes, (n,), not negative.
        vectors: $f_i$ as columns, (p, n).
        error: the largest difference from the rule of twice as many steps that a certified rule was seen to have.
        converged: whether a node is an eigenvalue of A, (n,).

    """

    rho: Array
    vectors: Array
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    error: float = 0.0


@dataclass(frozen=True)
class Density:
    r"""A density of states, $\frac1N \sum_\tau f(\rho_\tau) \approx \sum_i \omega_i f(\rho_i)$, and how uncertain it is.

    Args:
        rho: nodes, (n,).
        by_probe: the weights that each random probe gave, (probes, n), each row of sum one.
        error: as in `BlockRule`.

    """

    rho: Array
    by_probe: Array
    error: float = 0.0

    @property
    def omega(self) -> Array:
        """Weights (n,), of sum one."""
        return self.by_probe.mean(axis=0)

    def standard_error(self, values: Array) -> Array:
        """Standard error of sum_i omega_i f(rho_i), from `values` f(rho_i) of shape (..., n)."""
        probes = len(self.by_probe)
        if probes == 1:
            return np.zeros(np.shape(values)[:-1])
        return (values @ self.by_probe.T).std(axis=-1, ddof=1) / np.sqrt(probes)


def gauss_rule(operator: Any, X: Array, steps: int) -> BlockRule:
    """The rule of a number of steps for the block X (N, p): exact for polynomials of degree 2 steps - 1.

    Raises:
        InputError: a product is not finite, or the operator has a negative eigenvalue.

    """
    space = Krylov(operator, X)
    space.grow(integer("steps", steps))
    return space.rule(steps)


def relaxation_rule(
    operator: Any, X: Array, Y: Array, *, longest: float, tolerance: float, spaces: "dict[str, Krylov] | None" = None
) -> BlockRule:
    r"""The rule for the block (X, Y) with fewest steps that twice as many confirm, for all times $0 < s \le$ `longest`.

    What is compared are sums of $f \in \{e^{-\rho s}, \rho s\, e^{-\rho s}, (1 - e^{-\rho s})/(\rho s)\}$, as they occur where
    vectors X relax and vectors Y drive them, each relative to its natural size (by Cauchy and Schwarz):

    $X^T A f X$ to $q_i = x_i^T A x_i$, $\quad s\, Y^T f Y$ to $t_j = y_j^T A^{-1} (1 - e^{-A s}) y_j$, $\quad X^T f Y$ to
    $\sqrt{q_i t_j}$.

    Args:
        operator: N x N, symmetric and positive semidefinite: anything that multiplies blocks by `@`.
        X: (N, p), p may be 0.
        Y: (N, p'), p' may be 0.
        longest: the longest time.
        tolerance: largest relative difference; the rule's `error` is larger where memory or rounding did not allow it.
        spaces: where the space is found, and kept, for another call with the same operator and block.

    Raises:
        InputError: a product is not finite, or the operator has a negative eigenvalue.

    """
    number("longest", longest)
    number("tolerance", tolerance, positive=True)
    kept = spaces if spaces is not None else {}
    space, steps = kept.setdefault("relaxation", Krylov(operator, np.hstack([X, Y]))), FIRST
    while True:
        space.grow(2 * steps)
        coarse, fine = space.rule(steps if space.complete else space.steps // 2), space.rule(space.steps)
        error = _difference(coarse, fine, X.shape[1], longest)
        if error <= tolerance:
            return replace(coarse, error=error)
        if space.complete:
            return fine
        if space.full:
            return replace(fine, error=error)
        steps += (steps + 1) // 2


def density_of_states(
    operator: Any,
    *,
    N: int,
    probes: int,
    longest: float,
    tolerance: float,
    seed: int = 0,
    moments: tuple[float, float] | None = None,
    spaces: "dict[str, Krylov] | None" = None,
) -> Density:
    r"""The spectrum of an operator as nodes and weights, by stochastic Lanczos quadrature.

    For Gaussian probes z, $\frac1N \sum_\tau f(\rho_\tau) = E\, z^T f(A) z / |z|^2$. Eigenvalues that the common Krylov space of
    all probes has found are counted exactly, each with the weight 1/N, and only the rest is sampled; an eigenvalue of
    which it holds more than probes/2 copies may have more, and is left to sampling.

    Args:
        operator: N x N, symmetric and positive semidefinite: anything that multiplies blocks by `@`.
        N: its size.
        probes: random vectors; with N of them or more all eigenvalues are found, and counted.
        longest: the longest time, as in `relaxation_rule`.
        tolerance: of the quadrature, relative to tr A / N; sampling alone leaves about sqrt(2 / (N probes)).
        seed: of the probes.
        moments: tr A / N and tr A^2 / N, where they are known: the weights of every probe are corrected by a quadratic
            polynomial of the eigenvalues to have them (control variates).
        spaces: as in `relaxation_rule`.

    Raises:
        InputError: a product is not finite, or the operator has a negative eigenvalue.

    """
    probes = min(integer("probes", probes), N)
    if probes == N:
        A = _product(operator, np.eye(N))
        rho = scipy.linalg.eigvalsh((A + A.T) / 2, overwrite_a=True, check_finite=False)
        return Density(_not_negative(rho), np.full((1, N), 1 / N))
    Z = np.random.default_rng(seed).standard_normal((N, probes))
    rule = relaxation_rule(operator, Z, np.zeros((N, 0)), longest=longest, tolerance=tolerance, spaces=spaces)
    counted = _counted(rule, probes)
    sampled = np.where(counted, 0.0, rule.vectors**2)
    mass, rest = sampled.sum(axis=1, keepdims=True), max(N - int(counted.sum()), 0)
    weights = counted + np.divide(sampled * rest, mass, out=np.zeros_like(sampled), where=mass > 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return Density(rule.rho, weights if moments is None else _corrected(rule.rho, weights, moments), rule.error)


def _corrected(rho: Array, weights: Array, moments: tuple[float, float]) -> Array:
    """Weights (probes, n) times a quadratic polynomial, so that the moments of order 0, 1 and 2 are those that are known."""
    scale = float(rho.max())
    powers = (rho / scale) ** np.arange(3)[:, None]
    wanted = np.array([1.0, moments[0] / scale, moments[1] / scale**2])
    gram = np.einsum("in,pn,jn->pij", powers, weights, powers)
    change = np.linalg.solve(gram, (wanted - gram[:, 0])[..., None])[..., 0]
    return weights * (1 + change @ powers)


def _counted(rule: BlockRule, probes: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which nodes are eigenvalues of which every copy has been found, (n,)."""
    group = np.concatenate([[0], np.cumsum(np.diff(rule.rho) > EQUAL * rule.rho[-1])])
    few = np.bincount(group) <= probes / 2
    return rule.converged & few[group]


class Krylov:
    """An orthonormal basis V of a block Krylov space, grown step by step, and the operator's matrix T within it."""

    def __init__(self, operator: Any, X: Array) -> None:
        self.operator = operator
        N = len(X)
        self.capacity = max(min(N, LARGEST // N), 1)
        size = np.linalg.norm(X, axis=0)
        block = _range(X / np.where(size > 0, size, 1.0), LOST)[:, : self.capacity]
        self.V = np.empty((N, 0), order="F")
        self.T = np.empty((0, 0))
        self.ends = [0]
        self.couplings: list[Array] = []
        self.next = block
        self.X_in_V = block.T @ X

    @property
    def steps(self) -> int:
        """How many steps have been made."""
        return len(self.couplings)

    @property
    def complete(self) -> bool:
        """Whether the space is invariant: all rules that use all of it are exact."""
        return self.next.shape[1] == 0

    @property
    def full(self) -> bool:
        """Whether another block has no place."""
        return self.ends[-1] + self.next.shape[1] > self.capacity

    def grow(self, steps: int) -> None:
        """Grow the space to a number of steps, or as far as it goes."""
        while self.steps < steps and not (self.complete or self.full):
            self._step()

    def _step(self) -> None:
        block, start = self.next, self.ends[-1]
        end = start + block.shape[1]
        self._reserve(end)
        self.V[:, start:end] = block
        V = self.V[:, :end]
        product = _product(self.operator, block)
        columns = np.zeros((end, end - start))
        for _ in range(2):
            part = V.T @ product
            product = product - V @ part
            columns += part
        self.T[:end, start:end] = columns
        self.T[start:end, :end] = columns.T
        scale = np.abs(self.T[:end, :end]).max()
        self.next = _range(product, LOST * scale)
        self.couplings.append(self.next.T @ product)
        self.ends.append(end)

    def _reserve(self, size: int) -> None:
        """Room for `size` columns, doubled when it runs out."""
        if size <= self.V.shape[1]:
            return
        size = min(max(2 * self.V.shape[1], size), self.capacity)
        V, T, known = np.empty((len(self.V), size), order="F"), np.empty((size, size)), self.ends[-1]
        V[:, :known], T[:known, :known] = self.V[:, :known], self.T[:known, :known]
        self.V, self.T = V, T

    def rule(self, steps: int) -> BlockRule:
        """The rule of the first steps, or of as many as there are."""
        steps = min(steps, self.steps)
        if steps == 0:
            return BlockRule(np.zeros(1), np.zeros((self.X_in_V.shape[1], 1)), np.zeros(1, dtype=bool))
        start, end = self.ends[steps - 1], self.ends[steps]
        rho, y = scipy.linalg.eigh(self.T[:end, :end], check_finite=False)
        residual = np.linalg.norm(self.couplings[steps - 1] @ y[start:], axis=0)
        vectors = self.X_in_V.T @ y[: self.ends[1]]
        return BlockRule(_not_negative(rho), vectors, residual <= CONVERGED * rho[-1])


def _product(operator: Any, X: Array) -> Array:
    product = np.asarray(operator @ X, dtype=np.float64)
    if not np.isfinite(product).all():
        raise InputError("a product with the operator holds a NaN or an infinity; expected finite numbers")
    return product


def _not_negative(rho: Array) -> Array:
    """Eigenvalues, ascending, of which rounding below zero is cut."""
    if rho[0] < -NEGATIVE * max(rho[-1], 0.0):
        raise InputError(
            f"the operator has the eigenvalue {rho[0]:.2e} (largest {rho[-1]:.2e}); expected a covariance, without "
            "negative eigenvalues"
        )
    return np.maximum(rho, 0.0)


def _range(X: Array, threshold: float) -> Array:
    """An orthonormal basis (N, r) of the columns of X, without directions of a size up to `threshold`."""
    if X.shape[1] == 0:
        return X
    basis, R, _ = scipy.linalg.qr(X, mode="economic", pivoting=True, check_finite=False)
    return np.asarray(basis[:, np.abs(np.diag(R)) > threshold])


def _difference(rule: BlockRule, other: BlockRule, relaxing: int, longest: float) -> float:
    """The largest difference of the sums of `relaxation_rule`, relative to their natural sizes by the other rule."""
    top = float(other.rho[-1])
    if top == 0:
        return 0.0
    relaxes = np.arange(len(rule.vectors)) < relaxing
    length = np.linalg.norm(other.vectors, axis=1)
    q = other.vectors**2 @ other.rho
    worst = 0.0
    for s in relaxation_times(top, longest):
        t = other.vectors**2 @ (s * relaxation_functions(other.rho * s)[2])
        natural = np.sqrt(np.where(relaxes, q, t))
        rounding = ROUNDING * np.outer(*2 * [length * np.where(relaxes, np.sqrt(top), np.sqrt(s))])
        for one, two in zip(_sums(rule, relaxes, s), _sums(other, relaxes, s), strict=True):
            excess = np.maximum(np.abs(one - two) - rounding, 0.0)
            scale = np.outer(natural, natural)
            ratio = np.divide(excess, scale, out=np.where(excess > 0, np.inf, 0.0), where=scale > 0)
            worst = max(worst, float(ratio.max(initial=0.0)))
    return worst


def _sums(rule: BlockRule, relaxes: np.ndarray[Any, np.dtype[np.bool_]], s: float) -> list[Array]:
    """Sums of the three functions at one time, (p, p): A f where both columns relax, s f where both drive, else f."""
    x, y = rule.vectors[relaxes], rule.vectors[~relaxes]
    sums = []
    for f in relaxation_functions(rule.rho * s):
        cross = (x * f) @ y.T
        sums.append(np.block([[(x * (rule.rho * f)) @ x.T, cross], [cross.T, (y * (s * f)) @ y.T]]))
    return sums
