"""Calibration: accuracy at given confidence against drawn fields, averages that must agree, and the cases known in advance."""

import numpy as np
import pytest
from scipy.special import expit, ndtr

import gaussequiv as ge

LABELLED = ("sign", "logit", "probit")


def problem(output="logit", loss="logistic", noise=0.0, seen=0.8, strength=4.0, **options):
    """White inputs that see a part of a field of variance `strength`."""
    N = 20
    model = ge.GaussianModel(np.eye(N), np.full((N, 1), np.sqrt(seen * strength / N)), [[strength]])
    return ge.FullBatch(model, ge.Perceptron([1.0], output, noise), loss, **options)


def drawn(p, curve, samples=1_000_000, seed=0):
    """Outputs of the student and labels, from the order parameters of a point."""
    rng, (q, m) = np.random.default_rng(seed), (float(curve.data[n][0]) for n in "qm")
    h = np.sqrt(q) * rng.standard_normal(samples)
    nu = m / q * h + np.sqrt(p.field_square - m**2 / q) * rng.standard_normal(samples)
    nu += p.teacher.noise * rng.standard_normal(samples)
    match p.output:
        case "sign":
            return h, np.sign(nu)
        case "logit":
            return h, np.where(rng.random(samples) < expit(nu), 1.0, -1.0)
    return h, np.where(rng.random(samples) < ndtr(nu), 1.0, -1.0)


@pytest.mark.parametrize("output", LABELLED)
@pytest.mark.parametrize("loss", ["square", "logistic", "hinge"])
def test_accuracy_at_a_confidence_is_that_of_drawn_fields(output, loss):
    """In bins of confidence, the mean of the predicted accuracies at the drawn confidences; 5 standard errors."""
    p = problem(output, loss, noise=0.5, penalty=0.1)
    h, y = drawn(p, ge.predict(p, alpha=2.0))
    confidence, right = expit(np.abs(h)), y * h > 0
    levels = np.linspace(0.5, 0.9999, 400)
    found = ge.calibration(p, 2.0, levels=levels)
    predicted = np.interp(confidence, levels, found.accuracy.values[0])
    for low, high in ((0.5, 0.55), (0.55, 0.7), (0.7, 0.8), (0.8, 0.9)):
        here = (confidence > low) & (confidence < high)
        if here.sum() > 1000:
            assert abs(right[here].mean() - predicted[here].mean()) < 5 * right[here].std() / np.sqrt(here.sum())
    for name, values in (
        ("mean_confidence", confidence),
        ("test_error", ~right),
        ("overconfidence", confidence - right),
    ):
        assert abs(values.mean() - float(found[name][0])) < 5 * values.std() / np.sqrt(len(values)), name


@pytest.mark.parametrize("output", LABELLED)
def test_the_mean_accuracy_is_one_minus_the_test_error(output):
    p = problem(output, noise=0.5, penalty=0.1)
    q = float(ge.predict(p, alpha=2.0).data["q"][0])
    x, w = np.polynomial.legendre.leggauss(80)
    xi, w = 4.25 * (1 + x), 4.25 * w * 2 * np.exp(-((4.25 * (1 + x)) ** 2) / 2) / np.sqrt(2 * np.pi)
    here = expit(np.sqrt(q) * xi) < 1 - 1e-15
    found = ge.calibration(p, 2.0, levels=expit(np.sqrt(q) * xi[here]))
    mean = w[here] @ found.accuracy.values[0] + w[~here].sum()
    assert mean == pytest.approx(1 - float(found.test_error[0]), rel=1e-9)


def test_confidence_one_half_is_chance_and_accuracy_grows_with_it():
    for output in LABELLED:
        accuracy = ge.calibration(problem(output), [0.5, 3.0], 0.1, np.linspace(0.5, 0.999, 50)).accuracy.values
        np.testing.assert_allclose(accuracy[:, 0], 0.5, rtol=1e-12)
        assert (np.diff(accuracy, axis=1) > 0).all()


def test_probabilities_learned_from_many_samples_are_right():
    """Logistic regression on logit labels without noise finds the field itself: accuracy = confidence."""
    found = ge.calibration(problem(seen=1.0), [20.0, 5000.0], 1e-6)
    np.testing.assert_allclose(found.accuracy[1], found.confidence, atol=2e-3)
    assert abs(float(found.overconfidence[1])) < 1e-3
    assert float(found.overconfidence[0]) > 5 * abs(float(found.overconfidence[1]))


