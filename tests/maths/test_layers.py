"""One layer on fields with means: brute force, 30 digits, limits, and every rule against the others."""

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import mp, mpf

import cases
import oracles
from gaussequiv.maths.activations import GELU, Absolute, Custom, Erf, ReLU, Sign
from gaussequiv.maths.layers import _series, layer

MEANS = [(0.7, -0.4), (-1.5, 0.0), (2.0, 3.0)]


@cases.each(cases.ACTIVATIONS)
@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("r", [0.2, -0.9, 0.97])
def test_a_layer_on_fields_with_means_is_its_average_over_the_plane(case, means, r):
    a, b = 0.6, 1.7
    S = np.array([[a, r * np.sqrt(a * b)], [r * np.sqrt(a * b), b]])
    found = layer(case, np.array(means), S)
    mean = [
        oracles.plane_average(case, np.ones_like, v, 1.0, 0.0, means=(m, 0.0))
        for m, v in zip(means, (a, b), strict=True)
    ]
    product = oracles.plane_average(case, case, a, b, S[0, 1], means=means)
    squares = [
        oracles.plane_average(lambda x: case(x) ** 2, np.ones_like, v, 1.0, 0.0, means=(m, 0.0))
        for m, v in zip(means, (a, b), strict=True)
    ]
    stein = [  # E sigma' = E z sigma / s, whatever the derivative
        oracles.plane_average(lambda x: (x - m) * case(x), np.ones_like, v, 1.0, 0.0, means=(m, 0.0)) / v  # noqa: B023
        for m, v in zip(means, (a, b), strict=True)
    ]
    np.testing.assert_allclose(found.mean, mean, atol=1e-11)
    np.testing.assert_allclose(found.slope, stein, atol=1e-11)
    np.testing.assert_allclose(np.diag(found.covariance), np.square(mean) * -1 + squares, atol=1e-11)
    np.testing.assert_allclose(found.covariance[0, 1], product - mean[0] * mean[1], atol=2e-9)


def given_the_other(name, m, v):
    """E g(y) for y of mean m and variance v, in closed form."""
    s = mp.sqrt(v)
    density, below = mp.npdf(m / s) * s, mp.ncdf(m / s)
    match name:
        case "sign":
            return 2 * below - 1
        case "relu":
            return m * below + density
        case "abs":
            return m * (2 * below - 1) + 2 * density
        case "erf":
            return 2 * mp.ncdf(m / mp.sqrt(1 + v)) - 1
        case "gelu":
            t = m / mp.sqrt(1 + v)
            return m * mp.ncdf(t) + v * mp.npdf(t) / mp.sqrt(1 + v)


POINTS = {
    "sign": mp.sign,
    "relu": lambda x: max(x, mpf(0)),
    "abs": abs,
    "erf": lambda x: mp.erf(x / mp.sqrt(2)),
    "gelu": lambda x: x * mp.ncdf(x),
}


@pytest.mark.parametrize("sigma", [Sign(), ReLU(), Absolute(), Erf(), GELU()], ids=cases.name)
@pytest.mark.parametrize(
    ("means", "r"), [((1e-12, 2.0), 0.5), ((0.3, 0.3), 0.999), ((5.0, -4.0), -0.6), ((0.8, -0.5), -0.999)]
)
def test_a_covariance_has_the_value_of_thirty_digits(sigma, means, r):
    a, b = 0.81, 2.25
    S = np.array([[a, r * np.sqrt(a * b)], [r * np.sqrt(a * b), b]])
    with mpmath.workdps(30):
        mx, my, sx, c = mpf(means[0]), mpf(means[1]), mpf("0.9"), mpf(float(S[0, 1]))
        left = mpf(b) - c**2 / mpf(a)
        g = POINTS[sigma.name]

        def weighted(z):
            return mp.npdf(z) * g(mx + sx * z) * given_the_other(sigma.name, my + c / sx * z, left)

        turns = [-mx / sx, -my * sx / c]  # the kink, and where the average given z turns
        edges = sorted({mpf(-12), mpf(12), *(t + d for t in turns for d in (-1, mpf("-0.1"), 0, mpf("0.1"), 1))})
        mean = [given_the_other(sigma.name, m, v) for m, v in ((mx, mpf(a)), (my, mpf(b)))]
        exact = mp.quad(weighted, [e for e in edges if abs(e) <= 12]) - mean[0] * mean[1]
        exact = float(exact)
    tolerance = 1e-9 if isinstance(sigma, GELU) else 5e-14
    assert layer(sigma, np.array(means), S).covariance[0, 1] == pytest.approx(exact, abs=tolerance)


@pytest.mark.parametrize("sigma", [Sign(), ReLU(), Absolute(), Erf(), GELU(), cases.LeakyReLU(0.2)], ids=cases.name)
def test_equal_and_opposite_fields(sigma):
    """Correlations of +-1: the covariance is that of one field."""
    mean, s = np.array([0.4, 0.4, -0.4, 1.0]), np.array([1.0, 1.0, -1.0, 2.5])
    covariance = layer(sigma, mean, np.outer(s, s)).covariance
    z = (np.arange(200_000) + 0.5) / 10_000 - 10  # by midpoints: a jump is seen to 1e-4
    weights = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / 10_000
    values = sigma(mean[:, None] + s[:, None] * z)
    values = values - (values @ weights)[:, None]
    np.testing.assert_allclose(covariance, (values * weights) @ values.T, atol=3e-4)
    np.testing.assert_allclose(covariance[0], covariance[1], atol=1e-7)
    assert covariance[0, 0] == pytest.approx(covariance[0, 1], abs=1e-7)


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.1, 3.0),
    sigma=st.sampled_from(cases.CLOSED),
)
def test_closed_forms_with_means_equal_the_series(seed, scale, sigma):
    rng = np.random.default_rng(seed)
    S = oracles.random_covariance(rng, 4)
    mean = scale * rng.standard_normal(4) * (rng.uniform(size=4) < 0.7)
    mean[0] = scale
    assume(
        (np.abs(mean) <= 5 * np.sqrt(np.diag(S))).all()
    )  # beyond, the series sees the tail of a kink only, and refuses
    for one, other in zip(layer(sigma, mean, S), _series(sigma, mean, S), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


@cases.each(cases.ACTIVATIONS)
def test_means_that_vanish_leave_the_centred_law(case):
    S = oracles.random_covariance(np.random.default_rng(3), 5)
    centred, shifted = layer(case, np.zeros(5), S), layer(case, np.full(5, 1e-9), S)
    for one, other in zip(centred, shifted, strict=True):
        np.testing.assert_allclose(other, one, atol=2e-8)


@pytest.mark.parametrize("sigma", [Sign(), Absolute(), ReLU()], ids=cases.name)
def test_where_the_series_is_too_slow_the_plane_is_integrated(sigma):
    mean, S = np.array([0.5, -0.2]), np.array([[1.0, 0.9995], [0.9995, 1.0]])
    slow = Custom(sigma)
    np.testing.assert_allclose(layer(slow, mean, S).covariance, layer(sigma, mean, S).covariance, atol=1e-8)
