"""Full-batch curves on the public face: published points, symmetries, envelopes, limits, thresholds, kernels, best penalties."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, ndtr
from scipy.stats import norm

import gaussequiv as ge

DATA = Path(__file__).parents[1] / "data" / "fullbatch"
PUBLISHED = {  # how close the public face comes, at penalties down to 1e-6
    "hmm_hinge_delta0": ("hinge", "sign", 1e-11),
    "hmm_logistic_delta0": ("logistic", "sign", 1e-10),
    "hmm_square_sign_delta0": ("square", "sign", 1e-11),
    "iso_logistic_delta0": ("logistic", "sign", 2e-10),
    "iso_square_delta0.25": ("square", "linear", 1e-11),
}
OF_LABELS = ("square", "logistic", "hinge", "squared-hinge", "huber", "absolute")
OF_NUMBERS = ("square", "huber", "absolute")
EVERY = [*product(["sign", "logit", "probit"], OF_LABELS), *product(["linear"], OF_NUMBERS)]
VARIABLES = ("V", "q", "m", "norm", "test_error", "train_loss", "train_error")
N = 24
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))  # a derivative to fourth order


def diagonal(omega, tau, rho=1.0, output="linear", noise=0.0, loss="square", penalty=None):
    """Diagonal Omega and one latent, the field itself, of variance rho: N E[x_i nu]^2 = tau_i."""
    omega = np.asarray(omega, dtype=float)
    model = ge.GaussianModel(np.diag(omega), np.sqrt(np.asarray(tau) / len(omega))[:, None], [[rho]])
    return ge.FullBatch(model, ge.Perceptron([1.0], output, noise), loss, penalty)


def usual(output="sign", loss="logistic", penalty=None, noise=0.3, seen=0.8, decay=0.8):
    """A power law, all modes of which see the same part of the field."""
    omega = np.arange(1, N + 1) ** -float(decay)
    return diagonal(omega, seen * omega, 1.0, output, noise, loss, penalty)


def white(seen, output="linear", noise=0.0, loss="square", count=N):
    return diagonal(np.ones(count), np.full(count, seen), 1.0, output, noise, loss)


def mixed(output="sign", seed=0, **options):
    """Correlated inputs, several correlated latents, a direction among them."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((N + 4, 40)) / np.sqrt(40)
    joint = root @ root.T
    model = ge.GaussianModel(joint[:N, :N], joint[:N, N:], joint[N:, N:])
    return ge.FullBatch(model, ge.Perceptron([1.0, -2.0, 0.5, 1.0], output, 0.4), **options)


def same(one, other, rtol=1e-10, scale=1.0, names=VARIABLES):
    assert (one.status == ge.Status.OK).all()
    assert (other.status == ge.Status.OK).all()
    for name in names:
        expected = other.data[name].values * (scale if name == "norm" else 1.0)
        np.testing.assert_allclose(one.data[name].values, expected, rtol=rtol, atol=1e-13, err_msg=name)


# --- published points ---


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_public_face_gives_the_published_fixed_points(case):
    """To 1e-10 relative at all penalties from 1 to 1e-6, test errors to 1e-11."""
    z, (loss, output, reached) = np.load(DATA / f"{case}.npz"), PUBLISHED[case]
    problem = diagonal(z["omega"], z["t"] / z["gamma"], float(z["rho"]), output, float(np.sqrt(z["delta"])), loss)
    alpha, penalty = np.unique(z["alpha"]), np.unique(z["lam"])
    curve = ge.predict(problem, alpha=alpha, penalty=penalty)
    assert (curve.status == ge.Status.OK).all(), curve.message
    here = np.searchsorted(alpha, z["alpha"]), np.searchsorted(penalty, z["lam"])
    for name, rtol in {"V": reached, "q": reached, "m": reached, "test_error": 1e-11, "train_loss": reached}.items():
        atol = 1e-14 if name == "train_loss" else 0.0
        np.testing.assert_allclose(curve.data[name].values[here], z[name], rtol=rtol, atol=atol, err_msg=name)


# --- grids ---


