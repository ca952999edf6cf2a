r"""Minimisers of $\sum_\mu \phi(x_\mu) + \frac\lambda2 |w|^2$, $x = c + A w$, to machine precision, each with its certificate.

Margins have $x_\mu = y_\mu z_\mu$ (c = 0, rows of A times y), residuals $x = y - z$. The square loss takes one
eigendecomposition for all penalties; smooth losses Newton's method; all others the method of multipliers, whose inner problems
are smooth: with the proximal map p of $\phi / \sigma$,

$w = \mathrm{argmin}\; \frac\lambda2 |w|^2 + \sigma \sum_\mu e(c + A w + g / \sigma)_\mu$, $\quad e'(u) = u - p(u)$, then
$g \leftarrow \sigma (u - p(u))$.

Then $g_\mu$ is a slope of phi at $p_\mu$, so that $\phi^*(g) = g p - \phi(p)$ is known and the duality gap is exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import Loss

Function = Callable[[Tensor], Tensor]
EXACT = 1e-13  # gradient, relative to its two parts, at which Newton's method ends
TRIES, INNER = 100, 30  # steps of Newton's method, and of that between two updates of multipliers
OUTER = 40  # updates of multipliers
CLOSE = 1e-12  # relative duality gap that is small enough
ENOUGH, PATIENCE = 1e-8, 3  # gap from which sigma stays, and rounds without progress after which rounding is reached
POLISHED = 1e-3  # gap below which the held samples may be the right ones
ROUNDING = 1e-9  # gradient from which lack of progress is rounding
GROWTH, LARGEST = (
    4.0,
    1e7,
)  # of sigma while multipliers are far from right, and its largest value over penalty / |row|^2
ARMIJO = 1e-4
HALVINGS = 60  # of an interval that holds a proximal map


@dataclass(frozen=True)
class Smooth:
    """A loss of x with its first two derivatives."""

    value: Function
    slope: Function
    bend: Function


@dataclass(frozen=True)
class Simple:
    """A loss of x with its proximal map for phi / sigma, p(u), and where p moves with u."""

    value: Function
    proximal: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    kink: tuple[float, float, float] | None = None  # where it is, and the slopes on either side, if these are all


def _hinge(u: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    below, held = u < 1 - 1 / sigma, (u >= 1 - 1 / sigma) & (u < 1)
    return torch.where(below, u + 1 / sigma, torch.where(held, torch.ones_like(u), u)), (~held).to(u)


def _absolute(u: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    moved = torch.abs(u) > 1 / sigma
    return torch.where(moved, u - torch.sign(u) / sigma, torch.zeros_like(u)), moved.to(u)


SMOOTH = {
    "logistic": Smooth(
        lambda x: torch.logaddexp(-x, torch.zeros_like(x)),
        lambda x: -torch.sigmoid(-x),
        lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    ),
    "squared-hinge": Smooth(
        lambda x: torch.relu(1 - x) ** 2 / 2, lambda x: -torch.relu(1 - x), lambda x: (x < 1).to(x)
    ),
    "huber": Smooth(
        lambda x: torch.where(torch.abs(x) < 1, x**2 / 2, torch.abs(x) - 0.5),
        lambda x: torch.clamp(x, -1, 1),
        lambda x: (torch.abs(x) < 1).to(x),
    ),
}
SIMPLE = {
    "hinge": Simple(lambda x: torch.relu(1 - x), _hinge, (1.0, -1.0, 0.0)),
    "absolute": Simple(torch.abs, _absolute, (0.0, -1.0, 1.0)),
}


def values(loss: Loss) -> Function:
    """The loss on tensors: the simulation's own form of the named ones."""
    if loss.name == "square":
        return lambda x: x**2 / 2
    for family in (SMOOTH, SIMPLE):
        if loss.name in family:
            return family[loss.name].value
    return lambda x: torch.as_tensor(loss(x.cpu().numpy())).to(x)


def path(loss: Loss, c: Tensor, A: Tensor, penalties: list[float]) -> Iterator[tuple[Tensor, float]]:
    """The minimiser w and its certificate for every penalty, in their order: the largest first is the quickest.

    The certificate is the norm of the gradient relative to those of its two parts, or the duality gap relative to the
    minimum: 0 for a perfect solution.
    """
    if loss.name == "square":
        yield from _ridge(c, A, penalties)
        return
    w = torch.zeros(A.shape[1], dtype=A.dtype, device=A.device)
    if loss.name in SMOOTH:
        for penalty in penalties:
            w, left = newton(SMOOTH[loss.name], c, A, penalty, w)
            yield w, left
        return
    phi, g = SIMPLE.get(loss.name) or _numerical(loss), torch.zeros_like(c)
    for penalty in penalties:
        w, g, left = multipliers(phi, c, A, penalty, w, g)
        yield w, left


