"""The Bayes-optimal error: its equation written naively, posterior means of finite size, bounds, limits and invariances."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, ndtr
from scipy.stats import norm

import cases
import gaussequiv as ge

OUTPUTS = ("linear", "sign", "logit", "probit")
ISOTROPIC = ge.GaussianModel.isotropic(30)
MODELS = {
    "white": ISOTROPIC,
    "spread": cases.correlated_model("spread", 40, 25),
    "image": cases.correlated_model("image"),
}


def seen(model):
    """Eigenvalues of (N / D) Omega^-1/2 Phi Phi^T Omega^-1/2."""
    h = np.linalg.eigvals(np.linalg.solve(model.Omega, model.Phi @ model.Phi.T)).real
    return h * model.input_dim / model.latent_dim


def information(q, output, noise):
    """E sum_y (d_w Z)^2 / Z with Z = P(y | nu ~ N(sqrt q xi, 1 - q)), by quadrature."""
    spread = np.sqrt(1 - q + noise**2 + (output == "probit"))
    zeta = np.linspace(-9, 9, 721)
    weight = norm.pdf(zeta) * (zeta[1] - zeta[0])

    def integrand(xi):
        mean = np.sqrt(q) * xi
        if output == "logit":
            p = weight @ expit(mean + spread * zeta)
            slope = weight @ (expit(mean + spread * zeta) * expit(-mean - spread * zeta))
        else:
            p, slope = ndtr(mean / spread), norm.pdf(mean / spread) / spread
        return norm.pdf(xi) * slope**2 * (1 / p + 1 / (1 - p)) if 0 < p < 1 else 0.0

    return 2 * quad(integrand, 0, 8, epsabs=1e-11, epsrel=1e-11, points=[spread, 1, 3])[0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_the_overlap_solves_its_equation(model, output, noise):
    model, alpha = MODELS[model], np.array([0.4, 2.0])
    curve, h = ge.bayes_optimal(model, alpha, output, noise), seen(model)
    for a, q, error in zip(alpha, curve.data["q"].values, curve.test_error, strict=True):
        q_hat = a / (noise**2 + 1 - q) if output == "linear" else a * information(q, output, noise)
        assert q == pytest.approx(np.mean(q_hat * h**2 / (1 + q_hat * h)), rel=1e-8)
        if output == "linear":
            assert error == pytest.approx(noise**2 + 1 - q, rel=1e-12)
        elif output != "logit":
            total = 1 + noise**2 + (output == "probit")
            assert error == pytest.approx(np.arccos(np.sqrt(q / total)) / np.pi, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("name", ["white", "spread"])
def test_posterior_means_of_finite_size_have_this_error(name, alpha):
    """Real labels: ridge regression in the latents' own coordinates, 60 teachers, 5 standard errors and 1 / N."""
    size, rng, noise = 120, np.random.default_rng(0), 0.5
    model = ge.GaussianModel.isotropic(size) if name == "white" else cases.correlated_model("spread", size, 80)
    D, errors = model.latent_dim, []
    to_latents = np.linalg.solve(model.Omega, model.Phi)  # E[c | x] = x to_latents
    Lambda = model.Phi.T @ to_latents  # Cov E[c | x]
    hidden = 1 - np.trace(Lambda) / D
    root = np.linalg.cholesky(model.Omega)
    for _ in range(60):
        theta = rng.standard_normal(D)
        features = rng.standard_normal((round(alpha * size), size)) @ root.T @ to_latents / np.sqrt(D)
        spread = np.sqrt(max(theta @ (np.eye(D) - Lambda) @ theta / D, 0.0) + noise**2)
        y = features @ theta + spread * rng.standard_normal(len(features))
        mean = np.linalg.solve(features.T @ features + (hidden + noise**2) * np.eye(D), features.T @ y)
        errors.append((theta - mean) @ Lambda @ (theta - mean) / D + hidden + noise**2)
    expected = float(ge.bayes_optimal(model, alpha, "linear", noise).test_error[0])
    assert abs(np.mean(errors) - expected) < 5 * np.std(errors) / np.sqrt(len(errors)) + expected / size


def average_teacher(model, output, noise, loss):
    """The problem whose teacher has the mean tau of all teachers theta ~ N(0, I)."""
    omega, E = model.eigenmodes
    tau = model.input_dim * ((E.T @ model.Phi) ** 2).sum(axis=1) / model.latent_dim
    diagonal = ge.GaussianModel(np.diag(omega), np.sqrt(tau / len(omega))[:, None])
    return ge.FullBatch(diagonal, ge.Perceptron([1.0], output, noise), loss)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("linear", "square"),
        ("linear", "huber"),
        ("sign", "square"),
        ("sign", "logistic"),
        ("sign", "hinge"),
        ("probit", "huber"),
    ],
)
@pytest.mark.parametrize("noise", [0.1, 0.7])
def test_no_estimator_is_better_than_bayes(model, output, loss, noise):
    alpha = [0.3, 1.0, 5.0]
    bayes = ge.bayes_optimal(MODELS[model], alpha, output, noise).test_error
    best = ge.predict(average_teacher(MODELS[model], output, noise, loss), alpha=alpha, penalty="optimal").test_error
    assert (best >= bayes * (1 - 1e-11)).all()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["square", "logistic", "hinge"])
