r"""Online learning curves: trajectories of the order parameters of one-pass SGD, solved to a certified accuracy.

The modes of Omega obey the equations of `motion`; they are carried by a few tens of nodes (`maths.spectra`) and integrated
by a stiff method of order five. Every trajectory is computed at two tolerances; where their difference does not allow the
requested accuracy the tolerance is lowered, and points that miss it in the end are marked.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from gaussequiv.errors import FiniteSizeWarning, InputError, integer, number
from gaussequiv.maths import solvers
from gaussequiv.maths.averages import Array, breaks
from gaussequiv.maths.lanczos import Krylov
from gaussequiv.maths.solvers import Solution, Status
from gaussequiv.maths.spectra import relaxation_nodes
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.problems import OnlineSGD, checked_problem, checked_times
from gaussequiv.theory.fields import LocalFields
from gaussequiv.theory.modes import Modes, modes
from gaussequiv.theory.motion import Dynamics
from gaussequiv.theory.stability import Stability

FLOOR = 1e-2  # part of the initial test error below which its accuracy is absolute
FINEST = 1e-13  # smallest tolerance of a step
BOUND = 1e12  # growth of Q, R or v, relative to their start, that counts as divergence
PER_STEP = 3.0  # tolerance of a step, in units of the accuracy asked for: errors of the curve are ten times smaller
COARSE = 100.0  # ratio of the tolerances of the two solutions that are compared
ONSET = 10.0  # growth of Q, R or v, relative to their natural sizes, with which a divergence sets in
LOOSE = 1e-4  # accuracy of a state whose stability is asked for
LONG = 1e4  # longest relaxation time of its modes
FINER = 10.0  # the least by which a tolerance that was not enough is lowered
CLOSE = 1e-5  # squared relative distance of near twins of a kinked activation below which no accuracy is claimed
OUTLIER = 0.1  # lr a_max rho_max / N beyond which the limit of large N is in doubt


@dataclass(frozen=True)
class Trajectory:
    """The order parameters of a problem as functions of time.

    Args:
        problem: what is learned, and how.
        dynamics: its equations of motion.
        solution: of the equations, with polynomials between its steps.
        rtol: the accuracy that was asked for.
        error: the estimated error of the test error and of Q, R, v at `error_times`, in the sense of `rtol`.
        error_times: the times at which it was estimated.

    """

    problem: OnlineSGD
    dynamics: Dynamics
    solution: Solution
    rtol: float
    error: Array
    error_times: Array

    @property
    def end(self) -> float:
        """The last time that was reached."""
        return float(self.solution.times[-1])

    @property
    def status(self) -> Status:
        """How the integration ended."""
        return self.solution.status

    def order_parameters(self, times: Any) -> tuple[Array, Array, Array]:
        """Q (n, K, K), R (n, K, M) and v (n, K) or (n, K, outputs) at times (n,); NaN beyond the end."""
        Q, R, v = self._overlaps(times)
        return Q, R[..., : len(self.dynamics.fields.T)], v.reshape(*v.shape[:1], *self.problem.student.readout.shape)

    def test_error(self, times: Any) -> Array:
        r"""$\frac12 E |\hat y - y|^2$ against the noiseless teacher at times (n,)."""
        parts = zip(*self._overlaps(times), strict=True)
        errors = [self.dynamics.fields.test_error(*o) if np.isfinite(o[0]).all() else np.nan for o in parts]
        return np.where(np.array(errors) < 0, 0.0, errors)  # where student and teacher are one, rounding is left

    def curve(self, times: Any) -> Curve:
        """The learning curve at times t >= 0, increasing, with a status for each."""
        t = checked_times(times)
        Q, R, v = self.order_parameters(t)
        status = [self._status(x) for x in t]
        ok = np.array([s in (Status.OK, Status.INACCURATE) for s in status])
        test_error = np.where(ok, self.test_error(t), np.nan)
        variables = {"test_error": test_error, "Q": Q, "R": R, "T": self.dynamics.fields.T, "v": v}
        if not self.problem.center:
            variables["means"] = self._overlaps(t)[1][..., -1]
        return Curve.from_arrays(t, variables, tuple(status), self._provenance())

    def _overlaps(self, times: Any) -> tuple[Array, Array, Array]:
        return self.dynamics.observed(self.solution(np.atleast_1d(np.asarray(times, dtype=float))))

    def _status(self, t: float) -> Status:
        if t > self.end or (t == self.end and self.status is Status.DIVERGED):
            return self.status if self.status is not Status.OK else Status.UNDEFINED
        near = np.interp(t, self.error_times, self.error)
        return Status.INACCURATE if near > self.rtol else Status.OK

    def _provenance(self) -> dict[str, Any]:
        s = self.solution
        cost = {"steps": s.steps, "rejected": s.rejected, "nodes": len(self.dynamics.rho)}
        accuracy = {"rtol": self.rtol, "estimated_error": float(self.error.max(initial=0.0))}
        notes = [note for note in (self.outlier_sentence,) if note]
        found = {"kind": "theory", **accuracy, **cost, "warnings": notes, "problem": self.problem.describe()}
        return found | ({"divergence": self.divergence} if self.divergence else {})

    @cached_property
    def divergence(self) -> str:
        """Where the solution diverged: the limits of the learning rates that were passed at the start, or at the onset."""
        if self.status is not Status.DIVERGED:
            return ""
        Q, R, v = self._overlaps(self.solution.times)
        overlaps = np.maximum(np.abs(Q).max(axis=(1, 2)), np.abs(R).max(axis=(1, 2)))
        readouts, fields = np.abs(v).max(axis=(1, 2)), self.dynamics.fields
        scale, scale_v = max(overlaps[0], np.abs(fields.T).max()), max(readouts[0], np.abs(fields.a).max())
        grown = int(np.argmax((overlaps > ONSET * scale) | (readouts > ONSET * scale_v)))
        onset = float(self.solution.times[max(grown - 1, 0)])
        for time in (0.0, onset):
            found = _stability(self.problem, time)
            if found.passed:
                return str(found)
        return f"no limit of small perturbations was passed up to t = {onset:.4g}: the growth is not that of a linear response"

    @cached_property
    def outlier(self) -> float:
        r"""The largest $\eta\, a_{max} \rho_{max} / N$ along the trajectory: how far a step of SGD moves the fastest mode."""
        rho = float(self.dynamics.rho.max()) + float(np.sum(self.problem.input_mean**2))
        rates = (
            self.problem.rates(float(t))[0] * _relaxation_rate(self.dynamics, values)
            for t, values in _sampled(self.solution)
        )
        return max(rates) * rho / self.problem.model.input_dim

    @property
    def outlier_sentence(self) -> str:
        """What `outlier` means where it is not small, or nothing."""
        if self.outlier <= OUTLIER:
            return ""
        mended = "its mean effect is included (finite_size=True)" if self.dynamics.per_mode else "try finite_size=True"
        return (
            f"lr a_max rho_max / N = {self.outlier:.2g} is above {OUTLIER}: the largest mode of Omega moves within a few "
            f"steps of SGD, and the limit of large N is not exact for it; {mended}, or a smaller learning rate"
        )


def trajectory(
    problem: OnlineSGD,
    end: float,
    *,
    times: Any = None,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
    max_steps: int = 20_000,
    progress: Any = None,
) -> Trajectory:
    """The order parameters of one-pass SGD from t = 0 to `end`, to a certified accuracy at `times`.

    Args:
        problem: student, teacher, model and learning rule.
        end: last time, t = steps / N.
        times: where the accuracy is certified; 100 log-spaced times if left out.
        rtol: accuracy of the test error, relative, and of Q, R, v, relative to the largest of them.
        reduce: False integrates all modes instead of nodes.
        finite_size: add the terms of relative order rho / N, see `motion`.
        max_steps: steps of the solver after which it gives up.
        progress: called with the time reached.

    Raises:
        InputError: an argument out of range, or a student without a derivative.

    """
    problem, end, max_steps = checked_problem(problem), number("end", end), integer("max_steps", max_steps)
    if not 1e-12 <= number("rtol", rtol) <= 1e-1:
        raise InputError(f"rtol={rtol}; expected a number from 1e-12 to 0.1")
    if finite_size and not problem.center:
        raise InputError("finite_size=True is for centred inputs; leave center=True, or finite_size out")
    checked = np.concatenate([[0.0], end * np.geomspace(1e-4, 1, 100)]) if times is None else checked_times(times)
    if checked[-1] > end:
        raise InputError(
            f"times to {checked[-1]:g} were asked for of a trajectory that ends at {end:g}; expected times up to its end"
        )
    fields = _fields(problem, 1e-2 * rtol)
    known = modes(problem, longest=0.0, tolerance=1.0) if isinstance(problem.model, GaussianModel) else None  # exact
    spaces: dict[str, dict[str, Krylov]] = {}
    options = (reduce, finite_size, max_steps, progress, spaces)
    tolerance, ratio = PER_STEP * rtol, COARSE
    undecided = 10 * rtol if _closeness(problem) < CLOSE else 0.0  # an error that no smaller step would mend
    _, coarse, _ = _solved(problem, fields, known, end, COARSE * tolerance, *options)
    while True:
        dynamics, solution, of_modes = _solved(problem, fields, known, end, tolerance, *options)
        error = _difference(dynamics, solution, coarse, checked) * 2 / ratio
        least = max(undecided, fields.averages.error, of_modes)
        if least > rtol:
            error = np.maximum(error, least)
            return Trajectory(problem, dynamics, solution, rtol, error, checked)
        if not error.max() > rtol or tolerance <= FINEST:
            return Trajectory(problem, dynamics, solution, rtol, error, checked)
        coarse, ratio = solution, min(max(FINER, 4 * float(error.max()) / rtol), tolerance / FINEST)
        tolerance /= ratio


def predict(
    problem: OnlineSGD,
    times: Any,
    *,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
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
        finite_size: add the terms of relative order rho / N.
        max_steps: steps of the solver after which it gives up.
        progress: called with the time reached.

    Returns:
        A curve with test_error, Q, R, T, v and a status for every time.

    Raises:
        InputError: times or rtol out of range, or a student without a derivative.

    """
    t = checked_times(times)
    options = {"reduce": reduce, "finite_size": finite_size, "max_steps": max_steps, "progress": progress}
    found = trajectory(problem, float(t[-1]), times=t, rtol=rtol, **options)
    if found.outlier_sentence:
        warnings.warn(found.outlier_sentence, FiniteSizeWarning, stacklevel=3)
    return found.curve(t)