@pytest.mark.parametrize(("output", "loss"), EVERY)
def test_a_grid_is_its_points(output, loss):
    problem, alpha, penalty = usual(output, loss), np.array([0.4, 0.8, 3.0]), np.array([1e-4, 0.1, 2.0])
    grid = ge.predict(problem, alpha=alpha, penalty=penalty)
    assert grid.axes == ("alpha", "penalty")
    assert (grid.status == ge.Status.OK).all(), grid.message
    for (i, a), (j, p) in product(enumerate(alpha), enumerate(penalty)):
        point = ge.predict(problem, alpha=a, penalty=p)
        assert point.axes == ("alpha",)
        for name in VARIABLES:
            found, expected = grid.data[name].values[i, j], point.data[name].values[0]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16, err_msg=name)


def test_long_grids_are_their_points_too():
    """More points than are solved together."""
    problem, alpha, penalty = usual(), ge.log_grid(0.2, 5, 23), ge.log_grid(1e-3, 10, 13)
    grid, told = ge.predict(problem, alpha=alpha, penalty=penalty), []
    for j in (0, 5, 12):
        row = ge.predict(problem, alpha=alpha, penalty=penalty[j], progress=told.append)
        np.testing.assert_allclose(grid.test_error[:, j], row.test_error, rtol=1e-12)
    assert told[-1] == 1.0
    assert grid.alpha.shape == (23,)
    assert grid.penalty.shape == (13,)


def test_the_penalty_of_predict_comes_before_that_of_the_problem():
    one, other = (ge.predict(usual(penalty=p), alpha=[1.0, 2.0], penalty=q) for p, q in ((0.1, None), (7.0, 0.1)))
    same(one, other, rtol=0)
    assert float(one.penalty) == 0.1


# --- symmetries ---


@pytest.mark.parametrize(("output", "loss"), [("linear", "huber"), ("sign", "hinge"), ("logit", "logistic")])
def test_rotated_and_permuted_inputs_and_latents_are_the_same_problem(output, loss):
    problem, rng = mixed(output, loss=loss), np.random.default_rng(1)
    model, theta = problem.model, problem.teacher.weights
    expected = ge.predict(problem, alpha=[0.5, 2.0], penalty=0.05)
    U, R = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (N, 4))
    for left, right in ((U, np.eye(4)), (np.eye(N)[rng.permutation(N)], np.eye(4)), (np.eye(N), R), (U, R)):
        turned = ge.GaussianModel(left @ model.Omega @ left.T, left @ model.Phi @ right.T, right @ model.Psi @ right.T)
        found = ge.FullBatch(turned, ge.Perceptron(right @ theta, output, 0.4), loss)
        same(ge.predict(found, alpha=[0.5, 2.0], penalty=0.05), expected)


@pytest.mark.parametrize(("output", "loss"), EVERY)
def test_larger_inputs_want_a_larger_penalty(output, loss):
    """x -> s x with penalty -> s^2 penalty: the same outputs, from weights smaller by s."""
    s, problem = 30.0, mixed(output, loss=loss)
    model = problem.model
    scaled = ge.FullBatch(ge.GaussianModel(s**2 * model.Omega, s * model.Phi, model.Psi), problem.teacher, loss)
    found = ge.predict(scaled, alpha=[0.5, 2.0], penalty=s**2 * 0.05)
    same(found, ge.predict(problem, alpha=[0.5, 2.0], penalty=0.05), scale=s**-2)


