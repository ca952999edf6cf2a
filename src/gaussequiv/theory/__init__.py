"""Theory (NumPy only): what the learning curve of a problem is, without training anything."""

from typing import Any, overload

from gaussequiv.errors import InputError
from gaussequiv.models.batch import FullBatch, Kernel
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import OnlineSGD
from gaussequiv.models.sweeps import Curves, Sweep
from gaussequiv.theory import batch, online, sweeps
from gaussequiv.theory.bands import has_replicates, with_band
from gaussequiv.theory.classification import classification_error

ENOUGH = 1e-5  # accuracy of the curves whose differences are the errors of a model


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
    band: bool = True,
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


@overload
def predict(
    problem: FullBatch | Kernel,
    *,
    alpha: Any = None,
    samples: Any = None,
    penalty: Any = None,
    progress: Any = None,
    band: bool = True,
) -> Curve: ...


def predict(
    problem: OnlineSGD | Sweep | FullBatch | Kernel,
    *,
    times: Any = None,
    alpha: Any = None,
    samples: Any = None,
    penalty: Any = None,
    rtol: float = 1e-6,
    reduce: bool = True,
    finite_size: bool = False,
    max_steps: int = 20_000,
    classification: bool = False,
    workers: int = 1,
    progress: Any = None,
    band: bool = True,
) -> Curve | Curves:
    """The learning curve of a problem, or the curves of a sweep.

    Args:
        problem: an `OnlineSGD`, a `Sweep` of them, a `FullBatch` or a `Kernel`.
        times: t = steps / N for online learning, such as `log_times(100)`.
        alpha: n / N for full-batch learning, such as `log_grid(0.1, 10)`.
        samples: n for a kernel.
        penalty: of full-batch learning, where the problem has none or others are wanted: a number, increasing numbers (an
            axis of the curve), or "optimal" for the one of least test error at every alpha; 0 is the limit of none.
        rtol: accuracy of an online curve, certified by a second solution; points that miss it are marked inaccurate.
        reduce: replace the modes by a few nodes, to an accuracy beyond `rtol`.
        finite_size: add the terms of relative order rho / N to the equations of online learning.
        max_steps: steps of the solver after which the remaining times are marked not converged.
        classification: add the error of the signs of the outputs, see `classification_error`.
        workers: processes that share the points of a sweep; the result does not depend on it.
        band: add the errors that an estimated model brings, from its replicates: `*_se`, and the biases `*_bias`, see `bands`.
            Of sweeps there is none.
        progress: called with the time reached; over a sweep, with its mean over the points; full batch, with the part done.

    The options from `rtol` to `workers` are those of online learning.

    Raises:
        InputError: not a problem, or times left out.

    """
    options: Any = {"rtol": rtol, "reduce": reduce, "finite_size": finite_size, "max_steps": max_steps}
    grids = {"times": times, "alpha": alpha, "samples": samples}
    match problem:
        case FullBatch() | Kernel():
            grid = grids.pop(problem.axis)
            if grid is None or any(other is not None for other in grids.values()):
                example = "alpha=log_grid(0.1, 10)" if problem.axis == "alpha" else "samples=[100, 1000]"
                raise InputError(f"a {type(problem).__name__} is predicted at {problem.axis}; pass {example}")
            curve = batch.predict(problem, grid, penalty, progress)
            if not (band and isinstance(problem, FullBatch) and has_replicates(problem)):
                return curve
            return with_band(curve, problem, lambda other: batch.predict(other, grid, penalty))
        case OnlineSGD() | Sweep() if alpha is not None or samples is not None or penalty is not None:
            raise InputError("online learning has neither alpha nor a penalty; pass times=log_times(100)")
        case OnlineSGD() | Sweep() if times is None:
            raise InputError("online learning is predicted at times; pass times=log_times(100)")
        case OnlineSGD():
            curve = online.predict(problem, times, progress=progress, **options)
            if band and has_replicates(problem):
                options["rtol"] = max(rtol, ENOUGH)
                end = float(curve.times[-1])
                curve = with_band(
                    curve, problem, lambda other: online.trajectory(other, end, times=times, **options).curve(times)
                )
            return classification_error(curve, problem) if classification else curve
        case Sweep():
            options |= {"classification": classification, "workers": workers, "progress": progress}
            return sweeps.predict(problem, times, **options)
        case _:
            raise InputError(
                f"a {type(problem).__name__} cannot be predicted; expected an OnlineSGD, a Sweep, a FullBatch or a Kernel"
            )