def stability(problem: OnlineSGD, time: float = 0.0) -> Stability:
    """The largest stable learning rates of a problem at the state that it reaches at `time`.

    Raises:
        InputError: no problem, or a time that is negative or not reached, because the solution diverges or stops before it.

    """
    found = _stability(checked_problem(problem), number("time", time))
    if found.time < time:
        raise InputError(f"time={time:g}; the solution ends at t = {found.time:.4g}, ask for a time up to that")
    return found


def _stability(problem: OnlineSGD, time: float) -> Stability:
    """The limits at a time, or at the end of a solution that does not reach it."""
    if time > 0:
        found = trajectory(problem, time, rtol=LOOSE)
        dynamics, y, time = found.dynamics, found.solution.final, found.end
    else:
        fields = _fields(problem, 1e-2 * LOOSE)
        dynamics, y = equations(problem, fields, modes(problem, longest=LONG, tolerance=LOOSE))
    mean_square = float(np.sum(problem.input_mean**2))
    return Stability.of(dynamics, y, time, problem.model.input_dim, mean_square)


def _solved(
    problem: OnlineSGD,
    fields: LocalFields,
    known: Modes | None,
    end: float,
    rtol: float,
    reduce: bool,
    finite_size: bool,
    max_steps: int,
    progress: Any,
    spaces: dict[str, dict[str, Krylov]],
) -> tuple[Dynamics, Solution, float]:
    """The solution at one tolerance of the steps, and the error of the modes.

    Modes and nodes are chosen again if A grew beyond what they were made for.
    """
    landings = _landings(problem, end)
    times = [*np.linspace(0, end, 200), *landings, *(t * (1 + 1e-12) for t in landings)] if problem.scheduled else [0.0]
    fastest = max(problem.rates(float(t))[0] for t in times)
    relaxation = fastest * _relaxation_bound(problem, fields, known)
    while True:
        longest, tolerance = 10 * relaxation * end, max(1e-4 * rtol, 1e-14)
        found = known or modes(problem, longest=longest, tolerance=max(1e-2 * rtol, 1e-12), spaces=spaces)
        dynamics, start = equations(problem, fields, found, finite_size=finite_size)
        dynamics = replace(dynamics, jumps=landings)
        if reduce:
            dynamics, start = _reduced(dynamics, start, longest, tolerance)
        solution = _integrated(dynamics, start, end, rtol, max_steps, progress)
        if not reduce and known is not None:
            return dynamics, solution, 0.0
        seen = fastest * max(_relaxation_rate(dynamics, x) for _, x in _sampled(solution))
        if seen <= 5 * relaxation:  # q relaxes at twice the rate of w
            return dynamics, solution, max(found.error, found.noise_error)
        relaxation = seen


