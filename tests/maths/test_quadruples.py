"""Averages of four fields: three rules that share nothing give the same, also where fields coincide or vanish."""

import itertools

import numpy as np
import pytest

import oracles
from cases import half_square
from gaussequiv.maths.activations import (
    GELU,
    Absolute,
    Custom,
    Erf,
    LeakyReLU,
    Linear,
    Polynomial,
    ReLU,
    Sigmoid,
    Sign,
    Softplus,
    Tanh,
)
from gaussequiv.maths.orthants import sign_moment
from gaussequiv.maths.quadruples import Conditional, Orthants, Tilted, averages

CLOSED_PAIRS = [
    (Erf(), Erf()),
    (Erf(), Linear()),
    (Erf(), Sign()),
    (Erf(), ReLU()),
    (Linear(), Erf()),
    (Linear(), Sign()),
    (ReLU(), ReLU()),
    (ReLU(), Linear()),
    (ReLU(), Sign()),
    (Absolute(), LeakyReLU(0.1)),
    (LeakyReLU(0.2), Sign()),
]


@pytest.mark.parametrize("pair", CLOSED_PAIRS, ids=lambda p: f"{p[0].name}-{p[1].name}")
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_forms_equal_quadrature(pair, seed):
    """Means of zero keep the quadrature from taking closed forms itself."""
    C = oracles.random_covariance(np.random.default_rng(seed), 4, scale=1.2)
    closed, quadrature = averages(*pair, 2, centred=True, tolerance=1e-9), Conditional(*pair, 2, 1e-11)
    assert isinstance(closed, Tilted | Orthants)
    zero = np.zeros(4)
    np.testing.assert_allclose(closed.quadruples(C), quadrature.quadruples(C, zero), atol=1e-9)
    one, other = closed.pairs(C), quadrature.pairs(C, zero)
    for name in ("product", "slopes", "bend"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-9)


