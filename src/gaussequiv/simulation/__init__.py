"""Simulation (torch): the real training, on samples of a generator or of its Gaussian twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import torch

from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.problems import Inputs, OnlineSGD
from gaussequiv.models.sweeps import Curves, Sweep
from gaussequiv.simulation import online
from gaussequiv.simulation.online import simulate_many as simulate_many


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


def simulate(
    problem: OnlineSGD | Sweep,
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
) -> Curve | Curves:
    """Train by one-pass SGD for real: the learning curve of a problem, or the curves of a sweep.

    The points of a sweep see the same streams, as they would one by one. See `online.simulate` for the arguments.

    Raises:
        InputError: not a problem, inputs of another size than the model's, or an activation without a torch form.

    """
    options: dict[str, Any] = {"times": times, "seeds": seeds, "seed": seed, "test_samples": test_samples}
    options |= {"dtype": dtype, "device": device, "checkpoint": checkpoint, "checkpoint_every": checkpoint_every}
    options["progress"] = progress
    match problem:
        case OnlineSGD():
            return online.simulate(problem, inputs, **options)
        case Sweep():
            return Curves.of(problem, online.simulate_many(problem.problems, inputs, **options))
        case _:
            raise InputError(f"a {type(problem).__name__} cannot be simulated; expected an OnlineSGD or a Sweep")