def test_larger_real_labels_have_larger_square_errors():
    one, other = (diagonal(np.ones(N), np.full(N, 0.7) * s**2, s**2, "linear", 0.5 * s) for s in (1.0, 5.0))
    small, large = (ge.predict(p, alpha=[0.5, 2.0], penalty=0.3) for p in (one, other))
    for name in ("q", "test_error", "train_loss", "train_error", "norm"):
        np.testing.assert_allclose(large.data[name], 25 * small.data[name], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(large.data["V"], small.data["V"], rtol=1e-12)


def test_modes_without_variance_take_their_part_of_alpha_only():
    """N -> 2 N by zeros: n and the penalty stay, V, q, m and errors too."""
    omega = np.arange(1, N + 1) ** -0.8
    padded = np.concatenate([omega, np.zeros(N)])
    short, long = (diagonal(o, 0.8 * o * len(o) / N, 1.0, "sign", 0.3, "hinge") for o in (omega, padded))
    expected = ge.predict(short, alpha=[0.6, 2.0], penalty=0.1)
    found = ge.predict(long, alpha=[0.3, 1.0], penalty=0.05)
    same(found, expected, names=("q", "m", "test_error", "train_loss", "train_error"))
    assert ge.thresholds(long).interpolation == 0.5


@pytest.mark.parametrize(("output", "loss"), [(o, x) for o, x in EVERY if o in ("sign", "linear")])
def test_what_the_inputs_do_not_see_is_noise(output, loss):
    """Only rho + noise^2 counts, not which of the two it is."""
    omega = np.arange(1, N + 1) ** -0.8
    one, other = (diagonal(omega, 0.7 * omega, rho, output, n, loss) for rho, n in ((1.0, 0.5), (0.75, np.sqrt(0.5))))
    same(*(ge.predict(p, alpha=[0.5, 2.0], penalty=0.1) for p in (one, other)))


# --- teachers ---


def test_a_linear_network_is_a_perceptron():
    rng = np.random.default_rng(0)
    model, B, a = mixed().model, rng.standard_normal((3, 4)), np.array([1.0, -0.5, 2.0])
    network = ge.FullBatch(model, ge.TwoLayer(B, a, "linear"), noise=0.4)
    perceptron = ge.FullBatch(model, ge.Perceptron(a @ B, noise=0.4))
    same(*(ge.predict(p, alpha=[0.5, 2.0], penalty=[0.0, 0.1]) for p in (network, perceptron)), names=VARIABLES[1:])
    inputs = ge.FullBatch(model, ge.TwoLayer(np.tile(rng.standard_normal(N), (3, 1)), a, "linear"), teacher_on="inputs")
    one = ge.FullBatch(model, ge.Perceptron(2.5 * inputs.teacher.weights[0]), teacher_on="inputs")
    same(*(ge.predict(p, alpha=[0.5, 2.0], penalty=0.1) for p in (inputs, one)))


@pytest.mark.parametrize("activation", ["erf", "relu", "tanh"])
def test_a_network_is_known_by_two_moments(activation):
    """E x y and E y^2 by a grid over the two fields of the teacher."""
    model, B, a = mixed().model, np.array([[1.0, 0, -1, 2], [0.5, 1, 1, 0]]), np.array([1.0, -0.5])
    network = ge.TwoLayer(B, a, activation)
    root = np.linalg.cholesky(B @ model.Psi @ B.T / 4)
    z = np.linspace(-8, 8, 1601)
    weight = np.outer(norm.pdf(z), norm.pdf(z)) * (z[1] - z[0]) ** 2
    fields = np.einsum("ij,jab->iab", root, np.stack(np.meshgrid(z, z, indexing="ij")))
    y = np.einsum("i,iab->ab", a, network.activation(fields))
    moments = np.einsum("ab,iab,ab->i", weight, fields, y)  # E nu y
    covariance = model.Phi @ B.T / 2 @ np.linalg.solve(root @ root.T, moments)
    measured = ge.MeasuredTeacher(covariance, float((weight * y**2).sum()) + 0.3**2)
    found, expected = (ge.FullBatch(model, t, noise=n) for t, n in ((network, 0.3), (measured, 0.0)))
    same(*(ge.predict(p, alpha=[0.5, 2.0], penalty=0.1) for p in (found, expected)), rtol=1e-5)


@pytest.mark.parametrize("loss", OF_LABELS)
def test_a_probit_is_a_sign_with_noise_of_variance_one(loss):
    same(
        *(ge.predict(usual(o, loss, 0.1, n), alpha=[0.5, 2.0]) for o, n in (("probit", 0.0), ("sign", 1.0))), rtol=1e-12
    )
    noisy = ge.predict(usual("probit", loss, 0.1, 0.75), alpha=[0.5, 2.0])
    same(noisy, ge.predict(usual("sign", loss, 0.1, 1.25), alpha=[0.5, 2.0]), rtol=1e-12)


@pytest.mark.parametrize(("output", "loss"), [(o, x) for o, x in EVERY if o in ("sign", "linear")])
def test_a_teacher_known_by_its_moments_is_the_teacher(output, loss):
    problem = mixed(output, loss=loss, penalty=0.1)
    covariance, total = problem.field_covariance, problem.field_square + 0.4**2
    if output == "linear":
        measured = ge.MeasuredTeacher(covariance, total)
    else:
        measured = ge.MeasuredTeacher(covariance * np.sqrt(2 / (np.pi * total)), 1.0, "sign")
    found = ge.predict(ge.FullBatch(problem.model, measured, loss, 0.1), alpha=[0.5, 2.0])
    expected = ge.predict(problem, alpha=[0.5, 2.0])
    same(found, expected, names=("V", "q", "norm", "test_error", "train_loss", "train_error"))
    np.testing.assert_allclose(found.data["m"], expected.data["m"] / (1 if output == "linear" else np.sqrt(total)))
    np.testing.assert_allclose(covariance, problem.model.Phi @ problem.teacher.weights / 2, rtol=1e-13)


@pytest.mark.parametrize("teacher_on", ["latents", "inputs"])
def test_inputs_that_are_not_centred_have_second_moments(teacher_on):
    model, rng = mixed().model, np.random.default_rng(3)
    x, c = rng.standard_normal(N), rng.standard_normal(4)
    shifted = ge.GaussianModel(model.Omega, model.Phi, model.Psi, x, c)
    moments = ge.GaussianModel(
        model.Omega + np.outer(x, x), model.Phi + np.outer(x, c), model.Psi + np.outer(c, c), x, c
    )
    teacher = ge.Perceptron(rng.standard_normal(4 if teacher_on == "latents" else N), noise=0.3)
    options = {"penalty": 0.1, "teacher_on": teacher_on}
    found = ge.predict(ge.FullBatch(shifted, teacher, center=False, **options), alpha=[0.5, 2.0])
    same(found, ge.predict(ge.FullBatch(moments, teacher, **options), alpha=[0.5, 2.0]), rtol=1e-12)
    centred = ge.predict(ge.FullBatch(shifted, teacher, **options), alpha=[0.5, 2.0])
    same(centred, ge.predict(ge.FullBatch(model, teacher, **options), alpha=[0.5, 2.0]), rtol=1e-12)
    assert (np.abs(found.test_error / centred.test_error - 1) > 1e-3).all()


# --- envelopes and brute force ---


@pytest.mark.parametrize(("output", "loss"), EVERY)
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 3.0])
def test_the_minimum_grows_with_the_penalty_as_the_norm(output, loss, penalty):
    """E = train_loss + penalty norm / (2 alpha) is the minimum a sample: d E / d penalty = norm / (2 alpha)."""
    problem, alpha, step = usual(output, loss, noise=0.5), np.array([0.6, 2.5]), 0.02

    def minimum(penalty):
        curve = ge.predict(problem, alpha=alpha, penalty=penalty)
        return curve.data["train_loss"].values + penalty * curve.data["norm"].values / (2 * alpha)

    slope = sum(c * minimum(penalty * np.exp(i * step)) for i, c in STENCIL) / (step * penalty)
    norm = ge.predict(problem, alpha=alpha, penalty=penalty).data["norm"].values
    np.testing.assert_allclose(slope, norm / (2 * alpha), rtol=1e-6)


