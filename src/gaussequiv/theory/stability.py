r"""How large a learning rate may be: the noise that feeds itself, the step of SGD on its fastest mode, the readout.

The noise of SGD enters the equations of motion as $\eta^2 / b\; source\; G$, and G grows with Q: a loop. With the drift
$\eta J_1$ and the derivative $\eta^2 U P$ of the noise, P the map from a state to (Q, R, v), a perturbation grows at the rate
$\eta s$ if $1 / \eta$ is an eigenvalue of $H(s) = P (s - J_1)^{-1} U$, a matrix of the size of (Q, R, v).
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from gaussequiv.maths.averages import Array
from gaussequiv.theory.motion import Dynamics

SLOW = 1e-8  # growth, relative to the fastest relaxation, from which on it counts
FAR = 1e4  # a limit of the noise by this much above that of a step is none: rounding makes such ones
REAL = 1e-6  # imaginary part of an eigenvalue, relative to it, that is rounding


@dataclass(frozen=True)
class Stability:
    r"""The learning rates of a problem at one state, and the largest ones at which that state is stable.

    They are those of small perturbations: beyond them a readout that shrinks, or a unit that saturates, may still save the
    student. inf where there is no limit.

    Args:
        time: t = steps / N of the state.
        lr: learning rate there.
        lr_readout: that of the readout.
        noise: lr beyond which the noise of SGD drives Q faster than the drift damps it, at the readout of that state; for
            one linear unit $2 N / (v^2 tr \Omega)$.
        step: $2 N / (a_{max} \rho_{max})$, a the eigenvalues of A: the lr beyond which every step of SGD overshoots on the
            fastest mode, at this N, whatever the equations of the limit of large N say.
        readout: $2 N / \lambda_{max}(E g g^T)$, the lr_readout beyond which the readout overshoots likewise.

    """

    time: float
    lr: float
    lr_readout: float
    noise: float
    step: float
    readout: float

    @classmethod
    def of(cls, dynamics: Dynamics, y: Array, time: float, N: int, mean_square: float = 0.0) -> "Stability":
        r"""The limits at a state y of the dynamics of N inputs, whose mean has the square $|\mu|^2$."""
        lr, lr_readout = dynamics.rates(time)
        Q, R, v = dynamics.overlaps(y)
        fields, K = dynamics.fields, dynamics.units
        fastest = float(scipy.linalg.eigvalsh(fields.coefficients(Q, R, v).A).max())
        power = float(
            scipy.linalg.eigvalsh(fields.averages.products(fields.covariance(Q, R), fields.means(R))[:K, :K])[-1]
        )
        noise, step = noise_limit(dynamics, y), _limit(2 * N, fastest * (float(dynamics.rho.max()) + mean_square))
        return cls(
            time=time,
            lr=lr,
            lr_readout=lr_readout,
            noise=noise if noise < FAR * step else np.inf,
            step=step,
            readout=_limit(2 * N, power),
        )

    @property
    def passed(self) -> tuple[str, ...]:
        """One clause for every limit that the learning rates exceed."""
        found = []
        if self.lr > self.noise:
            found.append(
                f"lr = {self.lr:.4g} is above {self.noise:.4g}, where the noise of SGD drives Q faster than the drift damps it"
            )
        if self.lr > self.step:
            found.append(
                f"lr = {self.lr:.4g} is above {self.step:.4g}, where SGD overshoots on the largest mode of Omega"
            )
        if self.lr_readout > self.readout:
            found.append(
                f"lr_readout = {self.lr_readout:.4g} is above {self.readout:.4g}, where the readout overshoots"
            )
        return tuple(found)

    def __str__(self) -> str:
        if self.passed:
            return f"unstable at t = {self.time:.4g}: {'; '.join(self.passed)}"
        noise = f"up to {self.noise:.4g}" if np.isfinite(self.noise) else "any"
        return (
            f"small perturbations are stable at t = {self.time:.4g}: lr = {self.lr:.4g}, where the noise of SGD allows "
            f"{noise} and a step on the largest mode up to {self.step:.4g}; lr_readout = {self.lr_readout:.4g} of at most "
            f"{self.readout:.4g}"
        )


def noise_limit(dynamics: Dynamics, y: Array) -> float:
    r"""The smallest lr at which the noise makes a perturbation grow that would not grow without it, inf if there is none.

    The readout is held fixed. An eigenvalue $\mu = 1 / \eta$ of H(s) belongs to a growth rate that rises with $\eta$ where
    $d\mu / ds < 0$; s is just above zero or, where A has negative eigenvalues, above what they make modes grow at by
    themselves. Growing oscillations are not looked for.
    """
    overlaps = dynamics.overlaps(y)
    drift = replace(
        dynamics, source=np.zeros_like(dynamics.source), rates=lambda t: (1.0, 0.0), scheduled=False, per_mode=0.0
    )
    A, top = scipy.linalg.eigvalsh(dynamics.fields.coefficients(*overlaps).A), float(dynamics.rho.max())
    s = (SLOW * float(np.abs(A).max()) + 2 * max(0.0, -float(A.min()))) * top or SLOW
    solve = drift.linearise(0.0, y)(1 / s)
    dG = np.moveaxis(dynamics.fields.gradient(*overlaps).G, -1, 0)
    r, _, v = dynamics.unpack(np.zeros_like(y))
    noise = (dynamics.pack(r, source, v) for source in dG[..., None] * dynamics.source / dynamics.batch_size)
    once = [solve(u) / s for u in noise]
    H = np.column_stack([dynamics.observe(x) for x in once])
    slope = -np.column_stack([dynamics.observe(solve(x) / s) for x in once])
    mu, left, right = scipy.linalg.eig(H, left=True)
    rising = np.einsum("ip,ij,jp->p", left.conj(), slope, right) / np.einsum("ip,ip->p", left.conj(), right)
    growing = (mu.real > 0) & (np.abs(mu.imag) <= REAL * np.abs(mu)) & (rising.real < 0)
    return _limit(1.0, float(mu.real[growing].max(initial=0.0)))


def jacobian(dynamics: Dynamics, t: float, y: Array) -> Array:
    """The exact derivative of the motion at a state, (n, n), on the directions that twins and the symmetry of q leave."""
    r, q, _ = dynamics.unpack(y)
    overlaps, (lr, lr_readout) = dynamics.overlaps(y), dynamics.rates(t)
    c, d = dynamics.fields.coefficients(*overlaps), dynamics.fields.gradient(*overlaps)
    rho, decay = dynamics.rho, dynamics.weight_decay

    def allowed(x: Array) -> Array:
        xr, xq, xv = dynamics.unpack(x)
        return dynamics.symmetrised(xr, (xq + xq.swapaxes(0, 1)) / 2, xv)

    def column(x: Array) -> Array:
        x = allowed(x)
        xr, xq, xv = dynamics.unpack(x)
        p = dynamics.observe(x)
        dr = rho * (_times(c.A, xr) + _times(d.A @ p, r)) + _times(d.B @ p, dynamics.tt) + decay * xr
        half = rho * (_times(c.A, xq) + _times(d.A @ p, q)) + decay * xq
        half = half + _times(c.B, xr.swapaxes(0, 1)) + _times(d.B @ p, r.swapaxes(0, 1))
        noise = lr**2 / dynamics.batch_size * (d.G @ p)[..., None] * dynamics.source
        dq = noise - lr * (half + half.swapaxes(0, 1))
        return allowed(dynamics.pack(-lr * dr, dq, -lr_readout * (d.f @ p + decay * xv)))

    return np.column_stack([column(x) for x in np.eye(len(y))])


def growth(dynamics: Dynamics, t: float, y: Array) -> float:
    """The largest growth rate of a perturbation of a state that twins allow, per unit of time."""
    return float(scipy.linalg.eigvals(jacobian(dynamics, t, y)).real.max())


def _times(A: Array, x: Array) -> Array:
    return np.einsum("ij,j...->i...", A, x)


def _limit(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else np.inf
