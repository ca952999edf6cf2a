"""Losses: their proximal maps by definition, Gaussian averages against brute force, and labels against drawn ones."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, ndtr

from gaussequiv.errors import InputError
from gaussequiv.maths.losses import LOSSES, LogitLabels, SignLabels

V, SCALE = np.array([0.3, 5.0, 200.0]), np.array([0.7, 2.0, 4.0])
STEEP = np.array([0.5, 3.0, 20.0])
LABELS = SignLabels(STEEP / np.sqrt(1 + STEEP**2), STEEP)


def brute(loss, V, scale, weight, tilt):
    """The averages from minima of phi(x) + (x - w)^2 / (2 V), point by point, on a fine grid of w."""
    xi = np.linspace(-9, 9, 1201)
    density = np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi) * (xi[1] - xi[0])
    w = scale * xi

    def minimum(w):
        reach = 2 * V + 1
        return minimize_scalar(
            lambda x: float(loss(np.array([x]))[0]) + (x - w) ** 2 / (2 * V),
            bounds=(w - reach, w + reach),
            method="bounded",
            options={"xatol": 1e-10, "maxiter": 300},
        ).x

    x = np.array([minimum(value) for value in w])
    slope = (w - x) / V
    curvature = np.gradient(slope, w)
    label = density * weight(xi[None])[0]
    return [label @ curvature, label @ slope**2, -(density * tilt(xi[None])[0]) @ slope, label @ loss(x)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("i", [0, 1])
def test_averages_of_margins_are_those_of_the_proximal_map(name, i):
    loss = LOSSES[name].margin()
    labels = SignLabels(LABELS.speed[[i]], STEEP[[i]])
    found = loss.averages(V[[i]], SCALE[[i]], labels)
    expected = brute(loss, V[i], SCALE[i], labels.weight, labels.tilt)
    values = [float(x[0]) for x in (found.curvature, found.square, found.pull, found.value)]
    np.testing.assert_allclose(values, expected, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_more_nodes_change_nothing(name):
    loss = LOSSES[name].margin()
    few, many = (loss.averages(V, SCALE, LABELS, refined=r) for r in (4, 8))
    for part in ("curvature", "square", "pull", "value"):
        np.testing.assert_allclose(getattr(few, part), getattr(many, part), rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("name", ["huber", "absolute", "square"])
def test_the_margin_of_a_residual_loss_is_the_residual_of_the_label(name):
    """With labels +1 and -1: phi(y - z) = phi(1 - y z)."""
    loss, margin, z = LOSSES[name], LOSSES[name].margin(), np.linspace(-4, 4, 81)
    for y in (-1.0, 1.0):
        np.testing.assert_allclose(loss(y - z), margin(y * z), atol=1e-13)


def test_the_square_is_the_huber_loss_of_small_residuals_and_averages_are_closed():
    """Square: x = w / (1 + V), so curvature 1 / (1 + V) and square s^2 / (1 + V)^2."""
    found = LOSSES["square"].averages(V, SCALE, None)
    np.testing.assert_allclose(found.curvature, 1 / (1 + V), rtol=1e-13)
    np.testing.assert_allclose(found.square, SCALE**2 / (1 + V) ** 2, rtol=1e-13)
    np.testing.assert_allclose(found.value, SCALE**2 / (1 + V) ** 2 / 2, rtol=1e-13)
    small = np.full(3, 1e-2)
    np.testing.assert_allclose(LOSSES["huber"].averages(V, small, None).square, small**2 / (1 + V) ** 2, rtol=1e-12)


def test_the_absolute_loss_has_residuals_cut_at_the_stiffness():
    """g = w / V within |w| < V and sign w beyond: P(|w| < V) / V and E min(|w| / V, 1)^2."""
    found, a = LOSSES["absolute"].averages(V, SCALE, None), V / SCALE
    inside = 2 * ndtr(a) - 1
    density = np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(found.curvature, inside / V, rtol=1e-12)
    np.testing.assert_allclose(found.square, (inside - 2 * a * density) / a**2 + 1 - inside, rtol=1e-11)


@pytest.mark.parametrize("kind", ["sign", "logit"])
def test_labels_are_those_that_are_drawn(kind):
    rng, n = np.random.default_rng(0), 400_000
    xi, speed, spread = rng.standard_normal(n), np.array([0.8]), np.array([1.3])
    nu = speed * xi + spread * rng.standard_normal(n)
    labels = SignLabels(speed, speed / spread) if kind == "sign" else LogitLabels(speed, spread)
    y = np.where(nu > 0 if kind == "sign" else rng.random(n) < expit(nu), 1, -1)
    assert abs(np.mean(y * xi < 0) - labels.error()[0]) < 4 * 0.5 / np.sqrt(n)
    for low, high in ((-1.0, -0.5), (0.0, 0.2), (1.0, 1.5)):
        here = (xi > low) & (xi < high)
        expected = labels.weight(np.array([xi[here]])).mean() / 2
        assert abs(np.mean(y[here] > 0) - expected) < 4 * 0.5 / np.sqrt(here.sum())
    x, step = np.array([[-0.7, 0.1, 1.2]]), 1e-5
    slope = (labels.weight(x + step) - labels.weight(x - step)) / (2 * step)
    np.testing.assert_allclose(labels.tilt(x) * speed, slope, rtol=1e-8)


def test_the_logistic_loss_of_real_labels_is_refused():
    with pytest.raises(InputError, match="labels \\+1 and -1"):
        LOSSES["logistic"].averages(V, SCALE, None)
