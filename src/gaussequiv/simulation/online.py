r"""One-pass SGD of two-layer networks, for real: every seed an independent stream, all seeds and learning rates at once.

`samples` draws, `blocks` does the steps, `training` holds the state and measures it, `checkpoints` keeps it. Problems that
share a stream are trained side by side on it: inputs are drawn, and their Gram matrices computed, once for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussequiv.errors import InputError, a_kind, integer, number
from gaussequiv.maths.solvers import Status
from gaussequiv.models.curves import Curve
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs, OnlineSGD, checked_times
from gaussequiv.models.streams import Purpose
from gaussequiv.simulation.checkpoints import Checkpoint, key_of
from gaussequiv.simulation.samples import Source, device_of, fingerprint, is_twin, name_of
from gaussequiv.simulation.training import MEASURED, Run

Array = np.ndarray[Any, np.dtype[np.float64]]


def simulate(
    problem: OnlineSGD,
    inputs: Inputs,
    *,
    times: Any,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
) -> Curve:
    r"""Train the student of `problem` by one-pass SGD on samples of `inputs`, and measure it at `times`.

    Every seed starts from the problem's weights and has its own training stream; its errors are measured on fresh samples of
    its own at every time: $\frac12 |\hat y - y|^2$ on average, and the fraction of samples on which student and noiseless
    teacher disagree in sign (several outputs: in the largest one). Overlaps Q, R and the means of the student's fields are
    those of the trained weights under the model.

    Args:
        problem: student, teacher, model and learning rule.
        inputs: a `Generator`, or the model itself (its Gaussian twin).
        times: t = steps / N, increasing; they are rounded to whole steps.
        seeds: number of independent runs.
        seed: of all random streams.
        test_samples: fresh samples of each seed at each time.
        dtype: of the weights and of all products with them.
        device: where the training runs.
        progress: called with (steps done, steps in all).
        checkpoint: a file for the state of the run; the same call continues from it, with the same result. It is removed
            at the end.
        checkpoint_every: seconds between two writings of it; it is also written on Ctrl-C.

    Returns:
        A curve with the means over seeds of test_error, classification_error, Q, R, v (and of `means` if inputs are not
        centred), their standard errors `*_se`, and `test_errors`.

    Raises:
        InputError: inputs of another size than the model's, an activation that cannot run on the device, or a checkpoint of
            another simulation.

    """
    return simulate_many(
        (problem,),
        inputs,
        times=times,
        seeds=seeds,
        seed=seed,
        test_samples=test_samples,
        dtype=dtype,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )[0]


def simulate_many(
    problems: Sequence[OnlineSGD],
    inputs: Inputs,
    *,
    times: Any,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
) -> tuple[Curve, ...]:
    """Train the students of several problems side by side, on one stream of samples a seed; arguments as in `simulate`.

    The problems share model, teacher, `teacher_on` and `center`; they may differ in student, rates, noise, weight decay and
    batch size. Problems with one batch size see the same samples; each result is that of the problem alone.

    Returns:
        One curve a problem, in their order.

    Raises:
        InputError: as `simulate`, or problems that do not share what they must.

    """
    problems = _family(problems)
    t = checked_times(times)
    seeds, test_samples = integer("seeds", seeds), integer("test_samples", test_samples)
    every = number("checkpoint_every", checkpoint_every)
    source = _source(problems[0], inputs, seed, dtype, device, Purpose.TRAIN)
    targets = [int(step) for step in np.rint(t * source.input_dim)]
    with torch.no_grad():
        runs = [Run([problems[i] for i in same], source, seeds) for same in _by_batch_size(problems)]
        drawn = {
            "seeds": seeds,
            "seed": seed,
            "test_samples": test_samples,
            "inputs": name_of(inputs),
            "twin": is_twin(inputs),
        }
        kept = _kept(checkpoint, every, problems, t, drawn, source, runs)
        _finished(runs, targets[-1], kept, progress, lambda run, report: run.finish(targets, test_samples, report))
    curves = {}
    for run in runs:
        for problem, values in run.measured_of_each():
            provenance = {"kind": "simulation", **drawn, "problem": problem.describe()}
            curves[id(problem)] = _curve(t, problem, values, provenance)
    if kept:
        kept.remove()
    return tuple(curves[id(problem)] for problem in problems)


def train(
    problem: OnlineSGD,
    inputs: Inputs,
    *,
    time: float,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
) -> TwoLayer:
    r"""Train the student of `problem` once, by one-pass SGD until t = `time`, and return it.

    Its first layer are pre-learned features: `generator.then(student, mean=problem.model.mean_x)`. The training samples are
    those of no simulation, whatever its seed, so what is learned on the features does not meet them again.

    Args:
        problem: student, teacher, model and learning rule.
        inputs: a `Generator`, or the model itself.
        time: t = steps / N, rounded to whole steps.
        seed: of the training samples.
        dtype: of the weights and of all products with them.
        device: where the training runs.
        progress: called with (steps done, steps in all).
        checkpoint: a file for the state of the run, as in `simulate`.
        checkpoint_every: seconds between two writings of it.

    Raises:
        InputError: as `simulate`, or weights that diverge.

    """
    (problem,) = _family((problem,))
    end, every = number("time", time), number("checkpoint_every", checkpoint_every)
    source = _source(problem, inputs, seed, dtype, device, Purpose.PRETRAIN)
    steps = round(end * source.input_dim)
    with torch.no_grad():
        run = Run([problem], source, 1)
        drawn = {"seed": seed, "inputs": name_of(inputs), "purpose": "train"}
        kept = _kept(checkpoint, every, (problem,), np.array([end]), drawn, source, [run])
        _finished([run], steps, kept, progress, lambda run, report: run.advance(steps, report))
    if kept:
        kept.remove()
    W, v = (part[0, 0].double().cpu().numpy() for part in run.state[1][0])
    if not (np.isfinite(W).all() and np.isfinite(v).all()):
        raise InputError(f"the student diverged before t = {end:g}; train it with a smaller learning rate")
    return TwoLayer(W, v.reshape(problem.student.readout.shape), problem.student.activation)


# --- what both have in common ---


def _source(
    problem: OnlineSGD,
    inputs: Inputs,
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device,
    training: Purpose,
) -> Source:
    """The samples of a problem, if its inputs fit."""
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"dtype={dtype!r}; expected torch.float32 or torch.float64")
    if not callable(getattr(inputs, "sample", None)):
        raise InputError(f"the inputs are a {type(inputs).__name__}; expected a Generator or a GaussianModel")
    N, D = problem.model.input_dim, problem.model.latent_dim
    if (inputs.input_dim, inputs.latent_dim) != (N, D):
        raise InputError(
            f"the inputs have (N, D) = ({inputs.input_dim}, {inputs.latent_dim}); the model has ({N}, {D})"
        )
    with torch.no_grad():
        return Source(problem, inputs, integer("seed", seed, least=0), dtype, device_of(device), training)


def _kept(
    path: str | Path | None,
    every: float,
    problems: Sequence[OnlineSGD],
    times: Array,
    drawn: Mapping[str, Any],
    source: Source,
    runs: Sequence[Run],
) -> Checkpoint | None:
    """The checkpoint of runs, where one is wanted; what it holds already is restored into them."""
    if path is None:
        return None
    settings = {**drawn, "dtype": str(source.dtype), "device": str(source.device)}
    kept = Checkpoint(
        Path(path), every, key_of(problems, times, settings, fingerprint(source.inputs)), lambda: _arrays(runs)
    )
    found = kept.load()
    for r, run in enumerate(runs if found else ()):
        run.restore({name.removeprefix(f"{r}."): array for name, array in found.items()})
    return kept


def _finished(
    runs: Sequence[Run],
    steps: int,
    kept: Checkpoint | None,
    progress: Callable[[int, int], Any] | None,
    finish: Callable[[Run, Callable[[], None]], None],
) -> None:
    """Carry out all runs of so many steps each; an interrupt leaves the state in the checkpoint."""

    def report() -> None:
        if kept:
            kept.save_if_due()
        if progress:
            progress(sum(run.steps for run in runs), steps * len(runs))

    try:
        for run in runs:
            finish(run, report)
    except KeyboardInterrupt:
        if kept:
            kept.save()
        raise


# --- which problems go together ---


def _family(problems: Sequence[OnlineSGD]) -> tuple[OnlineSGD, ...]:
    """The problems, if they can be trained on one stream of samples."""
    problems = tuple(problems)
    if not problems:
        raise InputError("no problem was given; expected at least one OnlineSGD")
    for problem in problems:
        if not isinstance(problem, OnlineSGD):
            raise InputError(f"a problem is {a_kind(problem)}; expected an OnlineSGD")
    first = problems[0]
    for number_, problem in enumerate(problems[1:], start=2):
        for name in ("model", "teacher", "teacher_on", "center"):
            one, other = getattr(first, name), getattr(problem, name)
            if one is not other and not _same(one, other):
                raise InputError(
                    f"problem {number_} has another {name} than the first; problems that are trained together share "
                    "model, teacher, teacher_on and center"
                )
    return problems


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, TwoLayer):
        arrays = ((one.weights, other.weights), (one.readout, other.readout))
        return one.activation == other.activation and all(np.array_equal(*pair) for pair in arrays)
    return bool(isinstance(one, str | bool) and one == other)


def _by_batch_size(problems: Sequence[OnlineSGD]) -> list[list[int]]:
    sizes = dict.fromkeys(p.batch_size for p in problems)
    return [[i for i, p in enumerate(problems) if p.batch_size == size] for size in sizes]


# --- results ---


def _arrays(runs: Sequence[Run]) -> dict[str, Array]:
    """The states of all runs, each name with the number of its run."""
    return {f"{r}.{name}": array for r, run in enumerate(runs) for name, array in run.arrays().items()}


def _curve(times: Array, problem: OnlineSGD, values: Mapping[str, Array], provenance: Mapping[str, Any]) -> Curve:
    variables: dict[str, Array] = {"test_errors": values["test_error"], "T": problem.teacher_overlap}
    with np.errstate(all="ignore"):  # runs that diverged
        for name in MEASURED if not problem.center else MEASURED[:-1]:
            variables[name] = values[name].mean(axis=1)
            variables[f"{name}_se"] = _standard_error(values[name])
    finite = np.asarray(np.isfinite(values["test_error"]).all(axis=1))
    status = tuple(Status.OK if ok else Status.DIVERGED for ok in finite.tolist())
    return Curve.from_arrays(times, variables, status, provenance)


def _standard_error(values: Array) -> Array:
    """Standard error of the mean over seeds, axis 1; NaN for a single seed."""
    seeds = values.shape[1]
    if seeds < 2:
        return np.full(values.mean(axis=1).shape, np.nan)
    return np.asarray(values.std(axis=1, ddof=1) / np.sqrt(seeds))
