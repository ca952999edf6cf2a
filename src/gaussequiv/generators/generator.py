"""`Generator`: any torch module or callable as a seeded map from latents to flat inputs, x = G(c)."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.generators import composition
from gaussequiv.generators.calls import Call, NoTensorError
from gaussequiv.generators.precision import full_precision
from gaussequiv.generators.priors import GLOBAL, Prior, seeded_globally
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.streams import as_rng

if TYPE_CHECKING:
    from gaussequiv.generators.priors import Sampler

Array = np.ndarray[Any, np.dtype[Any]]
MOST_LATENTS = 10**7
DTYPES = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Generator:
    r"""A generative model $x = G(c)$ as a map of flat latents to flat inputs; $c \sim N(0, I_D)$ unless it has a prior.

    A `torch.nn.Module` is copied and the copy is put into evaluation mode, so the user's module keeps its state and a
    generator never changes; any other callable is used as it is. The global random state is untouched.

    Args:
        module: map of a batch of latents, shape (n, *latent), to a batch of outputs, shape (n, ...).
        latent: shape of one latent as the module wants it: `100`, `(100, 1, 1)`, ...; D is its product. Of a module of several
            latents a dictionary of shapes, `{"z": 100, "w": (8, 4, 4)}`: it is called as `module(z=..., w=...)`; D is their sum.
        dtype: of latents and inputs; by default the module's own (float32 for a module without parameters, or in bfloat16).
        device: where the module runs.
        batch_size: the largest number of latents given to the module at once.
        name: for messages, files and figures.
        output: which of several outputs is the input x: a position in a tuple, a key of a dictionary, the name of an
            attribute, or a function of what the module returns.
        extra: further arguments of the module by their names. A tensor, array or list is that of one sample (a class, a
            temperature) and is repeated for each; anything else is passed as it is.
        prior: the law of the latents, where it is not standard normal: a function of (n, rng), with a NumPy generator, that
            returns latents (n, *latent), or a `torch.distributions` object; for a dictionary of latents one of these a name
            (standard normal where there is none). Mean and covariance Psi are then estimated with the others, and `estimate`
            refuses latents that no Gaussian can stand for, such as one-hot ones.
        stochastic: whether the module draws random numbers of its own (noise in its layers): they then follow from the seed of
            the sample, and are averaged over as part of x given c.

    Raises:
        InputError: not callable, an empty latent, an unknown device, a module that cannot be copied, or a prior that is none.

    """

    module: Callable[..., Any]
    latent: int | tuple[int, ...] | Mapping[str, int | tuple[int, ...]]
    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    batch_size: int = 256
    name: str = "generator"
    output: int | str | Callable[[Any], Tensor] | None = None
    extra: Mapping[str, Any] | None = None
    prior: "Prior | Sampler | Mapping[str, Sampler] | None" = None
    stochastic: bool = False
    _map: Callable[..., Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.module) or (isinstance(self.module, type) and issubclass(self.module, nn.Module)):
            kind = "a class" if isinstance(self.module, type) else a_kind(self.module)
            raise InputError(f"the generator is {kind}; expected a torch module or a callable")
        if not (self.output is None or callable(self.output) or type(self.output) in (int, str)):
            raise InputError(
                f"output={self.output!r}; expected a position, a name, or a function of what the module returns"
            )
        if self.extra is not None and not isinstance(self.extra, Mapping):
            raise InputError(f"extra={self.extra!r}; expected further arguments by their names, such as {{'label': 3}}")
        latent: Any = self.latent
        if isinstance(latent, Mapping):
            if not latent or not all(isinstance(key, str) for key in latent):
                raise InputError(f"latent={latent!r}; expected shapes by the names of the module's arguments")
            latent = {key: _shape(shape) for key, shape in latent.items()}
        else:
            latent = _shape(latent)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"dtype={self.dtype!r}; expected one of {', '.join(map(str, DTYPES))}")
        integer("batch_size", self.batch_size)
        put = object.__setattr__
        put(self, "module", _snapshot(self.module, self.name))
        put(self, "extra", copy.deepcopy(dict(self.extra)) if self.extra is not None else None)
        put(self, "latent", latent)
        if self.latent_dim > MOST_LATENTS:
            raise InputError(
                f"latent={self.latent!r} has {self.latent_dim:.2g} numbers; expected {MOST_LATENTS} at most"
            )
        put(self, "device", _device(self.device))
        put(self, "dtype", self.dtype or _own_dtype(self.module))
        put(self, "_map", self._copied())
        put(self, "prior", None if self.prior is None else Prior.of(self.prior, latent))

    @property
    def latent_dim(self) -> int:
        """D, the number of latent variables."""
        return self.call.latent_dim

    @cached_property
    def input_dim(self) -> int:
        """N, the number of inputs: the size of the flattened output of one latent."""
        return math.prod(self.output_shape)

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output of the module before it is flattened."""
        latents = self.latents(2, as_rng(0))  # not zero, which some modules divide by
        with torch.inference_mode(), self._forked():
            return tuple(self._outputs(latents.to(device=self.device, dtype=self.dtype)).shape[1:])

    @cached_property
    def call(self) -> Call:
        """How the module is called with flat latents."""
        return Call(self.latent, self.extra or {}, self.output)  # type: ignore[arg-type]

    def to(
        self,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> "Generator":
        """The same generator on another device, in another precision, or in other batches."""
        return dataclasses.replace(
            self,
            dtype=dtype or self.dtype,
            device=device or self.device,
            batch_size=batch_size or self.batch_size,
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
        with self._forked():
            return self._pushed(latents)

    def _pushed(self, latents: Tensor) -> Tensor:
        """The same, with whatever state torch's random numbers have."""
        latents = latents.to(device=self.device, dtype=self.dtype)
        with torch.inference_mode(), full_precision:
            outputs = [self._outputs(batch).flatten(1) for batch in latents.split(self.batch_size)]
        if len({output.shape[1] for output in outputs}) > 1:
            raise InputError(
                f"{self.name} returned outputs of different sizes for different batches; expected one size"
            )
        return torch.cat(outputs)

    def differentiable(self, latents: Tensor) -> Tensor:
        """The same map with gradients, of latents (n, D) on the generator's device and in its dtype.

        Raises:
            InputError: the module has no gradient, or is random.

        """
        if self.stochastic:
            raise InputError(f"{self.name} is stochastic; expected a map with a gradient")
        with self._forked(), torch.enable_grad(), full_precision:
            outputs = self._outputs(latents).flatten(1)
        if not outputs.requires_grad:
            raise InputError(f"{self.name} has no gradient with respect to its latents; expected a torch map")
        return outputs

    def latents(self, n: int, rng: np.random.Generator) -> Tensor:
        """Draw `n` flat latents from their law: (n, D), in double precision."""
        if isinstance(self.prior, Prior):
            return self.prior.draw(n, rng)
        return torch.from_numpy(rng.standard_normal((n, self.latent_dim)))

    def draw(self, n: int, rng: np.random.Generator | int) -> tuple[Tensor, Tensor]:
        """Draw `n` latents, (n, D) in double precision, and their inputs, (n, N) on the device and in the dtype of the module."""
        n, rng = integer("n", n), as_rng(rng)
        if self.prior is None and not self.stochastic:
            latents = self.latents(n, rng)
            return latents, self.push(latents)
        with GLOBAL:  # a prior, or the module, may draw global random numbers
            latents = self.latents(n, rng)
            if not self.stochastic:
                return latents, self.push(latents)
            with seeded_globally(int(rng.integers(2**62)), self._cuda):
                return latents, self._pushed(latents)

    def sample(self, n: int, rng: np.random.Generator | int) -> tuple[Array, Array]:
        """Draw `n` latents and their inputs: arrays (n, D) and (n, N) in the module's dtype."""
        latents, inputs = self.draw(n, rng)
        return latents.to(self.dtype).numpy(), inputs.cpu().numpy()

    def _forked(self) -> Any:
        """What leaves global random states alone: torch's, and of a stochastic module NumPy's as well."""
        if self.stochastic:
            return seeded_globally(None, self._cuda)
        return torch.random.fork_rng(devices=self._cuda)

    @property
    def _cuda(self) -> list[Any]:
        """The device whose random numbers may be drawn besides those of the CPU."""
        return [self.device] if torch.device(self.device).type == "cuda" else []

    def _outputs(self, latents: Tensor) -> Tensor:
        """Outputs (n, ...) of flat latents (n, D), as they come."""
        n = len(latents)
        try:
            out = self.call(self._map, latents)
        except NoTensorError as error:
            raise InputError(f"{self.name} {error}") from error
        except InputError:
            raise
        except Exception as error:  # whatever a user's module may raise
            sentence = str(error).strip().split("\n")[0]
            raise InputError(
                f"{self.name} failed on latents of shape {self.call.shapes(n)}: {sentence}{self._hint(sentence)}"
            ) from error
        if out.ndim < 2 or len(out) != n or out.numel() == 0:
            raise InputError(f"{self.name} returned shape {tuple(out.shape)} for {n} latents; expected ({n}, ...)")
        if out.is_complex():
            raise InputError(f"{self.name} returned complex numbers; expected real ones")
        out = out.to(self.dtype)
        if not torch.isfinite(out).all():
            raise InputError(f"{self.name} returned a NaN or an infinity; check its weights and its dtype {self.dtype}")
        return out

    def _hint(self, sentence: str) -> str:
        """What may be wrong where a module fails with this sentence."""
        if "argument" in sentence:
            return "; its further arguments are those of extra"
        if any(word in sentence.lower() for word in ("shape", "size", "dimension", "channels", "batch")):
            return f"; is latent={self.latent} the shape that the module expects?"
        return ""

    def _copied(self) -> Callable[..., Any]:
        if not isinstance(self.module, nn.Module):
            return self.module
        module = copy.deepcopy(self.module)
        return module.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)


def _snapshot(module: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A copy of a module, which later changes of the user's do not reach; a function as it is."""
    if not isinstance(module, nn.Module):
        return module
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{name} cannot be copied ({error}); pass a function that calls it") from error


def _shape(latent: Any) -> tuple[int, ...]:
    shape = tuple(latent) if isinstance(latent, Sequence) and not isinstance(latent, str) else (latent,)
    if not shape or not all(isinstance(size, Integral) and int(size) >= 1 for size in shape):
        raise InputError(f"latent={latent!r}; expected the shape of one latent, such as 100 or (100, 1, 1)")
    return tuple(int(size) for size in shape)


def _own_dtype(module: Any) -> torch.dtype:
    """That of its first weights; float32 for one that NumPy does not have, such as bfloat16, which it holds exactly."""
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype if tensor.dtype in DTYPES else torch.float32
    return torch.float32


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {str(device)!r} is not there ({str(error).splitlines()[0]}); use 'cpu'") from error
    return chosen
