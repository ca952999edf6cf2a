r"""Minimisers of $F(w) = \sum_\mu \phi(x_\mu) + \frac\lambda2 |w|^2$, $x = c + A w$, to machine precision, with certificates.

Margins have $x_\mu = y_\mu z_\mu$ (c = 0, rows of A times y), residuals $x = y - z$. A loss is a part s with a continuous slope
and its kinks, places k at which the slope jumps by j,

$\phi(x) = s(x) + \sum_k j_k (x - k)_+$.

Quadratic ones take one decomposition for all penalties, those without kinks Newton's method. Those with kinks take an interior
point method (Mehrotra, 1992) for $x - k = p - m$ with p, m > 0, in which $0 < u < j$ is the slope that a kink contributes, and
at its end one step with the samples near kinks held there. For any w and any $0 \le u \le j$, with the residual
$g = \lambda w + A^T (s'(x) + \sum_k u_k)$,

$F(w) - \min F \le \sum_{\mu k} [(j - u) (x - k)_+ + u (k - x)_+] + |g|^2 / 2\lambda$

by the duality of Fenchel: a sum of positive terms, which no rounding can hide.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gaussequiv.errors import InputError
from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import Logistic, Loss, Quadratics

Function = Callable[[Tensor], Tensor]
EXACT = 1e-14  # certificate at which Newton's method ends
CLOSE = 1e-12  # the same of the interior point method: a gap relative to the minimum
STEPS, POINTS = 200, 100  # of Newton's method and of the interior point method
ENOUGH = 1e-10  # certificate above which Newton's method goes by way of larger penalties,
DECADES = 12  # from this far above
HALVINGS = 60  # of a step
ARMIJO = 1e-4  # part of the promised decrease that a step must keep
ROUNDING = 1e-13  # relative change of F that is none
NEAR = 1e-6  # certificate from which the samples that lie on a kink may be known
PATIENCE = 5  # steps of the interior point method without a better certificate
FARTHEST = 2.0  # part of a step that is looked at
TO_WALL = 0.995  # part of the way to the boundary of p, m, u or j - u that is gone
DIFFERENCE = 1e-5  # in which a slope is differenced for its curvature


@dataclass(frozen=True)
class Form:
    """A loss as its smooth part with two derivatives, and its kinks.

    Args:
        value: s, entry by entry.
        slope: s'.
        curvature: s'', at least 0.
        kinks: k, (kinks,).
        jumps: j > 0, (kinks,).

    """

    value: Function
    slope: Function
    curvature: Function
    kinks: Tensor
    jumps: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """phi(x) for x (n,)."""
        return self.value(x) + torch.relu(x[..., None] - self.kinks) @ self.jumps


@dataclass(frozen=True)
class Risk:
    r"""$F(w) = \sum_\mu \phi(c + A w)_\mu + \frac\lambda2 |w|^2$.

    Args:
        phi: the loss.
        c: (n,).
        A: (n, r).
        penalty: lambda.

    """

    phi: Form
    c: Tensor
    A: Tensor
    penalty: float

    def at(self, w: Tensor, x: Tensor) -> float:
        """F(w), where x = c + A w is known."""
        return float(self.phi(x).sum() + self.penalty / 2 * (w @ w))

    def size(self, w: Tensor, x: Tensor) -> float:
        """What F(w) is the sum of, without signs: F itself of a loss that is not negative."""
        return float(torch.abs(self.phi(x)).sum() + self.penalty / 2 * (w @ w))

    def hessian(self, weights: Tensor) -> Tensor:
        r"""$A^T \mathrm{diag}(weights) A + \lambda$, (r, r)."""
        some = weights > 0
        A, weights = (self.A, weights) if some.all() else (self.A[some], weights[some])
        rows = A * weights.sqrt()[:, None]
        H = rows.T @ rows
        H.diagonal().add_(self.penalty)
        return H

    def excess(self, gradient: Tensor, x: Tensor) -> float:
        r"""What F is above its minimum, at most, by its gradient: $|g|^2 / 2\lambda$.

        Without a penalty $g^T H^{-1} g / 2$, Newton's estimate, and infinity where H is singular.
        """
        if self.penalty > 0:
            return float(gradient @ gradient / (2 * self.penalty))
        factor, failed = torch.linalg.cholesky_ex(self.hessian(self.phi.curvature(x)))
        return torch.inf if failed else float(gradient @ torch.cholesky_solve(gradient[:, None], factor)[:, 0]) / 2

    def certificate(self, w: Tensor, u: Tensor | None = None) -> float:
        r"""How far w is from the minimum: a bound on the root of $(F - \min F) / F$ without kinks, on it with them.

        The root is $|\nabla F| / \sqrt{2 \lambda F}$, since F is $\lambda$-convex; the quotient is the duality gap for slopes u
        of the kinks, (n, kinks). Without a penalty it is Newton's estimate.
        """
        x = self.c + self.A @ w
        slopes, above = self.phi.slope(x), x[:, None] - self.phi.kinks
        slack = torch.zeros_like(self.c)
        if u is not None:
            u = u.clamp(min=0.0).minimum(self.phi.jumps)
            slack = ((self.phi.jumps - u) * torch.relu(above) + u * torch.relu(-above)).sum(dim=1)
            slopes = slopes + u.sum(dim=1)
        gradient = self.A.T @ slopes + self.penalty * w
        gap = float(slack.sum()) + self.excess(gradient, x)
        size = self.size(w, x)
        relative = gap / size if size > 0 else (0.0 if gap == 0 else float("inf"))
        return relative if u is not None else relative**0.5


def path(loss: Loss, c: Tensor, A: Tensor, penalties: list[float]) -> Iterator[tuple[Tensor, float]]:
    """The minimiser w, (r,), and its certificate for every penalty, in their order: the largest first is the quickest.

    A penalty 0 is for a loss that is one quadratic function. Certificates are those of `Risk.certificate`; of quadratic functions
    the same root, by multipliers.
    """
    phi = form(loss, A)
    if isinstance(loss, Convex) and loss.quadratics is not None:
        loss = loss.quadratics
    if isinstance(loss, Quadratics) and not loss.knots and loss.pieces[0][2] > 0:
        yield from _ridge(c + loss.pieces[0][1] / loss.pieces[0][2], A, [p / loss.pieces[0][2] for p in penalties])
        return
    w = torch.zeros(A.shape[1], dtype=A.dtype, device=A.device)
    for penalty in penalties:
        risk = Risk(phi, c, A, penalty)
        if len(phi.kinks):
            yield interior(risk)
        else:
            start, w = w, newton(risk, w)
            if risk.certificate(w) > ENOUGH:  # too far: by way of larger penalties
                for larger in penalty * 10.0 ** torch.arange(DECADES, 0, -1):
                    start = newton(Risk(phi, c, A, float(larger)), start)
                w = min(w, newton(risk, start), key=risk.certificate)
            yield w, risk.certificate(w)


def values(loss: Loss) -> Function:
    """The loss on tensors (n,): the simulation's own form of it."""
    return lambda x: form(loss, x)(x)