def _difference(dynamics: Dynamics, solution: Solution, other: Solution, times: Array) -> Array:
    """The largest relative difference of two solutions at every time; 0 where one of them has ended."""
    curves = [dynamics.observed(s(times)) for s in (solution, other)]
    fields = dynamics.fields
    eg = np.array(
        [[fields.test_error(*o) if np.isfinite(o[0]).all() else np.nan for o in zip(*c, strict=True)] for c in curves]
    )
    (Q, R, v), (Q_other, R_other, v_other) = curves
    if not np.isfinite(eg).any():
        return np.zeros(len(times))
    scale = max(float(np.nanmax(np.abs(Q))), float(np.abs(fields.T).max())) or 1.0
    readout = float(np.nanmax(np.abs(v))) or 1.0
    found = np.abs(eg[0] - eg[1]) / np.maximum(eg[0], FLOOR * (np.nanmax(eg) or 1.0))
    for one, two, size in ((Q, Q_other, scale), (R, R_other, scale), (v, v_other, readout)):
        found = np.fmax(found, np.abs(one - two).reshape(len(times), -1).max(axis=1) / size)
    return np.nan_to_num(found, nan=0.0)


def _integrated(dynamics: Dynamics, start: Array, end: float, rtol: float, max_steps: int, progress: Any) -> Solution:
    """Integrate the dynamics from t = 0 to `end`."""
    fields = dynamics.fields
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
        return solvers.integrate(
            dynamics,
            dynamics.linearise,
            start,
            0.0,
            end,
            observe=dynamics.observe,
            error=error,
            diverged=diverged,
            explicit=dynamics.explicit if dynamics.scheduled else None,
            landings=dynamics.jumps,
            max_steps=max_steps,
            progress=progress,
        )


