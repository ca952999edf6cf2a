r"""The jackknife: error and bias of a function of samples in G parts, from its values without one part at a time.

With $\hat f$ the function of all samples and $\hat f_{-g}$ that without part g,

    bias = (G - 1) (mean f_-g - f),        variance = (G - 1) / G  sum_g (f_-g - mean f_-g)^2,

and Student's law of G - 1 degrees of freedom for intervals.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from gaussequiv.maths.averages import Array


class Spread(NamedTuple):
    """A function of samples, with its standard error and its bias of order 1 / P."""

    value: Array
    error: Array
    bias: Array


def jackknife(full: Array, left_out: Array) -> Spread:
    """A function of all samples with its error and bias, from its values without one part at a time, (G, ...)."""
    G = len(left_out)
    mean = left_out.mean(axis=0)
    variance = (G - 1) / G * ((left_out - mean) ** 2).sum(axis=0)
    return Spread(full, np.sqrt(variance), (G - 1) * (mean - full))


def standard_error(left_out: Array) -> Array:
    """The standard error alone."""
    return jackknife(left_out[0], left_out).error


def reach(error: Array | float, parts: int, level: float = 0.95) -> Array:
    """Half of the width of an interval, by Student's law."""
    return np.asarray(stdtrit(parts - 1, (1 + level) / 2) * error)
