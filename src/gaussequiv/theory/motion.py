r"""The equations of motion of the eigenmodes, with the exact Jacobian that an implicit method needs.

Every eigenmode of Omega, with eigenvalue rho, moves by

    dr/dt = -eta (rho A r + B t)
    dq/dt = -eta (rho (A q + q A) + B r^T + r B^T) + eta^2 / b  source G
    dv/dt = -eta_v f,         Q = sum rho q,  R = sum r,

with source = rho / N and the coefficients A, B, G, f of `fields`. Weight decay kappa adds -eta kappa r, -2 eta kappa q and
-eta_v kappa v. Inputs with a mean mu are a teacher field that is constant, with E[x nu] = mu, and source = (rho + mu^2) / N.

Of relative order rho / N, a sample moves a mode by what it holds of that mode itself (docs/equations.md). `finite_size` adds

    dq/dt += 2 eta^2 / (b N) d/de G(C + e Gamma) + (1 - 1/b) eta^2 / N  u u^T,
    Gamma = [[rho^2 q, rho r], [rho r^T, t]],   u u^T = (rho A w + B b)(rho A w + B b)^T.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gaussequiv.maths.averages import Array
from gaussequiv.maths.compiled import COMPILED
from gaussequiv.theory import compiled_motion
from gaussequiv.theory.fields import Coefficients, LocalFields


@dataclass(frozen=True)
class Dynamics:
    r"""The equations of motion of all modes as one vector field on the flat state (r, q, v).

    The mode axis is the last one, so that products with A and B are single matrix products: r (K, M, n), q (K, K, n),
    tt (M, M, n). Modes carry their weight, Q = sum rho q and R = sum r, so the same equations hold for the N eigenmodes and
    for any quadrature nodes.
    """

    fields: LocalFields
    rho: Array
    source: Array
    tt: Array
    units: int
    rates: Callable[[float], tuple[float, float]]
    scheduled: bool  # whether the rates depend on time
    jumps: tuple[float, ...]  # times at which they jump
    batch_size: int
    weight_decay: float
    twins: tuple[Array, Array, Array] | None
    per_mode: float  # 1 / N with the terms of finite size, 0 without

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.fields.a.shape[1]

    @property
    def modes(self) -> tuple[Array, Array, Array]:
        """rho, source and tt."""
        return self.rho, self.source, self.tt

    def pack(self, r: Array, q: Array, v: Array) -> Array:
        """The flat state."""
        return np.concatenate([r.ravel(), q.ravel(), v.ravel()])

    def unpack(self, y: Array) -> tuple[Array, Array, Array]:
        """r, q and v of a flat state, as views."""
        K, M, n = self.units, len(self.tt), len(self.rho)
        first, second = K * M * n, K * (M + K) * n
        return y[:first].reshape(K, M, n), y[first:second].reshape(K, K, n), y[second:].reshape(K, -1)

    def symmetrised(self, r: Array, q: Array, v: Array) -> Array:
        """The flat state in which twins, units that are equal up to sign, are so to the last bit.

        The equations keep them so; rounding does not, and a plateau amplifies what it leaves.
        """
        if self.twins is None:
            return self.pack(r, q, v)
        first, of_w, of_v = self.twins
        signs = of_w[:, None, None]
        return self.pack(signs * r[first], signs * of_w[None, :, None] * q[first][:, first], of_v[:, None] * v[first])

    def overlaps(self, y: Array) -> tuple[Array, Array, Array]:
        """Q = sum rho q, R = sum r, and v."""
        if COMPILED:
            return compiled_motion.overlaps(y, self.rho, self.units, len(self.tt), self.outputs)
        r, q, v = self.unpack(y)
        return q @ self.rho, r.sum(axis=-1), v

    def observe(self, y: Array) -> Array:
        """Q, R and v of a flat state as one vector."""
        return np.concatenate([part.ravel() for part in self.overlaps(y)])

    def observed(self, values: Array) -> tuple[Array, Array, Array]:
        """Q, R and v from vectors of `observe`, (..., n)."""
        K, M = self.units, len(self.tt)
        lead = values.shape[:-1]
        Q, R, v = np.split(values, [K * K, K * (K + M)], axis=-1)
        return Q.reshape(*lead, K, K), R.reshape(*lead, K, M), v.reshape(*lead, K, -1)

    def __call__(self, t: float, y: Array) -> Array:
        """The time derivative of the state."""
        return self._motion(y, *self.rates(t))

    def explicit(self, t: float, y: Array) -> Array:
        """The derivative of the motion with respect to time at a fixed state, through the learning rates."""
        step = 1e-6 * max(t, 1e-3)
        return (self._motion(y, *self.rates(t + step)) - self._motion(y, *self.rates(t))) / step

    def _motion(self, y: Array, eta: float, eta_readout: float) -> Array:
        overlaps = self.overlaps(y)
        c, decay = self.fields.coefficients(*overlaps), self.weight_decay
        if COMPILED and not self.per_mode:
            each = (c.A, c.B, c.G, c.f)
            return compiled_motion.velocity(y, each, self.modes, eta, eta_readout, self.batch_size, decay)
        r, q, v = self.unpack(y)
        dr = -eta * (self.rho * _times(c.A, r) + _times(c.B, self.tt) + decay * r)
        half = self.rho * _times(c.A, q) + _times_transposed(c.B, r) + decay * q
        dq = -eta * (half + half.swapaxes(0, 1)) + eta**2 / self.batch_size * c.G[..., None] * self.source
        if self.per_mode:
            dq = dq + eta**2 * self._own(c, overlaps, r, q)
        return self.pack(dr, dq, -eta_readout * (c.f + decay * v))

    def _own(self, c: Coefficients, overlaps: tuple[Array, Array, Array], r: Array, q: Array) -> Array:
        """What a sample's own content of a mode adds to the noise of that mode, divided by eta^2, (K, K, n)."""
        K = self.units
        dG = self.fields.by_covariance(*overlaps, whole=True).G
        own = np.tensordot(dG[..., :K, :K], self.rho**2 * q, axes=2)
        own += np.tensordot(dG[..., :K, K:] + dG[..., K:, :K].swapaxes(-1, -2), self.rho * r, axes=2)
        own += np.tensordot(dG[..., K:, K:], self.tt, axes=2)
        result = 2 / self.batch_size * own
        if self.batch_size > 1:
            Aq = self.rho**2 * _times(c.A, _times(c.A, q).swapaxes(0, 1))
            cross = self.rho * _times(c.A, _times_transposed(c.B, r).swapaxes(0, 1))
            both = Aq + cross + cross.swapaxes(0, 1) + _times(c.B, _times_transposed(c.B, self.tt).swapaxes(0, 1))
            result = result + (1 - 1 / self.batch_size) * both
        return self.per_mode * (result + result.swapaxes(0, 1)) / 2

    def linearise(self, t: float, y: Array) -> Callable[[float], Callable[[Array], Array]]:
        r"""G -> (b -> solution of $(I - g J) x = b$) with the exact Jacobian J at y.

        A is symmetric, so all modes share its eigenbasis and, the coefficients being held fixed, are solved entry by
        entry. The coefficients see the modes through (Q, R, v) only: a rank-K(K + M + 1) correction (Woodbury).
        """
        r, q, _ = self.unpack(y)
        overlaps = self.overlaps(y)
        c, d = self.fields.coefficients(*overlaps), self.fields.gradient(*overlaps)
        alpha, V = np.linalg.eigh(c.A)
        lr, lr_readout = self.rates(t)
        frame = _Frame(
            dynamics=self,
            lr=lr,
            lr_readout=lr_readout,
            alpha=alpha,
            V=np.ascontiguousarray(V),
            B=V.T @ c.B,
            r=_times(V.T, r),
            q=_rotated(V.T, q),
            dA=_rotated(V.T, d.A),
            dB=_times(V.T, d.B),
            dG=_rotated(V.T, d.G),
            df=d.f,
        )
        return frame.solver