def _fields(problem: OnlineSGD, tolerance: float) -> LocalFields:
    """The joint law of the fields of a problem."""
    student, teacher = problem.student, problem.teacher
    _require_derivative(student.activation)
    return LocalFields.of(
        student=student.activation,  # type: ignore[arg-type]
        teacher=teacher.activation,  # type: ignore[arg-type]
        T=problem.teacher_overlap,
        a=teacher.readout.reshape(teacher.units, -1),
        noise=problem.noise,
        teacher_mean=None if problem.center else problem.teacher_mean,
        units=student.units,
        tolerance=tolerance,
    )


def equations(
    problem: OnlineSGD, fields: LocalFields, found: Modes, *, finite_size: bool = False
) -> tuple[Dynamics, Array]:
    """The equations of motion on given modes, and the state at t = 0."""
    student, N = problem.student, problem.model.input_dim
    w, b = found.w, found.b
    source = found.omega * found.rho
    if not problem.center:
        source = source + b[-1] ** 2 / N
    twins = _twins(problem)
    dynamics = Dynamics(
        fields=fields if twins is None else replace(fields, twins=twins[:2]),
        rho=found.rho,
        source=source,
        tt=b[:, None] * b,
        units=student.units,
        rates=problem.rates,
        scheduled=problem.scheduled,
        jumps=(),
        batch_size=problem.batch_size,
        weight_decay=problem.weight_decay,
        twins=twins,
        per_mode=1 / N if finite_size else 0.0,
    )
    return dynamics, dynamics.symmetrised(w[:, None] * b, w[:, None] * w, student.readout.reshape(student.units, -1))


