"""Composition: images of a generator or of a data set that are cropped, pooled or standardised, with the same latents."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.errors import InputError, integer, number
from gaussequiv.models.gaussian import GaussianModel

if TYPE_CHECKING:
    from gaussequiv.generators.datasets import Dataset
    from gaussequiv.generators.generator import Generator

    Source = TypeVar("Source", Generator, Dataset)

DEAD = 1e-6  # of the largest standard deviation: inputs that vary less are constant but for rounding
PICTURES = (1, 3)  # channels of what can be drawn, grey or RGB


class Crop(nn.Module):
    """A box of the last two axes, `rows` x `columns` pixels from row `top` and column `left`."""

    def __init__(self, top: int, left: int, rows: int, columns: int) -> None:
        super().__init__()
        self.box = (slice(top, top + rows), slice(left, left + columns))
        self.__name__ = f"cropped to {rows} x {columns}"

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, ..., rows, columns)."""
        return images[(..., *self.box)]


class Pool(nn.Module):
    """Averages over squares of `size` x `size` pixels of the last two axes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.__name__ = f"pooled {size} x {size}"

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, ..., rows / size, columns / size)."""
        *before, rows, columns = images.shape
        k = self.size
        return images.reshape(*before, rows // k, k, columns // k, k).mean((-3, -1))


class Standardise(nn.Module):
    r"""$(x_i - \mu_i) / s_i$, input by input."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.__name__ = "standardised"

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, ...) of mean zero and variance one."""
        return (inputs - self.get_buffer("mean")) / self.get_buffer("scale")


def crop(source: "Source", size: int | tuple[int, int], at: tuple[int, int] | None = None) -> "Source":
    """See `Generator.crop`."""
    height, width = _pixels(source)
    rows, columns = _pair("size", size if isinstance(size, tuple | list) else (size, size), 1)
    top, left = ((height - rows) // 2, (width - columns) // 2) if at is None else _pair("at", at, 0)
    if not (top >= 0 and left >= 0 and top + rows <= height and left + columns <= width):
        where = "" if at is None else f" from row {top} and column {left}"
        raise InputError(
            f"a crop to {rows} x {columns} pixels{where} was asked for; the images of {source.name} have {height} x {width}"
        )
    return source.then(Crop(top, left, rows, columns), shape=source.output_shape)


def pool(source: "Source", size: int) -> "Source":
    """See `Generator.pool`."""
    height, width = _pixels(source)
    size = integer("size", size)
    if height % size or width % size:
        fits = (height // size * size, width // size * size)
        instead = f"crop them before, such as to {fits[0]} x {fits[1]}" if min(fits) else "expected smaller squares"
        raise InputError(
            f"pooling of {size} x {size} pixels does not divide the {height} x {width} of {source.name}; {instead}"
        )
    return source.then(Pool(size), shape=source.output_shape)


def standardise(source: "Source", by: "GaussianModel | tuple[Any, Any]", floor: float = 0.0) -> "Source":
    """See `Generator.standardise`."""
    N, floor = source.input_dim, number("floor", floor)
    if isinstance(by, GaussianModel):
        mean, deviation = by.mean_x, np.sqrt(np.diag(by.Omega).clip(0.0))
    else:
        mean, deviation = _given(by)
    if mean.shape != (N,) or deviation.shape != (N,):
        raise InputError(
            f"means and standard deviations have shapes {mean.shape} and {deviation.shape}; expected ({N},), one an input of "
            f"{source.name}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and deviation.min() >= 0):
        raise InputError("means and standard deviations hold a NaN or a negative deviation; expected finite numbers")
    scale = np.maximum(deviation, floor)
    dead = np.flatnonzero(scale <= DEAD * deviation.max())
    if dead.size:
        raise InputError(
            f"{dead.size} of the {N} inputs of {source.name} do not vary (the first is input {dead[0]}), so they have no "
            "variance one: crop them away, or pass floor=0.01, a standard deviation below which none counts"
        )
    shape = source.output_shape
    return source.then(Standardise(*(torch.from_numpy(a.reshape(shape)) for a in (mean.copy(), scale))), shape=shape)


def picture_shape(output_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(channels, rows, columns) of outputs that can be drawn, grey or RGB; None of others."""
    match output_shape:
        case (rows, columns):
            return 1, rows, columns
        case (channels, rows, columns) if channels in PICTURES:
            return channels, rows, columns
    return None


def _pixels(source: "Generator | Dataset") -> tuple[int, int]:
    """Rows and columns of the images of a source."""
    shape = source.output_shape
    if len(shape) not in (2, 3):
        raise InputError(
            f"an output of {source.name} has the shape {shape}; expected an image, (rows, columns) or (channels, rows, columns)"
        )
    if len(shape) == 3 and shape[2] in PICTURES and shape[0] not in PICTURES:
        raise InputError(
            f"an output of {source.name} has the shape {shape}, with its channels last; expected (channels, rows, columns), so "
            "transpose it first"
        )
    return shape[-2], shape[-1]


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """Two integers of at least so much."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        expected = "(row, column) of the first pixel" if name == "at" else "a number of pixels, or (rows, columns)"
        raise InputError(f"{name}={value!r}; expected {expected}")
    return integer(name, value[0], least), integer(name, value[1], least)


def _given(by: Any) -> tuple[Any, Any]:
    try:
        mean, deviation = (np.array(values, dtype=float) for values in by)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"standardisation by a {type(by).__name__}; expected a GaussianModel, or means and standard deviations (mean, std)"
        ) from error
    return mean, deviation
