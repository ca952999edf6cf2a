r"""Gaussian averages by quadrature: $E f(x)$ and $E f(x) g(y)$ for centred Gaussian fields, for any functions.

The closed forms of `activations` are checked against these, and every callable without closed forms is served by them.
One field is integrated by Gauss-Legendre panels that break at zero, so that a kink or a jump there costs nothing; two
fields by the Hermite series $E f(x) g(y) = \sum_k f_k g_k r^k$, whose remainder is known from Parseval's identity.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.special import roots_legendre

from gaussequiv.errors import InputError

Array = np.ndarray[Any, np.dtype[np.float64]]
Function = Callable[[Array], Array]

HALF_WIDTH = 11.0  # the Gaussian weight beyond is 4e-28
TERMS = 400


@cache
def gaussian_rule(panels: int = 44, order: int = 16) -> tuple[Array, Array]:
    """Nodes and weights for E f(z), z ~ N(0, 1): Gauss-Legendre on equal panels of [-11, 11], zero being an end point."""
    nodes, weights = roots_legendre(order)
    edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, panels + 1)
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    z = (middle[:, None] + half[:, None] * nodes).ravel()
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return z, (half[:, None] * weights).ravel() * density


def single(f: Function, variance: Any) -> Array:
    r"""$E f(x)$, $x \sim N(0, a)$, for every entry of `variance`.

    Raises:
        InputError: the average has not settled to 1e-9 when the rule is refined (a kink or jump away from zero may do
            so), or the function returns a NaN.

    """
    a = np.asarray(variance, dtype=float)
    coarse, fine = (_single(f, a, *gaussian_rule(panels)) for panels in (44, 132))
    _require_settled(np.abs(fine - coarse), _single(lambda x: f(x) ** 2, a, *gaussian_rule()), "E f(x)")
    return fine


def hermite_coefficients(f: Function, variance: Any, terms: int = TERMS) -> Array:
    r"""$f_k = E f(\sqrt a z) he_k(z)$ with $he_k$ orthonormal, shape (*variance.shape, terms)."""
    a = np.asarray(variance, dtype=float)
    z, weights = gaussian_rule(panels=132)
    return _values(f, a, z) @ (weights[:, None] * _hermite(terms))


def pairwise(f: Function, g: Function, a: Any, b: Any, c: Any, tolerance: float = 1e-9) -> Array:
    r"""$E f(x) g(y)$ for $(x, y) \sim N(0, [[a, c], [c, b]])$, for broadcastable arrays of variances and covariances.

    The series is used where its remainder $\sqrt{\sum_{k > n} f_k^2 \sum_{k > n} g_k^2}\, |r|^{n+1}$ is below `tolerance`
    times the scale of the average, the plane is integrated directly elsewhere, and the line where $|r| = 1$.

    Raises:
        InputError: an average cannot be computed to `tolerance`.

    """
    a, b, c = np.broadcast_arrays(*(np.asarray(m, dtype=float) for m in (a, b, c)))
    r = np.clip(_ratio(c, np.sqrt(a * b)), -1.0, 1.0)
    a_values, a_index = np.unique(a, return_inverse=True)
    b_values, b_index = np.unique(b, return_inverse=True)
    fk, gk = hermite_coefficients(f, a_values), hermite_coefficients(g, b_values)
    f2, g2 = single(lambda x: f(x) ** 2, a_values), single(lambda x: g(x) ** 2, b_values)
    f_tail, g_tail = (np.maximum(s - np.sum(k**2, axis=-1), 0.0) for s, k in ((f2, fk), (g2, gk)))
    a_index, b_index = a_index.reshape(a.shape), b_index.reshape(b.shape)
    remainder = np.sqrt(f_tail[a_index] * g_tail[b_index]) * np.abs(r) ** TERMS
    scale = np.sqrt(f2[a_index] * g2[b_index])
    hard = remainder > tolerance * np.maximum(scale, 1e-300)
    result = _series(fk, gk, a_index, b_index, r)
    for index in np.argwhere(hard):
        at = tuple(index)
        result[at] = _plane(f, g, float(a[at]), float(b[at]), float(r[at]), tolerance)
    return result


def _series(fk: Array, gk: Array, a_index: Any, b_index: Any, r: Array) -> Array:
    """Horner's rule in r, term by term, so that no array of (entries, terms) is made."""
    result = np.zeros(r.shape)
    for k in range(fk.shape[-1] - 1, -1, -1):
        result *= r
        result += fk[..., k][a_index] * gk[..., k][b_index]
    return result


def _plane(f: Function, g: Function, a: float, b: float, r: float, tolerance: float) -> float:
    r"""The average with strongly correlated fields, $y = \sqrt b (r z + \sqrt{1-r^2} z')$, by refinement of both rules."""
    previous = np.nan
    for panels in (44, 132, 396):
        z, weights = gaussian_rule(panels)
        inner, inner_weights = (z, weights) if abs(r) < 1 else (np.zeros(1), np.ones(1))
        y = np.sqrt(b) * (r * z[:, None] + np.sqrt(1 - r * r) * inner)
        value = float((weights * f(np.sqrt(a) * z)) @ (g(y) @ inner_weights))
        if abs(value - previous) <= tolerance * max(abs(value), 1.0):
            return value
        previous = value
    raise InputError(
        f"a Gaussian average of two fields with correlation {r:.6f} did not settle; use a smoother function"
    )


def _hermite(terms: int) -> Array:
    return _hermite_table(terms)


@cache
def _hermite_table(terms: int) -> Array:
    """Orthonormal Hermite polynomials at the fine rule's nodes, shape (nodes, terms)."""
    z, _ = gaussian_rule(panels=132)
    table = np.empty((len(z), terms))
    table[:, 0] = 1.0
    if terms > 1:
        table[:, 1] = z
    for k in range(1, terms - 1):
        table[:, k + 1] = (z * table[:, k] - np.sqrt(k) * table[:, k - 1]) / np.sqrt(k + 1)
    return table


def _single(f: Function, a: Array, z: Array, weights: Array) -> Array:
    return _values(f, a, z) @ weights


def _values(f: Function, a: Array, z: Array) -> Array:
    values = np.asarray(f(np.sqrt(a)[..., None] * z), dtype=float)
    if values.shape != (*a.shape, len(z)):
        raise InputError(
            f"the function returned shape {values.shape} for {(*a.shape, len(z))}; it must act entry by entry"
        )
    if not np.isfinite(values).all():
        raise InputError("the function returned a NaN or an infinity on Gaussian fields; expected finite values")
    return values


def _require_settled(change: Array, squares: Array, what: str) -> None:
    if np.any(change > 1e-9 * np.sqrt(np.maximum(squares, 1e-300))):
        raise InputError(
            f"the average {what} did not settle to 1e-9 (last change {change.max():.1e}); use a smoother function"
        )


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
