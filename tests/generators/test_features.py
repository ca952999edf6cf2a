"""Features behind a generator, their closed moments, and teachers that are measured."""

import numpy as np
import pytest
import torch

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.generators import Generator, features
from gaussequiv.maths.activations import activation


@pytest.fixture(scope="module")
def layer():
    return generators.gaussian_matrix(120, 40, seed=4)


@pytest.mark.parametrize("name", ["erf", "relu", "tanh", "sign", "gelu"])
def test_the_features_of_a_generator_are_those_of_its_inputs(layer, name):
    base, phi = generators.single_layer(layer, "sign"), features.random_features(120, 30, name, seed=1)
    latents, inputs = base.sample(50, 7)
    again, found = base.then(phi).sample(50, 7)
    np.testing.assert_array_equal(latents, again)
    g = activation(name)
    np.testing.assert_allclose(found, g(inputs @ phi.weight_matrix.T / np.sqrt(120)), atol=1e-13)


def test_orthogonal_features_are_orthogonal_in_blocks():
    W = features.random_features(20, 50, kind="orthogonal", seed=2).weight_matrix
    for start in (0, 20, 40):
        block = W[start : start + 20]
        np.testing.assert_allclose(block @ block.T, 20 * np.eye(len(block)), atol=1e-12)
    assert abs(W[:20] @ W[20:40].T).max() > 1.0