def test_no_estimator_of_logit_labels_is_better_than_bayes(loss):
    alpha = [0.3, 1.0, 5.0]
    bayes = ge.bayes_optimal(MODELS["spread"], alpha, "logit", 0.1).test_error
    best = ge.predict(average_teacher(MODELS["spread"], "logit", 0.1, loss), alpha=alpha, penalty="optimal").test_error
    assert (best >= bayes * (1 - 1e-11)).all()


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_the_best_ridge_on_white_inputs_is_bayes(noise):
    """A Gaussian prior of weights is a penalty."""
    alpha = [0.1, 0.7, 1.0, 3.0, 20.0]
    best = ge.predict(average_teacher(ISOTROPIC, "linear", noise, "square"), alpha=alpha, penalty="optimal")
    np.testing.assert_allclose(
        best.test_error, ge.bayes_optimal(ISOTROPIC, alpha, "linear", noise).test_error, rtol=1e-10
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_nothing_and_everything_is_learned_in_the_limits(model, noise):
    model = MODELS[model]
    rest = 1 - seen(model).mean()
    for output in OUTPUTS:
        curve = ge.bayes_optimal(model, [1e-9, 1e9], output, noise)
        total = 1 + noise**2 + (output == "probit")
        nothing = total if output == "linear" else 0.5
        assert curve.test_error[0] == pytest.approx(nothing, abs=1e-4)
        assert curve.data["q"][1] == pytest.approx(1 - rest, abs=1e-6)
        if output == "linear":
            assert curve.test_error[1] == pytest.approx(rest + noise**2, abs=1e-6)
        elif output != "logit":
            assert curve.test_error[1] == pytest.approx(np.arccos(np.sqrt((1 - rest) / total)) / np.pi, abs=1e-4)


def test_a_perceptron_is_learned_as_point_44_over_alpha():
    """Without noise: error -> 0.442 / alpha (Gyorgyi; Opper and Haussler, 1991), and exactly alpha is learned of real labels."""
    alpha = np.array([1e3, 1e4])
    np.testing.assert_allclose(ge.bayes_optimal(ISOTROPIC, alpha, "sign").test_error * alpha, 0.442, rtol=2e-3)
    np.testing.assert_allclose(ge.bayes_optimal(ISOTROPIC, [0.25, 0.75], "linear").test_error, [0.75, 0.25], rtol=1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
def test_more_samples_help_and_more_noise_hurts(output):
    alpha = ge.log_grid(0.05, 50, 12)
    errors = [ge.bayes_optimal(MODELS["image"], alpha, output, noise).test_error for noise in (0.0, 0.3, 1.0)]
    for error in errors:
        assert (np.diff(error) < 0).all()
    assert (errors[0] < errors[1]).all()
    assert (errors[1] < errors[2]).all()


@pytest.mark.parametrize("output", OUTPUTS)
def test_coordinates_of_the_inputs_do_not_matter(output):
    """x -> M x for invertible M, rotated latents, and inputs that are always zero (which take their part of alpha)."""
    model, rng = MODELS["spread"], np.random.default_rng(0)
    M, R = rng.standard_normal((40, 40)), np.linalg.qr(rng.standard_normal((25, 25)))[0]
    other = ge.GaussianModel(M @ model.Omega @ M.T, M @ model.Phi @ R)
    padded = ge.GaussianModel(np.pad(model.Omega, (0, 40)), np.pad(model.Phi, ((0, 40), (0, 0))))
    expected = ge.bayes_optimal(model, [0.5, 2.0], output, 0.3).test_error
    np.testing.assert_allclose(ge.bayes_optimal(other, [0.5, 2.0], output, 0.3).test_error, expected, rtol=1e-7)
    np.testing.assert_allclose(ge.bayes_optimal(padded, [0.25, 1.0], output, 0.3).test_error, expected, rtol=1e-10)


def test_a_probit_is_a_sign_with_noise_of_variance_one():
    probit = ge.bayes_optimal(MODELS["image"], [0.5, 2.0], "probit", 0.75)
    sign = ge.bayes_optimal(MODELS["image"], [0.5, 2.0], "sign", 1.25)
    np.testing.assert_allclose(probit.test_error, sign.test_error, rtol=1e-12)


def test_inputs_that_see_nothing_teach_nothing():
    blind = ge.GaussianModel(np.eye(3), np.zeros((3, 2)))
    assert ge.bayes_optimal(blind, [1.0], "linear", 0.5).test_error[0] == pytest.approx(1.25, rel=1e-12)
    assert ge.bayes_optimal(blind, [1.0], "sign").test_error[0] == pytest.approx(0.5, abs=1e-6)


def test_it_is_a_curve_and_refuses_what_is_none():
    curve = ge.bayes_optimal(ISOTROPIC, ge.log_grid(0.1, 10, 7), "sign", 0.1)
    assert curve.axes == ("alpha",)
    assert (curve.status == ge.Status.OK).all()
    assert curve.provenance["problem"]["problem"] == "Bayes-optimal"
    for arguments, sentence in (
        ((3, [1.0]), "the model is an int; expected a GaussianModel"),
        ((ISOTROPIC, [0.0]), "expected finite numbers, positive and increasing"),
        ((ISOTROPIC, [1.0], "relu"), "output='relu'; expected one of"),
        ((ISOTROPIC, [1.0], "sign", -1.0), "noise=-1.0; expected"),
        ((ge.GaussianModel(np.eye(3), np.zeros((3, 2)), 2 * np.eye(2)), [1.0]), "expected Psi = I"),
    ):
        with pytest.raises(ge.InputError, match=sentence):
            ge.bayes_optimal(*arguments)
