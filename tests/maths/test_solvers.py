"""The Rosenbrock method: its order, its stability, its dense output, and its honesty about failure."""

import numpy as np
import pytest
import scipy.linalg

from gaussequiv.maths.solvers import RODAS5P, Status, _stages, integrate


def dense(jacobian):
    """linearise for a small dense Jacobian of (t, y)."""
    return lambda t, y: lambda g: lambda b: np.linalg.solve(np.eye(len(b)) - g * jacobian(t, y), b)


def relative(tolerance):
    return lambda old, new, estimate: float(np.abs(estimate).max() / tolerance / max(1.0, np.abs(new).max()))


def never(y):
    return False


def solve(f, jacobian, y, end, tolerance, **options):
    options = {"observe": lambda y: y, "error": relative(tolerance), "diverged": never, **options}
    return integrate(f, dense(jacobian), np.asarray(y, dtype=float), 0.0, end, **options)


def lotka(t, y):
    return np.array([y[0] * (1.5 - y[1]), y[1] * (y[0] - 1.0)])


def lotka_jacobian(t, y):
    return np.array([[1.5 - y[1], -y[0]], [y[1], y[0] - 1.0]])


def one_step(h, y):
    stages = _stages(lotka, dense(lotka_jacobian)(0.0, y)(h * RODAS5P.gamma), 0.0, y, h, None, RODAS5P)
    return y + RODAS5P.a[-1] @ stages + stages[-1], stages


def test_the_method_is_of_order_five_and_its_error_estimate_of_order_four():
    start = np.array([0.6, 1.0])
    errors, estimates = [], []
    for n in (40, 80):
        y = start
        for _ in range(n):
            y, _ = one_step(4.0 / n, y)
        errors.append(y)
        estimates.append(np.abs(one_step(4.0 / n, start)[1][-1]).max())
    fine = start
    for _ in range(1280):
        fine, _ = one_step(4.0 / 1280, fine)
    ratio = np.abs(errors[0] - fine).max() / np.abs(errors[1] - fine).max()
    assert 2**4.6 < ratio < 2**5.6
    assert 2**4.6 < estimates[0] / estimates[1] < 2**5.6  # local error of the method of order four: h^5


def test_the_polynomial_between_steps_is_of_order_four():
    start, x = np.array([0.6, 1.0]), 0.37
    errors = []
    for h in (0.2, 0.1):
        y, stages = one_step(h, start)
        K = RODAS5P.dense @ stages
        between = (1 - x) * start + x * (y + (1 - x) * (K[0] + x * (K[1] + x * K[2])))
        exact = start
        for _ in range(200):
            exact, _ = one_step(x * h / 200, exact)
        errors.append(np.abs(between - exact).max())
    assert 2**4.5 < errors[0] / errors[1] < 2**5.6  # local error h^5


def test_the_coefficients_give_the_nodes_and_the_derivatives_in_time():
    """Stage i evaluates f at the time sum_j alpha_ij of the step, alpha = a Gamma, Gamma^-1 = I / gamma - c."""
    s = len(RODAS5P.a)
    inverse = np.eye(s) / RODAS5P.gamma - RODAS5P.couplings
    nodes = RODAS5P.a @ scipy.linalg.solve_triangular(inverse, np.ones(s), lower=True)
    np.testing.assert_allclose(nodes, RODAS5P.times, atol=1e-12)
    slopes = scipy.linalg.inv(inverse).sum(axis=1)
    np.testing.assert_allclose(slopes, RODAS5P.slopes, atol=1e-12)


@pytest.mark.parametrize("stiffness", [1.0, 1e3, 1e6])
def test_the_stiff_problem_of_prothero_and_robinson_is_solved_in_few_steps(stiffness):
    """y' = -s (y - cos t) - sin t, y = cos t."""
    f = lambda t, y: -stiffness * (y - np.cos(t)) - np.sin(t)
    explicit = lambda t, y: np.array([-stiffness * np.sin(t) - np.cos(t)])
    solution = solve(f, lambda t, y: np.array([[-stiffness]]), [1.0], 10.0, 1e-7, explicit=explicit)
    np.testing.assert_allclose(solution.values[:, 0], np.cos(solution.times), atol=1e-6)
    if stiffness < 1e4:  # beyond, the polynomials between steps lose their order on what is slaved to a moving forcing
        times = np.linspace(0, 10, 57)
        np.testing.assert_allclose(solution(times)[:, 0], np.cos(times), atol=1e-5)
    assert solution.steps < 600


def test_a_rate_that_jumps_is_met_by_landing_on_the_jump():
    rate = lambda t: 1.0 if t < 1.0 else 0.1
    jacobian = lambda t, y: np.array([[-rate(t)]])
    solution = solve(lambda t, y: -rate(t) * y, jacobian, [1.0], 3.0, 1e-8, landings=(1.0,))
    assert 1.0 in solution.times
    times = np.array([0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        solution(times)[:, 0], np.exp(-np.minimum(times, 1) - 0.1 * np.maximum(times - 1, 0)), rtol=1e-6
    )


def test_accuracy_follows_the_tolerance_between_the_steps_too():
    times = np.linspace(0, 8, 401)
    reference = solve(lotka, lotka_jacobian, [0.6, 1.0], 8.0, 1e-12)(times)
    for tolerance in (1e-4, 1e-6, 1e-8):
        assert (
            np.abs(solve(lotka, lotka_jacobian, [0.6, 1.0], 8.0, tolerance)(times) - reference).max() < 30 * tolerance
        )


def test_linear_equations_are_those_of_the_matrix_exponential():
    A = np.random.default_rng(0).standard_normal((4, 4))
    solution = solve(lambda t, y: A @ y, lambda t, y: A, np.ones(4), 2.0, 1e-10)
    for t in (0.0, 0.7, 2.0):
        np.testing.assert_allclose(solution(np.array([t]))[0], scipy.linalg.expm(A * t) @ np.ones(4), rtol=1e-7)


def test_an_explosion_is_called_divergence_and_has_no_values_beyond():
    f, jacobian = (lambda t, y: y**2), (lambda t, y: np.array([[2 * y[0]]]))
    solution = solve(f, jacobian, [1.0], 2.0, 1e-6, diverged=lambda y: abs(y[0]) > 1e6)
    assert solution.status is Status.DIVERGED
    np.testing.assert_allclose(solution(np.array([0.5]))[0], 2.0, rtol=1e-5)
    assert np.isnan(solution(np.array([2.0]))[0])


def test_a_limit_on_steps_is_called_not_converged():
    assert solve(lotka, lotka_jacobian, np.ones(2), 100.0, 1e-10, max_steps=5).status is Status.NOT_CONVERGED


def test_every_status_has_a_sentence():
    for status in Status:
        assert len(status.sentence.split()) > 3
