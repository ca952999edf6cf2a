"""Full-batch curves from the public face: published fixed points, identities, symmetries, limits, the best penalty, refusals."""

from pathlib import Path

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.maths.activations import Linear

DATA = Path(__file__).parents[1] / "data" / "fullbatch"
FIXTURES = {
    "hmm_hinge_delta0": ("hinge", "sign"),
    "hmm_logistic_delta0": ("logistic", "sign"),
    "hmm_square_sign_delta0": ("square", "sign"),
    "iso_logistic_delta0": ("logistic", "sign"),
    "iso_square_delta0.25": ("square", "linear"),
}
LOSSES = [
    ("square", "linear"),
    ("huber", "linear"),
    ("absolute", "linear"),
    ("square", "sign"),
    ("logistic", "sign"),
    ("hinge", "sign"),
    ("squared-hinge", "probit"),
    ("logistic", "logit"),
    ("absolute", "sign"),
]
QUANTITIES = ("V", "q", "m", "norm", "test_error", "train_loss", "train_error")


def one_latent(omega, tau, rho):
    """Omega diagonal, and one latent of variance rho with p E[z v_i]^2 = tau_i."""
    return ge.GaussianModel(np.diag(omega), np.sqrt(tau / len(omega))[:, None], np.array([[rho]]))


@pytest.mark.parametrize("case", FIXTURES)
def test_published_fixed_points(case):
    z, (loss, output) = np.load(DATA / f"{case}.npz"), FIXTURES[case]
    model = one_latent(z["omega"], z["t"] / float(z["gamma"]), float(z["rho"]))
    problem = ge.FullBatch(model, ge.Perceptron([1.0], output, np.sqrt(float(z["delta"]))), loss)
    alpha, penalty = np.unique(z["alpha"]), np.unique(z["lam"])
    curve = ge.predict(problem, alpha=alpha, penalty=penalty)
    assert (curve.status == "ok").all()
    at = np.searchsorted(alpha, z["alpha"]), np.searchsorted(penalty, z["lam"])
    for name in ("V", "q", "m"):
        np.testing.assert_allclose(curve.data[name].values[at], z[name], rtol=1e-9, err_msg=name)
    for name in ("test_error", "train_loss"):
        np.testing.assert_allclose(curve.data[name].values[at], z[name], rtol=1e-9, atol=1e-14, err_msg=name)


def model_and_teacher(output, noise=0.3, kind="spread", seed=0, scale=1.0):
    base = cases.correlated_model(kind, N=80, D=30, seed=seed)
    model = ge.GaussianModel(scale**2 * base.Omega, scale * base.Phi)
    return model, ge.Perceptron(np.random.default_rng(seed).standard_normal(30), output, noise)


@pytest.mark.parametrize(("loss", "output"), LOSSES)
@pytest.mark.parametrize("kind", ["spread", "image", "singular"])
def test_the_minimum_grows_with_the_penalty_by_half_of_the_norm(loss, output, kind):
    """Envelope theorem: the minimum a sample, train_loss + penalty norm / (2 alpha), has the derivative norm / (2 alpha)."""
    model, teacher = model_and_teacher(output, kind=kind)
    problem, alpha = ge.FullBatch(model, teacher, loss), np.array([0.4, 1.5, 4.0])
    for penalty in (1e-2, 1.0):
        h = 1e-3
        curve = ge.predict(problem, alpha=alpha, penalty=penalty * np.exp([-2 * h, -h, 0, h, 2 * h]))
        minimum = curve.data.train_loss.values + curve.penalty * curve.data.norm.values / (2 * alpha[:, None])
        slope = (minimum[:, 0] - 8 * minimum[:, 1] + 8 * minimum[:, 3] - minimum[:, 4]) / (12 * h * penalty)
        expected = curve.data.norm.values[:, 2] / (2 * alpha)
        np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-9 * (minimum[:, 2] / penalty).max())


