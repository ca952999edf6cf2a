r"""Full-batch learning of a generalised linear model: the fixed point of three order parameters.

With V the stiffness of the proximal map, $q = w^T \Omega w / N$, $m = E[\nu\, w \cdot x] / \sqrt N$ and the resolvent sums of
`maths.resolvents` at $\kappa = \lambda / \hat V$,

    V = A1 / V_hat       q = (q_hat A2 + m_hat^2 T2) / V_hat^2        m = m_hat T1 / V_hat
    V_hat = alpha E phi'' / (1 + V phi'')    q_hat = alpha E phi'(x)^2     m_hat = -alpha E' phi'(x)

(arXiv:2102.08127; theory of the averages in `maths.losses`). For residuals m_hat = V_hat, and the residual before the proximal
map has the variance miss + q_hat A2 / V_hat^2: two unknowns. The square loss is one scalar equation.
$|w|^2 / N = (\hat q B + \hat m^2 D) / (\lambda \hat V)$.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from gaussequiv.maths.averages import Array
from gaussequiv.maths.losses import LOSSES, Labels, LogitLabels, Loss, Quadratics, SignLabels
from gaussequiv.maths.resolvents import Resolvents

Output = Literal["linear", "sign", "logit"]  # a probit is a sign with noise of variance one more
STEP = 1e-6  # of finite differences in logarithms
COARSE, ROUGH = 0.4, 1e-5  # part of the usual number of nodes for a first solution, and its residual
LAST = 1e-11  # relative Newton step in log kappa after which the next would be rounding
ENOUGH = 1e-13  # residual at which a point has converged
SAME = 1e-11  # residual, with twice the nodes, at which they are enough
MISSED = 1e-9  # residual beyond which a point has not been found
DECADES = 14  # of the penalty above its own from which such a point is followed
FINEST = 16  # times the usual number of nodes, at most
NOTHING = 1e-40  # V_hat / lambda that is as good as none: all samples are on one linear piece of the loss
LARGEST = 3.0  # longest Newton step in logarithms
TRIES = 80  # Newton steps
HALVINGS = 25
UNSEEN = 1e-300  # angle that stands for a field of which the inputs see nothing
PLAIN = 5  # iterations of the map in the place of a Newton step that lowers nothing


@dataclass(frozen=True)
class FixedPoint:
    """Order parameters and errors of every point, |w|^2 / N, and the residual of its equations, (points,) each."""

    V: Array
    q: Array
    m: Array
    norm: Array
    test_error: Array
    train_loss: Array
    train_error: Array
    residual: Array


def square(sums: Resolvents, output: Output, alpha: Array, penalty: Array) -> FixedPoint:
    r"""Ridge regression in closed form, on real labels or on signs: $\lambda / \kappa + A1(\kappa) = \alpha$."""
    kappa = _ridge(sums, alpha, penalty)
    s = sums(kappa)
    slope = 1.0 if output == "linear" else _slope(sums, output)
    spare = (
        0.0 if output == "linear" else 1 - slope**2 * sums.total
    )  # variance of labels that is not linear in the field
    weight = penalty / kappa
    error = alpha * (spare + slope**2 * s.miss) / (weight + s.B)  # E (y - y_hat)^2
    q = slope**2 * s.T2 + error * s.A2 / alpha
    m = slope * s.T1
    V = kappa * s.A1 / penalty
    if output == "linear":
        test, train = error, error * (weight / alpha) ** 2
    else:
        excess = slope**2 * s.gap + sums.total * error * s.A2 / alpha  # q rho - m^2
        labels = _labels(sums, output, np.arcsinh(m / np.sqrt(excess)))
        test, train = labels.error(), LOSSES["square"].margin().mistakes(V, np.sqrt(q), labels)
    return FixedPoint(
        V=V,
        q=q,
        m=m,
        norm=(error / alpha * s.B + slope**2 * s.D) / kappa,
        test_error=test,
        train_loss=error / 2 * (weight / alpha) ** 2,
        train_error=train,
        residual=np.abs(weight + s.A1 - alpha) / alpha,
    )


def _labels(sums: Resolvents, output: Output, angle: Array) -> Labels:
    """Labels given the student's field, whose correlation with the teacher's is tanh(angle)."""
    angle = np.where(angle == 0, UNSEEN, angle)
    speed = np.tanh(angle) * np.sqrt(sums.total)
    if output == "logit":
        return LogitLabels(speed, np.sqrt(sums.total) / np.cosh(angle))
    return SignLabels(speed, np.sinh(angle))


def _slope(sums: Resolvents, output: Output) -> float:
    r"""$E[y \nu] / \rho$ of labels +1 and -1."""
    if output == "logit":
        return float(LogitLabels(np.zeros(1), np.array([np.sqrt(sums.total)])).tilt(np.zeros((1, 1)))[0, 0])
    return float(np.sqrt(2 / (np.pi * sums.total)))


def _ridge(sums: Resolvents, alpha: Array, penalty: Array) -> Array:
    """The kappa of every point, by Newton's method in logarithms on both sides, between bounds that bisect where it leaves them.

    So it is exact at once where kappa lies outside the spectrum.
    """
    low = np.log(penalty / alpha)
    high = np.log((penalty + sums.mean) / alpha)
    x, active = high.copy(), np.arange(len(alpha))
    for _ in range(200):
        here = x[active]
        s, weight = sums(np.exp(here)), penalty[active] / np.exp(here)
        value = weight + s.A1
        above = value > alpha[active]
        low[active], high[active] = np.where(above, here, low[active]), np.where(above, high[active], here)
        step = np.log(value / alpha[active]) * value / (weight + s.B)
        new, left, right = here + step, low[active], high[active]
        close = np.abs(step) <= LAST * np.maximum(1.0, np.abs(here))
        x[active] = np.where(close | ((new > left) & (new < right)), new, (left + right) / 2)
        active = active[~close]
        if not active.size:
            break
    return np.exp(x)


def solve(
    loss: Loss, sums: Resolvents, output: Output, alpha: Array, penalty: Array, *, rough: bool = False
) -> FixedPoint:
    """The fixed point for every pair of sample complexity and penalty, (points,) each; `rough`, to some four digits.

    Points that Newton's method misses from the closed form of ridge regression are followed down from large penalties.
    """
    if isinstance(loss, Quadratics) and loss.name == "square":
        return square(sums, output, alpha, penalty)
    if output != "linear":
        loss = loss.margin()

    def once(here: Any, penalty: Array, start: FixedPoint | None) -> FixedPoint:
        start = start or square(sums, output, alpha[here], penalty)
        if output == "linear":
            return _residuals(loss, sums, alpha[here], penalty, start, rough=rough)
        return _margins(loss, sums, output, alpha[here], penalty, start, rough=rough)

    found = once(slice(None), penalty, None)
    lost = np.flatnonzero(~(found.residual <= MISSED))
    if rough or not len(lost):
        return found
    easier: FixedPoint | None = None
    for factor in 10.0 ** np.arange(DECADES, -1, -1):
        closed = square(sums, output, alpha[lost], factor * penalty[lost])
        easier = once(lost, factor * penalty[lost], closed if easier is None else _chosen(easier, closed))
    return _put(found, lost, easier)


def _chosen(found: FixedPoint, other: FixedPoint) -> FixedPoint:
    """Points that were found, and the others where they were not."""
    good = found.residual <= MISSED
    return FixedPoint(*(np.where(good, getattr(found, f.name), getattr(other, f.name)) for f in fields(FixedPoint)))


def _put(found: FixedPoint, here: Any, others: FixedPoint | None) -> FixedPoint:
    """The points with some of them replaced."""
    columns = []
    for f in fields(FixedPoint):
        column = getattr(found, f.name).copy()
        column[here] = getattr(others, f.name)
        columns.append(column)
    return FixedPoint(*columns)


def _residuals(
    loss: Loss, sums: Resolvents, alpha: Array, penalty: Array, start: FixedPoint, *, rough: bool = False
) -> FixedPoint:
    """Real labels: log V and the logarithm of the residual's scale."""

    def averages(index: Any, u: Array, refined: float) -> tuple[Array, ...]:
        found = loss.averages(np.exp(u[:, 0]), np.exp(u[:, 1]), None, refined)
        V_hat, q_hat = np.fmax(alpha[index] * found.curvature, NOTHING * penalty[index]), alpha[index] * found.square
        return V_hat, q_hat, found.value, found.spread

    def equations(index: Any, u: Array, refined: float) -> Array:
        V_hat, q_hat, _, _ = averages(index, u, refined)
        s = sums(penalty[index] / V_hat)
        scale = np.log(s.miss + q_hat * s.A2 / V_hat**2) / 2
        return np.stack([np.log(s.A1 / V_hat), scale], axis=1) - u

    u, residual, refined = refined_newton(
        equations, np.stack([np.log(start.V), np.log(start.test_error) / 2], axis=1), rough=rough
    )
    V_hat, q_hat, value, spread = _with_nodes(averages, u, refined)
    s = sums(penalty / V_hat)
    noise = q_hat * s.A2 / V_hat**2
    norm = (q_hat / V_hat * s.B + V_hat * s.D) / penalty
    return FixedPoint(np.exp(u[:, 0]), s.T2 + noise, s.T1, norm, s.miss + noise, value, spread, residual)