def _ridge(c: Tensor, A: Tensor, penalties: list[float]) -> Iterator[tuple[Tensor, float]]:
    """All penalties from one eigendecomposition of A^T A; penalty 0 is the minimum of least norm."""
    eigenvalues, U = torch.linalg.eigh(A.T @ A)
    target = U.T @ (A.T @ c)
    rounding = len(eigenvalues) * torch.finfo(A.dtype).eps * eigenvalues[-1]
    for penalty in penalties:
        below = eigenvalues + penalty
        there = below > (rounding if penalty == 0 else 0.0)
        w = -U @ torch.where(there, target / torch.where(there, below, 1.0), 0.0)
        for _ in range(2):  # refinement: what the Gram matrix has lost of small singular values
            gradient = A.T @ (c + A @ w) + penalty * w
            w = w - U @ torch.where(there, U.T @ gradient / torch.where(there, below, 1.0), 0.0)
        yield w, _stationary(A.T @ (c + A @ w), penalty * w, A, c)


def _stationary(pull: Tensor, shrink: Tensor, A: Tensor, slopes: Tensor) -> float:
    """Norm of the gradient relative to what it is the sum of."""
    scale = torch.linalg.norm(shrink) + torch.linalg.norm(A) * torch.linalg.norm(slopes) / len(A) ** 0.5
    return float(torch.linalg.norm(pull + shrink) / scale) if scale > 0 else 0.0


def newton(phi: Smooth, c: Tensor, A: Tensor, penalty: float, w: Tensor) -> tuple[Tensor, float]:
    """Newton's method with Cholesky factors and backtracking."""
    left = torch.inf
    x = c + A @ w
    height = float(phi.value(x).sum() + penalty / 2 * w @ w)
    for _ in range(TRIES):
        slopes = phi.slope(x)
        pull, shrink = A.T @ slopes, penalty * w
        left = _stationary(pull, shrink, A, slopes)
        if left <= EXACT:
            break
        H = A.T @ (phi.bend(x)[:, None] * A)
        H.diagonal().add_(penalty)
        gradient = (pull + shrink)[:, None]
        step = -torch.cholesky_solve(gradient, torch.linalg.cholesky(H))[:, 0]
        along, fall, length = A @ step, float(step @ gradient[:, 0]), 1.0
        for _ in range(HALVINGS):
            new = float(phi.value(x + length * along).sum() + penalty / 2 * (w + length * step).square().sum())
            if new <= height + ARMIJO * length * fall + 1e-14 * abs(height):
                break
            length /= 2
        w, x, height = w + length * step, c + A @ (w + length * step), new
    return w, left


def multipliers(
    phi: Simple, c: Tensor, A: Tensor, penalty: float, w: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, float]:
    """The method of multipliers with semismooth Newton steps, for any convex loss with a proximal map.

    A loss that is linear on either side of its kink is polished at the end: with the samples that it holds known, the rest
    is linear algebra.
    """
    size, fruitless = float(A.square().sum()) / len(A), 0
    sigma = max(penalty / size, 1e-3)
    best = (w, g, torch.inf)
    for _ in range(OUTER):
        w, held = _inner(phi, c, A, penalty, w, g, sigma, tolerance=max(EXACT, 1e-4 * min(best[2], 1.0)))
        u = c + A @ w + g / sigma
        p, _ = phi.proximal(u, sigma)
        g = sigma * (u - p)
        last = best[2]
        best = min(best, _certified(phi, c, A, penalty, g, p), key=lambda found: found[2])
        if phi.kink is not None and best[2] < POLISHED:
            best = min(best, _polished(phi, c, A, penalty, g, held), key=lambda found: found[2])
        fruitless = 0 if best[2] < last / 2 else fruitless + 1
        if best[2] <= CLOSE or (fruitless > PATIENCE and best[2] <= ENOUGH):
            break
        if best[2] > ENOUGH and sigma < LARGEST * penalty / size:
            sigma *= GROWTH
    return best


