"""Learning curves over random initial weights of the student: their mean and their spread."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from gaussequiv.errors import InputError, integer, number
from gaussequiv.maths.solvers import Status
from gaussequiv.models.curves import Curve
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD, checked_problem, checked_times
from gaussequiv.theory import online, sweeps

Readout = Literal["given", "gaussian", "ones"]
WORST = (Status.DIVERGED, Status.NOT_CONVERGED, Status.UNDEFINED, Status.INACCURATE, Status.OK)


def ensemble(
    problem: OnlineSGD,
    times: Any,
    *,
    draws: int = 20,
    seed: int = 0,
    scale: float = 1.0,
    readout: Readout = "given",
    rtol: float = 1e-4,
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> Curve:
    r"""The mean learning curve over initial weights $W_{ki} \sim N(0, \mathrm{scale}^2)$ of the student, and its spread.

    Args:
        problem: student, teacher, model and learning rule; of the student's first layer only the shape is used.
        times: t = steps / N, increasing; 0 is allowed.
        draws: initial weights that are drawn, at least 2.
        seed: of the draws; they share no random numbers with `TwoLayer.random` at seeds that one writes by hand.
        scale: standard deviation of the weights.
        readout: the "given" one of the problem, or one of "ones" or of "gaussian" numbers, drawn with the weights.
        rtol: accuracy of every curve, see `predict`.
        workers: processes that share the draws; the result does not depend on it.
        progress: called with the number of curves that are done.

    Returns:
        A curve with the means of test_error, Q, R and v, their standard deviations over draws (`_sd`) and standard errors
        (`_se`), and `test_errors` (time, seed). A time has the worst status of all draws, and a mean only if all have one.

    Raises:
        InputError: no problem, or an argument out of range.

    """
    t, draws = checked_times(times), integer("draws", draws, least=2)
    if readout not in get_args(Readout):
        raise InputError(f"readout={readout!r}; expected 'given', 'gaussian' or 'ones'")
    drawn_students = students(checked_problem(problem).student, draws, seed=seed, scale=scale, readout=readout)
    problems = [replace(problem, student=student) for student in drawn_students]
    curves = []
    for outcome in sweeps.outcomes(problems, partial(online.predict, times=t, rtol=rtol), workers, progress):
        if isinstance(outcome, InputError):
            raise outcome
        curves.append(outcome)
    variables: dict[str, Any] = {"T": curves[0].data["T"].values}
    for name in ("test_error", "Q", "R", "v", *(["means"] if "means" in curves[0].data else [])):
        values = np.stack([curve.data[name].values for curve in curves], axis=-1)
        spread = values.std(axis=-1, ddof=1)
        variables |= {name: values.mean(axis=-1), f"{name}_sd": spread, f"{name}_se": spread / np.sqrt(draws)}
        if name == "test_error":
            variables["test_errors"] = values
    status = tuple(min(found, key=WORST.index) for found in zip(*(curve.status for curve in curves), strict=True))
    notes = sorted({note for curve in curves for note in curve.provenance["warnings"]})
    drawn = {"draws": draws, "seed": seed, "scale": float(scale), "readout": readout, "rtol": rtol, "warnings": notes}
    return Curve.from_arrays(t, variables, status, {"kind": "ensemble", **drawn, "problem": problem.describe()})


def students(student: TwoLayer, draws: int, *, seed: int, scale: float, readout: Readout) -> list[TwoLayer]:
    """Students with random weights in the place of one.

    Their seeds are words of NumPy's `SeedSequence(seed)`: those of a teacher, such as 1, would copy it where shapes agree.
    """
    number("scale", scale)
    words = np.random.SeedSequence(integer("seed", seed, least=0)).generate_state(draws, np.uint64)
    drawn = "ones" if readout == "given" else readout
    outputs = None if student.readout.ndim == 1 else student.outputs
    found = []
    for word in words:
        shape = {"readout": drawn, "scale": scale, "outputs": outputs}
        one = TwoLayer.random(student.units, student.dim, student.activation, int(word), **shape)  # type: ignore[arg-type]
        found.append(replace(one, readout=student.readout) if readout == "given" else one)
    return found