@pytest.mark.parametrize(("loss", "output"), LOSSES)
def test_larger_inputs_want_a_larger_penalty_and_a_rotation_changes_nothing(loss, output):
    model, teacher = model_and_teacher(output)
    larger, _ = model_and_teacher(output, scale=3.0)
    Q = np.linalg.qr(np.random.default_rng(5).standard_normal((80, 80)))[0]
    turned = ge.GaussianModel(Q @ model.Omega @ Q.T, Q @ model.Phi)
    alpha, penalty = np.array([0.5, 2.0]), np.array([0.01, 1.0])
    one = ge.predict(ge.FullBatch(model, teacher, loss), alpha=alpha, penalty=penalty)
    two = ge.predict(ge.FullBatch(larger, teacher, loss), alpha=alpha, penalty=9 * penalty)
    three = ge.predict(ge.FullBatch(turned, teacher, loss), alpha=alpha, penalty=penalty)
    for name in ("test_error", "train_loss", "train_error", "q"):
        np.testing.assert_allclose(two.data[name].values, one.data[name].values, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(three.data[name].values, one.data[name].values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(two.data.norm.values * 9, one.data.norm.values, rtol=1e-9)


@pytest.mark.parametrize(("loss", "output"), LOSSES)
def test_a_grid_is_its_points(loss, output):
    problem = ge.FullBatch(*model_and_teacher(output), loss)
    alpha, penalty = np.array([0.5, 1.0, 3.0]), np.array([1e-3, 0.1, 10.0])
    grid = ge.predict(problem, alpha=alpha, penalty=penalty)
    for i, a in enumerate(alpha):
        for j, lam in enumerate(penalty):
            alone = ge.predict(problem, alpha=[a], penalty=lam if i else np.array(lam))  # also an array without axes
            for name in QUANTITIES:
                value = alone.data[name].values[0]
                np.testing.assert_allclose(grid.data[name].values[i, j], value, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("loss", "output"), LOSSES)
def test_training_errors_are_those_of_drawn_fields(loss, output):
    """x = prox(w) from drawn w and labels, point by point: its mean loss, and its square or its sign."""
    problem = ge.FullBatch(*model_and_teacher(output), loss)
    curve = ge.predict(problem, alpha=[1.3], penalty=0.2)
    V, q, m = (float(curve.data[name].values[0]) for name in "Vqm")
    rng, n = np.random.default_rng(0), 100_000
    total = problem.resolvents.total
    field = rng.standard_normal(n) * np.sqrt(total)
    w = m / total * field + np.sqrt(q - m**2 / total) * rng.standard_normal(n)
    if output == "linear":
        of, start = "residual", field - w
    else:
        y = (
            np.where(field > 0, 1, -1)
            if output != "logit"
            else np.where(rng.random(n) < 1 / (1 + np.exp(-field)), 1, -1)
        )
        of, start = "margin", y * w
    phi = problem.learned if of == "residual" else problem.learned.margin()
    low, high = start - 20 * (1 + V), start + 20 * (1 + V)
    for _ in range(60):
        middle = (low + high) / 2
        above = middle + V * phi.slope(middle) > start
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    x = (low + high) / 2
    drawn = {"train_loss": phi(x), "train_error": x**2 if of == "residual" else x < -1e-9}
    for name, sample in drawn.items():
        z = (np.mean(sample) - float(curve.data[name].values[0])) / (np.std(sample) / np.sqrt(n))
        assert abs(z) < 4.5, (name, z)


# --- teachers ---


def test_a_linear_network_is_a_perceptron_and_a_probit_is_a_noisier_sign():
    model, teacher = model_and_teacher("linear")
    network = ge.TwoLayer(np.stack([teacher.weights, -teacher.weights / 2]), np.array([2.0, 2.0]), Linear())
    alpha = [0.5, 2.0]
    one, two = (
        ge.predict(ge.FullBatch(model, t, "square", 0.1, **o), alpha=alpha)
        for t, o in ((teacher, {}), (network, {"noise": 0.3}))
    )
    np.testing.assert_allclose(two.test_error, one.test_error, rtol=1e-12)
    probit, sign = (ge.Perceptron(teacher.weights, o, s) for o, s in (("probit", 0.5), ("sign", np.sqrt(1.25))))
    one, two = (ge.predict(ge.FullBatch(model, t, "logistic", 0.1), alpha=alpha) for t in (probit, sign))
    np.testing.assert_allclose(two.test_error, one.test_error, rtol=1e-12)


@pytest.mark.parametrize("loss", ["square", "logistic", "hinge"])
def test_measured_signs_are_those_of_the_field_they_came_from(loss):
    model, teacher = model_and_teacher("sign")
    exact = ge.FullBatch(model, teacher, loss, 0.1)
    total = exact.resolvents.total
    measured = ge.MeasuredTeacher(np.sqrt(2 / (np.pi * total)) * exact.field_covariance, 1.0, "sign")
    one, two = (ge.predict(p, alpha=[0.5, 2.0]) for p in (exact, ge.FullBatch(model, measured, loss, 0.1)))
    np.testing.assert_allclose(two.test_error, one.test_error, rtol=1e-10)
    np.testing.assert_allclose(two.data.q, one.data.q, rtol=1e-10)


def test_a_measured_regressor_has_a_residual_that_is_noise():
    model, teacher = model_and_teacher("linear", noise=0.0)
    exact = ge.FullBatch(model, ge.Perceptron(teacher.weights, noise=0.7), "square", 0.1)
    measured = ge.MeasuredTeacher(exact.field_covariance, exact.field_square + 0.49)
    problem = ge.FullBatch(model, measured, "square", 0.1)
    one, two = (ge.predict(p, alpha=[0.5, 2.0]) for p in (exact, problem))
    np.testing.assert_allclose(two.test_error, one.test_error, rtol=1e-12)
    assert "counts as noise" in two.warnings[0]
    assert problem.unlearnable == pytest.approx(1 - exact.resolvents.seen / (exact.field_square + 0.49))


def test_inputs_that_are_not_centred_have_second_moments_in_the_place_of_covariances():
    rng = np.random.default_rng(0)
    base = cases.correlated_model("spread", N=40, D=15)
    mean_x, mean_c = 0.3 * rng.standard_normal(40), 0.5 * rng.standard_normal(15)
    model = ge.GaussianModel(base.Omega, base.Phi, mean_x=mean_x, mean_c=mean_c)
    theta = rng.standard_normal(15)
    found = ge.predict(ge.FullBatch(model, ge.Perceptron(theta, noise=0.2), "square", 0.1, center=False), alpha=[2.0])
    second = ge.GaussianModel(
        base.Omega + np.outer(mean_x, mean_x),
        base.Phi + np.outer(mean_x, mean_c),
        np.eye(15) + np.outer(mean_c, mean_c),
    )
    expected = ge.predict(ge.FullBatch(second, ge.Perceptron(theta, noise=0.2), "square", 0.1), alpha=[2.0])
    np.testing.assert_allclose(found.test_error, expected.test_error, rtol=1e-12)


# --- penalties ---


@pytest.mark.parametrize(("loss", "output"), LOSSES)
def test_no_other_penalty_is_better_than_the_best(loss, output):
    problem = ge.FullBatch(*model_and_teacher(output), loss)
    best = ge.predict(problem, alpha=[0.5, 2.0], penalty="optimal")
    for i, a in enumerate([0.5, 2.0]):
        near = best.penalty[i] * np.exp(np.linspace(-3, 3, 61))
        others = ge.predict(problem, alpha=[a], penalty=near).test_error
        assert best.test_error[i] <= others.min() * (1 + 1e-12)
        sides = ge.predict(problem, alpha=[a], penalty=best.penalty[i] * np.exp([-0.05, 0.05])).test_error[0]
        assert sides[0] - best.test_error[i] == pytest.approx(sides[1] - best.test_error[i], rel=0.1)


def test_the_best_ridge_on_white_inputs_is_the_noise_and_is_bayes_optimal():
    """The posterior mean of N(0, I) weights is ridge with the penalty sigma^2 (D = N)."""
    model = ge.GaussianModel.isotropic(50)
    theta = np.random.default_rng(0).standard_normal(50)
    theta *= np.sqrt(50) / np.linalg.norm(theta)
    alpha, sigma = [0.5, 1.0, 3.0], 0.6
    best = ge.predict(ge.FullBatch(model, ge.Perceptron(theta, noise=sigma), "square"), alpha=alpha, penalty="optimal")
    np.testing.assert_allclose(best.penalty, sigma**2, rtol=1e-5)
    bayes = ge.bayes_optimal(model, alpha, noise=sigma)
    np.testing.assert_allclose(best.test_error, bayes.test_error, rtol=1e-10)
    assert not best.warnings


@pytest.mark.parametrize(("loss", "output"), [case for case in LOSSES if case != ("logistic", "logit")])
@pytest.mark.parametrize("kind", ["spread", "singular"])
def test_no_penalty_is_the_limit_of_small_ones(loss, output, kind):
    problem = ge.FullBatch(*model_and_teacher(output, kind=kind), loss)
    found, separability = ge.thresholds(problem)
    alpha = np.array([0.6 * found, 1.5 * found, 6.0])
    curve = ge.predict(problem, alpha=alpha, penalty=[0.0, 1e-9, 2e-9])
    for i, a in enumerate(alpha):
        if loss == "logistic" and a < separability:
            assert curve.status[i, 0] == "diverged"
            assert np.isnan(curve.test_error[i, 0])
            assert "separab" in curve.reasons[i, 0]
            continue
        for name in ("test_error", "q", "m", "norm"):
            zero, one, two = curve.data[name].values[i]
            slack = 3 * abs(two - one) + 1e-6 * abs(one)
            assert abs(zero - one) <= slack, (name, a, zero, one, two)


@pytest.mark.parametrize(("loss", "output"), [("square", "linear"), ("absolute", "linear"), ("huber", "sign")])
def test_at_the_threshold_of_interpolation_there_is_no_answer_but_a_reason(loss, output):
    problem = ge.FullBatch(*model_and_teacher(output, kind="singular"), loss, 0.0)
    threshold = ge.thresholds(problem).interpolation
    assert threshold == pytest.approx(np.mean(problem.resolvents.omega > 0))
    curve = ge.predict(problem, alpha=[threshold / 2, threshold])
    assert list(curve.status) == ["ok", "diverged"]
    assert curve.data.train_loss.values[0] == 0
    assert "interpolation threshold" in curve.message


def test_the_threshold_of_separability():
    """Random labels: Cover's 2 N. A noiseless teacher that the inputs see: always separable. Otherwise in between."""
    model = ge.GaussianModel(np.eye(60), np.eye(60)[:, :20] * 1e-9)
    random = ge.FullBatch(model, ge.Perceptron(np.ones(20), "sign"), "hinge")
    assert ge.thresholds(random).separability == pytest.approx(2.0, rel=1e-6)
    white = ge.GaussianModel.isotropic(60)
    theta = np.ones(60)
    assert ge.thresholds(ge.FullBatch(white, ge.Perceptron(theta, "sign"), "hinge")).separability == np.inf
    found = [
        ge.thresholds(ge.FullBatch(white, ge.Perceptron(theta, "sign", s), "hinge")).separability for s in (0.1, 0.5, 3)
    ]
    assert found[0] > found[1] > found[2] > 2
    problem = ge.FullBatch(white, ge.Perceptron(theta, "sign", 0.5), "logistic")
    below, above = ge.predict(problem, alpha=[0.9 * found[1], 1.1 * found[1]], penalty=[1e-7, 1e-6]).data.norm.values
    assert below[0] > 1.4 * below[1]
    assert above[0] == pytest.approx(above[1], rel=1e-3)


def test_the_logistic_threshold_of_candes_and_sur():
    """Their h(gamma) by Monte Carlo over its definition: min_t E (Z - t V)_+^2 with V = y X, P(y = 1) = logistic(gamma X)."""
    gamma = 2.0
    model = ge.GaussianModel.isotropic(40)
    theta = gamma * np.ones(40)
    found = ge.thresholds(ge.FullBatch(model, ge.Perceptron(theta, "logit"), "logistic")).separability
    rng, n = np.random.default_rng(0), 400_000
    X, Z = rng.standard_normal((2, n))
    V = np.where(rng.random(n) < 1 / (1 + np.exp(-gamma * X)), X, -X)
    drawn = min(np.mean(np.maximum(Z - t * V, 0) ** 2) for t in np.linspace(0, 3, 61))
    assert found == pytest.approx(1 / drawn, rel=0.02)


# --- kernels ---


@pytest.mark.parametrize(("loss", "output"), LOSSES)
def test_a_kernel_is_a_model_with_eigenvalues_divided_by_n(loss, output):
    model, teacher = model_and_teacher(output)
    problem = ge.FullBatch(model, teacher, loss, 0.3)
    sums = problem.resolvents
    noise = np.sqrt(sums.noise - (1.0 if output == "probit" else 0.0))
    rest = sums.rho - sums.seen
    options = {"loss": loss, "penalty": 0.3, "output": output, "noise": noise, "rest": rest}
    kernel = ge.Kernel(sums.omega / 80, np.sqrt(sums.parts), **options)
    one, two = ge.predict(problem, alpha=[0.5, 2.0]), ge.predict(kernel, samples=[40, 160])
    for name in ("test_error", "train_loss", "train_error", "q", "m"):
        np.testing.assert_allclose(two.data[name].values, one.data[name].values, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(two.data.norm.values, 80 * one.data.norm.values, rtol=1e-9)


def test_levels_of_a_kernel_are_repeated_eigenvalues():
    eta, theta, counts = np.array([0.5, 0.1, 0.01]), np.array([0.3, 1.0, 0.5]), np.array([1, 4, 20])
    levels = ge.Kernel(eta, theta, counts, penalty=0.05, noise=0.2)
    single = ge.Kernel(np.repeat(eta, counts), np.repeat(theta / np.sqrt(counts), counts), penalty=0.05, noise=0.2)
    one, two = (ge.predict(k, samples=[3, 10, 100], penalty="optimal") for k in (levels, single))
    np.testing.assert_allclose(two.test_error, one.test_error, rtol=1e-10)


# --- Bayes and calibration ---


@pytest.mark.slow
@pytest.mark.parametrize(("output", "loss"), [("linear", "square"), ("sign", "logistic"), ("logit", "logistic")])
def test_no_method_is_better_than_bayes_on_average_over_teachers(output, loss):
    model = cases.correlated_model("spread", N=80, D=30)
    alpha = [0.5, 2.0, 6.0]
    bayes = ge.bayes_optimal(model, alpha, output, 0.3).test_error
    rng, errors = np.random.default_rng(0), []
    for _ in range(12):
        teacher = ge.Perceptron(rng.standard_normal(30), output, 0.3)
        errors.append(ge.predict(ge.FullBatch(model, teacher, loss), alpha=alpha, penalty="optimal").test_error)
    spread = np.std(errors, axis=0) / np.sqrt(12)
    assert (np.mean(errors, axis=0) > bayes - 2 * spread).all()
    assert (np.diff(bayes) < 0).all()


def test_the_bayes_optimal_error_is_that_of_posterior_means():
    """Linear output: the posterior mean of theta, by linear algebra, on drawn samples and teachers."""
    model = cases.correlated_model("spread", N=60, D=40)
    sigma, alpha = 0.5, 1.5
    n = int(alpha * 60)
    G = np.linalg.solve(model.Omega, model.Phi)  # nu = theta G^T x / sqrt(D) + a rest that the inputs do not see
    rest = np.eye(40) - model.Phi.T @ G
    rng, errors = np.random.default_rng(0), []
    for _ in range(60):
        theta = rng.standard_normal(40)
        c, x = model.sample(n, rng)
        y = c @ theta / np.sqrt(40) + sigma * rng.standard_normal(n)
        A = x @ G / np.sqrt(40)
        variance = sigma**2 + np.trace(rest) / 40  # of the rest, on average over the posterior
        S = np.linalg.inv(np.eye(40) + A.T @ A / variance)
        mean = S @ A.T @ y / variance
        d = theta - mean
        errors.append((d @ (G.T @ model.Omega @ G) @ d + theta @ rest @ theta) / 40 + sigma**2)
    found = float(ge.bayes_optimal(model, [alpha], noise=sigma).test_error[0])
    z = (np.mean(errors) - found) / (np.std(errors) / np.sqrt(60))
    assert abs(z) < 4, (np.mean(errors), found)


@pytest.mark.parametrize("output", ["sign", "logit", "probit"])
def test_calibration_is_the_accuracy_of_drawn_pairs(output):
    problem = ge.FullBatch(*model_and_teacher(output), "logistic")
    found = ge.calibration(problem, [0.7, 3.0], [0.01, 1.0], levels=[0.6, 0.8, 0.95])
    curve = ge.predict(problem, alpha=[0.7, 3.0], penalty=[0.01, 1.0])
    q, m, total = curve.data.q.values[1, 0], curve.data.m.values[1, 0], problem.resolvents.total
    rng, n = np.random.default_rng(0), 2_000_000
    h = np.sqrt(q) * rng.standard_normal(n)
    nu = m / q * h + np.sqrt(total - m**2 / q) * rng.standard_normal(n)
    y = np.where(nu > 0, 1, -1) if output != "logit" else np.where(rng.random(n) < 1 / (1 + np.exp(-nu)), 1, -1)
    p = 1 / (1 + np.exp(-h))
    for level, accuracy in zip(found.confidence.values, found.accuracy.values[1, 0], strict=True):
        here = np.abs(p - level) < 0.004
        share = np.mean(y[here] == 1)
        assert abs(share - accuracy) < 5 * np.sqrt(share * (1 - share) / here.sum()) + 0.002
    assert found.mean_confidence.values[1, 0] == pytest.approx(np.mean(np.maximum(p, 1 - p)), abs=1e-3)
    assert found.overconfidence.values[1, 0] == pytest.approx(
        np.mean(np.maximum(p, 1 - p)) - np.mean(np.sign(h) == y), abs=2e-3
    )


# --- curves, refusals ---


def test_curves_are_saved_with_their_reasons(tmp_path):
    problem = ge.FullBatch(*model_and_teacher("linear"), "square")
    curve = ge.predict(problem, alpha=[0.5, 1.0], penalty=[0, 0.1])
    curve.save(tmp_path / "curve.nc")
    again = ge.Curve.load(tmp_path / "curve.nc")
    assert again.data.identical(curve.data.assign_attrs(again.data.attrs))
    assert again.reasons == curve.reasons
    assert again.message == curve.message
    assert list(again.to_dataframe()[["alpha", "penalty"]].itertuples(index=False, name=None)) == [
        (0.5, 0.0),
        (0.5, 0.1),
        (1.0, 0.0),
        (1.0, 0.1),
    ]
    with pytest.raises(ge.InputError, match="no time"):
        _ = curve.times


MODEL, TEACHER = model_and_teacher("sign")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ge.FullBatch(MODEL, TEACHER, "log"), "unknown loss 'log'"),
        (lambda: ge.FullBatch(MODEL, TEACHER, 3), "expected a name"),
        (lambda: ge.FullBatch(MODEL, TEACHER, np.sin), "not convex"),
        (lambda: ge.FullBatch(MODEL, ge.Perceptron(np.ones(7), "sign"), "hinge"), "7 weights"),
        (lambda: ge.FullBatch(MODEL, ge.Perceptron(np.ones(30)), "hinge"), "the teacher's are real"),
        (lambda: ge.FullBatch(MODEL, ge.TwoLayer.random(2, 30), "huber"), "known by two moments"),
        (lambda: ge.FullBatch(MODEL, TEACHER, "hinge", -1.0), "penalty=-1"),
        (lambda: ge.FullBatch(MODEL, TEACHER, "hinge", noise=0.1), "give it to the Perceptron"),
        (lambda: ge.FullBatch(MODEL, TEACHER, "hinge", center=False), "center=False"),
        (lambda: ge.FullBatch(MODEL, TEACHER, "hinge", teacher_on="x"), "teacher_on='x'"),
        (lambda: ge.FullBatch(np.eye(3), TEACHER, "hinge"), "expected a GaussianModel"),
        (lambda: ge.FullBatch(MODEL, np.ones(30), "hinge"), "expected a Perceptron"),
        (lambda: ge.FullBatch(MODEL, ge.MeasuredTeacher(np.ones(7), 1.0)), "7 covariances"),
        (lambda: ge.FullBatch(MODEL, ge.MeasuredTeacher(9 * np.ones(80), 1.0)).resolvents, "do not belong together"),
        (lambda: ge.FullBatch(MODEL, ge.MeasuredTeacher(np.ones(80), 1.0, "sign"), "hinge").resolvents, "real ones"),
        (lambda: ge.MeasuredTeacher(np.ones(3), 2.0, "sign"), "square=2"),
        (lambda: ge.MeasuredTeacher(np.ones(3), 1.0, "logit"), "'linear' or 'sign'"),
        (lambda: ge.Perceptron(np.ones((2, 3))), "shape \\(2, 3\\)"),
        (lambda: ge.Perceptron(np.zeros(3)), "all zero"),
        (lambda: ge.Perceptron(np.ones(3), "step"), "output='step'"),
        (lambda: ge.Perceptron(np.ones(3), noise=-1), "noise=-1"),
        (lambda: ge.Kernel([1.0, -1.0], [1.0, 1.0]), "at least 0"),
        (lambda: ge.Kernel([1.0], [1.0, 1.0]), "one an eigenvalue"),
        (lambda: ge.Kernel([1.0, 0.0], [1.0, 1.0]), "rest="),
        (lambda: ge.Kernel([1.0], [0.0]), "target is zero"),
        (lambda: ge.Kernel([1.0], [1.0], [0.0]), "not positive"),
        (lambda: ge.predict(ge.FullBatch(MODEL, TEACHER, "hinge"), alpha=[1.0]), "no penalty"),
        (lambda: ge.predict(ge.FullBatch(MODEL, TEACHER, "hinge"), alpha=[1.0], penalty="best"), "penalty='best'"),
        (lambda: ge.predict(ge.FullBatch(MODEL, TEACHER, "hinge"), alpha=[1.0], penalty=[1, 0.1]), "increasing"),
        (lambda: ge.predict(ge.FullBatch(MODEL, TEACHER, "hinge"), alpha=[0.0, 1.0], penalty=1.0), "alpha="),
        (lambda: ge.predict(ge.FullBatch(MODEL, TEACHER, "hinge"), alpha=["a"], penalty=1.0), "alpha="),
        (lambda: ge.predict(ge.FullBatch(MODEL, TEACHER, "hinge"), times=[1.0], penalty=1.0), "predicted at alpha"),
        (lambda: ge.predict(ge.Kernel([1.0], [1.0]), alpha=[1.0], penalty=1.0), "predicted at samples"),
        (lambda: ge.predict(cases.problem(), alpha=[1.0]), "neither alpha nor a penalty"),
        (lambda: ge.calibration(ge.FullBatch(MODEL, ge.Perceptron(np.ones(30))), [1.0], 1.0), "labels \\+1 and -1"),
        (lambda: ge.calibration(ge.FullBatch(MODEL, TEACHER, "logistic"), [1.0], 1.0, [0.2, 0.7]), "between 0.5 and 1"),
        (lambda: ge.bayes_optimal(MODEL, [1.0], "step"), "output='step'"),
        (lambda: ge.log_grid(1, 0.1), "start < end"),
    ],
)
def test_bad_input_is_one_sentence(make, sentence):
    with pytest.raises(ge.InputError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