def _landings(problem: OnlineSGD, end: float) -> tuple[float, ...]:
    """Times at which the solver must look: jumps of the learning rates, and places where a function of time is steep.

    Raises:
        InputError: a schedule that changes too often to be followed.

    """
    found: set[float] = set()
    for name, rate in (("lr", problem.lr), ("lr_readout", problem.lr_readout)):
        if not callable(rate) or end == 0:
            continue
        if hasattr(rate, "jumps"):
            found.update(float(t) for t in rate.jumps)
            continue
        index, half = ("lr", "lr_readout").index(name), end / 2
        values = np.frompyfunc(lambda x, i=index, h=half: problem.rates(min(max(float(x) + h, 0.0), end))[i], 1, 1)
        try:
            edges = breaks(lambda x, f=values: f(x).astype(float), half)  # type: ignore[misc]
        except InputError as error:
            if "too rough" not in str(error):
                raise
            raise InputError(
                f"the schedule {name} changes too often to be followed to t = {end:g}; give its jumps as an attribute `jumps`"
            ) from error
        uniform = np.linspace(-half, half, 89)
        refined = [x for x in edges if np.abs(uniform - x).min() > 1e-9 * end]
        found.update(float(x + half) for x in refined)
    return tuple(sorted(found))


def _require_derivative(g: Any) -> None:
    """Refuse a student whose derivative is not known, before anything is computed."""
    g.derivative(np.linspace(-1, 1, 3))


def _twins(problem: OnlineSGD) -> tuple[Any, Array, Array] | None:
    """For every unit the first one that equals it up to signs of w and v, and these signs; None where all units differ."""
    weights, readout, signs = problem.student.weights, problem.student.readout, _signs(problem)
    readouts = readout.reshape(len(weights), -1)
    first, of_w, of_v = np.arange(len(weights)), np.ones(len(weights)), np.ones(len(weights))
    for k in range(len(weights)):
        for j in range(k):
            for x, y in signs:
                equal = np.array_equal(weights[k], x * weights[j]) and np.array_equal(readouts[k], y * readouts[j])
                if first[k] == k and equal:
                    first[k], of_w[k], of_v[k] = first[j], x * of_w[j], y * of_v[j]
    return (first, of_w, of_v) if np.any(first != np.arange(len(weights))) else None


def _reduced(dynamics: Dynamics, start: Array, longest: float, tolerance: float) -> tuple[Dynamics, Array]:
    """The same dynamics on relaxation nodes. Carried are r, rho q, tt and the source: sums of these are what is seen."""
    r, q, v = dynamics.unpack(start)
    rho = dynamics.rho
    weighted = q * rho
    weight = np.max([_relative_size(x) for x in (r, weighted, dynamics.tt, rho * dynamics.source)], axis=0)
    nodes = relaxation_nodes(rho, weight, longest, max(tolerance, 1e-14))
    divisor = np.where(nodes.rho > 0, nodes.rho, 1.0)  # q of a mode without variance is seen by nothing
    small = replace(
        dynamics, rho=nodes.rho, source=nodes.carry(dynamics.source * rho) / divisor, tt=nodes.carry(dynamics.tt)
    )
    return small, small.pack(nodes.carry(r), nodes.carry(weighted) / divisor, v)


