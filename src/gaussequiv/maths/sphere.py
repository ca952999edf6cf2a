"""The largest value of a function of unit vectors, uphill from a start."""

from collections.abc import Callable

import numpy as np

from gaussequiv.maths.averages import Array

TURNS = 24
FIRST, LAST = 0.5, 1e-3  # angles in radians


def unit(rows: Array) -> Array:
    """Rows (m, d) of length one; those of no length are left out."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    kept = length[:, 0] > 1e-12 * max(length.max(initial=0.0), 1e-300)
    return np.asarray(rows[kept] / length[kept])


def uphill(
    value: Callable[[Array], float], gradient: Callable[[Array], Array], start: Array, at_start: float | None = None
) -> tuple[Array, float]:
    """Turn a unit vector (d,) along the gradient, by an angle that is quartered where that leads down."""
    e, found = start, value(start) if at_start is None else at_start
    angle = FIRST
    if len(e) == 1:
        return e, found
    for _ in range(TURNS):
        slope = gradient(e)
        tangent = slope - (slope @ e) * e
        size = np.linalg.norm(tangent)
        if size < 1e-12 or angle < LAST:
            break
        turned = np.cos(angle) * e + np.sin(angle) * tangent / size
        turned /= np.linalg.norm(turned)
        there = value(turned)
        if there > found:
            e, found = turned, there
        else:
            angle /= 4
    return e, found