def _margins(
    loss: Loss,
    sums: Resolvents,
    output: Output,
    alpha: Array,
    penalty: Array,
    start: FixedPoint,
    *,
    rough: bool = False,
) -> FixedPoint:
    """Labels +1 and -1: log V, log q and the inverse hyperbolic sine of the labels' steepness m / sqrt(q rho - m^2)."""

    def averages(index: Any, u: Array, refined: float) -> tuple[Array, ...]:
        found = loss.averages(np.exp(u[:, 0]), np.exp(u[:, 1] / 2), _labels(sums, output, u[:, 2]), refined)
        V_hat, q_hat, m_hat = (alpha[index] * x for x in (found.curvature, found.square, found.pull))
        return np.fmax(V_hat, NOTHING * penalty[index]), q_hat, m_hat, found.value

    def equations(index: Any, u: Array, refined: float) -> Array:
        V_hat, q_hat, m_hat, _ = averages(index, u, refined)
        s = sums(penalty[index] / V_hat)
        steepness = m_hat * s.T1 / np.sqrt(sums.total * q_hat * s.A2 + m_hat**2 * s.gap)
        q = (q_hat * s.A2 + m_hat**2 * s.T2) / V_hat**2
        return np.stack([np.log(s.A1 / V_hat), np.log(q), np.arcsinh(steepness)], axis=1) - u

    eta = start.m / np.sqrt(np.maximum(start.q * sums.total - start.m**2, 1e-12))
    u, residual, refined = refined_newton(
        equations, np.stack([np.log(start.V), np.log(start.q), np.arcsinh(eta)], axis=1), rough=rough
    )
    V_hat, q_hat, m_hat, value = _with_nodes(averages, u, refined)
    s = sums(penalty / V_hat)
    V, q, labels = np.exp(u[:, 0]), np.exp(u[:, 1]), _labels(sums, output, u[:, 2])
    m = np.tanh(u[:, 2]) * np.sqrt(q * sums.total)
    norm = (q_hat * s.B + m_hat**2 * s.D) / (V_hat * penalty)
    train = loss.mistakes(V, np.sqrt(q), labels)
    return FixedPoint(V, q, m, norm, labels.error(), value, train, residual)


