"""`Call`: how a module is called with flat latents, further arguments, and which of its outputs is meant."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussequiv.errors import InputError

Shape = tuple[int, ...]


class NoTensorError(InputError):
    """Outputs that are no tensor: a sentence without its subject, which is the name of the generator."""


@dataclass(frozen=True)
class Call:
    """The arguments and the output of a module, for flat latents (n, D).

    Args:
        latent: shape of one latent, or those of several by the names of the arguments.
        extra: further arguments by their names; tensors, arrays and lists are repeated for each sample.
        output: position, key, attribute or function that picks one of several outputs.

    """

    latent: Shape | Mapping[str, Shape]
    extra: Mapping[str, Any]
    output: int | str | Callable[[Any], Tensor] | None = None

    @property
    def sizes(self) -> list[int]:
        """Numbers of each latent."""
        shapes = self.latent.values() if isinstance(self.latent, Mapping) else [self.latent]
        return [math.prod(shape) for shape in shapes]

    @property
    def latent_dim(self) -> int:
        """D, all of them."""
        return sum(self.sizes)

    def shapes(self, n: int) -> Any:
        """The shapes of `n` latents, for messages."""
        if isinstance(self.latent, Mapping):
            return {key: (n, *shape) for key, shape in self.latent.items()}
        return (n, *self.latent)

    def __call__(self, module: Callable[..., Any], latents: Tensor) -> Tensor:
        """One tensor of outputs (n, ...) of flat latents (n, D).

        Raises `NoTensorError` for outputs that are none.
        """
        n = len(latents)
        extra = {key: _repeated(value, latents) for key, value in self.extra.items()}
        if isinstance(self.latent, Mapping):
            parts = latents.split(self.sizes, dim=1)
            named = {
                key: part.reshape(n, *shape) for (key, shape), part in zip(self.latent.items(), parts, strict=True)
            }
            return self._picked(module(**named, **extra))
        return self._picked(module(latents.reshape(n, *self.latent), **extra))

    def _picked(self, out: Any) -> Tensor:
        chosen = out
        if callable(self.output):
            chosen = self.output(out)
        elif self.output is not None:
            if isinstance(out, Tensor):
                raise NoTensorError(f"returned one tensor, {_shown(out)}; leave output={self.output!r} out")
            try:
                chosen = _item(out, self.output)
            except (KeyError, IndexError, TypeError, AttributeError):
                raise NoTensorError(f"returned {_what(out)}; output={self.output!r} is not one of them") from None
        if not isinstance(chosen, Tensor):
            hint = "; choose one by output" if _several(chosen) and self.output is None else ""
            raise NoTensorError(f"returned {_what(chosen)}; expected one tensor of shape (n, ...){hint}")
        return chosen


def _item(out: Any, key: int | str) -> Any:
    if isinstance(key, str) and not isinstance(out, Mapping):
        return getattr(out, key)
    return out[key]


def _several(out: Any) -> bool:
    return isinstance(out, tuple | list | Mapping) or hasattr(out, "__dataclass_fields__")


def _what(out: Any) -> str:
    """What a module returned, in words."""
    if isinstance(out, Mapping):
        return "a dictionary (" + ", ".join(f"{key!r}: {_shown(value)}" for key, value in out.items()) + ")"
    if isinstance(out, tuple | list):
        return f"a {type(out).__name__} ({', '.join(map(_shown, out))})"
    return f"a {type(out).__name__}"


def _shown(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _repeated(value: Any, latents: Tensor) -> Any:
    """A value of one sample for each of a batch of latents, on their device and, if it is a float, in their precision."""
    if not isinstance(value, Tensor | np.ndarray | np.generic | list | tuple):
        return value
    one = torch.as_tensor(value) if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    one = one.to(device=latents.device, dtype=latents.dtype if one.is_floating_point() else None)
    return one.expand(len(latents), *one.shape)
