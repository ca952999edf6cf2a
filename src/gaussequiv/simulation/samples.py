"""Training and test samples of every seed: a pure function of seed, purpose, lane and chunk."""

from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gaussequiv.errors import InputError
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.operator import OperatorModel
from gaussequiv.models.problems import Inputs, OnlineSGD
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.simulation.functions import functions


@runtime_checkable
class OnDevice(Protocol):
    """Inputs that are made on a device, such as a `Generator`: no detour through NumPy, no rounding of the latents."""

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Flat latents (n, D) in double precision and flat inputs (n, N)."""
        ...

    def push(self, latents: Tensor) -> Tensor:
        """The inputs of latents."""
        ...


class Source:
    """Inputs as the student sees them, with noiseless labels, of any seed and purpose.

    Args:
        problem: the teacher, where it looks, and the means that are subtracted.
        inputs: a `Generator`, or the model itself.
        seed: of all streams.
        dtype: of inputs and labels.
        device: where they are wanted.
        training: the purpose of the training samples.

    """

    def __init__(
        self,
        problem: OnlineSGD,
        inputs: Inputs,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
        training: Purpose = Purpose.TRAIN,
    ) -> None:
        self.inputs, self.seed, self.dtype, self.device, self.training = inputs, seed, dtype, device, training
        model, teacher = problem.model, problem.teacher
        self.input_dim, self.outputs = model.input_dim, teacher.outputs
        self._sees_latents = problem.teacher_on == "latents"
        self._mean_c, self._mean_x = (
            self.tensor(mean) if problem.center else None for mean in (model.mean_c, model.mean_x)
        )
        self._teacher = functions(teacher.activation, device)[0]  # type: ignore[arg-type]
        self._weights = self.tensor(teacher.weights.T / teacher.dim**0.5)
        self._readout = self.tensor(teacher.readout.reshape(teacher.units, -1))

    def tensor(self, array: Any) -> Tensor:
        """An array in the precision and on the device of the samples."""
        return torch.tensor(array, dtype=self.dtype, device=self.device)

    def draw(self, n: int, purpose: Purpose, lane: int, chunk: int) -> tuple[Tensor, Tensor]:
        """Inputs (n, N) and noiseless labels (n, outputs)."""
        x = torch.empty(n, self.input_dim, dtype=self.dtype, device=self.device)
        return x, self.draw_into(x, purpose, lane, chunk)

    def draw_into(self, x: Tensor, purpose: Purpose, lane: int, chunk: int) -> Tensor:
        """Fill `x` (n, N) with inputs; returns their noiseless labels (n, outputs)."""
        c, drawn = self._raw(len(x), stream(self.seed, purpose, chunk=chunk, lane=lane))
        drawn = drawn.to(self.device)
        if self._mean_x is None:
            x.copy_(drawn)
        else:
            torch.sub(drawn, self._mean_x, out=x)
        if not self._sees_latents:
            return self._teacher(x @ self._weights) @ self._readout
        c = c.to(device=self.device, dtype=self.dtype)
        seen = c if self._mean_c is None else c - self._mean_c
        return self._teacher(seen @ self._weights) @ self._readout

    def _raw(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Latents and inputs as they come: those of `inputs.sample(n, rng)`, made on the device where that is possible."""
        if isinstance(self.inputs, OnDevice):
            return self.inputs.draw(n, rng)
        if isinstance(self.inputs, GaussianModel):
            root, regression, residual, mean_c, mean_x = self._twin
            c = self.tensor(rng.standard_normal((n, len(mean_c))))
            c = c if root is None else c @ root
            x = torch.addmm(mean_x, self.tensor(rng.standard_normal((n, len(mean_x)))), residual).addmm_(c, regression)
            return c + mean_c, x
        c, x = (torch.from_numpy(sample) for sample in self.inputs.sample(n, rng))
        return c, x

    @cached_property
    def _twin(self) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        """`factors` and means of a `GaussianModel` on the device; no root for Psi = I."""
        model = cast(GaussianModel, self.inputs)
        root, *others = (self.tensor(array) for array in (*model.factors, model.mean_c, model.mean_x))
        white = np.array_equal(model.Psi, np.eye(model.latent_dim))
        return (None if white else root, *others)  # type: ignore[return-value]

    def noise(self, n: int, lane: int, chunk: int) -> Tensor:
        """Standard normal label noise (n, outputs) of a training chunk, in a lane of its own: inputs do not depend on it."""
        rng = stream(self.seed, self.training, chunk=chunk, lane=2**63 + lane)
        return self.tensor(rng.standard_normal((n, self.outputs)))


def name_of(inputs: Inputs) -> str:
    """What the inputs are called in provenance."""
    if isinstance(inputs, GaussianModel):
        return f"the Gaussian twin of {inputs.provenance.get('source', 'given covariances')}"
    return str(getattr(inputs, "name", type(inputs).__name__))


def is_twin(inputs: Inputs) -> bool:
    """Whether they are Gaussian: samples of a model, not of a generator."""
    return isinstance(inputs, GaussianModel | OperatorModel)


def fingerprint(inputs: Inputs) -> bytes:
    """The first sample of the inputs: equal for equal generators."""
    latents, samples = inputs.sample(2, stream(0, Purpose.CHECK))
    return bytes(np.ascontiguousarray(latents).tobytes() + np.ascontiguousarray(samples).tobytes())


def device_of(device: str | torch.device) -> torch.device:
    """A device that is there, or an `InputError`."""
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {str(device)!r} is not there ({str(error).splitlines()[0]}); use 'cpu'") from error
    return chosen
