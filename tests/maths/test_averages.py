"""Quadrature: exact on polynomials, honest about what does not settle."""

import numpy as np
import pytest
import scipy.stats

from gaussequiv.errors import InputError
from gaussequiv.maths import averages


@pytest.mark.parametrize("power", range(0, 12, 2))
def test_moments_of_the_gaussian(power):
    a = np.array([0.3, 1.0, 2.5])
    double_factorial = np.prod(np.arange(power - 1, 0, -2)) if power else 1.0
    np.testing.assert_allclose(averages.single(lambda x: x**power, a), double_factorial * a ** (power / 2), rtol=1e-12)


def test_hermite_coefficients_are_those_of_a_hermite_polynomial():
    f = lambda x: (x**3 - 3 * x) / np.sqrt(6)
    np.testing.assert_allclose(averages.hermite_coefficients(f, 1.0, 8)[0], np.eye(8)[3], atol=1e-12)


def test_parseval():
    f = averages.hermite_coefficients(np.tanh, np.array([0.5, 4.0]))
    np.testing.assert_allclose(
        (f**2).sum(axis=-1), averages.single(lambda x: np.tanh(x) ** 2, np.array([0.5, 4.0])), rtol=1e-10
    )


@pytest.mark.parametrize("r", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_polynomials_of_two_fields_have_their_moments(r):
    a, b = 2.0, 0.5
    c = r * np.sqrt(a * b)
    np.testing.assert_allclose(averages.pairwise(lambda x: x**2, lambda y: y**2, a, b, c), a * b + 2 * c**2, rtol=1e-11)
    np.testing.assert_allclose(
        averages.pairwise(lambda x: x**3, lambda y: y, a, b, c), 3 * a * c, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("edge", [-1.3, 0.4567, 2.0])
@pytest.mark.parametrize("a", [0.3, 4.0])
def test_jumps_are_found_wherever_they_are(edge, a):
    step = averages.single(lambda x: np.heaviside(x - edge, 0.5), a)
    np.testing.assert_allclose(step, scipy.stats.norm.sf(edge / np.sqrt(a)), rtol=1e-11)


CLIP = lambda x: np.clip(x, -1, 1)
LEAKY = lambda x: np.where(x > 0, x, 0.1 * x)
STEEP = lambda x: np.tanh(25 * x)
STEP = lambda x: np.heaviside(x - 0.5, 0.5)


@pytest.mark.parametrize("f", [CLIP, LEAKY, STEEP, STEP], ids=["clip", "leaky", "steep", "step"])
@pytest.mark.parametrize("r", [-0.999, -0.97, 0.4, 0.99, 1.0])
def test_rough_functions_of_correlated_fields_equal_a_fine_grid(f, r):
    """The copula form: both fields through their quantiles on a fine midpoint grid."""
    a, b = 1.3, 0.8
    value = float(averages.pairwise(f, f, a, b, r * np.sqrt(a * b)))
    n = 4000
    z = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
    inner = scipy.stats.norm.ppf((np.arange(801) + 0.5) / 801)
    y = np.sqrt(b) * (r * z[:, None] + np.sqrt(1 - r * r) * inner)
    assert value == pytest.approx(float(np.mean(f(np.sqrt(a) * z) * f(y).mean(axis=1))), abs=2e-3)


def test_rough_averages_of_two_fields_have_their_closed_forms():
    """A step is half of one plus a sign; a leaky ReLU is a sum of ReLU and a line."""
    a, b = 1.0, 2.0
    for r in (-0.98, 0.3, 0.995):
        c = r * np.sqrt(a * b)
        step = averages.pairwise(lambda x: np.heaviside(x, 0.5), lambda x: np.heaviside(x, 0.5), a, b, c)
        np.testing.assert_allclose(step, 0.25 + np.arcsin(r) / (2 * np.pi), atol=1e-10)
        area = np.sqrt(a * b - c**2)
        relu = (area + c * (np.pi / 2 + np.arcsin(r))) / (2 * np.pi)
        leaky = 0.81 * relu + 2 * 0.09 * c / 2 + 0.01 * c
        np.testing.assert_allclose(averages.pairwise(LEAKY, LEAKY, a, b, c), leaky, atol=1e-9)


def test_exponentials_have_their_averages_or_are_refused():
    np.testing.assert_allclose(averages.single(np.exp, np.array([0.5, 4.0])), np.exp([0.25, 2.0]), rtol=1e-12)
    with pytest.raises(InputError, match="grows too fast"):
        averages.single(lambda x: np.exp(2 * x), 25.0)