def test_gaussian_features_have_the_seed_they_are_given():
    one, same, other = (features.random_features(10, 5, seed=s).weight_matrix for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert abs(one - other).max() > 0.1
    many = features.random_features(300, 400, seed=0).weight_matrix
    assert abs(many.mean()) < 4 / np.sqrt(many.size)
    assert abs(many.var() - 1) < 4 * np.sqrt(2 / many.size)


@pytest.mark.parametrize("name", ["erf", "gelu", "relu"])
def test_the_first_layer_of_a_network_is_its_hidden_units(layer, name):
    base = generators.single_layer(layer, "sign")
    student = ge.TwoLayer.random(6, 120, name, seed=3)
    _, inputs = base.sample(40, 0)
    found = base.then(student).sample(40, 0)[1]
    np.testing.assert_allclose(found, student.activation(student.local_fields(inputs)), atol=1e-12)


def test_features_may_want_images_and_centred_inputs(layer):
    base = generators.single_layer(layer, "relu")
    mean = np.linspace(-1, 1, 120)
    convolution = torch.nn.Conv2d(1, 2, 3, dtype=torch.float64)
    found = base.then(convolution, shape=(1, 10, 12), mean=mean)
    _, inputs = base.sample(4, 0)
    images = torch.from_numpy(inputs - mean).reshape(4, 1, 10, 12)
    np.testing.assert_allclose(found.sample(4, 0)[1], convolution(images).detach().reshape(4, -1), atol=1e-12)


@pytest.mark.parametrize("name", ["erf", "sign", "relu", "tanh"])
def test_closed_moments_of_features_of_gaussian_inputs_equal_monte_carlo(name):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((30, 30)) / np.sqrt(30)
    model = ge.GaussianModel(A @ A.T + 0.1 * np.eye(30), A[:, :12] @ np.eye(12))
    W = rng.standard_normal((8, 30))
    closed = model.then(W, name)
    c, x = model.sample(400_000, 1)
    v = activation(name)(x @ W.T / np.sqrt(30))
    for found, sample in (
        (closed.Omega, np.einsum("ni,nj->nij", v - closed.mean_x, v - closed.mean_x)),
        (closed.Phi, np.einsum("ni,nj->nij", v, c)),
    ):
        z = (sample.mean(0) - found) / np.maximum(sample.std(0) / np.sqrt(len(v)), 1e-9)
        assert np.sqrt(np.mean(z**2)) < 1.5
        assert np.abs(z).max() < 5
    np.testing.assert_allclose(v.mean(0), closed.mean_x, atol=5e-3)


@pytest.mark.slow
def test_closed_moments_of_features_of_the_hidden_manifold_improve_as_one_over_n():
    """x = sign(F c): the fields W x / sqrt(N) are Gaussian up to 1/N, and so are their covariances."""
    departures = []
    for N in (60, 480):
        F = generators.gaussian_matrix(N, N // 3, seed=1)
        phi = features.random_features(N, 20, "erf", seed=2)
        closed = ge.GaussianModel.single_layer(F, "sign").then(phi.weight_matrix, "erf")
        base = generators.single_layer(F, "sign").then(phi)
        estimate = generators.estimate(base, 400_000, seed=0)
        difference = estimate.Omega - closed.Omega
        noise = np.sum(estimate.standard_errors["Omega"] ** 2)
        departures.append(np.sqrt(max(np.sum(difference**2) - noise, 0)) / np.linalg.norm(closed.Omega))
    assert departures[1] < departures[0] / 3


def test_linear_features_of_a_model_are_a_rotation():
    model = ge.GaussianModel.single_layer(generators.gaussian_matrix(30, 10, 0), "sign")
    W = features.random_features(30, 30, kind="orthogonal", seed=0).weight_matrix
    turned = model.then(W, "linear")
    np.testing.assert_allclose(turned.spectrum, model.spectrum, atol=1e-12)
    np.testing.assert_allclose(turned.Phi, W @ model.Phi / np.sqrt(30), atol=1e-13)


def test_fields_with_means_want_centring():
    model = ge.GaussianModel.single_layer(generators.gaussian_matrix(30, 10, 0), "relu")
    W = features.random_features(30, 12, seed=0).weight_matrix
    with pytest.raises(ge.InputError, match="center=True"):
        model.then(W)
    assert model.then(W, center=True).input_dim == 12


@pytest.mark.slow
def test_a_wide_random_feature_model_learns_like_its_kernel():
    """Linear features of p >> N: the kernel W x . W x' / p is x . x' up to 1/p, its eigenvalues those of Omega / N."""
    model = ge.GaussianModel.single_layer(generators.gaussian_matrix(40, 25, 1), "sign")
    teacher = ge.Perceptron(np.random.default_rng(0).standard_normal(25), noise=0.3)
    full = ge.FullBatch(model, teacher, "square", 0.05)
    theta = np.sqrt(full.resolvents.parts)
    rest = full.resolvents.rho - full.resolvents.seen
    kernel = ge.Kernel(model.spectrum / 40, theta, penalty=0.05, noise=0.3, rest=rest)
    samples = np.array([10, 40, 160])
    limit = ge.predict(kernel, samples=samples).test_error
    gaps = []
    for p in (400, 4000):
        W = features.random_features(40, p, seed=3).weight_matrix
        wide = ge.FullBatch(model.then(W, "linear"), teacher, "square", 0.05)
        gaps.append(np.abs(ge.predict(wide, alpha=samples / p).test_error / limit - 1).max())
    assert gaps[1] < 0.02
    assert gaps[1] < 0.5 * gaps[0]


# --- measured teachers ---


def test_a_measured_perceptron_has_its_moments(layer):
    base, model = generators.single_layer(layer, "sign"), ge.GaussianModel.single_layer(layer, "sign")
    theta = np.random.default_rng(0).standard_normal(40)
    exact = ge.FullBatch(model, ge.Perceptron(theta), "square", 0.1)
    found = generators.measure_teacher(base, lambda c: c @ torch.tensor(theta) / 40**0.5, on="latents", samples=60_000)
    z = (found.covariance - exact.field_covariance) / found.standard_error
    assert np.sqrt(np.mean(z**2)) < 1.5
    assert found.square == pytest.approx(exact.field_square, rel=0.03)
    signs = generators.measure_teacher(
        base, lambda c: c @ torch.tensor(theta), on="latents", output="sign", samples=60_000
    )
    matched = ge.FullBatch(model, signs, "logistic", 0.1).field_covariance * np.sqrt(exact.field_square)
    z = (matched - exact.field_covariance) / (signs.standard_error * np.sqrt(np.pi / 2 * exact.field_square))
    assert np.sqrt(np.mean(z**2)) < 1.5


def test_few_chunks_have_the_standard_errors_of_many(layer):
    """On white labels the covariance has the variance E x^2 E y^2 / samples, entry by entry."""
    base = generators.single_layer(layer, "sign")
    for samples in (4_000, 40_000):
        found = generators.measure_teacher(base, lambda x: torch.sin(7e3 * x.sum(1) + 1e4 * x[:, 0]), samples=samples)
        expected = np.sqrt(found.square / samples)
        assert np.sqrt(np.mean(found.standard_error**2)) == pytest.approx(expected, rel=0.1)


def test_a_classifier_of_two_scores_and_a_network_on_inputs_are_teachers(layer):
    base = generators.single_layer(layer, "sign")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(120, 30), torch.nn.ReLU(), torch.nn.Linear(30, 2))
    found = generators.measure_teacher(base, network, output="sign", samples=3_000)
    latents, inputs = base.sample(100, 3)
    scores = network(torch.from_numpy(inputs).float()).detach().numpy()
    np.testing.assert_allclose(found.function(latents, inputs), scores[:, 1] - scores[:, 0], rtol=1e-5)
    curve = ge.predict(ge.FullBatch(generators.estimate(base, 3_000), found, "square", 1.0), alpha=[1.0, 2.0])
    assert "counts as noise" in curve.warnings[0]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x, "one label a sample"),
        (lambda x: x[:, 0] * float("nan"), "NaN"),
        (lambda x: x @ torch.zeros(3, dtype=x.dtype), "failed"),
        (lambda x: torch.ones(len(x)), "all labels are the same"),
        (3, "expected a torch module"),
    ],
)
def test_what_is_no_teacher_is_refused(layer, function, sentence):
    with pytest.raises(ge.InputError, match=sentence):
        generators.measure_teacher(generators.single_layer(layer), function, samples=200)