@dataclass(frozen=True)
class _Frame:
    """The linearised dynamics at one point, in the eigenbasis of A: hatted quantities carry no hat here."""

    dynamics: Dynamics
    lr: float
    lr_readout: float
    alpha: Array
    V: Array
    B: Array
    r: Array
    q: Array
    dA: Array
    dB: Array
    dG: Array
    df: Array

    def solver(self, g: float) -> Callable[[Array], Array]:
        """The solution operator of (I - g J) x = b."""
        dyn = self.dynamics
        eta, rho = g * self.lr, dyn.rho
        decay = eta * dyn.weight_decay
        d1 = 1 / (1 + eta * rho * self.alpha[:, None] + decay)
        d2 = 1 / (1 + eta * rho * (self.alpha[:, None, None] + self.alpha[:, None]) + 2 * decay)
        d3 = 1 / (1 + g * self.lr_readout * dyn.weight_decay)
        response = self._response(g, d1, d2, d3)
        inverse = np.linalg.inv(np.eye(len(response)) - response)

        if COMPILED:
            return self._compiled(g, (d1, d2, d3), inverse)

        def local(br: Array, bq: Array, bv: Array) -> tuple[Array, Array, Array]:
            """The solve with frozen coefficients, in the eigenbasis."""
            xr = d1[:, None] * br
            cross = _times_transposed(self.B, xr)
            return xr, d2 * (bq - eta * (cross + cross.swapaxes(0, 1))), d3 * bv

        def solve(b: Array) -> Array:
            br, bq, bv = dyn.unpack(b)
            br = _times(self.V.T, br)
            bq = _rotated(self.V.T, bq)
            xr, xq, xv = local(br, bq, bv)
            p = np.concatenate([self._back(xq @ rho).ravel(), (self.V @ xr.sum(axis=-1)).ravel(), xv.ravel()])
            ur, uq, uv = self._coupling(inverse @ p)
            xr, xq, xv = local(br + g * ur, bq + g * uq, bv + g * uv)
            xq = _rotated(self.V, xq)
            return dyn.symmetrised(_times(self.V, xr), (xq + xq.swapaxes(0, 1)) / 2, xv)

        return solve

    def _compiled(self, g: float, damping: tuple[Array, Array, float], inverse: Any) -> Callable[[Array], Array]:
        dyn, noise = self.dynamics, self.lr**2 / self.dynamics.batch_size
        rates, frame = (self.lr, self.lr_readout, noise), (self.V, self.B, self.r, self.q)
        contiguous = tuple(np.ascontiguousarray(x) for x in (self.dA, self.dB, self.dG, self.df))

        def solve(b: Array) -> Array:
            x = compiled_motion.solve(b, g, rates, dyn.modes, frame, contiguous, damping, inverse)
            return x if dyn.twins is None else dyn.symmetrised(*dyn.unpack(x))

        return solve

    def _coupling(self, p: Array) -> tuple[Array, Array, Array]:
        """What a change p of (Q, R, v) does to the time derivatives, through the coefficients."""
        dyn = self.dynamics
        dA, dB, dG = self.dA @ p, self.dB @ p, self.dG @ p
        ur = -self.lr * (dyn.rho * _times(dA, self.r) + _times(dB, dyn.tt))
        half = dyn.rho * _times(dA, self.q) + _times_transposed(dB, self.r)
        noise = self.lr**2 / dyn.batch_size * dG[..., None] * dyn.source
        return ur, noise - self.lr * (half + half.swapaxes(0, 1)), -self.lr_readout * (self.df @ p)

    def _response(self, g: float, d1: Array, d2: Array, d3: float) -> Array:
        """The change of (Q, R, v) after a local solve with right-hand side g times the coupling: a square matrix.

        Everything is a moment over modes, so the cost beyond a few matrix products does not depend on their number.
        """
        dyn = self.dynamics
        eta, rho, (K, M) = g * self.lr, dyn.rho, self.B.shape
        r, tt = self.r.reshape(K * M, -1), dyn.tt.reshape(M * M, -1)
        S1, S0 = (d1 * rho @ r.T).reshape(K, K, M), (d1 @ tt.T).reshape(K, M, M)
        R = -eta * (np.einsum("ibm,ibp->imp", S1, self.dA) + np.einsum("inm,inp->imp", S0, self.dB))

        flat = (d2 * rho).reshape(K * K, -1)
        weighted = (d2[:, :, None] * d1[None, :, None] * rho).reshape(K, K, -1)  # rho d2_ij d1_j
        X = (flat * rho @ self.q.reshape(K * K, -1).T).reshape(K, K, K, K)
        Z = (flat @ r.T).reshape(K, K, K, M)
        Y = (weighted.reshape(K * K, -1) * rho @ r.T).reshape(K, K, K, M)
        U = (weighted.reshape(K * K, -1) @ tt.T).reshape(K, K, M, M)
        YB, UB = np.einsum("im,ijbm->ijb", self.B, Y), np.einsum("im,ijnm->ijn", self.B, U)
        half = -eta * (np.einsum("ijbj,ibp->ijp", X, self.dA) + np.einsum("ijjn,inp->ijp", Z, self.dB))
        half += eta**2 * (np.einsum("ijb,jbp->ijp", YB, self.dA) + np.einsum("ijn,jnp->ijp", UB, self.dB))
        noise = (flat @ dyn.source).reshape(K, K, 1) * self.dG
        Q = half + half.swapaxes(0, 1) + g * self.lr**2 / dyn.batch_size * noise
        Q, R = _rotated(self.V, Q), _times(self.V, R)
        v = -g * self.lr_readout * d3 * self.df
        return np.concatenate([x.reshape(-1, x.shape[-1]) for x in (Q, R, v)])

    def _back(self, Q: Array) -> Array:
        return np.asarray(self.V @ Q @ self.V.T)


def _times(A: Array, x: Array) -> Array:
    """sum_j A_ij x_j... for matrices per mode, mode axis last."""
    return (A @ x.reshape(len(x), -1)).reshape(len(A), *x.shape[1:])


def _rotated(V: Array, x: Array) -> Array:
    """V x V^T for every mode, mode axis last; x need not be symmetric."""
    return _times(V, _times(V, x).swapaxes(0, 1)).swapaxes(0, 1)


def _times_transposed(B: Array, r: Array) -> Array:
    """B r^T for every mode: sum_m B_im r_jm, (K, K, n)."""
    return _times(B, r.swapaxes(0, 1))
