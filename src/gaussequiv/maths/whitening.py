"""Coordinates in which fields have covariance I."""

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array

SINGULAR = 1e-13  # of the largest eigenvalue of a covariance, where it has to have an inverse
DEPENDENT = 1e-9  # of that of correlations, below which a combination of fields does not vary


def inverse_root(C: Array) -> Array:
    """The symmetric $C^{-1/2}$.

    Raises `InputError` for a singular covariance.
    """
    values, vectors = np.linalg.eigh(C)
    if not values[0] > SINGULAR * values[-1]:
        raise InputError(
            "fields that vary on few samples only, or depend on each other on nearly all of them; leave such a unit out, or take "
            "more samples"
        )
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def coordinates(C: Array, dependent: float = DEPENDENT) -> tuple[Array, Array]:
    r"""A and B (L, r) of coordinates $y = A^T u$ with covariance I in which $u = B y$, whatever the scales of the fields u.

    Combinations of fields that do not vary, to `dependent` of the largest variance, are left out; every field has to.
    """
    size = np.sqrt(np.diagonal(C))
    values, vectors = np.linalg.eigh(C / np.outer(size, size))
    kept = values > dependent * values[-1]
    scale, directions = np.sqrt(values[kept]), vectors[:, kept]
    return directions / scale / size[:, None], size[:, None] * directions * scale