# --- losses ---


def form(loss: Loss, like: Tensor) -> Form:
    """The simulation's own form of a loss; any but the piecewise quadratic and the logistic ones through its slope in NumPy."""

    def tensor(numbers: object) -> Tensor:
        return torch.as_tensor(numbers, dtype=like.dtype, device=like.device)

    none = tensor([])
    if isinstance(loss, Convex) and loss.quadratics is not None:
        loss = loss.quadratics
    if isinstance(loss, Quadratics):
        return _quadratics(tensor(loss.knots), tensor(loss.pieces))
    if isinstance(loss, Logistic):
        return Form(
            lambda x: torch.logaddexp(-x, torch.zeros_like(x)),
            lambda x: -torch.sigmoid(-x),
            lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
            none,
            none,
        )
    found = loss.kinks if isinstance(loss, Convex) else []
    kinks, jumps = tensor([kink.place for kink in found]), tensor([kink.right - kink.left for kink in found])
    if torch.isinf(jumps).any():
        raise InputError(
            f"the loss {loss.name} is infinite beyond {float(kinks[torch.isinf(jumps)][0]):.4g}; training needs a finite one: "
            "expected a function with values everywhere"
        )

    def value(x: Tensor) -> Tensor:
        return tensor(loss(x.cpu().numpy())) - torch.relu(x[..., None] - kinks) @ jumps

    def slope(x: Tensor) -> Tensor:
        return tensor(loss.slope(x.cpu().numpy())) - (x[..., None] > kinks).to(x) @ jumps

    def curvature(x: Tensor) -> Tensor:
        step = DIFFERENCE * torch.clamp(torch.abs(x), min=1.0)
        return torch.relu((slope(x + step) - slope(x - step)) / (2 * step))

    return Form(value, slope, curvature, kinks, jumps)


