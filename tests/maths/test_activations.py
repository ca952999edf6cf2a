"""Closed forms equal quadrature; derivatives and Gaussian averages obey Stein's lemma and Price's theorem."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf

import cases
import oracles
from gaussequiv.errors import InputError
from gaussequiv.maths import averages
from gaussequiv.maths.activations import Activation, Custom, Erf, Linear, ReLU, Sign, Tanh, activation

variances = st.floats(0.05, 20.0)
correlations = st.floats(-0.97, 0.97)


@cases.each([g for g in cases.ACTIVATIONS if not isinstance(g, Sign)])
def test_derivative_is_the_slope_of_the_function(case):
    z = np.linspace(-3, 3, 41) + 0.013
    h = 1e-6
    np.testing.assert_allclose((case(z + h) - case(z - h)) / (2 * h), case.derivative(z), atol=1e-8)


@cases.each(cases.ACTIVATIONS)
@pytest.mark.parametrize("a", [0.1, 1.0, 7.0])
def test_mean_and_slope_equal_brute_force_averages(case, a):
    """The slope by Stein's lemma, a E g' = E x g: no derivative is taken, so jumps are covered."""
    mean = oracles.plane_average(case, np.ones_like, a, 1.0, 0.0)
    slope = oracles.plane_average(lambda x: x * case(x), np.ones_like, a, 1.0, 0.0) / a
    np.testing.assert_allclose(case.mean(a), mean, atol=1e-12)
    np.testing.assert_allclose(case.slope(a), slope, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "pair", [(g, h) for g in cases.CLOSED for h in cases.CLOSED], ids=lambda p: f"{p[0].name}-{p[1].name}"
)
@pytest.mark.parametrize(("a", "b", "r"), [(1.0, 1.0, 0.3), (0.4, 3.0, -0.7), (2.0, 0.1, 0.9), (1.5, 1.5, 0.0)])
def test_product_equals_brute_force_over_the_plane(pair, a, b, r):
    g, h = pair
    c = r * np.sqrt(a * b)
    np.testing.assert_allclose(float(g.product(h, a, b, c)), oracles.plane_average(g, h, a, b, c), atol=2e-9)


@cases.each([Tanh(), Custom(np.sin, np.cos)])
@pytest.mark.parametrize("r", [-0.999, -0.4, 0.0, 0.6, 0.95, 0.9999])
def test_quadrature_of_smooth_functions_equals_brute_force(case, r):
    expected = oracles.plane_average(case, case, 1.3, 0.7, r * np.sqrt(1.3 * 0.7))
    np.testing.assert_allclose(float(case.product(case, 1.3, 0.7, r * np.sqrt(1.3 * 0.7))), expected, atol=1e-9)


def test_sine_has_the_closed_form_of_the_characteristic_function():
    a, b, c = 1.2, 0.5, np.linspace(-0.7, 0.7, 9)
    sine = Custom(np.sin, np.cos)
    np.testing.assert_allclose(sine.product(sine, a, b, c), np.exp(-(a + b) / 2) * np.sinh(c), atol=1e-12)
    np.testing.assert_allclose(sine.slope(a), np.exp(-a / 2), atol=1e-12)


@pytest.mark.parametrize("pair", [(g, h) for g in cases.GAUSSIAN_SLOPES for h in cases.GAUSSIAN_SLOPES], ids=str)
@given(a=variances, b=variances, r=correlations)
def test_slopes_and_bend_of_gaussian_slopes_equal_the_quadrature_of_the_base_class(pair, a, b, r):
    g, h = pair
    c = r * np.sqrt(a * b)
    np.testing.assert_allclose(g.slopes(h, a, b, c), Activation.slopes(g, h, a, b, c), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(g.bend(h, a, b, c), Activation.bend(g, h, a, b, c), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("pair", [(g, h) for g in cases.GAUSSIAN_SLOPES for h in cases.GAUSSIAN_SLOPES], ids=str)
@given(a=variances, b=variances, r=correlations)
def test_derivatives_by_the_covariance_are_averages_of_derivatives(pair, a, b, r):
    """Price: d I2/dc = J2 and d I2/da = H2 / 2; the gradients of J2 and H2 against differences."""
    g, h = pair
    c, e = r * np.sqrt(a * b), 1e-5 * min(a, b)
    by = lambda f: [
        (f(a + e, b, c) - f(a - e, b, c)) / (2 * e),
        (f(a, b + e, c) - f(a, b - e, c)) / (2 * e),
        (f(a, b, c + e) - f(a, b, c - e)) / (2 * e),
    ]
    close = {"rtol": 1e-5, "atol": 1e-6 / min(a, b) ** 2}
    np.testing.assert_allclose(by(lambda *p: g.product(h, *p))[2], g.slopes(h, a, b, c), **close)
    np.testing.assert_allclose(by(lambda *p: g.product(h, *p))[0], g.bend(h, a, b, c) / 2, **close)
    np.testing.assert_allclose(by(lambda *p: g.slopes(h, *p)), g.slopes_gradient(h, a, b, c), **close)
    np.testing.assert_allclose(by(lambda *p: g.bend(h, *p)), g.bend_gradient(h, a, b, c), **close)


def test_averages_of_four_fields_by_tilting_equal_saad_and_solla():
    rng = np.random.default_rng(0)
    C = oracles.random_covariance(rng, 5, scale=1.5)
    tilted = Erf().tilted(C, 5)
    np.testing.assert_allclose(Erf().tilting(C, 5) @ C, tilted, atol=1e-15)
    d = np.diagonal(tilted, axis1=-2, axis2=-1)
    inner = Erf().product(Erf(), d[..., :, None], d[..., None, :], tilted)
    J = Erf().slopes(Erf(), np.diag(C)[:, None], np.diag(C)[None, :], C)
    for a, b, c, e in np.ndindex(5, 5, 5, 5):
        assert J[a, b] * inner[a, b, c, e] == pytest.approx(oracles.I4(C, a, b, c, e), abs=1e-14)


def test_the_averages_of_the_oracle_are_averages():
    """The formulas of Saad and Solla themselves against Monte Carlo, in standard errors."""
    rng = np.random.default_rng(1)
    C = oracles.random_covariance(rng, 4, scale=1.5)
    u = rng.multivariate_normal(np.zeros(4), C, size=400_000)
    g, dg = oracles.g(u), oracles.dg(u)
    for value, draws in (
        (oracles.I2(C, 0, 1), g[:, 0] * g[:, 1]),
        (oracles.I3(C, 0, 1, 2), dg[:, 0] * u[:, 1] * g[:, 2]),
        (oracles.I3(C, 0, 0, 2), dg[:, 0] * u[:, 0] * g[:, 2]),
        (oracles.I4(C, 0, 1, 2, 3), dg[:, 0] * dg[:, 1] * g[:, 2] * g[:, 3]),
        (oracles.I4(C, 0, 0, 2, 0), dg[:, 0] ** 2 * g[:, 2] * g[:, 0]),
    ):
        assert abs(draws.mean() - value) < 4.5 * draws.std() / np.sqrt(len(draws))


def test_a_pair_of_equal_fields_is_one_field():
    for g in cases.ACTIVATIONS:
        square = averages.single(lambda x, g=g: g(x) ** 2, 0.8)
        np.testing.assert_allclose(g.product(g, 0.8, 0.8, 0.8), square, rtol=1e-9)


def test_a_field_of_variance_zero_is_a_constant():
    for g in (Erf(), Linear(), ReLU(), Tanh()):
        np.testing.assert_allclose(g.product(g, 0.0, 1.0, 0.0), float(g(np.zeros(1))[0]) * g.mean(1.0), atol=1e-12)


def test_names_activations_and_callables_resolve():
    assert activation("erf") == Erf()
    assert activation(Tanh()) == Tanh()
    assert activation(np.sin).name == "sin"
    assert Custom(np.sin) == Custom(np.sin) != Custom(np.cos)
    assert Custom(erf) != Erf()
    with pytest.raises(InputError, match=r"unknown activation 'gelo'; expected one of erf, linear, sign, relu, tanh"):
        activation("gelo")
    with pytest.raises(InputError, match="a name, an Activation or a callable"):
        activation(3)


def test_what_cannot_be_averaged_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="NaN or an infinity"):
        Custom(lambda z: np.full(z.shape, np.nan)).mean(1.0)
    with pytest.raises(InputError, match="entry by entry"):
        Custom(lambda z: z.sum()).mean(1.0)
    with pytest.raises(InputError, match="too rough"):
        Custom(lambda z: np.sign(np.sin(3000 * z))).mean(1.0)
    with pytest.raises(InputError, match="derivative of sin is needed"):
        Custom(np.sin).slopes(Erf(), 1.0, 1.0, 0.5)
    with pytest.raises(InputError, match="sign has no derivative"):
        Sign().derivative(np.ones(1))