def naive_proximal(loss, y, w, V):
    """argmin_z l(y, z) + (z - w)^2 / 2 V by bisection on a one-sided slope."""
    slopes = {
        "square": lambda z: z - y,
        "logistic": lambda z: -y * expit(-y * z),
        "hinge": lambda z: np.where(y * z < 1, -y, 0.0),
        "squared-hinge": lambda z: -y * np.maximum(0, 1 - y * z),
        "huber": lambda z: np.clip(z - y, -1, 1),
        "absolute": lambda z: np.sign(z - y),
    }
    reach = (1 + V) * (2 + np.abs(w) + np.abs(y))
    low, high = w - reach, w + reach
    for _ in range(80):
        z = (low + high) / 2
        above = z - w + V * slopes[loss](z) > 0
        low, high = np.where(above, low, z), np.where(above, z, high)
    return z


def naive_loss(loss, y, z):
    match loss:
        case "square":
            return (y - z) ** 2 / 2
        case "logistic":
            return np.logaddexp(0, -y * z)
        case "hinge":
            return np.maximum(0, 1 - y * z)
        case "squared-hinge":
            return np.maximum(0, 1 - y * z) ** 2 / 2
        case "huber":
            return np.where(np.abs(y - z) < 1, (y - z) ** 2 / 2, np.abs(y - z) - 0.5)
    return np.abs(y - z)


