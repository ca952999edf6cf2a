"""Theory (NumPy only): what the learning curve of a problem is, without training anything."""

from typing import Any, overload

from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import OnlineSGD
from gaussequiv.models.sweeps import Curves, Sweep
from gaussequiv.theory import online, sweeps
from gaussequiv.theory.classification import classification_error


@overload
def predict(
    problem: OnlineSGD,
    *,
    times: Any = None,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
    max_steps: int = 20_000,
    classification: bool = False,
    workers: int = 1,
    progress: Any = None,
) -> Curve: ...


@overload
def predict(
    problem: Sweep,
    *,
    times: Any = None,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
    max_steps: int = 20_000,
    classification: bool = False,
    workers: int = 1,
    progress: Any = None,
) -> Curves: ...


def predict(
    problem: OnlineSGD | Sweep,
    *,
    times: Any = None,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
    max_steps: int = 20_000,
    classification: bool = False,
    workers: int = 1,
    progress: Any = None,
) -> Curve | Curves:
    """The learning curve of a problem, or the curves of a sweep.

    Args:
        problem: an `OnlineSGD`, or a `Sweep` of them.
        times: t = steps / N for online learning, such as `log_times(100)`.
        rtol: accuracy of the curve, certified by a second solution; points that miss it are marked inaccurate.
        reduce: replace the modes by a few nodes, to an accuracy beyond `rtol`.
        finite_size: add the terms of relative order rho / N to the equations of online learning.
        max_steps: steps of the solver after which the remaining times are marked not converged.
        classification: add the error of the signs of the outputs, see `classification_error`.
        workers: processes that share the points of a sweep; the result does not depend on it.
        progress: called with the time reached; over a sweep, with its mean over the points.

    Raises:
        InputError: not a problem, or times left out.

    """
    options: Any = {"rtol": rtol, "reduce": reduce, "finite_size": finite_size, "max_steps": max_steps}
    match problem:
        case OnlineSGD() | Sweep() if times is None:
            raise InputError("online learning is predicted at times; pass times=log_times(100)")
        case OnlineSGD():
            curve = online.predict(problem, times, progress=progress, **options)
            return classification_error(curve, problem) if classification else curve
        case Sweep():
            options |= {"classification": classification, "workers": workers, "progress": progress}
            return sweeps.predict(problem, times, **options)
        case _:
            raise InputError(f"a {type(problem).__name__} cannot be predicted; expected an OnlineSGD or a Sweep")
