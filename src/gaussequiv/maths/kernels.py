r"""Eigenvalues of dot-product kernels on the sphere, $k(x, x') = \kappa(x \cdot x' / d)$ for $|x|^2 = d$, uniformly distributed.

By the theorem of Funk and Hecke the eigenfunctions are spherical harmonics: degree k has the eigenvalue
$\eta_k = E\, \kappa(t) P_k(t)$, t the cosine between two random points and $P_k$ the Legendre polynomial of dimension d, for
each of $\frac{2k + d - 2}{k} \binom{k + d - 3}{k - 1}$ functions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import comb

from gaussequiv.errors import InputError, integer
from gaussequiv.maths.averages import Array

NODES = 400  # of Gauss and Gegenbauer, at least
SMALLEST = 1e-12  # eigenvalue times multiplicity, relative to k(x, x), below which a degree is rounding
RESOLVED = 1e4  # times its rounding, the root of its multiplicity, that a degree must be, to be told from it


def sphere_kernel(function: Callable[[Any], Any], dim: int, degrees: int = 10) -> tuple[Array, Array]:
    r"""Eigenvalues and multiplicities of $\kappa(x \cdot x' / d)$ on the sphere, one pair a degree, and one for the rest.

    The rest, $\kappa(1) - \sum_k \eta_k N_k$, is spread over so many functions that it acts as a penalty: it is given as one
    further level, with the multiplicity of the next degree. Degrees of so many functions that double precision does not resolve
    their eigenvalue have the eigenvalue 0 and belong to it.

    Args:
        function: kappa of the cosine, an array in [-1, 1]; such as `lambda t: (1 + t)**3`, or, for an infinitely wide layer
            with activation g, `lambda t: g.product(g, 1.0, 1.0, t)`.
        dim: d, at least 3.
        degrees: the largest degree.

    Raises:
        InputError: a dimension below 3, or a function that is no kernel: a negative eigenvalue, or no finite number.

    """
    d, degrees = integer("dim", dim, least=3), integer("degrees", degrees)
    t, weights = _nodes(max(NODES, 4 * degrees), d)
    try:
        with np.errstate(all="ignore"):
            values, end = np.asarray(function(t)), np.asarray(function(np.array([1.0])))
        if np.iscomplexobj(values) or np.iscomplexobj(end):
            raise TypeError("it returned complex numbers")
        values, whole = values.astype(float), float(end.astype(float).ravel()[0])
    except Exception as error:  # whatever a user's function may raise
        raise InputError(
            f"the kernel's function failed on [-1, 1] ({error}); expected finite numbers, one a cosine"
        ) from error
    if values.shape != t.shape or not np.isfinite(values).all() or not np.isfinite(whole):
        raise InputError("the kernel's function failed on [-1, 1]; expected finite numbers, one a cosine")
    before, legendre = np.zeros_like(t), np.ones_like(t)
    eigenvalues, counts = [], []
    for k in range(degrees + 1):
        eigenvalues.append(float(weights @ (values * legendre)))
        counts.append(_count(k, d))
        before, legendre = legendre, ((2 * k + d - 2) * t * legendre - k * before) / (k + d - 2)
    eta, multiplicities = np.array(eigenvalues), np.array(counts)
    share = eta * multiplicities
    rounding = np.finfo(float).eps * np.sqrt(multiplicities * float(weights @ values**2))
    if (share < -np.maximum(1e-10 * whole, 100 * rounding)).any():
        k = int(np.argmin(share))
        raise InputError(
            f"the function is no kernel: its eigenvalue of degree {k} is {eta[k]:.2e}; expected none below 0"
        )
    eta = np.where(share > np.maximum(SMALLEST * whole, RESOLVED * rounding), eta, 0.0)
    rest = whole - float((eta * multiplicities).sum())
    if rest > SMALLEST * whole * len(eta):
        count = _count(degrees + 1, d)
        eta, multiplicities = np.append(eta, rest / count), np.append(multiplicities, count)
    return eta, multiplicities


def _nodes(count: int, d: int) -> tuple[Array, Array]:
    """Nodes and weights of the cosine between two points, by the eigenvectors of the Jacobi matrix: for any dimension."""
    k = np.arange(1, count, dtype=float)
    squares = k * (k + d - 3) / ((2 * k + d - 2) * (2 * k + d - 4))
    nodes, vectors = eigh_tridiagonal(np.zeros(count), np.sqrt(squares))
    return np.asarray(nodes), np.asarray(vectors[0] ** 2)


def _count(k: int, d: int) -> float:
    """Number of spherical harmonics of degree k in dimension d."""
    return 1.0 if k == 0 else float((2 * k + d - 2) / k * comb(k + d - 3, k - 1))