@pytest.mark.parametrize(("output", "loss"), EVERY)
def test_training_and_test_errors_are_those_of_drawn_fields(output, loss):
    """(w, nu) drawn with the order parameters, labels from nu, trained outputs by the proximal map; 5 standard errors."""
    problem, samples, rng = usual(output, loss, 0.05, noise=0.5), 200_000, np.random.default_rng(0)
    curve = ge.predict(problem, alpha=1.3)
    V, q, m = (float(curve.data[name][0]) for name in "Vqm")
    w = np.sqrt(q) * rng.standard_normal(samples)
    nu = m / q * w + np.sqrt(1 - m**2 / q) * rng.standard_normal(samples) + 0.5 * rng.standard_normal(samples)
    match output:
        case "linear":
            y = nu
        case "sign":
            y = np.sign(nu)
        case "logit":
            y = np.where(rng.random(samples) < expit(nu), 1.0, -1.0)
        case "probit":
            y = np.where(rng.random(samples) < ndtr(nu), 1.0, -1.0)
    z = naive_proximal(loss, y, w, V)
    drawn = {
        "test_error": (y - w) ** 2 if output == "linear" else y * w < 0,
        "train_error": (y - z) ** 2 if output == "linear" else y * z < 0,
        "train_loss": naive_loss(loss, y, z),
    }
    for name, values in drawn.items():
        error = values.std() / np.sqrt(samples) + 1e-12
        assert abs(values.mean() - float(curve.data[name][0])) < 5 * error, name


def test_the_norm_and_the_errors_are_those_of_trained_weights():
    """Ridge regression and its classifier by linear algebra, N = 150, 40 trainings, 5 standard errors and 1 / N."""
    rng, size, alpha, penalty = np.random.default_rng(0), 150, 1.5, 0.2
    omega = np.arange(1, size + 1) ** -0.7
    direction = np.sqrt(0.8 * np.ones(size) / omega)  # nu = direction . x / sqrt N + rest
    for output in ("linear", "sign"):
        curve = ge.predict(diagonal(omega, 0.8 * omega, 1.0, output, 0.3), alpha=alpha, penalty=penalty)
        found = {"norm": [], "q": [], "m": [], "train_loss": []}
        for _ in range(40):
            x = rng.standard_normal((round(alpha * size), size)) * np.sqrt(omega)
            nu = x @ direction / np.sqrt(size) + np.sqrt(0.2 + 0.09) * rng.standard_normal(len(x))
            y = nu if output == "linear" else np.sign(nu)
            A = x / np.sqrt(size)
            weights = np.linalg.solve(A.T @ A + penalty * np.eye(size), A.T @ y)
            found["norm"].append(weights @ weights / size)
            found["q"].append(weights @ (omega * weights) / size)
            found["m"].append(direction @ (omega * weights) / size)
            found["train_loss"].append(np.mean((y - A @ weights) ** 2) / 2)
        for name, values in found.items():
            expected = float(curve.data[name][0])
            allowed = 5 * np.std(values) / np.sqrt(len(values)) + 2 * expected / size
            assert abs(np.mean(values) - expected) < allowed, (output, name)


# --- no penalty ---


@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.1, 4.0])
def test_without_a_penalty_regression_on_white_inputs_is_known(alpha):
    """Signal s and noise e: e alpha / (alpha - 1) above the threshold, s (1 - alpha) + e / (1 - alpha) below it."""
    curve = ge.predict(white(0.7, noise=0.5), alpha=alpha, penalty=0)
    e = 0.3 + 0.25
    expected = e * alpha / (alpha - 1) if alpha > 1 else 0.7 * (1 - alpha) + e / (1 - alpha)
    np.testing.assert_allclose(curve.test_error, expected, rtol=1e-11)
    np.testing.assert_allclose(curve.data["train_loss"], e * (1 - 1 / alpha) / 2 if alpha > 1 else 0.0, rtol=1e-11)
    signal = 0.7 if alpha > 1 else 0.7 * alpha
    np.testing.assert_allclose(curve.data["norm"], signal + e * (1 / (alpha - 1) if alpha > 1 else alpha / (1 - alpha)))


@pytest.mark.parametrize(
    ("output", "loss"),
    [*product(["linear"], OF_NUMBERS), *product(["sign"], (x for x in OF_LABELS if x != "logistic"))],
)
@pytest.mark.parametrize("alpha", [0.5, 1.5, 6.0])
def test_no_penalty_is_the_limit_of_small_ones(output, loss, alpha):
    problem = usual(output, loss)
    none = ge.predict(problem, alpha=alpha, penalty=0)
    small = np.array([1e-7, 2e-7])
    some = ge.predict(problem, alpha=alpha, penalty=small)
    assert none.status[0] == ge.Status.OK, none.message
    for name in ("q", "m", "norm", "test_error", "train_loss", "train_error"):
        near, far = some.data[name].values[0]
        found = none.data[name].values[0]
        np.testing.assert_allclose(found, 2 * near - far, rtol=1e-8, atol=1e-10, err_msg=name)