def _with_nodes(averages: Callable[[Any, Array, float], tuple[Array, ...]], u: Array, refined: Array) -> list[Array]:
    """The averages of every point with its own number of nodes, (points,) each."""
    found: Any = [np.empty(len(u)) for _ in range(4)]
    for nodes in np.unique(refined):
        here = np.flatnonzero(refined == nodes)
        for column, values in zip(found, averages(here, u[here], float(nodes)), strict=True):
            column[here] = values
    return list(found)


def refined_newton(
    equations: Callable[[Any, Array, float], Array], u: Array, *, rough: bool = False
) -> tuple[Array, Array, Array]:
    """The solution of every point with as many nodes as it takes for twice as many to see no difference.

    A first solution with few nodes is a good start for one with the usual number, and its Jacobian is good enough for it.
    `rough` stops at the first.

    Returns:
        The unknowns (points, n), the largest residual of each point, and how many times the usual number of nodes saw it.

    """

    def at(here: Any, nodes: float) -> Callable[[Any, Array], Array]:
        return lambda index, x: equations(here[index], x, nodes)

    everywhere: Any = np.arange(len(u))
    first, left = newton(at(everywhere, COARSE), u, enough=ROUGH, tries=TRIES // 4)
    if rough:
        return first, left, np.full(len(u), COARSE)
    u = np.where((left <= ROUGH)[:, None], first, u)
    u, left = newton(at(everywhere, 1), u, jacobian=at(everywhere, COARSE), tries=TRIES // 8)
    residual, active, refined, nodes = np.full(len(u), np.inf), everywhere, 1, np.full(len(u), 2.0)
    while active.size and refined < FINEST:
        here = active
        if refined > 1 or (left > ENOUGH).any():
            u[here], left = newton(at(here, refined), u[here])
        with np.errstate(all="ignore"):
            residual[here] = np.fmax(left, np.abs(equations(here, u[here], 2 * refined)).max(axis=1))
        nodes[here] = 2 * refined
        active, refined = here[(residual[here] > SAME) & (left <= SAME)], 2 * refined
    return u, residual, nodes


def newton(
    equations: Callable[[Any, Array], Array],
    u: Array,
    *,
    jacobian: Callable[[Any, Array], Array] | None = None,
    enough: float = ENOUGH,
    tries: int = TRIES,
) -> tuple[Array, Array]:
    """Newton's method for many small systems at once, each with its own backtracking on the size of its residual.

    Args:
        equations: (indices of points, their unknowns (points, n)) -> residuals (points, n).
        u: where to start, (points, n).
        jacobian: equations whose derivatives are to be taken in the place of those of `equations`.
        enough: the size of a residual at which a point is left.
        tries: steps at most.

    Returns:
        The unknowns and the largest residual of each point.

    """
    u, moving = u.copy(), jacobian or equations
    count, n = u.shape
    F = np.full((count, n), np.inf)
    with np.errstate(all="ignore"):
        F[:] = equations(np.arange(count), u)
        active = np.arange(count)
        for _ in range(tries):
            size = np.linalg.norm(F, axis=1)
            active = active[~(size[active] <= enough)]
            if not active.size:
                break
            J = np.empty((len(active), n, n))
            base = F[active] if jacobian is None else moving(active, u[active])
            for j in range(n):
                moved = u[active] + STEP * (np.arange(n) == j)
                J[:, :, j] = (moving(active, moved) - base) / STEP
            good = np.isfinite(J).all(axis=(1, 2)) & (np.abs(np.linalg.det(np.where(np.isfinite(J), J, 0.0))) > 0)
            J[~good] = -np.eye(n)
            step = -np.linalg.solve(J, F[active][..., None])[..., 0]
            step *= np.minimum(1.0, LARGEST / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]
            scale, left, moved_any = np.ones(len(active)), np.arange(len(active)), np.zeros(len(active), dtype=bool)
            for _ in range(HALVINGS):
                trial = u[active[left]] + scale[left, None] * step[left]
                new = equations(active[left], trial)
                better = np.linalg.norm(new, axis=1) <= size[active[left]] * (1 - 1e-4 * scale[left])
                there = active[left[better]]
                u[there], F[there], moved_any[left[better]] = trial[better], new[better], True
                left = left[~better]
                if not left.size:
                    break
                scale[left] /= 2
            stuck = active[~moved_any]
            active = np.concatenate([active[moved_any], stuck[size[stuck] > SAME]])  # the others have reached rounding
            for _ in range(PLAIN if stuck.size else 0):  # the map itself contracts where Newton's steps lead nowhere
                u[stuck] += np.where(np.isfinite(F[stuck]), F[stuck], 0.0)
                F[stuck] = equations(stuck, u[stuck])
    return u, np.abs(F).max(axis=1)