def test_the_accuracy_of_probits_is_a_probit_of_the_output():
    """P(y = 1 | output) = Phi(m output / q / root of the variance that is left)."""
    p = problem("probit", "square", noise=0.7, penalty=1.0)
    curve = ge.predict(p, alpha=3.0)
    q, m = (float(curve.data[n][0]) for n in "qm")
    found = ge.calibration(p, 3.0)
    logits = np.log(found.confidence.values / (1 - found.confidence.values))
    expected = ndtr(m / q * logits / np.sqrt(p.field_square + 0.49 + 1 - m**2 / q))
    np.testing.assert_allclose(found.accuracy[0], expected, rtol=1e-12)


def test_logistic_regression_is_too_sure_without_a_penalty_and_too_modest_with_a_large_one():
    found = ge.calibration(problem(), [2.0, 4.0, 8.0], [1e-4, 1e3])
    assert (found.overconfidence.sel(penalty=1e-4) > 0.02).all()
    assert (found.overconfidence.sel(penalty=1e3) < -0.02).all()
    assert (np.diff(found.overconfidence.sel(penalty=1e-4)) < 0).all()


def test_a_classifier_that_is_right_on_average_is_right_at_every_confidence():
    """At the penalty where the mean confidence is that of a Bayesian, nearly all confidences are."""
    p = problem("logit", "logistic")
    grid = np.geomspace(1e-2, 10, 60)
    over = ge.calibration(p, [4.0], grid).overconfidence.values[0]
    assert (np.diff(over) < 0).all()  # a larger penalty, a smaller confidence
    at = int(np.flatnonzero(over < 0)[0])
    found = ge.calibration(p, [4.0], float(grid[at]), levels=[0.6, 0.75, 0.9])
    np.testing.assert_allclose(found.accuracy[0], [0.6, 0.75, 0.9], atol=0.02)


def test_axes_are_those_of_the_curve():
    p, levels = problem(penalty=0.1), [0.6, 0.9]
    one = ge.calibration(p, [0.5, 2.0], levels=levels)
    grid = ge.calibration(p, [0.5, 2.0], [0.1, 1.0], levels)
    best = ge.calibration(p, [0.5, 2.0], "optimal", levels)
    assert one.accuracy.dims == best.accuracy.dims == ("alpha", "confidence")
    assert grid.accuracy.dims == ("alpha", "penalty", "confidence")
    np.testing.assert_allclose(grid.accuracy.sel(penalty=0.1), one.accuracy, rtol=1e-10)
    np.testing.assert_allclose(grid.overconfidence, grid.mean_confidence - 1 + grid.test_error, rtol=1e-12)
    np.testing.assert_array_equal(one.confidence, levels)
    assert ge.calibration(p, [1.0]).confidence.values == pytest.approx([*np.arange(0.55, 0.91, 0.05), 0.95, 0.99])
    np.testing.assert_allclose(one.test_error, ge.predict(p, alpha=[0.5, 2.0]).test_error, rtol=1e-12)


def test_kernels_are_calibrated_as_the_inputs_they_stand_for():
    p = problem(penalty=0.1)
    kernel = ge.Kernel([0.05] * 20, [np.sqrt(3.2 / 20)] * 20, output="logit", loss="logistic", penalty=0.1, rest=0.8)
    found, expected = ge.calibration(kernel, [40.0]), ge.calibration(p, [2.0])
    np.testing.assert_allclose(found.accuracy, expected.accuracy, rtol=1e-9)


def test_points_without_an_answer_have_no_calibration():
    found = ge.calibration(problem(), [0.5, 50.0], 0.0)
    assert np.isnan(found.accuracy[0]).all()
    assert np.isnan(found.overconfidence[0])
    assert np.isfinite(found.accuracy[1]).all()


def test_real_labels_and_confidences_that_are_none_are_refused():
    with pytest.raises(ge.InputError, match="calibration is that of labels"):
        ge.calibration(problem("linear", "square", penalty=0.1), [1.0])
    for levels in ([0.4, 0.6], [0.6, 1.0]):
        with pytest.raises(ge.InputError, match="confidences lie between"):
            ge.calibration(problem(penalty=0.1), [1.0], levels=levels)
    with pytest.raises(ge.InputError, match="increasing"):
        ge.calibration(problem(penalty=0.1), [1.0], levels=[0.9, 0.6])
    with pytest.raises(ge.InputError, match="no penalty"):
        ge.calibration(problem(), [1.0])
