"""Simulation (torch): the real training, on samples of a generator or of its Gaussian twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import torch

from gaussequiv.errors import InputError
from gaussequiv.models.batch import FullBatch, Kernel
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import Inputs, OnlineSGD
from gaussequiv.models.sweeps import Curves, Sweep
from gaussequiv.simulation import batch, online
from gaussequiv.simulation.batch import fit as fit
from gaussequiv.simulation.online import simulate_many as simulate_many
from gaussequiv.simulation.online import train as train


@overload
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
    checkpoint: Path | str | None = None,
    checkpoint_every: float = 60.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Curve: ...


@overload
def simulate(
    problem: Sweep,
    inputs: Inputs,
    *,
    times: Any,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    checkpoint: Path | str | None = None,
    checkpoint_every: float = 60.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Curves: ...


@overload
def simulate(
    problem: FullBatch,
    inputs: Inputs,
    *,
    alpha: Any,
    penalty: Any = None,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    device: str | torch.device = "cpu",
    checkpoint: Path | str | None = None,
    checkpoint_every: float = 60.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Curve: ...


def simulate(
    problem: OnlineSGD | Sweep | FullBatch,
    inputs: Inputs,
    *,
    times: Any = None,
    alpha: Any = None,
    penalty: Any = None,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    checkpoint: Path | str | None = None,
    checkpoint_every: float = 60.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Curve | Curves:
    """Train for real: by one-pass SGD at `times`, or full batch at sample complexities `alpha`.

    The points of a sweep see the same streams, as they would one by one. See `online.simulate` and `batch.simulate` for the
    arguments.

    Raises:
        InputError: not a problem, inputs of another size than the model's, or an activation without a torch form.

    """
    options: dict[str, Any] = {"seeds": seeds, "seed": seed, "test_samples": test_samples, "device": device}
    options |= {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "progress": progress}
    match problem:
        case OnlineSGD() | Sweep() if times is None or alpha is not None or penalty is not None:
            raise InputError(
                "online learning is simulated at times, without alpha or a penalty; pass times=log_times(100)"
            )
        case FullBatch() if alpha is None or times is not None:
            raise InputError("full-batch learning is simulated at alpha = n / N, not at times; pass alpha=[0.5, 1, 2]")
        case FullBatch() if dtype != torch.float64:
            raise InputError(f"dtype={dtype}; full-batch minima are computed in torch.float64: leave dtype out")
        case OnlineSGD():
            return online.simulate(problem, inputs, times=times, dtype=dtype, **options)
        case Sweep():
            curves = online.simulate_many(problem.problems, inputs, times=times, dtype=dtype, **options)
            return Curves.of(problem, curves)
        case FullBatch():
            return batch.simulate(problem, inputs, alpha=alpha, penalty=penalty, **options)
        case Kernel():
            raise InputError(
                "a Kernel has no inputs to train on; simulate its features, or kernel ridge (docs/kernels.md)"
            )
        case _:
            raise InputError(
                f"a {type(problem).__name__} cannot be simulated; expected an OnlineSGD, a Sweep or a FullBatch"
            )
