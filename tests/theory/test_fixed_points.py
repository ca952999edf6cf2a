"""Full-batch fixed points: published ones to the last digits, closed forms, limits, and two independent evaluations."""

from pathlib import Path

import numpy as np
import pytest

from gaussequiv.maths.losses import LOSSES, Logistic
from gaussequiv.maths.resolvents import Resolvents
from gaussequiv.theory import fixed_points as batch

DATA = Path(__file__).parents[1] / "data" / "fullbatch"
CASES = {
    "hmm_hinge_delta0": ("hinge", "sign"),
    "hmm_logistic_delta0": ("logistic", "sign"),
    "hmm_square_sign_delta0": ("square", "sign"),
    "iso_logistic_delta0": ("logistic", "sign"),
    "iso_square_delta0.25": ("square", "linear"),
}


@pytest.mark.parametrize("case", CASES)
def test_published_fixed_points(case):
    z, (loss, output) = np.load(DATA / f"{case}.npz"), CASES[case]
    sums = Resolvents.of_directions(z["omega"], z["t"] / float(z["gamma"]), float(z["rho"]), float(z["delta"]))
    found = batch.solve(LOSSES[loss], sums, output, z["alpha"], z["lam"])
    assert found.residual.max() < 1e-10
    for name in ("V", "q", "m"):
        np.testing.assert_allclose(getattr(found, name), z[name], rtol=1e-9, err_msg=name)
    for name in ("test_error", "train_loss"):
        np.testing.assert_allclose(getattr(found, name), z[name], rtol=1e-9, atol=1e-12, err_msg=name)


def spectrum(N=120, noise=0.1, rest=0.2, seed=0):
    rng = np.random.default_rng(seed)
    omega = np.arange(1, N + 1.0) ** -1.2
    parts = rng.random(N)
    return Resolvents.of_directions(omega, N * omega * parts / parts.sum(), 1 + rest, noise)


ALPHA, PENALTY = (x.ravel() for x in np.meshgrid([0.3, 1.0, 4.0], [1e-3, 1.0]))


@pytest.mark.parametrize("output", ["linear", "sign", "logit"])
def test_the_square_loss_by_the_general_equations_is_its_closed_form(output):
    sums, loss = spectrum(), LOSSES["square"]
    closed = batch.square(sums, output, ALPHA, PENALTY)
    if output == "linear":
        general = batch._residuals(loss, sums, ALPHA, PENALTY, closed)
    else:
        general = batch._margins(loss.margin(), sums, output, ALPHA, PENALTY, closed)
    for name in ("V", "q", "m", "test_error", "train_loss"):
        np.testing.assert_allclose(getattr(general, name), getattr(closed, name), rtol=1e-9, err_msg=name)


def test_ridge_on_white_inputs_is_that_of_marchenko_and_pastur():
    """Omega = 1 and no signal: E y^2 (1 + kappa'...) with kappa the positive root of a quadratic equation."""
    alpha, penalty = np.array([0.5, 2.0]), np.array([0.1, 0.1])
    found = batch.square(Resolvents.of_directions(np.ones(50), np.zeros(50), 1.0, 0.0), "linear", alpha, penalty)
    b = 1 + penalty - alpha
    kappa = (b + np.sqrt(b**2 + 4 * alpha * penalty)) / (2 * alpha)
    np.testing.assert_allclose(found.V, kappa / (1 + kappa) / penalty, rtol=1e-12)
    np.testing.assert_allclose(found.test_error, 1 / (1 - 1 / (alpha * (1 + kappa) ** 2)), rtol=1e-12)


def test_generalised_cross_validation_is_exact():
    """Test error = training residual / (1 - df1 / alpha)^2 with alpha - df1 = penalty / kappa."""
    sums = spectrum()
    found = batch.square(sums, "linear", ALPHA, PENALTY)
    ratio = 1 / (1 + found.V)  # penalty / (alpha kappa)
    np.testing.assert_allclose(2 * found.train_loss / ratio**2, found.test_error, rtol=1e-11)


def test_a_wide_huber_loss_is_the_square_and_a_far_hinge_has_no_training_loss():
    small = Resolvents.of_directions(np.ones(40), np.full(40, 1e-6), 1e-6, 1e-8)
    huber, square = (batch.solve(LOSSES[n], small, "linear", ALPHA, PENALTY) for n in ("huber", "square"))
    np.testing.assert_allclose(huber.test_error, square.test_error, rtol=1e-9)
    separable = batch.solve(LOSSES["hinge"], spectrum(noise=0.0, rest=0.0), "sign", np.array([0.3]), np.array([1e-6]))
    assert separable.train_loss[0] < 1e-6


@pytest.mark.parametrize("loss", ["logistic", "hinge", "squared-hinge", "huber", "absolute"])
@pytest.mark.parametrize("output", ["sign", "logit"])
def test_more_data_never_hurts_at_the_best_penalty(loss, output):
    alphas = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    alpha, penalty = (x.ravel() for x in np.meshgrid(alphas, np.geomspace(1e-3, 10, 13), indexing="ij"))
    found = batch.solve(LOSSES[loss], spectrum(), output, alpha, penalty)
    assert found.residual.max() < 1e-10
    best = found.test_error.reshape(len(alphas), -1).min(axis=1)
    assert (np.diff(best) < 0).all()
    assert found.test_error.max() <= 0.5


def test_logistic_regression_with_few_nodes_is_refined_until_more_change_nothing(monkeypatch):
    sums = spectrum(noise=0.0)
    usual = batch.solve(LOSSES["logistic"], sums, "sign", ALPHA, PENALTY)
    monkeypatch.setattr(Logistic, "nodes", 48)
    few = batch.solve(LOSSES["logistic"], sums, "sign", ALPHA, PENALTY)
    for name in ("V", "q", "m"):
        np.testing.assert_allclose(getattr(few, name), getattr(usual, name), rtol=1e-9)
