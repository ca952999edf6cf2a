"""The Rosenbrock method: its order, its stability, and its honesty about failure."""

import numpy as np
import pytest
import scipy.linalg

from gaussequiv.maths.solvers import RODAS5P, Status, _step, integrate


def dense(jacobian):
    """linearise for a small dense Jacobian."""
    return lambda y: lambda g: lambda b: np.linalg.solve(np.eye(len(b)) - g * jacobian(y), b)


def relative(tolerance):
    return lambda old, new, estimate: float(np.abs(estimate).max() / tolerance / max(1.0, np.abs(new).max()))


def never(y):
    return False


def lotka(y):
    return np.array([y[0] * (1.5 - y[1]), y[1] * (y[0] - 1.0)])


def lotka_jacobian(y):
    return np.array([[1.5 - y[1], -y[0]], [y[1], y[0] - 1.0]])


def one_step(h, y):
    return _step(lotka, dense(lotka_jacobian)(y)(h * RODAS5P.gamma), y, h, RODAS5P)


def test_the_method_is_of_order_five_and_its_error_estimate_of_order_four():
    start = np.array([0.6, 1.0])
    errors, estimates = [], []
    for n in (40, 80):
        y = start
        for _ in range(n):
            y, _ = one_step(4.0 / n, y)
        errors.append(y)
        estimates.append(np.abs(one_step(4.0 / n, start)[1]).max())
    fine = start
    for _ in range(1280):
        fine, _ = one_step(4.0 / 1280, fine)
    ratio = np.abs(errors[0] - fine).max() / np.abs(errors[1] - fine).max()
    assert 2**4.6 < ratio < 2**5.6
    assert 2**4.6 < estimates[0] / estimates[1] < 2**5.6  # local error of the method of order four: h^5


def test_the_coefficients_give_the_published_nodes():
    """Stage i evaluates f at the time sum_j alpha_ij of the step, alpha = a Gamma, Gamma^-1 = I / gamma - c."""
    s = len(RODAS5P.a)
    nodes = RODAS5P.a @ scipy.linalg.solve_triangular(np.eye(s) / RODAS5P.gamma - RODAS5P.c, np.ones(s), lower=True)
    published = [0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(nodes, published, atol=1e-12)


@pytest.mark.parametrize("stiffness", [1.0, 1e3, 1e6])
def test_the_stiff_problem_of_prothero_and_robinson_is_solved_in_few_steps(stiffness):
    """y' = -s (y - cos t) - sin t, y = cos t; t is a second variable."""
    f = lambda y: np.array([-stiffness * (y[0] - np.cos(y[1])) - np.sin(y[1]), 1.0])
    jacobian = lambda y: np.array([[-stiffness, -stiffness * np.sin(y[1]) - np.cos(y[1])], [0.0, 0.0]])
    times = np.linspace(0, 10, 6)
    solution = integrate(f, dense(jacobian), np.array([1.0, 0.0]), times, error=relative(1e-7), diverged=never)
    np.testing.assert_allclose(solution.values[:, 0], np.cos(times), atol=1e-6)
    assert solution.steps < 600


def test_accuracy_follows_the_tolerance():
    times = np.linspace(0, 8, 5)
    solve = lambda tol: integrate(
        lotka, dense(lotka_jacobian), np.array([0.6, 1.0]), times, error=relative(tol), diverged=never
    )
    reference = solve(1e-12).values
    for tolerance in (1e-4, 1e-6, 1e-8):
        assert np.abs(solve(tolerance).values - reference).max() < 10 * tolerance


def test_linear_equations_are_those_of_the_matrix_exponential():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((4, 4))
    times = np.array([0.0, 0.7, 2.0])
    solution = integrate(lambda y: A @ y, dense(lambda y: A), np.ones(4), times, error=relative(1e-9), diverged=never)
    for t, y in zip(times, solution.values, strict=True):
        np.testing.assert_allclose(y, scipy.linalg.expm(A * t) @ np.ones(4), rtol=1e-7)


def test_an_explosion_is_called_divergence():
    f, jacobian = (lambda y: y**2), (lambda y: np.array([[2 * y[0]]]))
    solution = integrate(
        f,
        dense(jacobian),
        np.array([1.0]),
        np.array([0.0, 0.5, 2.0]),
        error=relative(1e-6),
        diverged=lambda y: abs(y[0]) > 1e6,
    )
    assert solution.status == (Status.OK, Status.OK, Status.DIVERGED)
    assert np.isnan(solution.values[2, 0])


def test_a_limit_on_steps_is_called_not_converged():
    solution = integrate(
        lotka,
        dense(lotka_jacobian),
        np.ones(2),
        np.array([0.0, 100.0]),
        error=relative(1e-10),
        diverged=never,
        max_steps=5,
    )
    assert solution.status[-1] is Status.NOT_CONVERGED


def test_every_status_has_a_sentence():
    for status in Status:
        assert len(status.sentence.split()) > 3
