r"""The joint law of student and teacher fields, and the averages over it that drive one-pass SGD.

With the covariance C (and means) of the local fields $u = (\lambda, \nu)$, the signed readouts s = (v, -a), one column an
output, $S = s s^T$ and $\Delta = s^T h(u)$, Stein's lemma turns one step of SGD into averages of second derivatives of the
loss $L = \frac12 |\Delta + \sigma \zeta|^2$ (docs/equations.md):

    A = E Hess_lambda L         A_kl = S_kl J2(k, l) + delta_kl sum_a S_ka H2(k, a)
    B = E d_lambda d_nu L       B_km = S_km J2(k, m);  for the mean, as one more teacher field, E d_lambda L
    G = E grad L grad L^T       G_kl = sum_ab S_ka S_lb I4(k, l, a, b) + sigma^2 V_kl J2(k, l),  V = v v^T
    f = E grad_v L              f_k  = sum_a s_a I2(k, a)

The paper projects on pairs of fields and divides by Q_kk Q_jj - Q_kj^2, which vanishes while units have not specialised;
nothing is divided here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gaussequiv.maths.activations import Activation, Erf, GaussianSlope, Linear
from gaussequiv.maths.averages import Array
from gaussequiv.maths.compiled import COMPILED
from gaussequiv.maths.quadruples import Averages, Pairs, Tilted
from gaussequiv.maths.quadruples import averages as averages_of
from gaussequiv.theory import compiled_fields

STEP = 1e-6  # of finite differences, relative to the fields' variances


@dataclass(frozen=True)
class Coefficients:
    """A, B, G, f of the equations of motion; with `gradient`, their derivatives with respect to (Q, R, v) as a last axis."""

    A: Array
    B: Array
    G: Array
    f: Array


@dataclass(frozen=True)
class LocalFields:
    """The joint law of student and teacher fields as a function of Q, R and v: activations, T, a and the noise are fixed.

    Readouts are matrices, v (K, outputs) and a (M, outputs). Where inputs are not centred, R has one more column, the means
    of the student's fields; `teacher_mean` is None where they are.
    """

    student: Activation
    teacher: Activation
    T: Array
    a: Array
    noise: float
    teacher_mean: Array | None
    averages: Averages
    compiled: bool  # whether the averages are those of `compiled_fields`
    twins: tuple[Array, Array] | None = None  # for every unit the first that equals it up to a sign of w, and that sign

    @classmethod
    def of(
        cls,
        student: Activation,
        teacher: Activation,
        T: Array,
        a: Array,
        noise: float,
        teacher_mean: Array | None,
        units: int,
        tolerance: float,
    ) -> "LocalFields":
        """The law with the averages that the activations allow, to a tolerance."""
        rule = averages_of(student, teacher, units, centred=teacher_mean is None, tolerance=tolerance)
        compiled = (
            COMPILED and isinstance(rule, Tilted) and all(isinstance(g, Erf | Linear) for g in (student, teacher))
        )
        return cls(student, teacher, T, a, noise, teacher_mean, rule, compiled)

    @property
    def _slopes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Alpha and beta of two Gaussian slopes."""
        g, h = self.student, self.teacher
        return (float(g.alpha), float(g.beta)), (float(h.alpha), float(h.beta))  # type: ignore[attr-defined]

    def covariance(self, Q: Array, R: Array) -> Array:
        """C = [[Q, R], [R^T, T]]."""
        K, M = R.shape[0], len(self.T)
        C = np.empty((K + M, K + M))
        C[:K, :K], C[:K, K:], C[K:, :K], C[K:, K:] = Q, R[:, :M], R[:, :M].T, self.T
        return C

    def means(self, R: Array) -> Array | None:
        """Means of all fields, None where they are centred."""
        return None if self.teacher_mean is None else np.concatenate([R[:, -1], self.teacher_mean])

    def readout(self, v: Array) -> Array:
        """S = (v, -a), (K + M, outputs)."""
        return np.concatenate([v, -self.a])

    def test_error(self, Q: Array, R: Array, v: Array) -> float:
        r"""$\frac12 E |\Delta|^2 = \frac12 \mathrm{tr}\, s^T I2(C) s$, without label noise."""
        if self.compiled:
            return float(compiled_fields.test_error(*self._slopes, Q, R, v, self.T, self.a))
        s = self.readout(v)
        return float(np.vdot(s @ s.T, self.averages.products(self.covariance(Q, R), self.means(R)))) / 2

    def coefficients(self, Q: Array, R: Array, v: Array) -> Coefficients:
        """The coefficients at one point."""
        if self.compiled:
            return Coefficients(*compiled_fields.coefficients(*self._slopes, Q, R, v, self.T, self.a, self.noise))
        return self._at(self.covariance(Q, R), self.means(R), v)

    def _at(self, C: Array, mean: Array | None, v: Array) -> Coefficients:
        """The coefficients from averages at covariances C (..., L, L)."""
        K, s = len(v), self.readout(v)
        SK = s[:K] @ s.T
        pairs, squares = self.averages.contracted(C, SK, mean)
        J = pairs.slopes
        A = SK[:, :K] * J[..., :K]
        A[..., range(K), range(K)] += np.sum(SK * pairs.bend, axis=-1)
        B = SK[:, K:] * J[..., K:]
        if pairs.level is not None:
            B = np.concatenate([B, np.sum(SK * pairs.level, axis=-1)[..., None]], axis=-1)
        G = squares + self.noise**2 * SK[:, :K] * J[..., :K] if self.noise else squares
        return Coefficients(A=A, B=B, G=G, f=pairs.product[..., :K, :] @ s)

    def gradient(self, Q: Array, R: Array, v: Array) -> Coefficients:
        """Derivatives of the coefficients with respect to (Q, R, v), flattened as the last axis."""
        if self.compiled:
            return Coefficients(*compiled_fields.gradient(*self._slopes, Q, R, v, self.T, self.a, self.noise))
        K, C, mean = len(v), self.covariance(Q, R), self.means(R)
        by_readout = self._by_readout(*self.averages.both(C, mean), v)
        by_covariance = self.by_covariance(Q, R, v)
        by_mean = self._by_mean(C, R, v)

        def join(name: str) -> Array:
            d = getattr(by_covariance, name)
            shape = d.shape[:-2]
            by_Q = d[..., :K, :K].reshape(*shape, -1)
            by_R = d[..., :K, K:] + d[..., K:, :K].swapaxes(-1, -2)  # R enters C twice
            if by_mean is not None:
                by_R = np.concatenate([by_R, getattr(by_mean, name)[..., None]], axis=-1)
            return np.concatenate([by_Q, by_R.reshape(*shape, -1), getattr(by_readout, name)], axis=-1)

        return Coefficients(*(join(name) for name in ("A", "B", "G", "f")))

    def by_covariance(self, Q: Array, R: Array, v: Array, *, whole: bool = False) -> Coefficients:
        """Derivatives of the coefficients with respect to the entries of C, as the last two axes.

        Those with respect to T, which does not move, are computed if the `whole` is wanted.
        """
        match self.averages, self.student, self.teacher:
            case Tilted() as rule, GaussianSlope(), GaussianSlope():
                return self._tilted_by_covariance(rule, self.covariance(Q, R), v)
            case _:
                return self._differences(Q, R, v, len(Q) + (len(self.T) if whole else 0))

    def _tilted_by_covariance(self, rule: Tilted, C: Array, v: Array) -> Coefficients:
        """Averages of two fields depend on two variances and one covariance; by Price's theorem those of I2 are H2 / 2, J2.

        The average of four fields is one of two under the tilted law, whose derivative is pulled back by W.
        """
        K, s = len(v), self.readout(v)
        S = s @ s.T
        J, H = rule.table(_slopes, C), rule.table(_bend, C)
        dJ, dH = (_scatter(rule.table(gradient, C, K)) for gradient in (_slopes_gradient, _bend_gradient))
        dI = _scatter(np.stack([H[:K] / 2, H[:, :K].T / 2, J[:K]]))
        W = rule.student.tilting(C, K)
        tilted = W @ C
        weight = S[:K, None, :, None] * S[None, :K, None, :]
        weight = (weight + weight.swapaxes(-1, -2)) / 2
        squares = np.sum(weight * rule.table(_product, tilted), axis=(-1, -2)) + self.noise**2 * (v @ v.T)
        slope = weight * rule.table(_slopes, tilted)
        diagonal = range(len(C))
        slope[..., diagonal, diagonal] += np.sum(weight * rule.table(_bend, tilted), axis=-1)
        dsquares = W.swapaxes(-1, -2) @ slope @ W
        eye = np.eye(K)
        bent = np.einsum("ka,kaxy->kxy", S[:K], dH)
        return Coefficients(
            A=S[:K, :K, None, None] * dJ[:, :K] + eye[..., None, None] * bent[:, None],
            B=S[:K, K:, None, None] * dJ[:, K:],
            G=dJ[:, :K] * squares[..., None, None] + J[:K, :K, None, None] * dsquares,
            f=np.einsum("kaxy,ao->koxy", dI, s),
        )

    def _differences(self, Q: Array, R: Array, v: Array, count: int) -> Coefficients:
        """The same by finite differences, each step towards smaller correlations, where C stays a covariance.

        Entries of twins move together: apart they would leave what twins allow, where averages need not be smooth. Of the
        derivative along such a move each entry is given its part.
        """
        C, mean = self.covariance(Q, R), self.means(R)
        first, sign = self._copies(len(C))
        L, group = len(C), np.minimum.outer(first, first) * len(C) + np.maximum.outer(first, first)
        signs = sign[:, None] * sign
        size = np.sqrt(np.maximum(np.diagonal(C), 1e-6 * np.diagonal(C).max()))
        rows, columns = np.divmod(np.unique(group[:count]), L)
        step = STEP * size[rows] * size[columns]
        step = np.where((rows == columns) | (C[rows, columns] <= 0), step, -step)
        members = (group == (rows * L + columns)[:, None, None]) * signs  # (moves, L, L)
        base = self._at(C, mean, v)
        there = self._at(C + step[:, None, None] * members, mean, v)
        shares = members / np.sum(members != 0, axis=(1, 2), keepdims=True)

        def derivative(name: str) -> Array:
            old, new = getattr(base, name), getattr(there, name)
            d = (new - old) / step.reshape(-1, *[1] * old.ndim)
            return np.tensordot(np.moveaxis(d, 0, -1), shares, axes=1)

        return Coefficients(*(derivative(name) for name in ("A", "B", "G", "f")))

    def _copies(self, count: int) -> tuple[Any, Array]:
        """For every field the first that it copies, and the sign: those of twins, and itself for all others."""
        first, sign = np.arange(count), np.ones(count)
        if self.twins is not None:
            K = len(self.twins[0])
            first[:K], sign[:K] = self.twins
        return first, sign

    def _by_mean(self, C: Array, R: Array, v: Array) -> Coefficients | None:
        """Derivatives with respect to the means of the student's fields, as the last axis; None where all are centred."""
        mean = self.means(R)
        if mean is None:
            return None
        first, _ = self._copies(len(C))  # of the same sign: only centred fields have mirror images
        base = self._at(C, mean, v)
        found = []
        for k in range(len(v)):
            step = STEP * np.sqrt(C[k, k] or 1.0)
            together = first == first[k]
            there = self._at(C, mean + step * together, v)
            size = step * together.sum()
            found.append([(getattr(there, n) - getattr(base, n)) / size for n in ("A", "B", "G", "f")])
        return Coefficients(*(np.stack(parts, axis=-1) for parts in zip(*found, strict=True)))

    def _by_readout(self, pairs: Pairs, quadruples: Array, v: Array) -> Coefficients:
        """Derivatives with respect to v, flattened as the last axis: S is a quadratic form in it."""
        (K, outputs), s = v.shape, self.readout(v)
        L, count = len(s), K * outputs
        S = (s @ s.T)[:K]
        basis = np.eye(count).reshape(K, outputs, count)
        ds = np.concatenate([basis, np.zeros((L - K, outputs, count))])
        dS = np.einsum("aop,bo->abp", ds, s)
        dS = (dS + dS.swapaxes(0, 1))[:K]
        J, eye = pairs.slopes[..., None], np.eye(K)
        A = dS[:, :K] * J[:, :K] + eye[..., None] * np.einsum("kap,ka->kp", dS, pairs.bend)[:, None]
        B = dS[:, K:] * J[:, K:]
        if pairs.level is not None:
            B = np.concatenate([B, np.einsum("kap,ka->kp", dS, pairs.level)[:, None]], axis=1)
        half = (quadruples @ S[:, :, None])[..., 0]  # sum_b S_lb I4(k, l, a, b)
        G = half @ dS
        G = G + G.swapaxes(0, 1) + self.noise**2 * dS[:, :K] * J[:, :K]
        f = np.einsum("ka,aop->kop", pairs.product[:K], ds)
        return Coefficients(A=A, B=B, G=G, f=f)


def _product(x: Any, y: Any, a: Array, b: Array, c: Array) -> Array:
    return np.asarray(x.product(y, a, b, c))


def _slopes(x: Any, y: Any, a: Array, b: Array, c: Array) -> Array:
    return np.asarray(x.slopes(y, a, b, c))


def _bend(x: Any, y: Any, a: Array, b: Array, c: Array) -> Array:
    return np.asarray(x.bend(y, a, b, c))


def _slopes_gradient(x: Any, y: Any, a: Array, b: Array, c: Array) -> Array:
    return np.stack(x.slopes_gradient(y, a, b, c))


def _bend_gradient(x: Any, y: Any, a: Array, b: Array, c: Array) -> Array:
    return np.stack(x.bend_gradient(y, a, b, c))


def _scatter(partials: Array) -> Array:
    """Partial derivatives (3, K, L) of M_ka(C_kk, C_aa, C_ka) as the derivative dM_ka / dC_xy, (K, L, L, L)."""
    K, L = partials.shape[1:]
    k, a = np.ogrid[:K, :L]
    result = np.zeros((K, L, L, L))
    for partial, x, y in zip(partials, (k, a, k), (k, a, a), strict=True):
        np.add.at(result, (k, a, x, y), partial)
    return result