def test_the_logistic_limit_exists_above_separability():
    problem = usual("sign", "logistic")
    alpha = 1.3 * ge.thresholds(problem).separability
    some = ge.predict(problem, alpha=alpha, penalty=[1e-7, 2e-7]).test_error[0]
    np.testing.assert_allclose(ge.predict(problem, alpha=alpha, penalty=0).test_error, 2 * some[0] - some[1], rtol=1e-9)


def test_below_separability_margin_losses_share_the_largest_margin():
    problem, curves = usual("sign", "hinge"), []
    alpha = np.array([0.2, 0.6, 0.95]) * ge.thresholds(problem).separability
    for loss in ("hinge", "squared-hinge"):
        curves.append(ge.predict(usual("sign", loss), alpha=alpha, penalty=0))
    same(*curves, names=("test_error", "train_loss", "train_error"), rtol=1e-7)
    for name in ("q", "m", "norm"):
        np.testing.assert_allclose(curves[1].data[name], curves[0].data[name], rtol=1e-6, err_msg=name)
    assert (curves[0].data["train_loss"] == 0).all()
    assert np.isinf(curves[0].data["V"]).all()


def test_all_losses_of_the_residual_interpolate_alike():
    for output in ("linear", "sign"):
        one, *others = (ge.predict(usual(output, x), alpha=[0.3, 0.8], penalty=0) for x in OF_NUMBERS)
        assert (one.data["train_loss"] == 0).all()
        for other in others:
            same(one, other, names=("q", "m", "norm", "test_error"))


def test_every_refusal_of_a_limit_has_a_status_and_a_reason():
    square = ge.predict(usual("linear", "square"), alpha=[0.9, 1.0, 1.1], penalty=0)
    assert list(square.status) == [ge.Status.OK, ge.Status.DIVERGED, ge.Status.OK]
    assert "interpolation threshold" in square.reasons[(1,)]
    assert "alpha = 1: diverged" in square.message
    assert np.isnan(square.test_error[1])
    assert np.isnan(square.data["test_error_se"][1])
    above = ge.thresholds(usual()).separability
    logistic = ge.predict(usual(), alpha=[0.9 * above, 1.1 * above], penalty=[0.0, 1e-3])
    expected = [[ge.Status.DIVERGED, ge.Status.OK], [ge.Status.OK, ge.Status.OK]]
    np.testing.assert_array_equal(logistic.status, expected)
    assert set(logistic.reasons) == {(0, 0)}
    assert "linear separability" in logistic.message
    hinge = ge.predict(usual("sign", "hinge"), alpha=above, penalty=0)
    assert hinge.status[0] == ge.Status.DIVERGED
    custom = ge.predict(usual("sign", lambda x: np.maximum(0, 1 - x)), alpha=[1.0], penalty=[0.0, 0.1])
    np.testing.assert_array_equal(custom.status, [[ge.Status.UNDEFINED, ge.Status.OK]])
    assert "losses with a name" in custom.reasons[(0, 0)]


# --- thresholds ---


def test_random_labels_are_separable_up_to_twice_the_rank():
    """Cover's theorem; the teacher is orthogonal to the inputs."""
    omega = np.where(np.arange(N) < 15, 2.0, 0.0)
    for output in ("sign", "logit", "probit"):
        found = ge.thresholds(diagonal(omega, 0 * omega, 1.0, output))
        np.testing.assert_allclose(found, [15 / N, 2 * 15 / N], rtol=1e-12)


def test_without_noise_a_linear_teacher_is_separable_for_ever():
    assert ge.thresholds(white(1.0, "sign")).separability == np.inf
    assert ge.thresholds(usual("sign", noise=0.0, seen=1.0)).separability == np.inf
    assert np.isfinite(ge.thresholds(white(1.0, "logit")).separability)
    assert np.isnan(ge.thresholds(white(1.0, "linear")).separability)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("output", ["logit", "probit", "sign"])