def _quadratics(knots: Tensor, pieces: Tensor) -> Form:
    """Pieces c_0 + c_1 x + c_2 x^2 / 2 between knots; what the slope jumps by at a knot is taken out of all that follow."""
    steps = torch.diff(pieces[:, 1]) + torch.diff(pieces[:, 2]) * knots
    before = torch.cat([steps.new_zeros(1), torch.cumsum(steps, 0)])
    heights = torch.cat([steps.new_zeros(1), torch.cumsum(steps * knots, 0)])
    c0, c1, c2 = pieces[:, 0] + heights, pieces[:, 1] - before, pieces[:, 2]

    def at(x: Tensor) -> Tensor:
        return torch.searchsorted(knots, x.contiguous())

    return Form(
        lambda x: c0[at(x)] + c1[at(x)] * x + c2[at(x)] * x**2 / 2,
        lambda x: c1[at(x)] + c2[at(x)] * x,
        lambda x: c2[at(x)],
        knots[steps != 0],
        steps[steps != 0],
    )


# --- methods ---


def _ridge(c: Tensor, A: Tensor, penalties: list[float]) -> Iterator[tuple[Tensor, float]]:
    r"""Minimisers of $\frac12 |c + A w|^2 + \frac\lambda2 |w|^2$ from $A = U S V^T$; penalty 0 is the one of least norm.

    Multipliers $a = U \frac{\lambda}{S^2 + \lambda} U^T c + (1 - U U^T) c$ certify it: the gap is
    $|c + A w - a|^2 / 2 + |\lambda w + A^T a|^2 / 2 \lambda$. Without a penalty a certificate is the part of a that A still sees.
    """
    Q, R = torch.linalg.qr(A)
    P, S, Vt = torch.linalg.svd(R, full_matrices=False)
    seen = P.T @ (Q.T @ c)
    rest = c - Q @ (P @ seen) if len(c) > len(S) else torch.zeros_like(c)
    there = S / S[0] > max(A.shape) * torch.finfo(A.dtype).eps
    for penalty in penalties:
        kept = there | (penalty > 0)
        inverse = torch.where(kept, S / torch.where(kept, S**2 + penalty, 1.0), 0.0)
        w = -Vt.T @ (inverse * seen)
        left = torch.where(kept, penalty / torch.where(kept, S**2 + penalty, 1.0), 1.0)
        a = Q @ (P @ (left * seen)) + rest
        apart, pull = torch.linalg.norm(c + A @ w - a), torch.linalg.norm(A.T @ a + penalty * w)
        if penalty > 0:
            height = float((c + A @ w).square().sum() + penalty * w @ w)
            yield w, float((apart**2 + pull**2 / penalty) / height) ** 0.5 if height > 0 else 0.0
        else:
            size = torch.linalg.norm(c)
            yield w, float((apart + pull / S[0]) / size) if size > 0 else 0.0


def newton(risk: Risk, w: Tensor) -> Tensor:
    """Newton's method with Cholesky factors and backtracking, from w, for a loss without kinks."""
    phi, A, penalty = risk.phi, risk.A, risk.penalty
    x = risk.c + A @ w
    height, last = risk.at(w, x), torch.inf
    best, least = w, torch.inf
    for _ in range(STEPS):
        gradient = A.T @ phi.slope(x) + penalty * w
        left = (risk.excess(gradient, x) / max(risk.size(w, x), 1e-300)) ** 0.5
        if left < least:
            best, least = w, left
        if left <= EXACT or (left > least / 2 and last - height <= ROUNDING * abs(height) and last < torch.inf):
            break
        factor, failed = torch.linalg.cholesky_ex(risk.hessian(phi.curvature(x)))
        if failed:
            break
        step = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        along, fall, length, last = A @ step, float(step @ gradient), 1.0, height
        for _ in range(HALVINGS):
            new, at = w + length * step, x + length * along
            height = risk.at(new, at)
            if height <= last + ARMIJO * length * fall + ROUNDING * abs(last):
                break
            length /= 2
        w, x = new, risk.c + A @ new
    return best


@dataclass(frozen=True)
class Point:
    """Weights w (r,), slopes u and v = j - u, and the distances p and m from both sides of the kinks, (n, kinks) each."""

    w: Tensor
    u: Tensor
    v: Tensor
    p: Tensor
    m: Tensor

    def moved(self, step: "Point", length: float) -> "Point":
        """The point a part of a step away."""
        return Point(*(getattr(self, f.name) + length * getattr(step, f.name) for f in fields(Point)))

    def reach(self, step: "Point") -> float:
        """The largest part of a step, below `FARTHEST`, that leaves u, v, p and m at least 0."""
        pairs = ((getattr(self, name), getattr(step, name)) for name in "uvpm")
        return min(float(torch.where(d < 0, -a / d, FARTHEST).min()) for a, d in pairs)

    @property
    def gap(self) -> float:
        """The mean of p v and m u."""
        return float((self.p * self.v + self.m * self.u).mean()) / 2


