r"""The limit of no penalty, $\lambda \to 0^+$: of all minimisers of $F_0(w) = \sum_\mu \phi(c + A w)_\mu$ that of least norm.

Where samples can be fitted at no cost only their geometry matters: the least norm with all residuals c + A w = 0, or with all
margins A w >= 1 (the largest margin; the hinge losses), while the logistic loss has no minimum. Elsewhere the minimum is

* of a smooth loss, where Newton's method ends without a penalty;
* of a piecewise linear one, a corner: as many samples on kinks as there are weights, and slopes $0 \le u \le j$ there with
  $A^T (s' + u) = 0$.

Which samples lie on kinks is read off the minimiser at a faint penalty, for it is the same below some penalty (Mangasarian and
Meyer, 1979). What is found is certified by itself, so that nothing rests on how faint that was.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gaussequiv.maths.losses import LOSSES, Logistic, Loss, Quadratics
from gaussequiv.simulation.minimisers import Form, Risk, form, interior, newton, path

FAINT = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)  # penalties, in units of curvature of the samples, that lead to none
FOUND = 1e-10  # certificate at which a limit is found
FITTED = 1e-12  # part of the labels that may be left of residuals which are zero
ON_KINK = 1e-9  # relative distance from a kink at which a sample lies on it


def known(loss: Loss) -> bool:
    """Whether the limit of no penalty is known: for quadratic functions and for the losses with a name."""
    named = LOSSES.get(loss.name)
    if isinstance(loss, Quadratics):
        same = isinstance(named, Quadratics) and (loss.of, loss.knots, loss.pieces) == (
            named.of,
            named.knots,
            named.pieces,
        )
        return same or not loss.knots
    return isinstance(loss, Logistic)


def limit(loss: Loss, c: Tensor, A: Tensor) -> tuple[Tensor, float]:
    r"""The minimiser w, (r,), of least norm of a loss that is `known`, and its certificate; (NaN, infinity) where there is none.

    Certificates are relative, and zero at the limit: the misfit of an interpolation; of a largest margin w, with multipliers
    $\mu \ge 0$, its duality gap $|w - A^T \mu|^2 / 2 + \mu \cdot (A w - 1)$; without a fit Newton's estimate of the root of
    $(F_0 - \min F_0) / F_0$, and of corners $[(j - u) (x - k)_+ + u (k - x)_+] / F_0$ and the gradient's part of its terms.
    """
    if isinstance(loss, Quadratics) and not loss.knots:
        return next(path(loss, c, A, [0.0]))
    _, S, Vt = torch.linalg.svd(A, full_matrices=False)
    V = Vt[S / S[0] > max(A.shape) * torch.finfo(A.dtype).eps].T
    w, left = (_residuals if loss.of == "residual" else _margins)(loss, c, A @ V, float(S[0] ** 2))
    return V @ w, left


def _residuals(loss: Loss, c: Tensor, A: Tensor, scale: float) -> tuple[Tensor, float]:
    """An interpolation, or a minimum."""
    w, left = next(path(LOSSES["square"], c, A, [0.0]))
    if torch.linalg.norm(c + A @ w) <= FITTED * torch.linalg.norm(c):
        return w, left
    phi = form(loss, A)
    if not len(phi.kinks):
        return _smooth(phi, c, A, scale)
    return _best(_corner(phi, c, A, w) for w in _faint(phi, c, A, scale / float(c.abs().max())))


def _margins(loss: Loss, c: Tensor, A: Tensor, scale: float) -> tuple[Tensor, float]:
    """The largest margin of samples that are separable, or a minimum; none of the logistic loss where they are."""
    hinge = form(LOSSES["hinge"], A)
    for w in _faint(hinge, c, A, scale):
        widest, gap = _widest(A, w)
        if gap <= FOUND:
            return (torch.full_like(w, torch.nan), torch.inf) if isinstance(loss, Logistic) else (widest, gap)
        lowest, left = _corner(hinge, c, A, w)
        if left <= FOUND:
            return (lowest, left) if loss.name == "hinge" else _smooth(form(loss, A), c, A, scale)
    return A.new_zeros(A.shape[1]), 1.0


def _faint(phi: Form, c: Tensor, A: Tensor, scale: float) -> Iterator[Tensor]:
    """Minimisers with kinks at ever fainter penalties."""
    for penalty in FAINT:
        yield interior(Risk(phi, c, A, penalty * scale))[0]


def _best(found: Iterator[tuple[Tensor, float]]) -> tuple[Tensor, float]:
    """The first that is found, or else the one with the best certificate."""
    tried: list[tuple[Tensor, float]] = []
    for w, left in found:
        tried.append((w, left))
        if left <= FOUND:
            break
    return min(tried, key=lambda pair: pair[1])


def _smooth(phi: Form, c: Tensor, A: Tensor, scale: float) -> tuple[Tensor, float]:
    """Newton's method without a penalty, from the minima of ever fainter ones."""

    def lower() -> Iterator[tuple[Tensor, float]]:
        w, bare = A.new_zeros(A.shape[1]), Risk(phi, c, A, 0.0)
        for penalty in FAINT:
            w = newton(Risk(phi, c, A, penalty * scale), w)
            last = newton(bare, w)
            yield last, min(bare.certificate(last), 1.0)

    return _best(lower())


def _widest(A: Tensor, w: Tensor) -> tuple[Tensor, float]:
    """The least norm with the samples of margin 1 held there, and its duality gap; 1 if it does not separate the others."""
    margins = A @ w
    if margins.min() < 1 - ON_KINK:
        return w, 1.0
    B = A[margins <= 1 + ON_KINK]
    P = torch.linalg.pinv(B)
    w = P.sum(dim=1)
    w = w + P @ (1 - B @ w)
    feasible, mu = w / (A @ w).min(), torch.relu(P.T @ w)
    gap = (feasible - B.T @ mu).square().sum() / 2 + mu @ (B @ feasible - 1)
    return w, float(2 * gap / feasible.square().sum())


def _corner(phi: Form, c: Tensor, A: Tensor, w: Tensor) -> tuple[Tensor, float]:
    """The weights that put the samples near kinks on them, with slopes there that cancel the others', and their certificate."""
    above = (c + A @ w)[:, None] - phi.kinks
    size = max(float(c.abs().max()), float(phi.kinks.abs().max()))
    rows, columns = torch.nonzero(above.abs() <= ON_KINK * size, as_tuple=True)
    B, u = A[rows], torch.where(above > 0, phi.jumps, 0.0)
    P = torch.linalg.pinv(B)
    w = P @ (phi.kinks[columns] - c[rows])
    u[rows, columns] = phi.jumps[columns] / 2
    for _ in range(2):  # the second time removes the rounding of the first
        w = w + P @ (phi.kinks[columns] - c[rows] - B @ w)
        u[rows, columns] -= P.T @ (A.T @ (phi.slope(c + A @ w) + u.sum(dim=1)))
    u = u.clamp(min=0.0).minimum(phi.jumps)
    x = c + A @ w
    above, slopes, height = x[:, None] - phi.kinks, phi.slope(x) + u.sum(dim=1), float(phi(x).sum())
    slack = float(((phi.jumps - u) * torch.relu(above) + u * torch.relu(-above)).sum())
    terms = float(torch.linalg.norm(A, dim=1) @ slopes.abs())
    if height <= 0 or terms == 0:
        return w, 1.0
    return w, min(1.0, slack / height + float(torch.linalg.norm(A.T @ slopes)) / terms)
