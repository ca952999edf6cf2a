"""The theory over a grid: one curve a point, in this process or in several, with the same result to the last bit."""

import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import threadpoolctl

from gaussequiv.errors import InputError, integer
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import OnlineSGD, checked_times
from gaussequiv.models.sweeps import Curves, Sweep, refused
from gaussequiv.theory import online
from gaussequiv.theory.classification import classification_error

Solve = Callable[[OnlineSGD], Curve]

_TASK: dict[str, Any] = {}  # what a worker process was started with


def predict(
    sweep: Sweep,
    times: Any,
    *,
    rtol: float,
    reduce: bool,
    finite_size: bool,
    max_steps: int,
    classification: bool = False,
    workers: int = 1,
    progress: Any = None,
) -> Curves:
    """The curves of all points, each as `online.predict` gives it.

    Linear algebra takes one thread a worker, so that nothing depends on their number. A point that is refused where
    others are not is undefined in the result, with the reason as its warning.

    Args:
        sweep: the grid of problems.
        times: as of `online.predict`, like the arguments up to `max_steps`.
        rtol: accuracy of every curve.
        reduce: replace modes by nodes.
        finite_size: add the terms of relative order rho / N.
        max_steps: steps of the solver for each point.
        classification: add the classification errors.
        workers: processes; 1 stays in this one.
        progress: called after every point with the mean over the grid of the times reached.

    Raises:
        InputError: all points are refused, or the problems cannot be sent to other processes.

    """
    t = checked_times(times)
    options: Any = {"rtol": rtol, "reduce": reduce, "finite_size": finite_size, "max_steps": max_steps}
    report = progress or (lambda _: None)
    found = outcomes(
        sweep.problems,
        partial(_classified if classification else online.predict, times=t, **options),
        workers,
        lambda done: report(done * t[-1] / len(sweep)),
    )
    refusals = [outcome for outcome in found if isinstance(outcome, InputError)]
    if len(refusals) == len(sweep):
        raise refusals[0]
    curves = [
        outcome if isinstance(outcome, Curve) else refused(problem, t, "theory", str(outcome))
        for problem, outcome in zip(sweep.problems, found, strict=True)
    ]
    return Curves.of(sweep, curves)


def _classified(problem: OnlineSGD, **options: Any) -> Curve:
    return classification_error(online.predict(problem, **options), problem)


def outcomes(
    problems: Sequence[OnlineSGD], solve: Solve, workers: int, progress: Callable[[int], Any] | None = None
) -> list[Curve | InputError]:
    """The curve of every problem, or why it was refused, whatever the number of workers.

    Args:
        problems: of one model.
        solve: a problem's curve; it can be pickled where there are several workers.
        workers: processes; 1 stays in this one.
        progress: called with the number of problems that are done.

    Raises:
        InputError: the problems cannot be sent to other processes.

    """
    found: dict[int, Curve | InputError] = {}
    workers = min(integer("workers", workers), len(problems))
    with threadpoolctl.threadpool_limits(1):
        _ = problems[0].model.eigenmodes  # found once, and sent along
        for index, outcome in _here(problems, solve) if workers == 1 else _apart(problems, solve, workers):
            found[index] = outcome
            if progress is not None:
                progress(len(found))
    return [found[index] for index in range(len(problems))]


def _here(problems: Sequence[OnlineSGD], solve: Solve) -> Iterator[tuple[int, Curve | InputError]]:
    """Index and outcome of every problem, one after the other."""
    for index, problem in enumerate(problems):
        yield index, _outcome(solve, problem)


def _apart(problems: Sequence[OnlineSGD], solve: Solve, workers: int) -> Iterator[tuple[int, Curve | InputError]]:
    """Index and outcome of every problem as they are ready, from processes that start afresh (spawn)."""
    try:
        task = pickle.dumps((problems, solve))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the problems cannot be sent to other processes ({error}); define their functions at the top of a module, "
            "not as lambdas, or use workers=1"
        ) from error
    with TemporaryDirectory() as folder:
        path = Path(folder) / "task.pickle"  # sent through a pipe it would block where a worker dies as it starts
        path.write_bytes(task)
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(path,))
        try:
            futures = {pool.submit(_point, index): index for index in range(len(problems))}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "the worker processes ended early; a script that uses workers must do so below "
                "`if __name__ == '__main__':`, and needs memory for each of them; or use workers=1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(task: Path) -> None:
    """Prepare a worker: one thread for linear algebra, an interrupt ends it silently, the problems unpacked once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threadpoolctl.threadpool_limits(1)
    _TASK["problems"], _TASK["solve"] = pickle.loads(task.read_bytes())


def _point(index: int) -> Curve | InputError:
    return _outcome(_TASK["solve"], _TASK["problems"][index])


def _outcome(solve: Solve, problem: OnlineSGD) -> Curve | InputError:
    try:
        return solve(problem)
    except InputError as error:
        return error