@pytest.mark.parametrize(
    "rule", [Tilted(Erf(), Sign(), 2), Orthants(ReLU(), Sign(), 2), Conditional(Tanh(), Sign(), 2)]
)
def test_a_stack_of_covariances_is_treated_entry_by_entry(rule):
    rng = np.random.default_rng(2)
    stack = np.stack([oracles.random_covariance(rng, 3) for _ in range(3)])
    together = rule.quadruples(stack)
    for C, found in zip(stack, together, strict=True):
        np.testing.assert_allclose(found, rule.quadruples(C), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("factors", "signs"),
    [
        ((), (0, 1, 2, 3)),
        ((2, 3), (0, 1, 2, 3)),
        ((2, 3), (0, 1)),
        ((2,), (0, 1, 3)),
        ((2,), (2,)),
        ((2, 2), (0, 1)),
        ((2, 3), ()),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sign_moments_are_those_of_monte_carlo(factors, signs, seed):
    rng = np.random.default_rng(seed)
    C = oracles.random_covariance(rng, 4)
    x = rng.multivariate_normal(np.zeros(4), C, size=400_000)
    draws = np.prod(x[:, list(factors)], axis=1) * np.prod(np.sign(x[:, list(signs)]), axis=1)
    assert abs(draws.mean() - sign_moment(C, factors, signs)) < 4.5 * draws.std() / np.sqrt(len(draws)) + 1e-12


def test_four_signs_of_independent_pairs_are_products_of_arcsines():
    C = np.eye(4)
    C[0, 1] = C[1, 0] = 0.4
    C[2, 3] = C[3, 2] = -0.7
    expected = (2 / np.pi) ** 2 * np.arcsin(0.4) * np.arcsin(-0.7)
    np.testing.assert_allclose(sign_moment(C, (), (0, 1, 2, 3)), expected, rtol=1e-14)


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("sign", [1, -1], ids=["equal", "opposite"])
@pytest.mark.parametrize(
    "pair",
    [
        (ReLU(), ReLU()),
        (Absolute(), LeakyReLU(0.2)),
        (ReLU(), Sign()),
        (Erf(), Erf()),
        (Tanh(), Tanh()),
        (Polynomial(0, 0, 1), Sign()),
    ],
)
def test_fields_that_coincide_are_the_limit_of_fields_that_approach(pair, sign, distance):
    """Two student units, and a student unit and a teacher unit: no loss of accuracy as they become one or opposites."""
    rng = np.random.default_rng(3)
    A = rng.standard_normal((4, 6)) / 2
    K = 2
    for one, other in ((0, 1), (0, 2)):
        B, together = A.copy(), A.copy()
        together[other] = sign * A[one]
        B[other] = sign * A[one] + distance * A[other]
        rule = averages(*pair, K, centred=True, tolerance=1e-9)
        near, limit = rule.quadruples(B @ B.T), rule.quadruples(together @ together.T)
        assert np.abs(near - limit).max() < (4 * distance + 2e-5) * max(1.0, np.abs(limit).max())
        g, h = pair
        u = rng.multivariate_normal(np.zeros(4), together @ together.T, size=200_000)
        fields = np.concatenate([g(u[:, :K]), h(u[:, K:])], axis=1)
        slope = g.derivative(u[:, :K])
        for k, m, a, b in itertools.product(range(K), range(K), range(4), range(4)):
            draws = slope[:, k] * slope[:, m] * fields[:, a] * fields[:, b]
            assert abs(draws.mean() - limit[k, m, a, b]) < 5 * draws.std() / np.sqrt(len(draws)) + 1e-6


@pytest.mark.parametrize("distance", [1e-2, 1e-3])
@pytest.mark.parametrize("pair", [(ReLU(), ReLU()), (Absolute(), LeakyReLU(0.2))], ids=str)
def test_fields_that_nearly_coincide_are_still_told_apart(pair, distance):
    """The closed form beside quadrature, where its error is far below the distance."""
    A = np.random.default_rng(5).standard_normal((4, 6)) / 2
    for one, other in ((0, 1), (0, 2)):
        B = A.copy()
        B[other] = A[one] + distance * A[other]
        C, quadrature = B @ B.T, Conditional(*pair, 2, 1e-11)
        expected = quadrature.quadruples(C, np.zeros(4))
        assert quadrature.error < 0.1 * distance
        np.testing.assert_allclose(Orthants(*pair, 2).quadruples(C), expected, atol=0.1 * distance)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_jump_of_the_teacher_may_stand_in_its_mean_or_in_its_function(noise):
    """E F(sign(x + m)) with a field that is aligned, or nearly so, with one of the student's."""
    A = np.random.default_rng(6).standard_normal((3, 5)) / 2
    A[2] = 1.5 * A[0] + noise * A[2]
    C, mean = A @ A.T, np.array([0.2, -0.1, 0.5])
    by_mean = Conditional(Tanh(), Sign(), 2, 1e-9)
    by_function = Conditional(Tanh(), Custom(lambda z: np.sign(z + 0.5)), 2, 1e-9)
    found, expected = by_mean.quadruples(C, mean), by_function.quadruples(C, mean * [1, 1, 0])
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("student", [Erf(), Tanh(), Polynomial(0, 1, 0.5)])
def test_a_unit_that_vanishes_has_the_averages_of_a_constant(student):
    rng = np.random.default_rng(4)
    A = rng.standard_normal((3, 5)) / 2
    A[0] = 0
    C = A @ A.T
    rule = averages(student, Erf(), 2, centred=True, tolerance=1e-9)
    pairs, four = rule.pairs(C), rule.quadruples(C)
    slope = float(student.derivative(np.zeros(1))[0])
    np.testing.assert_allclose(
        pairs.product[0], student(np.zeros(1))[0] * np.array([1, 1, 0]) * pairs.product[0], atol=1e-7
    )
    np.testing.assert_allclose(pairs.slopes[0, 0], slope**2, atol=1e-9)
    np.testing.assert_allclose(four[0, 0, 1:, 1:], slope**2 * pairs.product[1:, 1:], atol=1e-7)


def test_quadrature_says_how_far_it_is_off():
    rng = np.random.default_rng(5)
    C = oracles.random_covariance(rng, 3)
    rule = Conditional(Tanh(), Tanh(), 2, 1e-9)
    rule.quadruples(C)
    assert rule.error < 1e-9
    rough = Conditional(ReLU(), Sign(), 1, 1e-9)
    close = np.array([[1, 0.2, 0.2], [0.2, 1, 0.99999], [0.2, 0.99999, 1]])
    rough.quadruples(close, np.array([0.1, 0.2, -0.1]))
    assert rough.error > 1e-9  # two jumps that nearly coincide


def step_like(z):
    return np.tanh(50 * (z - 0.3))


STEEP = Custom(step_like, lambda z: 50 / np.cosh(np.clip(50 * (z - 0.3), -300, 300)) ** 2)


@pytest.mark.parametrize(
    "g", [Tanh(), Sigmoid(), GELU(), Softplus(), STEEP, Custom(half_square, lambda z: np.maximum(z, 0))]
)
@pytest.mark.parametrize("variance", [1e-6, 0.1, 1.0, 30.0, 300.0])
def test_averages_are_right_at_any_variance_or_say_that_they_are_not(g, variance):
    """Against Gauss-Legendre panels of their own on a fine grid, for one field of that variance and an independent one."""
    rule = Conditional(g, Erf(), 1, 1e-8)
    C = np.array([[variance, 0.0], [0.0, 1.0]])
    pairs, four = rule.pairs(C), rule.quadruples(C)
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-10, 10, 20_001)
    z = ((edges[1:] + edges[:-1])[:, None] / 2 + (edges[1] - edges[0]) / 2 * x).ravel()
    weight = np.tile(w, 20_000) * (edges[1] - edges[0]) / 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    u = np.sqrt(variance) * z
    value, slope = g(u), g.derivative(u)
    for found, expected in (
        (pairs.slopes[0, 0], weight @ slope**2),
        (pairs.product[0, 0], weight @ value**2),
        (four[0, 0, 0, 0], weight @ (slope * value) ** 2),
        (four[0, 0, 1, 1], weight @ slope**2 / 3),
    ):
        assert abs(found - expected) <= 1e-6 * abs(expected) + rule.error * abs(expected) * 10
    if variance <= 30 and g is not STEEP:
        assert rule.error < 1e-7


def test_a_unit_of_relu_that_vanishes_is_the_limit_of_small_ones():
    A = np.random.default_rng(6).standard_normal((3, 5)) / 2
    rule = Orthants(ReLU(), Sign(), 2)
    small, none = (np.vstack([scale * A[:1], A[1:]]) for scale in (1e-9, 0.0))
    near, limit = rule.pairs(small @ small.T), rule.pairs(none @ none.T)
    np.testing.assert_allclose(limit.slopes[0, 0], near.slopes[0, 0], rtol=1e-12)
    np.testing.assert_allclose(limit.product, near.product, atol=1e-8)
    four = rule.quadruples(none @ none.T)
    np.testing.assert_allclose(four[0, 0, 2, 2], 0.5, rtol=1e-12)  # E theta(x)^2 sign(y)^2
