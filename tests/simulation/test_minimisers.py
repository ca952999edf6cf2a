"""Certificates of minimisers are bounds that see wrong solutions, and every loss reaches its minimum, whatever its name."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize

import gaussequiv as ge
from gaussequiv import simulation
from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import LOSSES, Quadratics
from gaussequiv.simulation import minimisers
from gaussequiv.simulation.minimisers import Point, Risk, form, interior, newton, path, vertex

LIKE = torch.zeros(0, dtype=torch.float64)
OTHERS = {
    "insensitive": Convex(lambda r: np.maximum(0, np.abs(r) - 0.3), "residual"),
    "pinball": Convex(lambda r: np.maximum(0.8 * r, -0.2 * r), "residual"),
    "elastic": Convex(lambda r: np.abs(r) + r * r / 2, "residual"),
    "three kinks": Convex(lambda r: np.maximum.reduce([-3 * r - 1, -r, 0 * r, 0.2 * r - 0.5]), "residual"),
    "curved hinge": Convex(lambda x: np.maximum(0, 1 - x) + np.logaddexp(0, -x), "margin"),
    "log cosh": Convex(lambda r: np.logaddexp(r, -r) - np.log(2), "residual"),
    "exponential": Convex(lambda x: np.exp(-x), "margin"),
    "below zero": Convex(lambda x: np.logaddexp(0, -x) - 2.0, "margin"),
}
EVERY = {**LOSSES, **OTHERS}
SHAPES = [(40, 90), (60, 60), (160, 40)]


def risk(name, n, N, penalty, seed=0, spread=1.0):
    """The empirical risk of n samples in the span of their inputs."""
    rng, loss = np.random.default_rng(seed), EVERY[name]
    x = rng.standard_normal((n, N)) * np.arange(1, N + 1) ** -0.3 / np.sqrt(N) * spread
    y = 3 * x @ rng.standard_normal(N) + 0.3 * rng.standard_normal(n)
    x = x @ np.linalg.qr(x.T)[0] if n < N else x
    c, A = (0 * y, np.sign(y)[:, None] * x) if loss.of == "margin" else (y, -x)
    return Risk(form(loss, LIKE), torch.from_numpy(c), torch.from_numpy(A), penalty)


def solved(name, given):
    ((w, left),) = path(EVERY[name], given.c, given.A, [given.penalty])
    return w, left


def height(name, given, w):
    return float(EVERY[name](given.c.numpy() + given.A.numpy() @ w).sum() + given.penalty / 2 * w @ w)


# --- losses ---


@pytest.mark.parametrize("name", EVERY)
def test_smooth_part_and_kinks_are_the_loss_and_its_derivatives(name):
    loss, phi = EVERY[name], form(EVERY[name], LIKE)
    x = torch.linspace(-4, 4, 801, dtype=torch.float64) + 0.00037  # not on a kink
    np.testing.assert_allclose(phi(x), loss(x.numpy()), atol=1e-10)
    above = (x[:, None] > phi.kinks).double()
    np.testing.assert_allclose(phi.slope(x) + above @ phi.jumps, loss.slope(x.numpy()), atol=1e-9)
    h = 1e-5
    differences = (phi.slope(x + h) - phi.slope(x - h)) / (2 * h)
    np.testing.assert_allclose(phi.curvature(x), differences, atol=1e-4)
    assert (phi.jumps > 0).all()
    near = torch.cat([phi.kinks - 1e-9, phi.kinks + 1e-9])
    assert np.ptp(phi.slope(near).numpy().reshape(2, -1), axis=0).max(initial=0) < 1e-6


def test_a_function_with_the_name_of_a_known_loss_is_itself():
    model = ge.GaussianModel.isotropic(30)

    def hinge(x):
        return np.maximum(0, 2 - x)

    options = {"alpha": [2.0], "penalty": 0.1, "seeds": 2, "test_samples": 100}
    named, nameless = (
        simulation.simulate(ge.FullBatch(model, ge.Perceptron(np.ones(30), "sign"), loss), model, **options)
        for loss in (hinge, lambda x: np.maximum(0, 2 - x))
    )
    np.testing.assert_allclose(named.data["norm"], nameless.data["norm"])
    known = simulation.simulate(ge.FullBatch(model, ge.Perceptron(np.ones(30), "sign"), "hinge"), model, **options)
    assert abs(float(known.data["norm"][0] - named.data["norm"][0])) > 0.1


# --- minima ---


@pytest.mark.parametrize("penalty", [10.0, 0.1, 1e-3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EVERY)
def test_every_minimum_is_certified(name, shape, penalty):
    given = risk(name, *shape, penalty)
    w, left = solved(name, given)
    assert left < 1e-10
    generator = torch.Generator().manual_seed(0)
    lowest = height(name, given, w.numpy())
    for size in (1e-5, 1e-2, 1.0):
        step = torch.randn(len(w), generator=generator, dtype=torch.float64)
        assert height(name, given, (w + size * step).numpy()) >= lowest - 1e-11 * abs(lowest)


@pytest.mark.parametrize(
    "name", ["hinge", "absolute", "insensitive", "pinball", "three kinks", "elastic", "curved hinge"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_is_a_subgradient_at_a_minimum_with_kinks(name, shape):
    """Slopes of the samples on a kink are free between those of its sides: a bounded least-squares problem."""
    given, loss = risk(name, *shape, 0.1), EVERY[name]
    w = solved(name, given)[0].numpy()
    A, x = given.A.numpy(), given.c.numpy() + given.A.numpy() @ w
    low, high = loss.slope(x - 1e-7), loss.slope(x + 1e-7)
    held = high - low > 1e-2
    gradient = A.T @ np.where(held, 0, (low + high) / 2) + 0.1 * w
    assert 0 < held.sum() <= len(w)
    found = lsq_linear(A[held].T, -gradient, bounds=(low[held], high[held]), method="bvls", tol=1e-14)
    assert np.linalg.norm(A[held].T @ found.x + gradient) < 1e-6 * np.linalg.norm(0.1 * w)


@pytest.mark.parametrize("name", ["huber", "squared-hinge", "log cosh", "exponential", "below zero"])
def test_a_smooth_minimum_is_that_of_a_general_optimiser(name):
    given = risk(name, 50, 20, 0.3)
    w = solved(name, given)[0].numpy()
    A, c, loss = given.A.numpy(), given.c.numpy(), EVERY[name]

    def gradient(v):
        return A.T @ loss.slope(c + A @ v) + 0.3 * v

    found = minimize(
        lambda v: height(name, given, v), np.zeros(20), jac=gradient, method="BFGS", options={"gtol": 1e-9}
    )
    np.testing.assert_allclose(w, found.x, atol=1e-7)


@pytest.mark.parametrize("name", ["squared-hinge", "logistic", "huber"])
@pytest.mark.parametrize("shape", [(40, 90), (300, 90)])
def test_a_faint_penalty_is_not_too_small(name, shape):
    _, left = solved(name, risk(name, *shape, 1e-7))
    assert left < 1e-8


def test_where_newtons_method_fails_larger_penalties_lead_to_the_minimum():
    given = risk("squared-hinge", 200, 50, 1e-7, seed=12)
    assert given.certificate(newton(given, torch.zeros(50, dtype=torch.float64))) > 0.1
    assert solved("squared-hinge", given)[1] < 1e-8


@pytest.mark.parametrize("seed", range(12))
def test_the_interior_point_method_ends_at_the_minimum_of_many_problems(seed):
    penalty = 10.0 ** -(1 + seed % 4)
    for name in ("insensitive", "absolute", "curved hinge"):
        assert solved(name, risk(name, 120, 160, penalty, seed))[1] < 1e-9


# --- certificates ---


@pytest.mark.parametrize("name", EVERY)
def test_the_certificate_bounds_the_distance_to_the_minimum_of_any_weights(name):
    given = risk(name, 60, 30, 0.2)
    w, _ = solved(name, given)
    lowest = height(name, given, w.numpy())
    rng = np.random.default_rng(0)
    kinks = len(given.phi.kinks)
    for size in (1e-6, 1e-3, 1.0, 10.0):
        v = w + size * torch.from_numpy(rng.standard_normal(30))
        u = torch.from_numpy(rng.uniform(-0.5, 1.5, (60, kinks))) * given.phi.jumps if kinks else None
        bound = given.certificate(v, u) ** (1 if kinks else 2) * given.size(v, given.c + given.A @ v)
        excess = height(name, given, v.numpy()) - lowest
        assert bound >= excess - 1e-11 * abs(lowest)
        assert excess > 0


@pytest.mark.parametrize("name", ["logistic", "squared-hinge", "huber", "log cosh"])
def test_the_certificate_of_a_smooth_loss_sees_a_relative_error(name):
    given = risk(name, 80, 40, 0.05)
    w = newton(given, torch.zeros(40, dtype=torch.float64))
    assert given.certificate(w) < 1e-12
    assert 1e-6 < given.certificate(1.0001 * w) < 1e-2
    other = dataclasses.replace(given, penalty=given.penalty * 1.001)
    assert given.certificate(newton(other, w)) > 1e-6


def test_the_certificate_with_kinks_sees_wrong_slopes_and_wrong_weights():
    given = risk("hinge", 80, 40, 0.05)
    w, left = interior(given)
    assert left < 1e-12
    assert given.certificate(w, torch.zeros(80, 1, dtype=torch.float64)) > 1e-3
    other, _ = interior(dataclasses.replace(given, penalty=0.0501))
    for u in (torch.zeros(80, 1), torch.ones(80, 1)):
        assert given.certificate(other, u.double()) > 1e-6


@pytest.mark.parametrize("name", ["hinge", "absolute", "insensitive", "pinball", "three kinks", "elastic"])
def test_samples_that_are_held_on_kinks_end_the_method_at_rounding(name, monkeypatch):
    given = risk(name, 160, 40, 1.0)
    assert solved(name, given)[1] < 1e-14
    monkeypatch.setattr(minimisers, "vertex", lambda risk, at: (at.w, np.inf))
    assert 1e-15 < solved(name, given)[1] < 1e-9


def test_the_wrong_set_of_held_samples_is_not_certified():
    given = risk("absolute", 80, 40, 0.05)
    w, _ = interior(given)
    near, far = (torch.full((80, 1), distance, dtype=torch.float64) for distance in (1e-9, 3.0))
    first = torch.arange(80)[:, None] < 10
    _, left = vertex(given, Point(w, near + 1, near + 1, torch.where(first, near, far), near))
    assert left > 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("penalty", [1e-8, 1e-3, 0.1])
def test_the_certificate_of_ridge_sees_a_wrong_decomposition(shape, penalty, monkeypatch):
    given = risk("square", *shape, penalty)
    assert solved("square", given)[1] < 1e-8
    monkeypatch.setattr(minimisers.torch.linalg, "svd", wrong(torch.linalg.svd))
    assert solved("square", given)[1] > 1e-6


def wrong(svd):
    """A decomposition with a singular value that is off by a hundredth."""

    def off(matrix, **options):
        U, S, V = svd(matrix, **options)
        S = S.clone()
        S[len(S) // 2] *= 1.01
        return U, S, V

    return off


def test_a_quadratic_loss_with_a_slope_is_its_own_minimum():
    given = risk("square", 60, 30, 0.2)
    slanted = Quadratics("slanted", "residual", (), ((0.3, 0.7, 2.0),))
    ((w, left),) = path(slanted, given.c, given.A, [0.2])
    gradient = given.A.T @ (0.7 + 2 * (given.c + given.A @ w)) + 0.2 * w
    np.testing.assert_allclose(gradient, np.zeros(30), atol=1e-12)
    assert left < 1e-12


@pytest.mark.parametrize("scale", [1e-15, 1e12])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_the_solution_of_least_norm_has_the_units_of_its_inputs(shape, scale):
    """A -> s A with w -> w / s, of dependent columns too: a rank has no units."""
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.standard_normal((shape[0], 5)) @ rng.standard_normal((5, shape[1])))
    c = torch.from_numpy(rng.standard_normal(shape[0]))
    (w, _), (found, certificate) = (next(iter(path(LOSSES["square"], c, s * A, [0.0]))) for s in (1.0, scale))
    np.testing.assert_allclose(scale * found, w, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(w, -np.linalg.pinv(A.numpy(), rcond=1e-10) @ c.numpy(), rtol=1e-8, atol=1e-10)
    assert certificate < 1e-10
