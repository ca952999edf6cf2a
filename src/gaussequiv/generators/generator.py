"""`Generator`: any torch module or callable as a seeded map from latents to flat inputs, x = G(c) with c ~ N(0, I_D)."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.errors import InputError, integer
from gaussequiv.generators import composition
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.streams import as_rng

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Generator:
    r"""A generative model $x = G(c)$, $c \sim N(0, I_D)$, as a map of flat latents to flat inputs.

    A `torch.nn.Module` is copied and the copy is put into evaluation mode, so the user's module keeps its state and a
    generator never changes; any other callable of one tensor is used as it is. The global random state is untouched.

    Args:
        module: map of a batch of latents, shape (n, *latent), to a batch of outputs, shape (n, ...).
        latent: shape of one latent as the module wants it: `100`, `(100, 1, 1)`, ...; D is its product.
        dtype: of latents and inputs; by default the module's own (float32 for a module without parameters).
        device: where the module runs.
        batch_size: the largest number of latents given to the module at once.
        name: for messages, files and figures.

    Raises:
        InputError: not callable, an empty latent, an unknown device, or a module that cannot be copied.

    """

    module: Callable[[Tensor], Tensor]
    latent: int | tuple[int, ...]
    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    batch_size: int = 256
    name: str = "generator"
    _map: Callable[[Tensor], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape: tuple[Any, ...] = tuple(self.latent) if isinstance(self.latent, Sequence) else (self.latent,)
        if not callable(self.module):
            raise InputError(f"the generator is a {type(self.module).__name__}; expected a torch module or a callable")
        if not shape or not all(isinstance(size, Integral) and int(size) >= 1 for size in shape):
            raise InputError(f"latent={self.latent!r}; expected the shape of one latent, such as 100 or (100, 1, 1)")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"dtype={self.dtype!r}; expected one of {', '.join(map(str, DTYPES))}")
        integer("batch_size", self.batch_size)
        put = object.__setattr__
        put(self, "latent", tuple(int(size) for size in shape))
        put(self, "device", _device(self.device))
        put(self, "dtype", self.dtype or _own_dtype(self.module))
        put(self, "_map", self._copied())

    @property
    def latent_dim(self) -> int:
        """D, the number of latent variables."""
        return math.prod(self.latent)  # type: ignore[arg-type]

    @cached_property
    def input_dim(self) -> int:
        """N, the number of inputs: the size of the flattened output of one latent."""
        return self.push(torch.zeros(2, self.latent_dim, dtype=self.dtype, device=self.device)).shape[1]

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output of the module before it is flattened."""
        latents = torch.zeros(2, *self.latent, dtype=self.dtype, device=self.device)  # type: ignore[misc]
        if self.input_dim:  # which refuses what is no output
            devices = [self.device] if latents.is_cuda else []
            with torch.inference_mode(), torch.random.fork_rng(devices=devices):
                return tuple(self._map(latents).shape[1:])
        return ()

    def to(
        self,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> "Generator":
        """The same generator on another device, in another precision, or in other batches."""
        return Generator(
            self.module,
            self.latent,
            dtype=dtype or self.dtype,
            device=device or self.device,
            batch_size=batch_size or self.batch_size,
            name=self.name,
        )

    def then(
        self,
        features: "nn.Module | TwoLayer | Callable[[Tensor], Tensor]",
        *,
        shape: tuple[int, ...] | None = None,
        mean: Any = None,
    ) -> "Generator":
        r"""The generator of features of the inputs, $v = \varphi(x)$: its latents are the same.

        Args:
            features: `random_features(...)`, any torch module or callable of a batch of inputs, or a `TwoLayer`, of which
                the hidden units $g(W x / \sqrt N)$ are taken (pre-learned features, if it was trained).
            shape: of one input as the features want it, such as (1, 28, 28); flat if left out.
            mean: subtracted from the inputs before, (N,), such as `model.mean_x`.

        Raises:
            InputError: not a feature map, or one of another number of inputs.

        """
        from gaussequiv.generators.features import then

        return then(self, features, shape=shape, mean=mean)

    def crop(self, size: int | tuple[int, int], *, at: tuple[int, int] | None = None) -> "Generator":
        """The generator of images cut to `size` pixels, a number or (rows, columns); its latents are the same.

        Args:
            size: of the images that are left.
            at: (row, column) of their first pixel; by default they are the middle.

        Raises:
            InputError: outputs that are no images, (rows, columns) or (channels, rows, columns), or a crop beyond them.

        """
        return composition.crop(self, size, at)

    def pool(self, size: int) -> "Generator":
        r"""The generator of averages over squares of `size` x `size` pixels, $x' = A x$; its latents are the same.

        Raises:
            InputError: outputs that are no images, or a size that does not divide them.

        """
        return composition.pool(self, size)

    def standardise(self, by: "GaussianModel | tuple[Any, Any]", *, floor: float = 0.0) -> "Generator":
        r"""The generator of $(x_i - \mu_i) / s_i$, inputs of mean zero and variance one; its latents are the same.

        Args:
            by: the model of its inputs, as `estimate` returns it, or their means and standard deviations, (N,) each.
            floor: standard deviations below it count as so much, so that inputs that hardly vary are not blown up.

        Raises:
            InputError: other shapes, a NaN, or inputs that do not vary, without a floor.

        """
        return composition.standardise(self, by, floor)

    def push(self, latents: Tensor) -> Tensor:
        """Map a flat batch of latents (n, D) to flat inputs (n, N), on the generator's device and in its dtype.

        Raises:
            InputError: the module fails, returns a wrong shape, or a NaN or an infinity.

        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise InputError(f"the latents have shape {tuple(latents.shape)}; expected (n, {self.latent_dim})")
        latents = latents.to(device=self.device, dtype=self.dtype)
        devices = [self.device] if latents.is_cuda else []  # whose global random state is to be left alone
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            outputs = [self._push_batch(batch) for batch in latents.split(self.batch_size)]
        if len({output.shape[1] for output in outputs}) > 1:
            raise InputError(
                f"{self.name} returned outputs of different sizes for different batches; expected one size"
            )
        return torch.cat(outputs)

    def sample(self, n: int, rng: np.random.Generator | int) -> tuple[Array, Array]:
        """Draw `n` latents c ~ N(0, I_D) and their inputs: arrays (n, D) and (n, N) in the module's dtype."""
        n = integer("n", n)
        draws = torch.from_numpy(as_rng(rng).standard_normal((n, self.latent_dim))).to(self.dtype)
        return draws.numpy(), self.push(draws).cpu().numpy()

    def _push_batch(self, latents: Tensor) -> Tensor:
        n = len(latents)
        try:
            out = self._map(latents.reshape(n, *self.latent))  # type: ignore[misc]
        except InputError:
            raise
        except Exception as error:  # whatever a user's module may raise
            sentence = str(error).strip().split("\n")[0]
            raise InputError(
                f"{self.name} failed on latents of shape {(n, *self.latent)}: {sentence}; "  # type: ignore[misc]
                f"is latent={self.latent} the shape that the module expects?"
            ) from error
        if not isinstance(out, Tensor):
            raise InputError(f"{self.name} returned a {type(out).__name__}; expected one tensor of shape ({n}, ...)")
        if out.ndim < 2 or len(out) != n or out.numel() == 0:
            raise InputError(f"{self.name} returned shape {tuple(out.shape)} for {n} latents; expected ({n}, ...)")
        if not torch.isfinite(out).all():
            raise InputError(f"{self.name} returned a NaN or an infinity; check its weights and its dtype {self.dtype}")
        return out.reshape(n, -1).to(self.dtype)

    def _copied(self) -> Callable[[Tensor], Tensor]:
        if not isinstance(self.module, nn.Module):
            return self.module
        try:
            module = copy.deepcopy(self.module)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{self.name} cannot be copied ({error}); pass a function that calls it") from error
        return module.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)


def _own_dtype(module: Any) -> torch.dtype:
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
    return torch.float32


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device {str(device)!r} is not there ({str(error).splitlines()[0]}); use 'cpu'") from error
    return chosen