def test_separability_is_that_of_candes_and_sur(output, gamma):
    """p / n = min_t E (Z - t y X)_+^2, X the teacher's field of standard deviation gamma; labels of sign have noise 1 / 2."""
    chance = {"logit": expit, "probit": ndtr, "sign": lambda x: ndtr(2 * x)}[output]

    def value(t):
        def integrand(x):
            a = t * gamma * x
            return 2 * norm.pdf(x) * chance(gamma * x) * ((1 + a**2) * norm.cdf(-a) - a * norm.pdf(a))

        places = np.array([-2, -0.5, 0, 0.5, 2]) / gamma
        return quad(integrand, -9, 9, points=places, epsabs=1e-12, epsrel=1e-12, limit=400)[0]

    expected = 1 / minimize_scalar(value, bounds=(0, 20), method="bounded", options={"xatol": 1e-8}).fun
    noise = 0.5 if output == "sign" else 0.0
    problem = diagonal(np.ones(N), np.full(N, gamma**2), gamma**2, output, noise, "logistic")
    np.testing.assert_allclose(ge.thresholds(problem).separability, expected, rtol=1e-9)


@pytest.mark.parametrize("output", ["sign", "logit"])
def test_the_norm_of_logistic_weights_shows_separability(output):
    problem = usual(output, "logistic")
    alpha = np.array([0.97, 1.03]) * ge.thresholds(problem).separability
    norm = ge.predict(problem, alpha=alpha, penalty=[1e-10, 1e-8]).data["norm"].values
    assert norm[0, 0] / norm[0, 1] > 1.3
    assert norm[1, 0] / norm[1, 1] < 1.01


# --- kernels ---


def kernel_of(problem, **options):
    """The kernel of the inputs of a problem: eta = omega / N, theta^2 the part of the field along each mode."""
    sums = problem.resolvents
    there = sums.omega > 0
    return ge.Kernel(
        sums.omega[there] / len(sums.omega),
        np.sqrt(sums.parts[there]),
        loss=problem.learned,
        output=problem.output,
        noise=problem.teacher.noise,
        rest=sums.rho - sums.seen,
        **options,
    )


@pytest.mark.parametrize(("output", "loss"), EVERY)
def test_linear_learning_is_that_of_its_kernel(output, loss):
    problem, alpha = mixed(output, loss=loss), np.array([0.5, 2.0])
    found = ge.predict(kernel_of(problem), samples=alpha * N, penalty=[0.01, 0.3])
    assert found.axes == ("samples", "penalty")
    np.testing.assert_array_equal(found.samples, alpha * N)
    same(found, ge.predict(problem, alpha=alpha, penalty=[0.01, 0.3]), rtol=1e-9, scale=N)


@pytest.mark.parametrize("loss", ["square", "hinge"])
def test_multiplicities_are_repeated_eigenvalues(loss):
    counts, eta, theta = np.array([1, 5, 40]), np.array([0.5, 0.05, 0.002]), np.array([0.6, 0.5, 0.4])
    options = {"loss": loss, "output": "sign", "noise": 0.2, "rest": 0.1}
    levels = ge.Kernel(eta, theta, counts, **options)
    single = ge.Kernel(np.repeat(eta, counts), np.repeat(theta / np.sqrt(counts), counts), **options)
    same(*(ge.predict(k, samples=[3, 30, 300], penalty=[1e-3, 0.1]) for k in (levels, single)), rtol=1e-9)
    np.testing.assert_allclose(ge.thresholds(levels), ge.thresholds(single))
    assert ge.thresholds(levels).interpolation == 46


@pytest.mark.parametrize("samples", [5.0, 50.0, 500.0])
@pytest.mark.parametrize("penalty", [1e-6, 1e-3])
def test_kernel_regression_is_its_closed_form(samples, penalty):
    """penalty = k (n - sum eta / (eta + k)), and Bordelon, Canatar and Pehlevan's error, with E y^2 = 1."""
    eta = np.arange(1, 2001) ** -1.8
    theta = np.sqrt(0.8 * np.arange(1, 2001) ** -1.5 / np.sum(np.arange(1, 2001) ** -1.5))
    k = brentq(lambda k: k * (samples - np.sum(eta / (eta + k))) - penalty, 1e-14, 10, xtol=1e-16, rtol=1e-14)
    f = eta / (eta + k)
    expected = (1 - np.sum(theta**2 * (2 * f - f**2))) / (1 - np.sum(f**2) / samples)
    found = ge.predict(ge.Kernel(eta, theta, penalty=penalty, noise=0.3, rest=0.11), samples=samples)
    np.testing.assert_allclose(found.test_error, expected, rtol=1e-10)


