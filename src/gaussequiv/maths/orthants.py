r"""Averages of products of Gaussian variables and of their signs, $E \prod_{i \in P} x_i \prod_{j \in S} \mathrm{sign}(x_j)$.

Stein's lemma takes one factor after the other,

$E x_i F = \sum_p C_{ip} E \partial_p F$, with $\partial_j\, \mathrm{sign}(x_j) = 2 \delta(x_j)$,

and a delta conditions the other variables on $x_j = 0$: they stay centred, with covariance $C - C_{:j} C_{j:} / C_{jj}$. What is
left are averages of signs alone: an arcsine for two, and for four one integral along Plackett's path, on which the covariance
between two pairs grows from 0 to its value.
"""

from typing import Any

import numpy as np
from scipy.special import roots_legendre

from gaussequiv.maths.averages import Array

NODES = 24  # of the integral along the path; 1e-15 with the most correlated pair inside a block
VANISHED = 1e-10  # part of a variance, left after conditioning, in which rounding would be seen (1e-6 at worst)
_PAIRINGS = np.array([[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]])


def sign_moment(C: Array, factors: tuple[int, ...], signs: tuple[int, ...]) -> Array:
    r"""$E \prod_{i \in \text{factors}} x_i \prod_{j \in \text{signs}} \mathrm{sign}(x_j)$, $x \sim N(0, C)$, for C (..., n, n).

    Args:
        C: covariances; variables may coincide or vanish, the sign of a vanished one being 0.
        factors: at most two different variables, or one.
        signs: different variables, at most four.

    """
    if (len(factors) + len(signs)) % 2:
        return np.zeros(C.shape[:-2])
    if not factors:
        return _signs(C, signs)
    i, rest = factors[0], factors[1:]
    total = np.zeros(C.shape[:-2])
    for n, p in enumerate(rest):
        total = total + C[..., i, p] * sign_moment(C, rest[:n] + rest[n + 1 :], signs)
    for j in signs:
        others = tuple(s for s in signs if s != j)
        left = sign_moment(_at_zero(C, j), rest, others) if rest or others else 1.0
        total = total + C[..., i, j] * _inverse_root(C[..., j, j]) * np.sqrt(2 / np.pi) * left
    return total


def _signs(C: Array, signs: tuple[int, ...]) -> Array:
    match len(signs):
        case 0:
            return np.ones(C.shape[:-2])
        case 2:
            return 2 / np.pi * np.arcsin(_correlation(C, *signs))
        case _:
            return _four_signs(C[..., np.array(signs)[:, None], np.array(signs)])


def _four_signs(C: Array) -> Array:
    r"""$E s_0 s_1 s_2 s_3 = E s_0 s_1\, E s_2 s_3 + \int_0^1 dt \sum_{i \in 01,\, j \in 23} C_{ij}\, \partial_{ij}$, (..., 4, 4).

    $\partial_{ij} = 4\, p_t(x_i = x_j = 0)\, E_t[s_{i'} s_{j'} | x_i = x_j = 0]$ at the covariance whose block between 01 and
    23 is multiplied by t. The pair with the largest correlation is put inside a block: coinciding variables are exact.
    """
    scale = _inverse_root(np.diagonal(C, axis1=-2, axis2=-1))
    r = np.clip(C * scale[..., None] * scale[..., None, :], -1.0, 1.0)
    inside = np.stack([np.maximum(np.abs(r[..., p[0], p[1]]), np.abs(r[..., p[2], p[3]])) for p in _PAIRINGS], axis=-1)
    order = _PAIRINGS[np.argmax(inside, axis=-1)]
    r = np.take_along_axis(np.take_along_axis(r, order[..., :, None], -2), order[..., None, :], -1)
    first, second = np.arcsin(r[..., 0, 1]), np.arcsin(r[..., 2, 3])
    total = 4 / np.pi**2 * first * second
    nodes, weights = roots_legendre(NODES)
    angle, weights = np.pi / 4 * (nodes + 1), np.pi / 4 * weights
    t, measure = np.sin(angle), weights * np.cos(angle)
    for i in (0, 1):
        for j in (2, 3):
            k, m = 1 - i, 5 - j
            a, b, c, d = (r[..., x, y, None] for x, y in ((i, j), (i, k), (j, m), (k, m)))
            cross_k, cross_m = r[..., k, j, None], r[..., i, m, None]
            determinant = np.maximum(1 - (t * a) ** 2, 0.0)
            # what x_i = x_j = 0 leaves of the variances of x_k and x_m and of their covariance, times the determinant
            left_k = determinant - b**2 - (t * cross_k) ** 2 + 2 * t**2 * a * b * cross_k
            left_m = determinant - c**2 - (t * cross_m) ** 2 + 2 * t**2 * a * c * cross_m
            both = t * (determinant * d - b * cross_m - c * cross_k) + t * a * (b * c + t**2 * cross_k * cross_m)
            product = np.where((left_k > VANISHED) & (left_m > VANISHED), left_k * left_m, np.inf)
            angle_left = np.arcsin(np.clip(both / np.sqrt(product), -1.0, 1.0))
            path = 4 / np.pi**2 * a * angle_left * measure * _inverse_root(determinant)
            total = total + path.sum(axis=-1)
    return total


def _at_zero(C: Array, j: int) -> Array:
    """The covariance that is left when variable j is 0; what falls to rounding has vanished."""
    column = C[..., :, j]
    inverse = _inverse_root(C[..., j, j])[..., None] ** 2
    left = C - column[..., :, None] * (column * inverse)[..., None, :]
    kept = np.diagonal(left, axis1=-2, axis2=-1) > VANISHED * np.diagonal(C, axis1=-2, axis2=-1)
    return np.asarray(left * kept[..., None] * kept[..., None, :])


def _correlation(C: Array, i: int, j: int) -> Array:
    scale = _inverse_root(C[..., i, i]) * _inverse_root(C[..., j, j])
    return np.clip(C[..., i, j] * scale, -1.0, 1.0)


def _inverse_root(a: Any) -> Array:
    """1 / sqrt(a), and 0 for what has vanished."""
    return np.where(a > 0, 1 / np.sqrt(np.where(a > 0, a, 1.0)), 0.0)
