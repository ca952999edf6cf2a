r"""One-pass SGD of two-layer networks: the equations of motion of the order parameters, and their solution.

With the joint covariance C of the local fields $u = (\lambda, \nu)$, the signed readout $s = (v, -a)$ and
$\Delta = s \cdot g(u)$, Stein's lemma turns one step of SGD into averages of second derivatives of the loss (docs/equations.md):

    A = E Hess_lambda L         A_kl = v_k v_l J2(k, l) + delta_kl v_k sum_a s_a H2(k, a)
    B = E d_lambda d_nu L       B_km = -v_k a_m J2(k, m)
    G = E grad L grad L^T       G_kl = v_k v_l ( E g'_k g'_l Delta^2 + sigma^2 J2(k, l) )
    f = E grad_v L              f_k  = sum_a s_a I2(k, a)

and every eigenmode of Omega, with eigenvalue rho, moves by

    dr/dt = -eta (rho A r + B t)
    dq/dt = -eta (rho (A q + q A) + B r^T + r B^T) + eta^2 / b  omega rho G
    dv/dt = -eta_v f,         Q = sum rho q,  R = sum r.

The paper projects on pairs of fields and divides by Q_kk Q_jj - Q_kj^2, which vanishes while units have not specialised;
nothing is divided here. Weight decay kappa adds -eta kappa r, -2 eta kappa q and -eta_v kappa v.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from gaussequiv.errors import InputError, integer, number
from gaussequiv.maths import solvers
from gaussequiv.maths.activations import GaussianSlope
from gaussequiv.maths.averages import Array
from gaussequiv.maths.solvers import Status
from gaussequiv.maths.spectra import relaxation_nodes
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import OnlineSGD, checked_times

FLOOR = 1e-2  # part of the initial test error below which its accuracy is absolute
FINEST = 1e-13  # smallest tolerance of a step
BOUND = 1e12  # growth of Q, R or v, relative to their start, that counts as divergence


# --- averages over the local fields ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coefficients:
    """A, B, G, f of the equations of motion; with `gradient`, their derivatives with respect to (Q, R, v) as a last axis."""

    A: Array
    B: Array
    G: Array
    f: Array


@dataclass(frozen=True)
class LocalFields:
    """The joint law of student and teacher fields as a function of Q, R and v: activations, T, a and the noise are fixed."""

    student: GaussianSlope
    teacher: GaussianSlope
    T: Array
    a: Array
    noise: float

    def covariance(self, Q: Array, R: Array) -> Array:
        """C = [[Q, R], [R^T, T]]."""
        return np.block([[Q, R], [R.T, self.T]])

    def readout(self, v: Array) -> Array:
        """S = (v, -a)."""
        return np.concatenate([v, -self.a])

    def table(self, average: Callable[..., Array], C: Array, rows: int | None = None) -> Array:
        """An average of two fields for all pairs, (..., rows, L): each field with the activation of its network."""
        L = C.shape[-1]
        K = L - len(self.a)
        variance = np.diagonal(C, axis1=-2, axis2=-1)
        spans = [(self.student, slice(0, K)), (self.teacher, slice(K, L))]
        if self.student == self.teacher:
            spans = [(self.student, slice(0, L))]
        chosen = spans if rows is None else [(self.student, slice(0, rows))]

        def block(x: GaussianSlope, i: slice, y: GaussianSlope, j: slice) -> Array:
            return average(x, y, variance[..., i, None], variance[..., None, j], C[..., i, j])

        parts = [[block(x, i, y, j) for y, j in spans] for x, i in chosen]
        return np.concatenate([np.concatenate(part, axis=-1) for part in parts], axis=-2)

    def test_error(self, Q: Array, R: Array, v: Array) -> float:
        r"""$\frac12 E \Delta^2 = \frac12 s^T I2(C) s$, without label noise."""
        s = self.readout(v)
        return float(s @ self.table(_product, self.covariance(Q, R)) @ s) / 2

    def coefficients(self, Q: Array, R: Array, v: Array) -> Coefficients:
        """The coefficients at one point."""
        K, C, s = len(v), self.covariance(Q, R), self.readout(v)
        J, H, I2 = (self.table(average, C, rows=K) for average in (_slopes, _bend, _product))
        S = v[:, None] * J * s
        tilted = self.table(_product, self.student.tilt(C, K)[1])
        squares = tilted @ s @ s + self.noise**2
        return Coefficients(
            A=S[:, :K] + np.diag(v * (H @ s)), B=S[:, K:], G=np.outer(v, v) * J[:, :K] * squares, f=I2 @ s
        )

    def gradient(self, Q: Array, R: Array, v: Array) -> Coefficients:
        """Derivatives of the coefficients with respect to (Q, R, v), flattened as the last axis.

        Averages of two fields depend on two variances and one covariance; by Price's theorem those of I2 are H2 / 2 and
        J2. The average of four fields is one of two under the tilted law, whose derivative is pulled back by W.
        """
        K, C, s = len(v), self.covariance(Q, R), self.readout(v)
        L = len(C)
        J, H, I2 = (self.table(average, C) for average in (_slopes, _bend, _product))
        dJ, dH = (_scatter(self.table(gradient, C, K)) for gradient in (_slopes_gradient, _bend_gradient))
        dI = _scatter(np.stack([H[:K] / 2, H[:, :K].T / 2, J[:K]]))
        W, tilted = self.student.tilt(C, K)
        inner = self.table(_product, tilted) @ s
        squares = inner @ s + self.noise**2
        slope = s[:, None] * s * self.table(_slopes, tilted)
        slope[..., range(L), range(L)] += s * (self.table(_bend, tilted) @ s)
        dsquares = W.swapaxes(-1, -2) @ slope @ W

        vv, eye = np.outer(v, v), np.eye(K)
        dvv = eye[:, None, :] * v[:, None] + eye * v[:, None, None]  # d(v_k v_l) / dv_p
        JK = J[:K, :K]
        dA_v = dvv * JK[..., None] + eye[:, :, None] * (eye * (H[:K] @ s)[:, None] + v[:, None] * H[:K, :K])[:, None, :]
        dB_v = eye[:, None, :] * (J[:K, K:] * s[K:])[..., None]
        dG_v = dvv * (JK * squares)[..., None] + 2 * (vv * JK)[..., None] * inner[..., :K]
        dA = (
            vv[..., None, None] * dJ[:, :K]
            + eye[..., None, None] * (v[:, None, None] * np.tensordot(s, dH, (0, 1)))[:, None]
        )
        dB = (v[:, None] * s[K:])[..., None, None] * dJ[:, K:]
        dG = vv[..., None, None] * (dJ[:, :K] * squares[..., None, None] + JK[..., None, None] * dsquares)
        df = np.tensordot(s, dI, (0, 1))
        return Coefficients(
            A=_join(dA, dA_v, K), B=_join(dB, dB_v, K), G=_join(dG, dG_v, K), f=_join(df, I2[:K, :K], K)
        )


def _product(x: GaussianSlope, y: GaussianSlope, a: Array, b: Array, c: Array) -> Array:
    return x.product(y, a, b, c)


def _slopes(x: GaussianSlope, y: GaussianSlope, a: Array, b: Array, c: Array) -> Array:
    return x.slopes(y, a, b, c)


def _bend(x: GaussianSlope, y: GaussianSlope, a: Array, b: Array, c: Array) -> Array:
    return x.bend(y, a, b, c)


def _slopes_gradient(x: GaussianSlope, y: GaussianSlope, a: Array, b: Array, c: Array) -> Array:
    return np.stack(x.slopes_gradient(y, a, b, c))


def _bend_gradient(x: GaussianSlope, y: GaussianSlope, a: Array, b: Array, c: Array) -> Array:
    return np.stack(x.bend_gradient(y, a, b, c))


def _scatter(partials: Array) -> Array:
    """Partial derivatives (3, K, L) of M_ka(C_kk, C_aa, C_ka) as the derivative dM_ka / dC_xy, (K, L, L, L)."""
    K, L = partials.shape[1:]
    k, a = np.ogrid[:K, :L]
    result = np.zeros((K, L, L, L))
    for partial, x, y in zip(partials, (k, a, k), (k, a, a), strict=True):
        np.add.at(result, (k, a, x, y), partial)
    return result


def _join(by_covariance: Array, by_readout: Array, K: int) -> Array:
    """Derivatives by C (..., L, L) and by v (..., K) as one last axis over (Q, R, v): R enters C twice."""
    shape = by_covariance.shape[:-2]
    by_Q = by_covariance[..., :K, :K].reshape(*shape, -1)
    by_R = (by_covariance[..., :K, K:] + by_covariance[..., K:, :K].swapaxes(-1, -2)).reshape(*shape, -1)
    return np.concatenate([by_Q, by_R, by_readout], axis=-1)


# --- equations of motion ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dynamics:
    r"""The equations of motion of all modes as one vector field on the flat state (r, q, v).

    The mode axis is the last one, so that products with A and B are single matrix products: r (K, M, n), q (K, K, n),
    tt (M, M, n). Modes carry their weight, Q = sum rho q and R = sum r, so the same equations hold for the N eigenmodes
    (omega = 1/N) and for any quadrature nodes.
    """

    fields: LocalFields
    rho: Array
    omega: Array
    tt: Array
    units: int
    lr: float
    lr_readout: float
    batch_size: int
    weight_decay: float
    twins: tuple[Any, Array]

    def pack(self, r: Array, q: Array, v: Array) -> Array:
        """The flat state."""
        return np.concatenate([r.ravel(), q.ravel(), v])

    def unpack(self, y: Array) -> tuple[Array, Array, Array]:
        """r, q and v of a flat state, as views."""
        K, M, n = self.units, len(self.tt), len(self.rho)
        first, second = K * M * n, K * (M + K) * n
        return y[:first].reshape(K, M, n), y[first:second].reshape(K, K, n), y[second:]

    def symmetrised(self, r: Array, q: Array, v: Array) -> Array:
        """The flat state in which twins, units that are equal up to sign, are so to the last bit.

        The equations keep them so; rounding does not, and a plateau amplifies what it leaves.
        """
        first, sign = self.twins
        signs = sign[:, None, None]
        return self.pack(signs * r[first], signs * sign[None, :, None] * q[first][:, first], sign * v[first])

    def overlaps(self, y: Array) -> tuple[Array, Array, Array]:
        """Q = sum rho q, R = sum r, and v."""
        r, q, v = self.unpack(y)
        return q @ self.rho, r.sum(axis=-1), v

    def __call__(self, y: Array) -> Array:
        """The time derivative of the state."""
        r, q, v = self.unpack(y)
        c = self.fields.coefficients(*self.overlaps(y))
        eta, decay = self.lr, self.weight_decay
        dr = -eta * (self.rho * _times(c.A, r) + _times(c.B, self.tt) + decay * r)
        half = self.rho * _times(c.A, q) + _times_transposed(c.B, r) + decay * q
        dq = -eta * (half + half.swapaxes(0, 1)) + eta**2 / self.batch_size * c.G[..., None] * (self.omega * self.rho)
        return self.pack(dr, dq, -self.lr_readout * (c.f + decay * v))

    def linearise(self, y: Array) -> Callable[[float], Callable[[Array], Array]]:
        r"""G -> (b -> solution of $(I - g J) x = b$) with the exact Jacobian J at y.

        A is symmetric, so all modes share its eigenbasis and, the coefficients being held fixed, are solved entry by
        entry. The coefficients see the modes through (Q, R, v) only: a rank-K(K + M + 1) correction (Woodbury).
        """
        r, q, _ = self.unpack(y)
        overlaps = self.overlaps(y)
        c, d = self.fields.coefficients(*overlaps), self.fields.gradient(*overlaps)
        alpha, V = scipy.linalg.eigh(c.A)
        frame = _Frame(
            dynamics=self,
            alpha=alpha,
            V=V,
            B=V.T @ c.B,
            r=_times(V.T, r),
            q=_times(V.T, _times(V.T, q).swapaxes(0, 1)),
            dA=np.einsum("ki,klp,lj->ijp", V, d.A, V, optimize=True),
            dB=np.einsum("ki,kmp->imp", V, d.B),
            dG=np.einsum("ki,klp,lj->ijp", V, d.G, V, optimize=True),
            df=d.f,
        )
        return frame.solver


@dataclass(frozen=True)
class _Frame:
    """The linearised dynamics at one point, in the eigenbasis of A: hatted quantities carry no hat here."""

    dynamics: Dynamics
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
        eta, rho = g * dyn.lr, dyn.rho
        decay = eta * dyn.weight_decay
        d1 = 1 / (1 + eta * rho * self.alpha[:, None] + decay)
        d2 = 1 / (1 + eta * rho * (self.alpha[:, None, None] + self.alpha[:, None]) + 2 * decay)
        d3 = 1 / (1 + g * dyn.lr_readout * dyn.weight_decay)
        response = self._response(g, d1, d2, d3)
        factors = scipy.linalg.lu_factor(np.eye(len(response)) - response, check_finite=False)

        def local(br: Array, bq: Array, bv: Array) -> tuple[Array, Array, Array]:
            """The solve with frozen coefficients, in the eigenbasis."""
            xr = d1[:, None] * br
            cross = _times_transposed(self.B, xr)
            return xr, d2 * (bq - eta * (cross + cross.swapaxes(0, 1))), d3 * bv

        def solve(b: Array) -> Array:
            br, bq, bv = dyn.unpack(b)
            br = _times(self.V.T, br)
            bq = _times(self.V.T, _times(self.V.T, bq).swapaxes(0, 1))
            xr, xq, xv = local(br, bq, bv)
            p = np.concatenate([self._back(xq @ rho).ravel(), (self.V @ xr.sum(axis=-1)).ravel(), xv])
            p = scipy.linalg.lu_solve(factors, p, check_finite=False)
            ur, uq, uv = self._coupling(p)
            xr, xq, xv = local(br + g * ur, bq + g * uq, bv + g * uv)
            xq = _times(self.V, _times(self.V, xq).swapaxes(0, 1))
            return dyn.symmetrised(_times(self.V, xr), (xq + xq.swapaxes(0, 1)) / 2, xv)

        return solve

    def _coupling(self, p: Array) -> tuple[Array, Array, Array]:
        """What a change p of (Q, R, v) does to the time derivatives, through the coefficients."""
        dyn = self.dynamics
        dA, dB, dG = self.dA @ p, self.dB @ p, self.dG @ p
        ur = -dyn.lr * (dyn.rho * _times(dA, self.r) + _times(dB, dyn.tt))
        half = dyn.rho * _times(dA, self.q) + _times_transposed(dB, self.r)
        noise = dyn.lr**2 / dyn.batch_size * dG[..., None] * (dyn.omega * dyn.rho)
        return ur, noise - dyn.lr * (half + half.swapaxes(0, 1)), -dyn.lr_readout * (self.df @ p)

    def _response(self, g: float, d1: Array, d2: Array, d3: float) -> Array:
        """The change of (Q, R, v) after a local solve with right-hand side g times the coupling: a square matrix.

        Everything is a moment over modes, so the cost beyond a few matrix products does not depend on their number.
        """
        dyn = self.dynamics
        eta, rho, (K, M) = g * dyn.lr, dyn.rho, self.B.shape
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
        noise = (flat @ (dyn.omega * rho)).reshape(K, K, 1) * self.dG
        Q = half + half.swapaxes(0, 1) + g * dyn.lr**2 / dyn.batch_size * noise
        Q = np.einsum("ki,ijp,lj->klp", self.V, Q, self.V, optimize=True)
        R = np.einsum("ki,imp->kmp", self.V, R)
        v = -g * dyn.lr_readout * d3 * self.df
        return np.concatenate([x.reshape(-1, x.shape[-1]) for x in (Q, R, v)])

    def _back(self, Q: Array) -> Array:
        return np.asarray(self.V @ Q @ self.V.T)


def _times(A: Array, x: Array) -> Array:
    """sum_j A_ij x_j... for matrices per mode, mode axis last."""
    return (A @ x.reshape(len(x), -1)).reshape(len(A), *x.shape[1:])


def _times_transposed(B: Array, r: Array) -> Array:
    """B r^T for every mode: sum_m B_im r_jm, (K, K, n)."""
    return _times(B, r.swapaxes(0, 1))


# --- the curve -------------------------------------------------------------------------------------------------------


def predict(
    problem: OnlineSGD,
    times: Any,
    *,
    rtol: float = 1e-6,
    reduce: bool = True,
    max_steps: int = 20_000,
    progress: Any = None,
) -> Curve:
    r"""The learning curve of one-pass SGD in the limit of large N, from the equations of motion of the eigenmodes.

    With `reduce` the N modes are carried by a few tens of nodes that obey the same equations, to an accuracy beyond `rtol`:
    the cost then hardly depends on N.

    Args:
        problem: student, teacher, model and learning rule.
        times: t = steps / N, increasing; 0 is allowed.
        rtol: accuracy of the curve: of the test error, relative, and of Q, R, v, relative to the largest of them.
        reduce: False integrates all modes.
        max_steps: steps of the solver after which it gives up.
        progress: called with the time reached.

    Returns:
        A curve with test_error, Q, R, T, v and a status for every time.

    Raises:
        InputError: times or rtol out of range, or an activation without closed averages of four fields.

    """
    t, max_steps = checked_times(times), integer("max_steps", max_steps)
    if not 1e-12 <= number("rtol", rtol) <= 1e-1:
        raise InputError(f"rtol={rtol}; expected a number from 1e-12 to 0.1")
    modes, start = _modes(problem)
    coarse, tolerance = _curve(problem, modes, start, t, 30 * rtol, reduce, max_steps, progress), rtol
    ratio = 30.0
    while True:
        curve = _curve(problem, modes, start, t, tolerance, reduce, max_steps, progress)
        error = _difference(curve, coarse) * 2 / ratio
        if not error.max() > rtol or tolerance <= FINEST:
            return _certified(curve, error, rtol)
        coarse, ratio = curve, min(max(30.0, 4 * float(error.max()) / rtol), tolerance / FINEST)
        tolerance /= ratio


def _curve(
    problem: OnlineSGD,
    modes: Dynamics,
    start: Array,
    t: Array,
    rtol: float,
    reduce: bool,
    max_steps: int,
    progress: Any,
) -> Curve:
    """The curve at one tolerance of the steps, on nodes that are chosen again if A grew beyond what they were made for."""
    if not reduce:
        return _solve(problem, modes, start, t, rtol, max_steps, progress)
    relaxation = _relaxation_bound(modes, start)
    while True:
        nodes, state = _reduced(modes, start, 10 * relaxation * t[-1], 1e-3 * rtol)
        curve = _solve(problem, nodes, state, t, rtol, max_steps, progress)
        seen = max(_relaxation_rate(modes.fields, curve, i) * modes.lr for i in range(len(t)))
        if seen <= 5 * relaxation:  # q relaxes at twice the rate of w
            return curve
        relaxation = seen


def _difference(curve: Curve, other: Curve) -> Array:
    """The largest relative difference of two curves at every time; 0 where one of them has ended."""
    eg = curve.test_error
    scale = max(np.nanmax(np.abs(curve.data["Q"].values)), float(np.abs(curve.data["T"].values).max())) or 1.0
    readout = np.nanmax(np.abs(curve.data["v"].values)) or 1.0
    found = np.abs(eg - other.test_error) / np.maximum(eg, FLOOR * (np.nanmax(eg) or 1.0))
    for name, size in (("Q", scale), ("R", scale), ("v", readout)):
        change = np.abs(curve.data[name].values - other.data[name].values).reshape(len(eg), -1).max(axis=1)
        found = np.maximum(found, change / size)
    return np.nan_to_num(found, nan=0.0)


def _certified(curve: Curve, error: Array, rtol: float) -> Curve:
    """The curve with points whose estimated error exceeds `rtol` marked as inaccurate."""
    words = [
        str(Status.INACCURATE) if s is Status.OK and e > rtol else str(s)
        for s, e in zip(curve.status, error, strict=True)
    ]
    provenance = {**curve.provenance, "rtol": rtol, "estimated_error": float(error.max())}
    attributes = {"provenance": json.dumps(provenance, sort_keys=True)}
    return Curve(curve.data.assign(status=("time", np.array(words))).assign_attrs(attributes))


def _solve(
    problem: OnlineSGD, dynamics: Dynamics, start: Array, t: Array, rtol: float, max_steps: int, progress: Any
) -> Curve:
    """Integrate the dynamics and read the curve off its states."""
    fields = dynamics.fields
    grid = t if t[0] == 0 else np.concatenate([[0.0], t])
    scale, scale_v = _scales(dynamics, start)
    sizes = (fields.test_error(*dynamics.overlaps(y)) for y in (start, np.zeros_like(start)))
    floor = FLOOR * (max(sizes) or 1.0)

    def error(old: Array, new: Array, estimate: Array) -> float:
        """The estimated error of a step, by mode (absolute values, so that nothing cancels) and in the test error.

        The estimate is that of the embedded method of order 4: allowing rtol to every step leaves the curve of order 5 a
        margin of ten or more (measured on the reference cases and on image-like spectra, rtol 1e-4 to 1e-8).
        """
        r, q, v = dynamics.unpack(estimate)
        Q_new, R_new, v_new = dynamics.overlaps(new)
        overlaps = max(np.abs(r).sum(axis=-1).max(), (np.abs(q) @ np.abs(dynamics.rho)).max())
        size = overlaps / max(scale, np.abs(Q_new).max())
        size = max(size, np.abs(v).max() / max(scale_v, np.abs(v_new).max()))
        here = fields.test_error(Q_new, R_new, v_new)
        there = fields.test_error(*dynamics.overlaps(new - estimate))
        return max(size, abs(here - there) / max(here, floor)) / rtol

    def diverged(y: Array) -> bool:
        Q, R, v = dynamics.overlaps(y)
        return max(np.abs(Q).max() / scale, np.abs(R).max() / scale, np.abs(v).max() / scale_v) > BOUND

    with np.errstate(all="ignore"):
        solution = solvers.integrate(
            dynamics,
            dynamics.linearise,
            start,
            grid,
            error=error,
            diverged=diverged,
            max_steps=max_steps,
            progress=progress,
        )
    values, status = solution.values[len(grid) - len(t) :], solution.status[len(grid) - len(t) :]
    overlaps = [dynamics.overlaps(y) for y in values]
    Q, R, v = (np.stack(parts) for parts in zip(*overlaps, strict=True))
    reached = [s is Status.OK for s in status]
    eg = np.array([fields.test_error(*o) if ok else np.nan for o, ok in zip(overlaps, reached, strict=True)])
    cost = {"steps": solution.steps, "rejected": solution.rejected, "nodes": len(dynamics.rho)}
    provenance = {"kind": "theory", "rtol": rtol, **cost, "problem": problem.describe()}
    return Curve.from_arrays(t, {"test_error": eg, "Q": Q, "R": R, "T": fields.T, "v": v}, status, provenance)


def _modes(problem: OnlineSGD) -> tuple[Dynamics, Array]:
    """The eigenmodes of Omega as seen from the weights: w_tau = W e, b_tau = sqrt(N) e^T E[x nu^T], each with weight 1/N."""
    student, teacher = problem.student, problem.teacher
    for role, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network.activation, GaussianSlope):
            raise InputError(
                f"the {role}'s activation {network.activation.name} has no closed averages of four fields; "  # type: ignore[union-attr]
                "the online theory takes 'erf' and 'linear'"
            )
    rho, E = problem.model.eigenmodes
    N = len(rho)
    w = student.weights @ E / np.sqrt(N)
    b = (E.T @ problem.covariance_with_teacher).T
    fields = LocalFields(
        student=student.activation,  # type: ignore[arg-type]
        teacher=teacher.activation,  # type: ignore[arg-type]
        T=problem.teacher_overlap,
        a=teacher.readout,
        noise=problem.noise,
    )
    dynamics = Dynamics(
        fields=fields,
        rho=rho,
        omega=np.full(N, 1 / N),
        tt=b[:, None] * b,
        units=student.units,
        lr=problem.rates(0.0)[0],
        lr_readout=problem.rates(0.0)[1],
        batch_size=problem.batch_size,
        weight_decay=problem.weight_decay,
        twins=_twins(student.weights, student.readout),
    )
    return dynamics, dynamics.symmetrised(w[:, None] * b, w[:, None] * w, student.readout)


def _twins(weights: Array, readout: Array) -> tuple[Any, Array]:
    """For every unit the first one that equals it up to the sign of (w, v), and that sign (activations are odd)."""
    units = np.column_stack([weights, readout])
    first, sign = np.arange(len(units)), np.ones(len(units))
    for k, unit in enumerate(units):
        for j in range(k):
            for s in (1.0, -1.0):
                if first[k] == k and np.array_equal(unit, s * units[j]):
                    first[k], sign[k] = first[j], s * sign[j]
    return first, sign


def _reduced(dynamics: Dynamics, start: Array, longest: float, tolerance: float) -> tuple[Dynamics, Array]:
    """The same dynamics on relaxation nodes. Carried are r, rho q, tt and omega rho: sums of these are what is seen."""
    r, q, v = dynamics.unpack(start)
    rho = dynamics.rho
    source, weighted = dynamics.omega * rho, q * rho
    weight = np.max([_relative_size(x) for x in (r, weighted, dynamics.tt, source)], axis=0)
    nodes = relaxation_nodes(rho, weight, longest, max(tolerance, 1e-14))
    divisor = np.where(nodes.rho > 0, nodes.rho, 1.0)  # q of a mode without variance is seen by nothing
    small = replace(dynamics, rho=nodes.rho, omega=nodes.carry(source) / divisor, tt=nodes.carry(dynamics.tt))
    return small, small.pack(nodes.carry(r), nodes.carry(weighted) / divisor, v)


def _relative_size(data: Array) -> Array:
    """The largest entry of every mode, relative to the largest of all."""
    size = np.abs(data).reshape(-1, data.shape[-1]).max(axis=0)
    return size / (size.max() or 1.0)


def _relaxation_bound(dynamics: Dynamics, start: Array) -> float:
    """Lr times the largest eigenvalue of A, at the start or with readouts of the teacher's size."""
    Q, R, v = dynamics.overlaps(start)
    fields = dynamics.fields
    readout = max(float(v @ v), float(fields.a @ fields.a))
    steepest = fields.student.alpha**2 * readout
    return dynamics.lr * max(float(np.abs(scipy.linalg.eigvalsh(fields.coefficients(Q, R, v).A)).max()), steepest)


def _relaxation_rate(fields: LocalFields, curve: Curve, index: int) -> float:
    """The largest |eigenvalue| of A at a point of a curve; 0 beyond its end."""
    Q, R, v = (curve.data[name].values[index] for name in ("Q", "R", "v"))
    if not np.isfinite(curve.test_error[index]):
        return 0.0
    return float(np.abs(scipy.linalg.eigvalsh(fields.coefficients(Q, R, v).A)).max())


def _scales(dynamics: Dynamics, start: Array) -> tuple[float, float]:
    """Natural sizes of overlaps and readouts: the largest of student and teacher."""
    Q, _, v = dynamics.overlaps(start)
    overlap = max(np.abs(Q).max(), np.abs(dynamics.fields.T).max())
    readout = max(np.abs(v).max(), np.abs(dynamics.fields.a).max())
    return float(overlap) or 1.0, float(readout) or 1.0
