"""Checkpoints of a simulation: written now and then, refused if they belong to another one, removed at the end."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussequiv.errors import InputError
from gaussequiv.maths.activations import Custom
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD
from gaussequiv.models.storage import load_arrays, save_arrays
from gaussequiv.simulation.functions import functions

Array = np.ndarray[Any, np.dtype[Any]]
CPU = torch.device("cpu")
STEPS = 10_000  # at which a schedule is looked at, at most


@dataclass
class Checkpoint:
    """A file with the arrays of a simulation, written at most every so many seconds.

    Args:
        path: of the file.
        every: seconds between two writings.
        key: what identifies the simulation, from `key_of`.
        arrays: called for the state when it is to be written.

    """

    path: Path
    every: float
    key: str
    arrays: Callable[[], Mapping[str, Array]]
    _last: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Array]:
        """The arrays of the file; none if there is no file.

        Raises:
            InputError: the file belongs to another simulation, or is damaged.

        """
        if not self.path.exists():
            return {}
        arrays, metadata = load_arrays(self.path, "checkpoint")
        if metadata.get("key") != self.key:
            raise InputError(
                f"{self.path} is the checkpoint of another simulation; expected the same problems, inputs and settings: "
                "remove it, or give another path"
            )
        return arrays

    def save(self) -> None:
        """Write the state now, atomically."""
        save_arrays(self.path, "checkpoint", self.arrays(), {"key": self.key})
        self._last = time.monotonic()

    def save_if_due(self) -> None:
        """Write the state if the last writing is long ago."""
        if time.monotonic() - self._last >= self.every:
            self.save()

    def remove(self) -> None:
        """The simulation is complete."""
        self.path.unlink(missing_ok=True)


def key_of(problems: Iterable[OnlineSGD], times: Array, settings: Mapping[str, Any], fingerprint: bytes) -> str:
    """Hash of all that a simulation depends on; a schedule enters by its values at every step, or at `STEPS` of them."""
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    digest.update(fingerprint)
    digest.update(times.tobytes())
    for problem in problems:
        digest.update(json.dumps(problem.describe(), sort_keys=True).encode())
        model = problem.model
        steps = int(np.rint(times[-1] * model.input_dim))
        grid = np.unique(np.linspace(0, steps, min(steps, STEPS) + 1, dtype=int)) / model.input_dim
        rates = np.array([problem.rates(float(t)) for t in grid]) if problem.scheduled else np.zeros(0)
        for array in (model.Omega, model.Phi, model.Psi, model.mean_x, model.mean_c, rates):
            digest.update(array.tobytes())
        for network in (problem.teacher, problem.student):
            digest.update(described(network))
    return digest.hexdigest()


def described(network: TwoLayer) -> bytes:
    """The numbers of a network; a custom activation enters by its values and slopes, as simulations compute them."""
    g: Any = network.activation
    numbers = network.weights.tobytes() + network.readout.tobytes() + repr(g).encode()
    return numbers + b"".join(_values(f) for f in functions(g, CPU)) if isinstance(g, Custom) else numbers


def _values(function: Callable[[Tensor], Tensor]) -> bytes:
    """Values of a function on a grid; nothing of a slope that nobody gave: a teacher does not need it."""
    try:
        with np.errstate(all="ignore"), torch.no_grad():
            return bytes(function(torch.linspace(-10, 10, 20_001, dtype=torch.float64)).numpy().tobytes())
    except InputError:
        return b""
