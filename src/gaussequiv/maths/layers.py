r"""One layer of units on Gaussian fields: mean, slope and covariance of $\sigma(u)$ for $u \sim N(\mu, S)$, no two units alike.

    mean_i = E sigma(u_i)        slope_i = E sigma'(u_i)        covariance_ij = Cov(sigma(u_i), sigma(u_j))

Fields without means have the closed forms of `activations`. With means, the two-field averages of sign, ReLU and its kin
are Owen's T functions, and so are those of erf, which is a sign with noise: $\mathrm{erf}(u / \sqrt 2) = E_z\,
\mathrm{sign}(u + z)$. Any other activation is expanded in Hermite polynomials around the mean of each field,

    covariance_ij = sum_{k >= 1} c_k(i) c_k(j) r_ij^k,        c_k(i) = E sigma(mu_i + s_i z) he_k(z),

with as many terms as Parseval's identity asks for, and where that is too many the plane is integrated.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import erf, owens_t

from gaussequiv.maths import averages
from gaussequiv.maths.activations import Activation, Erf, Homogeneous, Linear
from gaussequiv.maths.averages import TERMS, Array

TOLERANCE = 1e-12  # of an entry of the covariance, relative to the two standard deviations


class Layer(NamedTuple):
    """Moments of the units of a layer: means (N,), slopes (N,), covariance (N, N)."""

    mean: Array
    slope: Array
    covariance: Array


def layer(sigma: Activation, mean: Array, S: Array) -> Layer:
    r"""Moments of $\sigma(u)$, $u \sim N(\mu, S)$, for means (N,) and a covariance (N, N) with a positive diagonal.

    Only a linear activation may have fields that do not vary.
    """
    if isinstance(sigma, Linear):
        return Layer(np.array(mean), np.ones(len(mean)), (S + S.T) / 2)
    if not np.any(mean):
        return _centred(sigma, S)
    match sigma:
        case Erf():
            found = _erf(sigma, mean, S)
        case Homogeneous():
            found = _homogeneous(sigma, mean, S)
        case _:
            found = _series(sigma, mean, S)
    return found._replace(covariance=(found.covariance + found.covariance.T) / 2)


def _centred(sigma: Activation, S: Array) -> Layer:
    variance = np.diag(S).copy()
    mean = np.asarray(sigma.mean(variance))
    covariance = np.asarray(sigma.product(sigma, variance[:, None], variance[None, :], S))
    np.fill_diagonal(covariance, averages.single(lambda u: sigma(u) ** 2, variance))
    covariance -= np.outer(mean, mean)
    return Layer(mean, sigma.slope(variance), (covariance + covariance.T) / 2)


# --- closed forms with means --------------------------------------------------------------------------------


def _erf(sigma: Erf, mean: Array, S: Array) -> Layer:
    """The sign of fields with one more unit of variance each, independent ones: on the diagonal, too."""
    variance = 1 + np.diag(S)
    scaled = mean / np.sqrt(variance)
    averaged = np.asarray(erf(scaled / np.sqrt(2)))
    signs = _signs(scaled, S / np.sqrt(np.outer(variance, variance)))
    return Layer(averaged, sigma.slope(np.diag(S)) * np.exp(-(scaled**2) / 2), signs - np.outer(averaged, averaged))


def _homogeneous(sigma: Homogeneous, mean: Array, S: Array) -> Layer:
    r"""$\alpha u + \beta |u| + \gamma\, \mathrm{sign}(u)$: Stein's lemma turns every factor u into averages of signs."""
    line, fold, jump = sigma.line, sigma.fold, sigma.jump
    variance = np.diag(S).copy()
    deviation = np.sqrt(variance)
    t = mean / deviation
    density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    sign, absolute = _sign_and_absolute(mean, variance)
    peak = 2 * density / deviation  # E 2 delta(u)
    at_zero = S / variance[:, None]  # regression of u_j on u_i
    left = np.maximum(variance[None, :] - at_zero * S, 0.0)
    sign_there, absolute_there = _sign_and_absolute(mean[None, :] - at_zero * mean[:, None], left)  # of u_j at u_i = 0
    spikes = peak[:, None] * sign_there  # E 2 delta(u_i) sign(u_j)

    signs = _signs(t, S / np.outer(deviation, deviation))
    half = mean[None, :] * signs + variance[None, :] * spikes.T + S * spikes  # E sign(u_i) |u_j|
    folds = mean[:, None] * half + variance[:, None] * peak[:, None] * absolute_there + S * signs  # E |u_i| |u_j|
    lines = np.outer(mean, mean) + S
    line_fold = np.outer(mean, absolute) + S * sign[None, :]  # E u_i |u_j|
    line_jump = np.outer(mean, sign) + S * peak[None, :]  # E u_i sign(u_j)
    product = line**2 * lines + fold**2 * folds + jump**2 * signs
    for weight, mixed in ((line * fold, line_fold), (line * jump, line_jump), (fold * jump, half)):
        product = product + weight * (mixed + mixed.T)
    square = (line**2 + fold**2) * (mean**2 + variance) + jump**2
    square += 2 * line * fold * ((mean**2 + variance) * sign + 2 * mean * deviation * density)  # E u |u|
    square += 2 * jump * (line * absolute + fold * mean)
    np.fill_diagonal(product, square)
    averaged = line * mean + fold * absolute + jump * sign
    return Layer(averaged, line + fold * sign + jump * peak, product - np.outer(averaged, averaged))