def _inner(
    phi: Simple, c: Tensor, A: Tensor, penalty: float, w: Tensor, g: Tensor, sigma: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The w of given multipliers, by semismooth Newton steps, and which samples the proximal map holds."""
    least, fruitless = torch.inf, 0
    norm = float(torch.linalg.norm(A)) / len(A) ** 0.5
    for _ in range(INNER):
        u = c + A @ w + g / sigma
        p, moves = phi.proximal(u, sigma)
        gradient = penalty * w + sigma * (A.T @ (u - p))
        scale = penalty * torch.linalg.norm(w) + sigma * norm * torch.linalg.norm(u - p)
        left = float(torch.linalg.norm(gradient) / scale) if scale > 0 else 0.0
        fruitless = 0 if left < least / 2 else fruitless + 1
        least = min(least, left)
        if left <= tolerance or (fruitless > PATIENCE and left < ROUNDING):
            break
        held = 1 - moves
        rows = A[held > 0]
        H = sigma * rows.T @ (held[held > 0][:, None] * rows)
        H.diagonal().add_(penalty)
        step = -torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(H))[:, 0]
        along, fall, length = A @ step, float(step @ gradient), 1.0
        height = _envelope(phi, u, p, sigma) + float(penalty / 2 * w @ w)
        for _ in range(HALVINGS // 2):
            moved = u + length * along
            new = _envelope(phi, moved, phi.proximal(moved, sigma)[0], sigma)
            new += float(penalty / 2 * (w + length * step).square().sum())
            if new <= height + ARMIJO * length * fall + 1e-14 * abs(height):
                break
            length /= 2
        w = w + length * step
    return w, moves == 0


def _certified(phi: Simple, c: Tensor, A: Tensor, penalty: float, g: Tensor, p: Tensor) -> tuple[Tensor, Tensor, float]:
    """The minimiser that belongs to multipliers g, slopes of phi at p, and its duality gap relative to the minimum."""
    w = -(A.T @ g) / penalty
    primal = float(phi.value(c + A @ w).sum() + penalty / 2 * w @ w)
    dual = float((g * (c - p) + phi.value(p)).sum() - penalty / 2 * w @ w)
    return w, g, abs(primal - dual) / max(abs(primal), 1e-300)


def _polished(
    phi: Simple, c: Tensor, A: Tensor, penalty: float, g: Tensor, held: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Multipliers for which the held samples are exactly at the kink, and the others have the slope of their side."""
    kink, low, high = phi.kink  # type: ignore[misc]
    exact = torch.where(g - low < high - g, torch.full_like(g, low), torch.full_like(g, high))
    exact[held] = 0.0
    rows = A[held]
    if len(rows):
        wanted = penalty * (c[held] - kink) - rows @ (A.T @ exact)
        exact[held] = torch.linalg.lstsq(rows @ rows.T, wanted[:, None], driver="gelsd").solution[:, 0].to(g)
    exact = exact.clamp(low, high)
    return _certified(
        phi, c, A, penalty, exact, torch.full_like(c, kink)
    )  # phi* is linear: any slope is one at the kink


def _envelope(phi: Simple, u: Tensor, p: Tensor, sigma: float) -> float:
    return float((phi.value(p) + sigma / 2 * (u - p) ** 2).sum())


def _numerical(loss: Loss) -> Simple:
    """Any loss by its slope: the proximal map by bisection of t + phi'(t) / sigma = u."""

    def proximal(u: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        w = u.cpu().numpy()
        reach = abs(w).max() + 1.0
        low, high = w - reach, w + reach
        for _ in range(40):  # wide enough for slopes of any size
            wrong = (low + loss.slope(low) / sigma > w) | (high + loss.slope(high) / sigma < w)
            if not wrong.any():
                break
            reach *= 2
            low, high = w - reach, w + reach
        low, high = low.copy(), high.copy()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = middle + loss.slope(middle) / sigma > w
            high[above], low[~above] = middle[above], middle[~above]
        p = (low + high) / 2
        step = 1e-5 * (1 + abs(p))
        bend = (loss.slope(p + step) - loss.slope(p - step)) / (2 * step)
        moves = 1 / (1 + bend.clip(0) / sigma)
        for kink, left, right, _ in getattr(loss, "kinks", ()):
            here = (w > kink + left / sigma) & (w < kink + right / sigma)
            p[here], moves[here] = kink, 0.0
        return torch.as_tensor(p).to(u), torch.as_tensor(moves).to(u)

    return Simple(lambda x: torch.as_tensor(loss(x.cpu().numpy())).to(x), proximal, _only_kink(loss))


def _only_kink(loss: Loss) -> tuple[float, float, float] | None:
    """Kink and slopes of a loss that is linear on either side of it."""
    if not isinstance(loss, Convex) or len(loss.kinks) != 1:
        return None
    kink, left, right, _ = loss.kinks[0]
    away = np.geomspace(1e-3, 1e3, 20)
    straight = np.allclose(loss.slope(kink - away), left, atol=1e-9) and np.allclose(
        loss.slope(kink + away), right, atol=1e-9
    )
    return (float(kink), float(left), float(right)) if straight else None
