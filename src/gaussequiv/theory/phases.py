r"""The phases of a learning curve: plateaus, the parting of the units, and the stationary state at the end.

A plateau is where $|d \log \epsilon_g / d \log t|$ is small after the error has moved once, and before it falls on. Units part
when what they see of the teacher differs: with $\rho_{km} = s_k R_{km} / \sqrt{Q_{kk} T_{mm}}$, s_k the sign that the activation
leaves open, that of the readout if it is odd, of Q_1k if it is even, and 1 otherwise,

    D(t)^2 = sum_m (1/K) sum_k (rho_km - mean_k rho_km)^2,      0 for copies, 1 - 1/K for K units on K orthogonal teachers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.optimize import brentq

from gaussequiv.errors import InputError, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.solvers import Status
from gaussequiv.models.problems import OnlineSGD, checked_problem
from gaussequiv.theory.online import FLOOR, Trajectory, trajectory
from gaussequiv.theory.stability import growth

PER_DECADE = 60  # times at which a curve is looked at
DECADES = 8  # before the end, at most
NUDGE = 1e-3  # step in log t of a slope
ESCAPE = 3.0  # growth of a perturbation, in powers of e over the time of a state, that makes it a plateau


@dataclass(frozen=True)
class Plateau:
    """A time during which the test error hardly moves, between two falls.

    Args:
        entered: time at which the slope falls below the threshold.
        left: time at which it exceeds it again.
        height: test error at the flattest point between.
        flattest: the time of that point.

    """

    entered: float
    left: float
    height: float
    flattest: float

    def __str__(self) -> str:
        return f"plateau at a test error of {self.height:.4g} from t = {self.entered:.4g} to {self.left:.4g}"


@dataclass(frozen=True)
class Phases:
    """What happens along a trajectory; None, or nothing in the tuple, for what does not happen.

    Args:
        plateaus: in the order of time.
        specialisation: time from which the units' spread D stays above a fraction of its final value; 0 if always.
        unspecialised: why there is no specialisation, or nothing.
        stationary: time from which the test error stays where it ends.
        test_error: at the end.
        end: the last time that was looked at.
        status: how the trajectory ended.

    """

    plateaus: tuple[Plateau, ...]
    specialisation: float | None
    unspecialised: str
    stationary: float | None
    test_error: float
    end: float
    status: Status

    @property
    def plateau(self) -> Plateau | None:
        """The longest plateau in log t, or None."""
        return max(self.plateaus, key=lambda p: p.left / p.entered, default=None)

    def __str__(self) -> str:
        parts = [str(p) for p in self.plateaus] or ["no plateau"]
        parts.append(
            self.unspecialised
            if self.specialisation is None
            else f"the units part at t = {self.specialisation:.4g}"
            if self.specialisation > 0
            else "the units are apart from the start"
        )
        if self.status is not Status.OK:
            parts.append(f"{self.status} at t = {self.end:.4g}: {self.status.sentence}")
        elif self.stationary is None:
            parts.append(f"still moving at t = {self.end:.4g}, test error {self.test_error:.4g}")
        else:
            parts.append(f"nearly at rest from t = {self.stationary:.4g} on, at a test error of {self.test_error:.4g}")
        return "; ".join(parts)


def phases(
    learned: OnlineSGD | Trajectory,
    end: float | None = None,
    *,
    slope: float = 0.1,
    factor: float = 2.0,
    fall: float = 0.5,
    parting: float = 0.5,
    apart: float = 0.1,
    band: float = 0.01,
    rtol: float = 1e-6,
) -> Phases:
    r"""The phases of a trajectory, or of the one of a problem up to `end`.

    A test error below the accuracy of the trajectory, rtol / 100 of its start, counts as one that has come to rest.

    Args:
        learned: a problem, or a trajectory of it.
        end: last time; that of the trajectory if left out.
        slope: $|d \log \epsilon_g / d \log t|$ below which the error counts as still.
        factor: of time for which it must be still, on a plateau and at the end.
        fall: part of the height of a plateau below which the error falls afterwards.
        parting: part of its final value that the spread D of the units passes when they part.
        apart: final D below which the units have not parted.
        band: relative distance from its end value within which the error is stationary.
        rtol: accuracy of the trajectory of a problem.

    Raises:
        InputError: an argument out of range, no end for a problem, or one beyond the trajectory's.

    """
    for name, value in (("slope", slope), ("band", band), ("apart", apart)):
        number(name, value, positive=True)
    if not number("factor", factor) > 1:
        raise InputError(f"factor={factor}; expected a number above 1")
    for name, value in (("fall", fall), ("parting", parting)):
        if not 0 < number(name, value) < 1:
            raise InputError(f"{name}={value}; expected a number between 0 and 1")
    found = _followed(learned, end, rtol)
    last = found.end if end is None else min(float(end), found.end)
    if found.status is Status.DIVERGED:  # the last point is beyond every bound
        last = float(found.solution.times[-2]) if found.solution.steps else 0.0
    if last <= 0:
        return Phases((), None, "nothing was followed", None, float(found.test_error([0.0])[0]), last, found.status)
    decades = min(DECADES, max(1.0, np.log10(last / found.solution.times[1]) + 1))
    times = last * np.geomspace(10**-decades, 1, int(PER_DECADE * decades))
    times[-1] = last
    floor = found.rtol * FLOOR * float(found.test_error([0.0])[0])
    curve = _Curve(found, last, times, max(floor, np.finfo(float).tiny))
    specialisation, why = _parted(found, times, parting, apart)
    return Phases(
        plateaus=curve.plateaus(slope, factor, fall),
        specialisation=specialisation,
        unspecialised=why,
        stationary=curve.stationary(slope, factor, band),
        test_error=max(float(found.test_error([last])[0]), 0.0),
        end=last,
        status=found.status if last == found.end or found.status is Status.DIVERGED else Status.OK,
    )


def _followed(learned: OnlineSGD | Trajectory, end: float | None, rtol: float) -> Trajectory:
    match learned:
        case OnlineSGD() if end is not None:
            return trajectory(learned, number("end", end, positive=True), rtol=rtol)
        case OnlineSGD():
            raise InputError("the phases of a problem are those up to a time; pass end=1000, or a trajectory")
        case Trajectory() if end is None or number("end", end, positive=True) <= learned.end:
            return learned
        case Trajectory():
            raise InputError(f"end={end:g}; the trajectory ends at t = {learned.end:g}, pass at most that")
        case _:
            raise InputError(f"a {type(learned).__name__} has no phases; expected an OnlineSGD or its trajectory")


@dataclass(frozen=True)
class _Curve:
    """The test error of a trajectory, nothing below `floor`, on a grid of times, with its slope in log-log."""

    trajectory: Trajectory
    end: float
    times: Array
    floor: float

    def __call__(self, t: Any) -> Array:
        """The test error at times t (n,)."""
        return np.maximum(self.trajectory.test_error(t), self.floor)

    @cached_property
    def errors(self) -> Array:
        """The test error at the times of the grid."""
        return self(self.times)

    def slope(self, t: Any) -> Array:
        """D log eg / d log t at times t, by differences of the dense output."""
        after, before = np.minimum(np.asarray(t) * np.exp(NUDGE), self.end), np.asarray(t) * np.exp(-NUDGE)
        return np.log(self(after) / self(before)) / np.log(after / before)

    def plateaus(self, slope: float, factor: float, fall: float) -> tuple[Plateau, ...]:
        """Runs of the grid with a small slope, between two of a large one, long enough and followed by a fall."""
        slopes, crossing = np.abs(self.slope(self.times)), partial(self._crossing, slope)
        still, found = slopes < slope, []
        edges = np.flatnonzero(np.diff(still.astype(int)))
        for first, last in zip(edges, edges[1:], strict=False):
            if not still[first + 1]:
                continue
            entered, left = crossing(int(first)), crossing(int(last))
            flattest = first + 1 + int(np.argmin(slopes[first + 1 : last + 1]))
            height = float(self.errors[flattest])
            if left >= factor * entered and self.errors[last:].min() < fall * height:
                found.append(Plateau(entered, left, height, float(self.times[flattest])))
        return tuple(found)

    def stationary(self, slope: float, factor: float, band: float) -> float | None:
        """The time after which slope and distance from the end value stay small, or None."""
        final = float(self.errors[-1])

        def distance(t: float) -> float:
            return abs(float(self([t])[0]) - final) - band * final

        moving = np.abs(self.slope(self.times)) >= slope
        away = np.abs(self.errors - final) > band * final
        bad = np.flatnonzero(moving | away)
        if not bad.size:
            return 0.0
        if bad[-1] == len(self.times) - 1:
            return None
        at = int(bad[-1])
        time = max(
            self._crossing(slope, at) if moving[at] else 0.0,
            _root(distance, self.times[at], self.times[at + 1]) if away[at] else 0.0,
        )
        return time if self.end >= factor * time else None

    def _crossing(self, slope: float, index: int) -> float:
        """Where |slope| crosses a threshold between the times `index` and `index` + 1."""
        return _root(lambda t: abs(float(self.slope([t])[0])) - slope, self.times[index], self.times[index + 1])


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """A zero in log t between two times; where rounding hides the change of sign, the later one."""
    values: dict[float, float] = {}

    def by_log(x: float) -> float:
        return values.setdefault(x, function(float(np.exp(x))))

    ends = float(np.log(low)), float(np.log(high))
    if by_log(ends[0]) * by_log(ends[1]) > 0:
        return float(high)
    return float(np.exp(brentq(by_log, *ends, xtol=1e-9)))


def spread(found: Trajectory, times: Any) -> Array:
    """The spread D of what the units see of the teacher, (n,), at times (n,)."""
    Q, R, _ = found.order_parameters(times)
    fields, student = found.dynamics.fields, found.problem.student
    sight = R / np.sqrt(np.maximum(np.einsum("nkk->nk", Q)[:, :, None] * np.diag(fields.T), np.finfo(float).tiny))
    last_Q, _, last_v = (x[0] for x in found.order_parameters(found.solution.times[-1:]))
    if student.activation.odd and student.outputs == 1:  # type: ignore[union-attr]
        sight = sight * np.where(last_v.reshape(-1) < 0, -1.0, 1.0)[:, None]
    if student.activation.even:  # type: ignore[union-attr]
        sight = sight * np.where(last_Q[0] < 0, -1.0, 1.0)[:, None]
    return np.sqrt(np.sum(np.mean((sight - sight.mean(axis=1, keepdims=True)) ** 2, axis=1), axis=-1))


def _parted(found: Trajectory, times: Array, parting: float, apart: float) -> tuple[float | None, str]:
    """The time at which the units part, or why they do not."""
    K, M = found.problem.student.units, found.problem.teacher.units
    if K == 1 or M == 1:
        return None, f"no specialisation with {'one student unit' if K == 1 else 'one teacher unit'}"
    D = spread(found, times)
    if D[-1] < apart:
        return None, f"the units have not parted at t = {times[-1]:.4g}"
    below = np.flatnonzero(parting * D[-1] > D)
    if not below.size:
        return 0.0, ""
    at, level = int(below[-1]), parting * float(D[-1])
    return _root(lambda t: float(spread(found, [t])[0]) - level, times[at], times[at + 1]), ""


@dataclass(frozen=True)
class Asymptote:
    """A stationary state.

    Args:
        test_error: there, or at the last time.
        Q: overlaps of the student (K, K).
        R: with the teacher (K, M).
        v: readout.
        status: OK, inaccurate, diverged, or not converged: test_error then is only the last value.
        time: the last time.
        change: of the test error over the last factor of ten in time, relative, absolute below 1 % of the start.
        of: "asymptote", or "plateau" for that of equal units.

    """

    test_error: float
    Q: Array
    R: Array
    v: Array
    status: Status
    time: float
    change: float
    of: str = "asymptote"

    def __str__(self) -> str:
        if self.status is Status.OK and self.of == "plateau":
            return f"the plateau of equal units has the test error {self.test_error:.6g} (stationary at t = {self.time:.4g})"
        if self.status is Status.OK:
            return f"test error {self.test_error:.6g}, stationary at t = {self.time:.4g}"
        if self.status is Status.DIVERGED:
            return f"{self.status} at t = {self.time:.4g}: {self.status.sentence}"
        return (
            f"{self.status}: test error {self.test_error:.6g} at t = {self.time:.4g}, changed by {self.change:.2g} over the last "
            "factor of ten in time; follow it for longer, or ask for a larger rtol (small eigenvalues leave slow tails)"
        )


def asymptote(
    problem: OnlineSGD,
    rtol: float = 1e-6,
    *,
    longest: float | None = None,
    progress: Callable[[float], Any] | None = None,
) -> Asymptote:
    """The stationary state that a student reaches: followed to ten times longer times until the test error rests.

    It rests when it changed by less than `rtol` over the last factor of ten in time (relative; absolute below 1 % of its
    start) and no perturbation of the state grows, as it would on a plateau.

    Args:
        problem: student, teacher, model and learning rule.
        rtol: accuracy of the trajectory, and what the test error may change by.
        longest: the last time that is tried; 1e7 / lr if left out.
        progress: called with the time reached; averages by quadrature take minutes to late times.

    Raises:
        InputError: no problem, or an argument out of range.

    """
    unit = 1 / (checked_problem(problem).rates(0.0)[0] or 1.0)
    longest = 1e7 * unit if longest is None else number("longest", longest, positive=True)
    end = min(100 * unit, longest)
    while True:
        found = trajectory(problem, end, rtol=rtol, progress=progress)
        last = found.end
        start, before, here = found.test_error([0.0, last / 10, last])
        change = abs(here - before) / max(here, FLOOR * start, np.finfo(float).tiny)
        Q, R, v = (x[0] for x in found.order_parameters([last]))
        state = partial(Asymptote, float(here), Q, R, v, time=last, change=float(change))
        if found.status is not Status.OK:
            return state(status=found.status)
        if change <= rtol and (here <= rtol * FLOOR * start or not _grows(found)):
            return state(status=Status.INACCURATE if found.error[-1] > rtol else Status.OK)
        if end >= longest:
            return state(status=Status.NOT_CONVERGED)
        end = min(10 * end, longest)


def plateau(
    problem: OnlineSGD,
    rtol: float = 1e-6,
    *,
    longest: float | None = None,
    progress: Callable[[float], Any] | None = None,
) -> Asymptote:
    """The stationary state of the student before its units part: all of them equal to the mean of the given ones.

    Equal units stay equal, so this is where the symmetric plateau of the full student lies.

    Args:
        problem: student, teacher, model and learning rule.
        rtol: see `asymptote`.
        longest: see `asymptote`.
        progress: see `asymptote`.

    Raises:
        InputError: no problem, or an argument out of range.

    """
    student = checked_problem(problem).student
    weights, readout = (np.broadcast_to(x.mean(axis=0), x.shape) for x in (student.weights, student.readout))
    equal = replace(student, weights=np.array(weights), readout=np.array(readout))
    return replace(asymptote(replace(problem, student=equal), rtol, longest=longest, progress=progress), of="plateau")


def _grows(found: Trajectory) -> bool:
    """Whether a perturbation of the last state would have grown visibly in the time up to it."""
    dynamics, y = found.dynamics, found.solution.final
    return found.end * growth(dynamics, found.end, y) > ESCAPE
