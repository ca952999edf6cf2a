r"""Schedules: learning rates as functions of time t = steps / N. Any function of t will do; these print, compare and travel.

A schedule of this chapter can be sent to another process, and knows the times at which it jumps, which a solver of the
equations of motion has to step on.
"""

import abc
import math
from dataclasses import dataclass
from typing import Any

from gaussequiv.errors import InputError, number


class Rate(abc.ABC):
    """A learning rate eta(t), as a value."""

    @abc.abstractmethod
    def __call__(self, t: float) -> float:
        """Eta(t)."""

    @property
    def jumps(self) -> tuple[float, ...]:
        """The times at which eta jumps, ascending."""
        return ()

    @property
    def __name__(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class Step(Rate):
    r"""Piecewise constant: $\eta(t) = \text{values}_i$ with i the number of times `at` that are at most t.

    Args:
        values: learning rates, one more than there are jumps.
        at: times of the jumps, positive and increasing.

    Raises:
        InputError: numbers that do not fit together, or are negative or not finite.

    """

    values: tuple[float, ...]
    at: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _numbers("values", self.values))
        object.__setattr__(self, "at", _numbers("at", self.at))
        if len(self.values) != len(self.at) + 1:
            raise InputError(
                f"a step schedule has {len(self.values)} values and {len(self.at)} times; expected one value more than times"
            )
        if any(later <= earlier for earlier, later in zip((0.0, *self.at), self.at, strict=False)):
            raise InputError(f"a step schedule jumps at {list(self.at)}; expected positive, increasing times")

    def __call__(self, t: float) -> float:
        return self.values[sum(time <= t for time in self.at)]

    @property
    def jumps(self) -> tuple[float, ...]:
        return self.at


@dataclass(frozen=True)
class Power(Rate):
    r"""$\eta(t) = \text{start} / (1 + t / \text{scale})^{\text{exponent}}$.

    Raises:
        InputError: a start or scale that is not positive, or a negative exponent.

    """

    start: float
    exponent: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        number("start", self.start, positive=True)
        number("exponent", self.exponent)
        number("scale", self.scale, positive=True)

    def __call__(self, t: float) -> float:
        return float(self.start * math.exp(-self.exponent * math.log1p(t / self.scale)))


@dataclass(frozen=True)
class Exponential(Rate):
    r"""$\eta(t) = \text{start} \cdot e^{-\text{rate}\, t}$.

    Raises:
        InputError: a start that is not positive, or a negative rate.

    """

    start: float
    rate: float

    def __post_init__(self) -> None:
        number("start", self.start, positive=True)
        number("rate", self.rate)

    def __call__(self, t: float) -> float:
        return float(self.start * math.exp(-self.rate * t))


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    try:
        items = tuple(values)
    except TypeError:
        items = None
    if items is None or isinstance(values, str):
        raise InputError(f"{name}={values!r}; expected a sequence of numbers")
    return tuple(number(name, value) for value in items)
