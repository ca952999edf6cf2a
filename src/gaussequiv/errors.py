"""The two ways in which a call can fail, the user's input or the machine, and the checks of plain arguments."""

import math
import numbers
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Wrong input: one sentence with what was expected, what came and what to do (exit code 2)."""


class StorageError(OSError):
    """A file could not be written or read, or is not what it says it is (exit code 3)."""


class FiniteSizeWarning(UserWarning):
    """A few modes move within a few steps of SGD, so that the equations of the limit of large N are not exact."""


def integer(name: str, value: Any, least: int = 1, *, most: int | None = None) -> int:
    """`value` as an int from `least` to `most`; refuses fractions, booleans and what is no number."""
    value = _scalar(value)
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise InputError(f"{name}={value!r}; expected an integer of at least {least}")
    if most is not None and value > most:
        raise InputError(f"{name}={value!r}; expected an integer of at most {most}")
    return int(value)


def number(name: str, value: Any, *, positive: bool = False, negative: bool = False) -> float:
    """`value` as a finite float: positive, not negative, or (`negative`) any; refuses what is no real number."""
    value = _scalar(value)
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        finite = real and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        finite = False
    if not finite or (value < 0 and not negative) or (positive and value == 0):
        kind = "positive finite number" if positive else "finite number" if negative else "non-negative finite number"
        raise InputError(f"{name}={value!r}; expected a {kind}")
    return float(value)


def callback(value: Any) -> None:
    """Refuse a `progress` that is neither a function nor left out."""
    if not (value is None or callable(value)):
        raise InputError(f"progress={value!r}; expected a function of (done, in all)")


def folder_path(value: Any) -> Path:
    """A folder as a path; refuses what is none, and the empty one, which would be the folder one happens to be in."""
    if not isinstance(value, str | Path) or value == "":
        raise InputError(f"folder={value!r}; expected the path of a folder, such as 'fields'")
    return Path(value)


def detached(value: Any) -> Any:
    """A tensor, of any device and with a gradient, as an array; anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def a_kind(value: Any) -> str:
    """The type of a value in a sentence: "an int", "a Tensor"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def _scalar(value: Any) -> Any:
    """An array without axes as the number that it holds."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