def _relative_size(data: Array) -> Array:
    """The largest entry of every mode, relative to the largest of all."""
    size = np.abs(data).reshape(-1, data.shape[-1]).max(axis=0)
    return size / (size.max() or 1.0)


def _relaxation_bound(problem: OnlineSGD, fields: LocalFields, known: Modes | None) -> float:
    """The largest eigenvalue of A, at the start or with readouts of the teacher's size."""
    v = problem.student.readout.reshape(problem.student.units, -1)
    if known is not None:
        Q, R = (known.w * known.rho) @ known.w.T, known.w @ known.b.T
    else:
        order = problem.order_parameters(problem.student.weights, problem.student.readout)
        Q, R = order.Q, order.R if problem.center else np.column_stack([order.R, order.student_mean])
    readout = max(float(np.sum(v**2)), float(np.sum(fields.a**2)))
    reach = np.sqrt(max(float(np.diagonal(Q).max()), 1e-12)) * np.linspace(-3, 3, 101)
    steepest = float(np.max(fields.student.derivative(reach) ** 2)) * readout
    if not np.isfinite(steepest):
        raise InputError(
            f"the derivative of {fields.student.name} is not finite on Gaussian fields; expected finite values"
        )
    return max(float(np.abs(scipy.linalg.eigvalsh(fields.coefficients(Q, R, v).A)).max()), steepest)


def _closeness(problem: OnlineSGD) -> float:
    """The smallest squared distance of two units, in w and in v, that are nearly twins of a kinked activation; 1 elsewhere.

    What such units see of each other is not smooth where they meet, and they leave it in a finite time.
    """
    student, g = problem.student, problem.student.activation
    if not g.kinks:  # type: ignore[union-attr]
        return 1.0
    Q, v = problem.order_parameters(student.weights, student.readout).Q, student.readout.reshape(student.units, -1)
    twins, closest = _twins(problem), 1.0
    first = np.arange(student.units) if twins is None else twins[0]
    size = max(float(np.sum(v**2)), 1e-300)
    for k in np.flatnonzero((first == np.arange(student.units)) & (np.diagonal(Q) > 0)):
        for other in np.flatnonzero((first == np.arange(student.units)) & (np.arange(student.units) < k)):
            for x, y in _signs(problem):
                apart = (Q[k, k] + Q[other, other] - 2 * x * Q[k, other]) / Q[k, k]
                closest = min(closest, max(float(apart), float(np.sum((v[k] - y * v[other]) ** 2)) / size))
    return closest


def _signs(problem: OnlineSGD) -> list[tuple[float, float]]:
    """The signs of (w, v) that two units may differ by and still be twins: those that nothing sees."""
    odd, even = (problem.center and x for x in (problem.student.activation.odd, problem.student.activation.even))  # type: ignore[union-attr]
    return [(1.0, 1.0), *([(-1.0, -1.0)] if odd else []), *([(-1.0, 1.0)] if even else [])]


def _sampled(solution: Solution) -> Iterator[tuple[float, Array]]:
    """Times and what was observed there, at some fifty of the steps."""
    every = slice(None, None, max(1, solution.steps // 50))
    return zip(solution.times[every], solution.values[every], strict=True)


def _relaxation_rate(dynamics: Dynamics, values: Array) -> float:
    """The largest |eigenvalue| of A at an observed point; 0 where it is not finite."""
    overlaps = dynamics.observed(values)
    if not all(np.isfinite(part).all() for part in overlaps):
        return 0.0
    return float(np.abs(scipy.linalg.eigvalsh(dynamics.fields.coefficients(*overlaps).A)).max())


def _scales(dynamics: Dynamics, start: Array) -> tuple[float, float]:
    """Natural sizes of overlaps and readouts: the largest of student and teacher."""
    Q, _, v = dynamics.overlaps(start)
    overlap = max(np.abs(Q).max(), np.abs(dynamics.fields.T).max())
    readout = max(np.abs(v).max(), np.abs(dynamics.fields.a).max())
    return float(overlap) or 1.0, float(readout) or 1.0