def test_many_more_inputs_than_samples_are_a_kernel():
    """alpha -> 0 with n = alpha N and the spectrum of Omega / N held: nothing else of N is left."""
    eta = np.arange(1, 13) ** -1.5
    for many in (12, 500):
        omega = np.zeros(many)
        omega[:12] = many * eta
        problem = diagonal(omega, many * omega / 15, 1.0, "sign", 0.3, "logistic")
        found = ge.predict(problem, alpha=np.array([20.0, 60.0]) / many, penalty=0.1)
        expected = ge.predict(kernel_of(problem), samples=[20, 60], penalty=0.1)
        same(found, expected, rtol=1e-9, scale=1 / many)


# --- the best penalty ---


@pytest.mark.parametrize(("seen", "noise", "variance"), [(1.0, 0.5, 1.0), (0.6, 0.0, 3.0), (0.3, 2.0, 0.1)])
def test_the_best_ridge_on_white_inputs_is_noise_over_signal(seen, noise, variance):
    """The posterior mean of weights of variance s = seen / variance a mode, under noise (1 - seen) + noise^2."""
    problem = diagonal(np.full(N, variance), np.full(N, seen * variance), 1.0, "linear", noise)
    curve = ge.predict(problem, alpha=[0.3, 1.0, 4.0], penalty="optimal")
    np.testing.assert_allclose(curve.penalty, (1 - seen + noise**2) * variance / seen, rtol=1e-5)
    assert curve.warnings == ()


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_best_ridge_on_white_inputs_and_signs_counts_what_signs_hide_as_noise(noise):
    slope = 2 / (np.pi * (1 + noise**2))  # of the labels, squared
    curve = ge.predict(white(1.0, "sign", noise), alpha=[0.3, 1.0, 4.0], penalty="optimal")
    np.testing.assert_allclose(curve.penalty, (1 - slope) / slope, rtol=1e-5)


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        *product(["sign"], OF_LABELS),
        *product(["linear"], OF_NUMBERS),
        pytest.param("logit", "logistic", marks=pytest.mark.slow),
    ],
)
def test_no_penalty_is_better_than_the_best(output, loss):
    problem, alpha = usual(output, loss, noise=0.5), np.array([0.6, 2.0, 5.0])
    best = ge.predict(problem, alpha=alpha, penalty="optimal")
    assert best.axes == ("alpha",)
    assert best.penalty.shape == (3,)
    assert (best.status == ge.Status.OK).all()
    fine = ge.predict(problem, alpha=alpha, penalty=np.geomspace(1e-6, 1e3, 181)).test_error.min(axis=1)
    assert (best.test_error <= fine * (1 + 1e-10)).all()
    assert (best.test_error > fine * 0.999).all()
    for i, (a, p) in enumerate(zip(alpha, best.penalty, strict=True)):
        left, here, right = ge.predict(problem, alpha=a, penalty=p * np.exp([-0.05, 0, 0.05])).test_error[0]
        np.testing.assert_allclose(best.test_error[i], here, rtol=1e-12)
        assert abs(right - left) < 0.05 * (left + right - 2 * here)  # the slope vanishes: half a step is .05 of a bend


def test_where_nothing_is_noise_the_best_penalty_is_none():
    curve = ge.predict(white(1.0), alpha=[2.0, 4.0], penalty="optimal")
    np.testing.assert_array_equal(curve.penalty, 0)
    np.testing.assert_allclose(curve.test_error, 0, atol=1e-20)


# --- statuses of hard points ---


@pytest.mark.parametrize(("output", "loss"), [(o, x) for o, x in EVERY if o != "logit"])
def test_small_and_large_penalties_and_sample_complexities_converge(output, loss):
    curve = ge.predict(usual(output, loss), alpha=[1e-3, 0.1, 1.0, 30.0], penalty=[1e-8, 1e-4, 1.0, 1e4])
    assert (curve.status == ge.Status.OK).all(), curve.message
    assert curve.data["residual"].max() < 1e-9
    assert np.isfinite(curve.test_error).all()
