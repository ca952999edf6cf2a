"""Quadrature: exact on polynomials, honest about what does not settle."""

import numpy as np
import pytest

from gaussequiv.errors import InputError
from gaussequiv.maths import averages


@pytest.mark.parametrize("power", range(0, 12, 2))
def test_moments_of_the_gaussian(power):
    a = np.array([0.3, 1.0, 2.5])
    double_factorial = np.prod(np.arange(power - 1, 0, -2)) if power else 1.0
    np.testing.assert_allclose(averages.single(lambda x: x**power, a), double_factorial * a ** (power / 2), rtol=1e-12)


def test_hermite_coefficients_are_those_of_a_hermite_polynomial():
    f = lambda x: (x**3 - 3 * x) / np.sqrt(6)
    np.testing.assert_allclose(averages.hermite_coefficients(f, 1.0, 8), np.eye(8)[3], atol=1e-12)


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


def test_a_kink_away_from_zero_is_seen_by_the_error_estimate():
    with pytest.raises(InputError, match="did not settle"):
        averages.single(lambda x: np.heaviside(x - 0.4567, 0.5), 1.0)
