"""Theory (NumPy only): what the learning curve of a problem is, without training anything."""

from typing import Any

from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import OnlineSGD
from gaussequiv.theory import online
from gaussequiv.theory.classification import classification_error


def predict(
    problem: OnlineSGD,
    *,
    times: Any = None,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
    max_steps: int = 20_000,
    classification: bool = False,
    progress: Any = None,
) -> Curve:
    """The learning curve of a problem.

    Args:
        problem: an `OnlineSGD`.
        times: t = steps / N for online learning, such as `log_times(100)`.
        rtol: accuracy of the curve, certified by a second solution; points that miss it are marked inaccurate.
        reduce: replace the modes by a few nodes, to an accuracy beyond `rtol`.
        finite_size: add the terms of relative order rho / N to the equations of online learning.
        max_steps: steps of the solver after which the remaining times are marked not converged.
        classification: add the error of the signs of the outputs, see `classification_error`.
        progress: called with the time reached.

    Raises:
        InputError: not a problem, or times left out.

    """
    match problem:
        case OnlineSGD() if times is not None:
            curve = online.predict(
                problem,
                times,
                rtol=rtol,
                reduce=reduce,
                finite_size=finite_size,
                max_steps=max_steps,
                progress=progress,
            )
            return classification_error(curve, problem) if classification else curve
        case OnlineSGD():
            raise InputError("online learning is predicted at times; pass times=log_times(100)")
        case _:
            raise InputError(f"a {type(problem).__name__} cannot be predicted; expected an OnlineSGD")
