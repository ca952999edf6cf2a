r"""Full-batch learning curves: grids of sample complexity and penalty, the best penalty, and the limit of none.

The fixed points are those of `theory.fixed_points`. As $\lambda \to 0^+$ they have limits that depend on two thresholds:
below $\alpha = \mathrm{rank}\, \Omega / N$ a linear model interpolates any real labels; below $\alpha_c$ labels +1 and -1 are
linearly separable, and a loss without a minimum, such as the logistic one, is minimised at infinity (Candès and Sur, 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from gaussequiv.errors import InputError, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import GRADES, LOSSES, Labels, LogitLabels, SignLabels, density, panels
from gaussequiv.maths.solvers import Status
from gaussequiv.models.batch import FullBatch, Kernel, checked_grid
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.teachers import MeasuredTeacher
from gaussequiv.theory.fixed_points import MISSED, FixedPoint, Output, solve

NONE = 1e-20  # penalty, relative to the smallest eigenvalue, that is as good as none where the minimum is unique;
CLOSED = 1e-40  # of the square loss, down to the closest distance from its threshold
FAINT = 1e-11  # relative to the largest one, where it is not, and the penalty chooses: the margin of separable labels,
STIFF = 1e8  # if V is so large beside the outputs then; otherwise the penalty is lowered
SMALLEST = 1e-300  # penalty
NEAR = 1e-9  # relative distance from a threshold at which there is no answer
RANGE, PER_DECADE = (1e-9, 1e6), 2  # where the best penalty is looked for, relative to the mean eigenvalue
REFINEMENTS = ((1.3, 13), (0.1, 7), (1e-3, 3))  # reach in log penalty and nodes of the polynomials that find it
FINE = np.linspace(-1.0, 1.0, 2001)  # where a polynomial is searched
BLOCK = 256  # points that are solved together: they stay in the processor's cache

Problem = FullBatch | Kernel


class Thresholds(NamedTuple):
    r"""Sample complexities (numbers of samples, for a kernel) at which learning without a penalty changes its nature.

    `interpolation` = rank / N, up to which real labels are interpolated; `separability`, up to which labels +1 and -1 are
    linearly separable: infinite for a noiseless teacher that is linear in the inputs, NaN for real labels.
    """

    interpolation: float
    separability: float


@dataclass(frozen=True)
class Points:
    """Fixed points with their statuses, and the reason of each that is not ok."""

    found: FixedPoint
    status: np.ndarray[Any, np.dtype[Any]]
    reasons: dict[int, str]


def predict(problem: Problem, grid: Any, penalty: Any = None, progress: Callable[[float], Any] | None = None) -> Curve:
    """The curve of a problem over sample complexities (a kernel: numbers of samples) and penalties.

    Args:
        problem: a `FullBatch` or a `Kernel`.
        grid: alpha = n / N, or n for a kernel; increasing.
        penalty: a number, increasing numbers, or "optimal"; that of the problem if left out.
        progress: called with the part of the points that is done.

    Raises:
        InputError: a grid that is not one, or no penalty at all.

    """
    alpha = checked_grid(problem.axis, grid, positive=True)
    wanted = problem.penalty if penalty is None else penalty
    if wanted is None:
        raise InputError("no penalty: pass penalty=0.01, a grid of them or 'optimal', to the problem or to predict")
    warnings = _measured(problem)
    if isinstance(wanted, str):
        if wanted != "optimal":
            raise InputError(f"penalty={wanted!r}; expected a number, increasing numbers, or 'optimal'")
        best, points = _best(problem, alpha, warnings, progress)
        axes: dict[str, Any] = {problem.axis: alpha}
        shape: tuple[int, ...] = (len(alpha),)
        more = {"penalty": best}
    else:
        scalar = np.ndim(wanted) == 0
        penalties = checked_grid("penalty", [number("penalty", wanted)] if scalar else wanted, positive=False)
        axes = {problem.axis: alpha, "penalty": penalties[0] if scalar else penalties}
        shape, more = (len(alpha),) if scalar else (len(alpha), len(penalties)), {}
        points = _solved(problem, np.repeat(alpha, len(penalties)), np.tile(penalties, len(alpha)), progress)
    variables = {f.name: getattr(points.found, f.name).reshape(shape) for f in fields(FixedPoint)}
    exact = isinstance(problem, Kernel) or not (
        getattr(problem.model, "standard_errors", None) or getattr(problem.teacher, "standard_error", None) is not None
    )
    variables["test_error_se"] = np.where(np.isfinite(variables["test_error"]), 0.0 if exact else np.nan, np.nan)
    reasons = {",".join(map(str, np.unravel_index(i, shape))): text for i, text in points.reasons.items()}
    provenance = {
        "kind": "theory",
        "problem": problem.describe(),
        "thresholds": {k: v for k, v in thresholds(problem)._asdict().items() if np.isfinite(v)},
        "reasons": reasons,
        "warnings": warnings,
    }
    return Curve.on_grid(axes, variables | more, points.status.reshape(shape), provenance)


def thresholds(problem: Problem) -> Thresholds:
    r"""Where real labels cease to be interpolated, and labels +1 and -1 to be linearly separable.

    Separable below $\alpha_c = (\mathrm{rank} / N) / \min_t E (Z - t\, y u)_+^2$ with standard normal Z and u, the field along
    the direction in which the inputs see the teacher (Candès and Sur, arXiv:1804.09753; at random labels Cover's 2 rank / N).
    """
    sums, output = problem.resolvents, problem.output
    if output == "linear":
        return Thresholds(sums.rank, np.nan)
    if sums.unseen == 0 and output != "logit":
        return Thresholds(sums.rank, np.inf)
    return Thresholds(sums.rank, sums.rank / _least_hinge(sums.seen, sums.unseen, output == "logit"))


@lru_cache(maxsize=256)
def _least_hinge(seen: float, unseen: float, logit: bool) -> float:
    r"""$\min_t E (Z - t\, y u)_+^2$ of labels of a field that has the variance `seen` along u and `unseen` beside it."""
    speed, spread = np.array([np.sqrt(seen)]), np.array([np.sqrt(unseen)])
    labels: Labels = LogitLabels(speed, spread) if logit else SignLabels(speed, speed / spread)
    grades = np.array([*(-x for x in GRADES), *GRADES])

    def hinge(log_t: float) -> float:
        t = np.exp(log_t)
        u, weights = panels(labels, [np.array([[x / t]]) for x in grades], 2)
        a = t * u
        return float(np.sum(weights * labels.weight(u) * ((1 + a**2) * ndtr(-a) - a * density(a))))

    steep = float(labels.steepness[0])  # the best t is of its order
    bounds = np.log(1e-3 * min(steep, 1.0) + 1e-9), np.log(1e3 * max(steep, 1.0))
    found = minimize_scalar(hinge, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return min(float(found.fun), 0.5)


def _measured(problem: Problem) -> list[str]:
    """What to know of a teacher that is known by its moments: what is left of it as noise, and how well it was measured."""
    if not (isinstance(problem, FullBatch) and isinstance(problem.teacher, MeasuredTeacher)):
        return []
    sums, teacher = problem.resolvents, problem.teacher
    text = f"{problem.unlearnable:.1%} of the variance of the labels is not linear in the inputs and counts as noise"
    if teacher.standard_error is not None and isinstance(problem.model, GaussianModel):
        omega, E = problem.model.eigenmodes
        variance = (E.T**2 @ teacher.standard_error**2)[sums.omega > 0] / omega[sums.omega > 0]
        text += f"; sampling alone makes about {variance.sum() / sums.rho:.1%} of that variance look linear"
    if problem.too_much > 5e-4:  # a share that is seen
        text += f", and its covariances, which seem to explain {problem.too_much:.1%} too much, count as explaining all of it"
    return [text]


def _solved(problem: Problem, alpha: Array, penalty: Array, progress: Callable[[float], Any] | None = None) -> Points:
    """Fixed points at pairs of alpha and penalty, (points,) each, with NaN and a reason where there is none."""
    values = np.full((len(fields(FixedPoint)), len(alpha)), np.nan)
    status = np.full(len(alpha), Status.OK, dtype=object)
    reasons: dict[int, str] = {}
    for start in range(0, len(alpha), BLOCK):
        at = slice(start, start + BLOCK)
        values[:, at] = _at(problem, alpha[at], penalty[at])
        if progress is not None:
            progress(min(1.0, (start + BLOCK) / len(alpha)))
    lost = ~(values[-1] <= MISSED) | ~np.isfinite(values[4])
    for i in np.flatnonzero(lost):
        status[i], reasons[int(i)] = (
            Status.NOT_CONVERGED,
            (
                f"the equations of its fixed point are left with a residual of {values[-1, i]:.1e}; ask for a larger penalty"
            ),
        )
    values[:-1, lost] = np.nan
    for i in np.flatnonzero(penalty == 0):
        _limit(problem, int(i), float(alpha[i]), values, status, reasons)
    return Points(FixedPoint(*values), status, reasons)


def _output(problem: Problem) -> Output:
    """A probit is a sign with more noise, which the spectrum holds."""
    return "sign" if problem.output == "probit" else problem.output


def _at(problem: Problem, alpha: Array, penalty: Array, *, rough: bool = False) -> Array:
    """All values of fixed points, (values, points); a penalty 0 as one that is as good as none."""
    sums = problem.resolvents
    penalty = np.where(penalty > 0, penalty, _faintest(problem, alpha))
    found = solve(problem.learned, sums, _output(problem), alpha, penalty, rough=rough)
    return np.stack([getattr(found, f.name) for f in fields(FixedPoint)])


def _faintest(problem: Problem, alpha: Array) -> Array:
    """A penalty that is as good as none."""
    sums, closed = problem.resolvents, problem.learned.name == "square"
    least = np.full(len(alpha), max((CLOSED if closed else NONE) * sums.least, SMALLEST))
    if problem.output == "linear" or closed:
        return least
    return np.where(alpha < thresholds(problem).separability, FAINT * float(sums.omega.max()), least)


def _limit(
    problem: Problem,
    i: int,
    alpha: float,
    values: Array,
    status: np.ndarray[Any, np.dtype[Any]],
    reasons: dict[int, str],
) -> None:
    """What becomes of point i as its penalty vanishes."""
    loss, (interpolation, separability) = problem.learned, thresholds(problem)
    at = f"{'n' if problem.axis == 'samples' else 'alpha'} = {alpha:.4g}"
    bad: tuple[Status, str] | None = None
    if isinstance(loss, Convex):
        bad = Status.UNDEFINED, "the limit of no penalty is known for the losses with a name only; ask for a small one"
    elif problem.output == "linear" or loss.of == "residual":
        if abs(alpha / interpolation - 1) <= NEAR:
            bad = (
                Status.DIVERGED,
                (
                    f"{at} is the interpolation threshold rank / N, where the norm diverges as the penalty vanishes; "
                    "ask for a positive penalty"
                ),
            )
        elif alpha < interpolation:
            sums, output = problem.resolvents, _output(problem)
            faint = np.array([max(CLOSED * sums.least, SMALLEST)])
            found = solve(LOSSES["square"], sums, output, np.array([alpha]), faint)
            values[:, i] = [getattr(found, f.name)[0] for f in fields(FixedPoint)]
            status[i] = Status.OK
            reasons.pop(i, None)
            values[_index("V"), i] = np.inf
            values[[_index("train_loss"), _index("train_error")], i] = 0.0
    elif abs(alpha / separability - 1) <= NEAR:
        bad = (
            Status.DIVERGED,
            (f"{at} is the threshold of linear separability, where the norm diverges as the penalty vanishes"),
        )
    elif alpha < separability and loss.name == "logistic":
        bad = (
            Status.DIVERGED,
            (
                f"{at} is below {separability:.4g}, the threshold of linear separability: the loss has no minimum and its norm "
                "diverges as the penalty vanishes; its direction becomes that of the hinge loss with penalty 0"
            ),
        )
    elif alpha < separability and status[i] == Status.OK and not _stiff(problem, i, alpha, values):
        bad = Status.NOT_CONVERGED, f"at {at} the limit of no penalty was not reached; ask for a small one"
    elif alpha < separability and status[i] == Status.OK:
        values[_index("V"), i] = np.inf
        values[[_index("train_loss"), _index("train_error")], i] = 0.0
    if bad is not None:
        status[i], reasons[i] = bad
        values[:, i] = np.nan


def _stiff(problem: Problem, i: int, alpha: float, values: Array) -> bool:
    """Whether point i is in the limit of a large V, by way of lower penalties: V falls with them as one over the penalty."""
    penalty = FAINT * float(problem.resolvents.omega.max())
    for _ in range(4):
        V, q = (float(values[_index(name), i]) for name in "Vq")
        stiffness = V / (1 + np.sqrt(q))  # one over the slack that the penalty leaves
        if stiffness >= STIFF:
            return True
        penalty *= min(0.1, 1e-1 * stiffness / STIFF)
        if not penalty >= SMALLEST:
            return False
        values[:, i] = _at(problem, np.array([alpha]), np.array([penalty]))[:, 0]
        if not values[-1, i] <= MISSED:
            return False
    return False


def _index(name: str) -> int:
    return [f.name for f in fields(FixedPoint)].index(name)


def _best(
    problem: Problem, alpha: Array, warnings: list[str], progress: Callable[[float], Any] | None
) -> tuple[Array, Points]:
    """The penalty of least test error at every alpha: a grid over decades, then ever finer polynomials."""
    sums = problem.resolvents
    grid = sums.mean * np.geomspace(*RANGE, round(PER_DECADE * np.log10(RANGE[1] / RANGE[0])) + 1)
    count = len(alpha)

    def errors(rows: Array, logs: Array) -> Array:
        points = _solved(problem, np.repeat(rows, logs.shape[1]), np.exp(logs).ravel())
        return points.found.test_error.reshape(logs.shape)

    rows, columns = np.repeat(alpha, len(grid)), np.tile(grid, count)
    coarse: Array = np.full(rows.shape, np.inf)
    for start in range(0, len(rows), BLOCK):
        here = slice(start, start + BLOCK)
        rough = _at(problem, rows[here], columns[here], rough=True)
        coarse[here] = np.where((rough[-1] < 0.1) & np.isfinite(rough[4]), rough[4], np.inf)
        if progress is not None:
            progress(min(1.0, (start + BLOCK) / len(rows)) / 2)
    at = coarse.reshape(count, len(grid)).argmin(axis=1)
    edge, last, centre = at == 0, at == len(grid) - 1, np.log(grid[at])
    inner = np.flatnonzero(~edge & ~last)
    for reach, nodes in REFINEMENTS if len(inner) else ():
        x = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        values = errors(alpha[inner], centre[inner, None] + reach * x)
        worst = np.nanmax(np.where(np.isfinite(values), values, 0.0), axis=1, keepdims=True)
        polynomials = chebyshev.chebfit(x, np.where(np.isfinite(values), values, worst).T, nodes - 1)
        centre[inner] += reach * FINE[np.argmin(chebyshev.chebval(FINE, polynomials), axis=-1)]
    best = np.exp(centre)
    points = _solved(problem, alpha, best)
    if edge.any():  # no penalty at all may be better still
        none = _solved(problem, alpha, np.zeros(count))
        better = edge & ~(none.found.test_error > points.found.test_error)
        better &= none.status == Status.OK
        chosen = [
            np.where(better, getattr(none.found, f.name), getattr(points.found, f.name)) for f in fields(FixedPoint)
        ]
        status = np.where(better, none.status, points.status)
        reasons = {i: text for i, text in points.reasons.items() if not better[i]}
        points, best = Points(FixedPoint(*chosen), status, reasons), np.where(better, 0.0, best)
    for name, where in (("above", last), ("below", edge & (best > 0))):
        if where.any():
            shown = ", ".join(f"{a:.3g}" for a in alpha[where][:5])
            warnings.append(f"at {problem.axis} = {shown} the best penalty lies at or {name} {best[where][0]:.3g}")
    return best, points