def test_features_that_do_not_fit_are_refused(layer):
    base = generators.single_layer(layer)
    for given, sentence in (
        ((features.random_features(7, 3),), "look at 7 inputs"),
        ((3,), "expected a torch module"),
    ):
        with pytest.raises(ge.InputError, match=sentence):
            base.then(*given)
    with pytest.raises(ge.InputError, match="shape="):
        base.then(torch.nn.Identity(), shape=(7, 7))
    with pytest.raises(ge.InputError, match="mean has shape"):
        base.then(torch.nn.Identity(), mean=[0.0])
    with pytest.raises(ge.InputError, match="kind='sparse'"):
        features.random_features(7, 3, kind="sparse")
    with pytest.raises(ge.InputError, match="one column an input"):
        ge.GaussianModel.isotropic(5).then(np.ones((2, 3)))


def test_the_generator_that_is_composed_is_left_as_it_is(layer):
    base = generators.single_layer(layer)
    before = base.sample(5, 0)[1]
    base.then(lambda x: x.mul_(2))
    assert isinstance(base.then(torch.nn.Tanh()), Generator)
    np.testing.assert_array_equal(base.sample(5, 0)[1], before)


def test_means_of_inputs_and_labels_are_no_covariance():
    """Labels y + 5 of inputs x + mean: the covariance of y and x, on the same samples; E y^2 alone sees the mean."""
    rng = np.random.default_rng(0)
    model, mean = ge.GaussianModel.isotropic(6), rng.standard_normal(6)
    shifted = ge.GaussianModel(model.Omega, model.Phi, mean_x=mean)
    theta = torch.from_numpy(rng.standard_normal(6))
    there = torch.from_numpy(mean)
    plain = features.measure_teacher(model, lambda x: torch.tanh(x @ theta), samples=3000)
    moved = features.measure_teacher(shifted, lambda x: torch.tanh((x - there) @ theta) + 5, samples=3000)
    np.testing.assert_allclose(moved.covariance, plain.covariance, atol=1e-12)
    np.testing.assert_allclose(moved.standard_error, plain.standard_error, atol=1e-12)
    average = plain.provenance["mean"]
    assert moved.square == pytest.approx(plain.square + 10 * average + 25, rel=1e-12)