def interior(risk: Risk) -> tuple[Tensor, float]:
    r"""The predictor-corrector method of Mehrotra for a loss with kinks, and the best certificate it reached.

    Perturbed conditions $p v = m u = \sigma\mu$; eliminating all but w leaves r equations, with the weights
    $s'' + \sum_k (p / v + m / u)^{-1}$.
    """
    above = risk.c[:, None] - risk.phi.kinks
    u, wide = risk.phi.jumps / 2 * torch.ones_like(above), (above.square() + 1).sqrt()
    at = Point(
        risk.A.new_zeros(risk.A.shape[1]), u, u, (wide + above).clamp(min=2e-3) / 2, (wide - above).clamp(min=2e-3) / 2
    )
    best, least, fruitless = at.w, torch.inf, 0
    for _ in range(POINTS):
        left = risk.certificate(at.w, at.u)
        fruitless = 0 if left < least else fruitless + 1
        best, least = min((best, least), (at.w, left), key=_second)
        if left < NEAR:
            best, least = min((best, least), vertex(risk, at), key=_second)
        if least <= CLOSE or (least <= NEAR and fruitless > PATIENCE):
            break
        step = _step(risk, at)
        if step is None:
            break
        at = at.moved(step, min(1.0, TO_WALL * at.reach(step)))
    return best, least


def _step(risk: Risk, at: Point) -> Point | None:
    """Mehrotra's step; None where rounding has made its equations singular."""
    phi, A = risk.phi, risk.A
    u, v, p, m = at.u, at.v, at.p, at.m
    x = risk.c + A @ at.w
    gradient = A.T @ (phi.slope(x) + u.sum(dim=1)) + risk.penalty * at.w
    missed = x[:, None] - phi.kinks - p + m
    D = 1 / (p / v + m / u)
    factor, failed = torch.linalg.cholesky_ex(risk.hessian(phi.curvature(x) + D.sum(dim=1)))
    if failed:
        return None

    def towards(above: Tensor, below: Tensor) -> Point:
        """Newton's step that changes p v and m u by these, in first order."""
        constant = D * (missed - above / v + below / u)
        dw = -torch.cholesky_solve((gradient + A.T @ constant.sum(dim=1))[:, None], factor)[:, 0]
        du = D * (A @ dw)[:, None] + constant
        return Point(dw, du, -du, (above + p * du) / v, (below - m * du) / u)

    straight = towards(-p * v, -m * u)
    length = min(1.0, at.reach(straight))
    centre = (at.moved(straight, length).gap / at.gap) ** 3 * at.gap
    bend = length**2 * straight.u  # of a step that may not be taken in full, else the method may cycle
    return towards(centre - p * v + straight.p * bend, centre - m * u - straight.m * bend)


def vertex(risk: Risk, at: Point) -> tuple[Tensor, float]:
    r"""The minimiser with what lies near a kink exactly on it, and all else on its side, and its certificate.

    Newton's steps $H\, dw + B^T du = -g$, $x + B\, dw = k$ with the rows B of A whose kinks are held. Free of the large weights
    of an interior point, they end at rounding; infinity where the rows are dependent.
    """
    phi, A, w = risk.phi, risk.A, at.w
    held = torch.maximum(at.p, at.m) < torch.minimum(at.u, at.v)
    x = risk.c + A @ w
    u = torch.where(held, at.u, torch.where(at.p > at.m, phi.jumps, 0.0))
    rows, columns = torch.nonzero(held, as_tuple=True)
    B = A[rows]
    if len(B) > A.shape[1]:
        return w, torch.inf
    factor, failed = torch.linalg.cholesky_ex(risk.hessian(phi.curvature(x)))
    across = torch.cholesky_solve(B.T, factor)
    inner, failed_too = torch.linalg.cholesky_ex(B @ across)
    if failed or failed_too:
        return w, torch.inf
    for _ in range(2):  # the second step removes the rounding of the first, and what a curved s leaves
        gradient = A.T @ (phi.slope(x) + u.sum(dim=1)) + risk.penalty * w
        free = torch.cholesky_solve(gradient[:, None], factor)
        du = torch.cholesky_solve((x[rows] - phi.kinks[columns])[:, None] - B @ free, inner)
        u[rows, columns] += du[:, 0]
        w = w - (free + across @ du)[:, 0]
        x = risk.c + A @ w
    return w, risk.certificate(w, u)


def _second(pair: tuple[Tensor, float]) -> float:
    return pair[1]
