"""Averages of four fields: three rules that share nothing give the same, also where fields coincide or vanish."""

import numpy as np
import pytest

import oracles
from gaussequiv.maths.activations import Absolute, Erf, LeakyReLU, Linear, Polynomial, ReLU, Sign, Tanh
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
@pytest.mark.parametrize("pair", [(ReLU(), ReLU()), (Erf(), Erf()), (Tanh(), Tanh()), (Polynomial(0, 0, 1), Sign())])
def test_fields_that_coincide_are_the_limit_of_fields_that_approach(pair, distance):
    """Two student units, and a student unit and a teacher unit: no loss of accuracy as they become one."""
    rng = np.random.default_rng(3)
    A = rng.standard_normal((4, 6)) / 2
    K = 2
    for one, other in ((0, 1), (0, 2)):
        B, together = A.copy(), A.copy()
        together[other] = A[one]
        B[other] = A[one] + distance * A[other]
        rule = averages(*pair, K, centred=True, tolerance=1e-9)
        near, limit = rule.quadruples(B @ B.T), rule.quadruples(together @ together.T)
        assert np.abs(near - limit).max() < (4 * distance + 2e-5) * max(1.0, np.abs(limit).max())
        g, h = pair
        u = rng.multivariate_normal(np.zeros(4), together @ together.T, size=200_000)
        fields = np.concatenate([g(u[:, :K]), h(u[:, K:])], axis=1)
        slope = g.derivative(u[:, :K])
        for k, m, a, b in ((0, 0, 1, 2), (0, 1, 2, 3), (0, 1, 0, 2), (1, 1, 1, 2)):
            draws = slope[:, k] * slope[:, m] * fields[:, a] * fields[:, b]
            assert abs(draws.mean() - limit[k, m, a, b]) < 5 * draws.std() / np.sqrt(len(draws)) + 1e-6


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