def _sign_and_absolute(mean: Array, variance: Array) -> tuple[Array, Array]:
    """E sign(u) and E |u|, also of fields that do not vary."""
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(deviation > 0, mean / deviation, np.sign(mean) * np.inf)
    t = np.where(np.isnan(t), 0.0, t)
    sign = np.asarray(erf(t / np.sqrt(2)))
    return sign, mean * sign + 2 * deviation * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)


def _signs(t: Array, r: Array) -> Array:
    r"""$E\, \mathrm{sign}(t_i + z_i)\, \mathrm{sign}(t_j + z_j)$ for unit fields of correlations r, by Owen's T function."""
    r = np.clip(r, -1.0, 1.0)
    row, column = t[:, None], t[None, :]
    width = np.maximum(np.sqrt((1 - r) * (1 + r)), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope = (column - r * row) / (row * width)
        slope = np.where(row == 0, np.sign(column) * np.inf, slope)
    slope = np.where((row == 0) & (column == 0), (1 - r) / width, slope)
    wedges = owens_t(np.broadcast_to(row, r.shape), slope)
    opposite = (row * column < 0) | ((row * column == 0) & (row + column < 0))
    return np.asarray(1 - 4 * (wedges + wedges.T) - 2 * opposite)


# --- any activation -----------------------------------------------------------------------------------------


def _series(sigma: Activation, mean: Array, S: Array) -> Layer:
    variance = np.diag(S).copy()
    deviation = np.sqrt(variance)
    coefficients, own = averages.hermite_coefficients_at(sigma, mean, variance)
    r = np.clip(S / np.outer(deviation, deviation), -1.0, 1.0)
    np.fill_diagonal(r, 0.0)
    kept = np.cumsum(coefficients[:, 1:] ** 2, axis=1)
    tails = np.maximum(own[:, None] - kept, 0.0) / np.maximum(own, 1e-300)[:, None]  # after 1, 2, ... terms, relative
    needed = tails.max(axis=0) * np.abs(r).max() ** np.arange(2, TERMS + 1) > TOLERANCE
    terms = int(np.flatnonzero(needed)[-1]) + 2 if needed.any() else 1
    covariance = np.zeros(r.shape)
    for k in range(min(terms, TERMS - 1), 0, -1):  # Horner's rule
        covariance += np.outer(coefficients[:, k], coefficients[:, k])
        covariance *= r
    remainder = np.sqrt(np.outer(tails[:, -1], tails[:, -1])) * np.abs(r) ** TERMS
    for i, j in np.argwhere(np.triu(remainder > 1e-9)):  # as in `averages.pairwise`
        covariance[i, j] = covariance[j, i] = averages.covariance_on_plane(
            sigma, (mean[i], mean[j]), (variance[i], variance[j]), r[i, j]
        )
    np.fill_diagonal(covariance, own)
    return Layer(coefficients[:, 0], coefficients[:, 1] / deviation, covariance)
