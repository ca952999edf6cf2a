"""Models that are known by products: the same law as their matrices, whatever the blocks, and the same curves."""

import numpy as np
import pytest

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.maths import lanczos, large_layers
from gaussequiv.models.operator import OperatorModel

ACTIVATIONS = {
    "sign": "sign",
    "erf": "erf",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
    "softplus": "softplus",
    "abs": "abs",
    "quadratic": "quadratic",
    "leaky": lambda u: np.where(u > 0, u, 0.2 * u),
    "square": lambda u: u**2,
}
MATRICES = {
    "gaussian": generators.gaussian_matrix(70, 30),
    "rows of several norms": generators.gaussian_matrix(70, 30) * np.linspace(0.3, 2, 70)[:, None],
    "more latents": generators.gaussian_matrix(20, 90),
    "orthogonal": generators.matrix("orthogonal", 60, 30, 1),
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(large_layers, "BLOCK", 16)
    monkeypatch.setattr(large_layers, "SLICE", 13)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_products_by_blocks_are_those_of_the_matrix(name, kind, precision):
    F, sigma = MATRICES[kind], ACTIVATIONS[name]
    dense = ge.GaussianModel.single_layer(F, sigma)
    large = OperatorModel.single_layer(F, sigma, precision=precision, threads=2)
    X = np.random.default_rng(0).standard_normal((len(F), 3))
    tolerance = {"float64": 1e-12, "float32": 3e-6}[precision]
    scale = np.abs(dense.Omega @ X).max()
    np.testing.assert_allclose(large.Omega @ X, dense.Omega @ X, atol=tolerance * scale)
    np.testing.assert_allclose(large.Omega @ X[:, 0], (large.Omega @ X)[:, 0], atol=1e-12 * scale)
    np.testing.assert_allclose(large.Phi @ np.eye(F.shape[1]), dense.Phi, atol=1e-12)
    np.testing.assert_allclose(large.mean_x, dense.mean_x, atol=1e-12)
    moments = np.trace(dense.Omega) / len(F), np.sum(dense.Omega**2) / len(F)
    np.testing.assert_allclose(large.moments(), moments, rtol=10 * tolerance)


@pytest.mark.parametrize("name", ["sign", "tanh"])
def test_products_do_not_depend_on_the_threads(name):
    F = MATRICES["gaussian"]
    X = np.random.default_rng(0).standard_normal((70, 5))
    one, three = (OperatorModel.single_layer(F, name, threads=t).Omega @ X for t in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_close_rows_without_a_closed_form_are_refused():
    F = np.array([[1.0, 0.0], [1.0, 1e-3], [0.0, 1.0]])
    with pytest.raises(InputError, match="rows of F have the correlation 1, and tanh no closed form"):
        OperatorModel.single_layer(F, "tanh").Omega @ np.ones((3, 1))
    close = OperatorModel.single_layer(F, "sign", precision="float64")
    np.testing.assert_allclose(close.Omega @ np.eye(3), ge.GaussianModel.single_layer(F, "sign").Omega, atol=1e-12)


WRONG = {
    "zero row": (lambda: OperatorModel.single_layer(np.eye(3)[:, :2], "sign"), "row 2 of F is zero"),
    "precision": (lambda: OperatorModel.single_layer(np.eye(3), precision="half"), "precision='half'"),
    "threads": (lambda: OperatorModel.single_layer(np.eye(3), threads=0), "threads=0"),
    "a vector": (lambda: OperatorModel.single_layer(np.ones(3)), "F has shape"),
    "rank": (lambda: OperatorModel.single_layer(np.eye(3)).low_rank_plus_diagonal(3), "rank=3; expected less than"),
    "no rank": (lambda: OperatorModel.single_layer(np.eye(3)).low_rank_plus_diagonal(-1), "rank=-1; expected"),
    "replicate": (lambda: OperatorModel.single_layer(np.eye(3)).replicate(0), "there is no replicate 0"),
    "few": (lambda: generators.sampled_model(generators.single_layer(np.eye(3)), 100), "expected at least 4096"),
    "data": (lambda: generators.sampled_model(generators.dataset(np.eye(5)), 5000), "a sampled model regresses"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_refused_in_one_sentence(wrong):
    make, sentence = WRONG[wrong]
    with pytest.raises(InputError, match=sentence):
        make()


# --- spectra ---


def test_known_moments_make_random_vectors_more_accurate():
    """Control variates: sums of relaxation functions over the spectrum, against the eigenvalues."""
    dense = ge.GaussianModel.single_layer(generators.gaussian_matrix(300, 60), "sign")
    rho = dense.spectrum
    moments = float(rho.mean()), float(np.mean(rho**2))
    errors = []
    for known in (None, moments):
        found = [
            lanczos.density_of_states(
                dense.Omega, N=300, probes=4, longest=10, tolerance=1e-6, seed=seed, moments=known
            )
            for seed in range(20)
        ]
        times = np.array([0.0, 0.1, 1.0])[:, None]
        exact = (rho * np.exp(-times * rho)).mean(axis=1)
        values = np.array([(d.rho * np.exp(-times * d.rho)) @ d.omega for d in found])
        errors.append(np.sqrt(np.mean((values / exact - 1) ** 2, axis=0)))
        assert all(abs(d.omega.sum() - 1) < 1e-10 for d in found)
    assert errors[1][0] < 1e-10
    assert (errors[1][1:] < errors[0][1:] / 3).all()


# --- samples ---

F = generators.gaussian_matrix(90, 30)
GENERATOR = generators.single_layer(F, "relu")


def test_a_sampled_model_is_the_estimate_from_the_same_samples():
    P = 5_000
    from gaussequiv.generators.moments import Moments
    from gaussequiv.models.streams import Purpose, stream

    chunks = [GENERATOR.sample(min(1024, P - 1024 * i), stream(3, Purpose.ESTIMATE, chunk=i)) for i in range(5)]
    sampled = generators.sampled_model(GENERATOR, P, seed=3)
    for model, parts in ((sampled, chunks), (sampled.replicate(1), [chunks[i] for i in (0, 2, 3, 4)])):
        c, x = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        Omega, Phi, mean = Moments.of(c, x).regression()
        np.testing.assert_allclose(model.dense.Omega, Omega, atol=1e-12)
        np.testing.assert_allclose(model.dense.Phi, Phi, atol=1e-12)
        np.testing.assert_allclose(model.mean_x, mean, atol=1e-12)


TIMES = [0.0, 1.0, 10.0, 50.0]


def online(model):
    teacher = ge.TwoLayer.random(2, 30, seed=1)
    return ge.OnlineSGD(model, teacher, ge.TwoLayer.random(2, 90, seed=2), lr=0.3)


def test_curves_are_those_of_the_matrices():
    dense = ge.predict(online(ge.GaussianModel.single_layer(F, "relu")), times=TIMES)
    large = ge.predict(online(OperatorModel.single_layer(F, "relu")), times=TIMES)
    np.testing.assert_allclose(large.test_error, dense.test_error, rtol=1e-5)


def test_curves_of_a_sampled_model_have_a_band():
    """Student's law of three degrees of freedom: the exact curve lies in a band of three times its width."""
    exact = ge.predict(online(ge.GaussianModel.single_layer(F, "relu")), times=TIMES).test_error
    curve = ge.predict(online(generators.sampled_model(GENERATOR, 8_192, seed=1)), times=TIMES, rtol=1e-4)
    low, high = curve.band
    middle, reach = (low + high) / 2, (high - low) / 2
    assert (np.abs(exact - middle) < 3 * reach).all()
    assert (reach < 0.1 * exact).all()


@pytest.mark.parametrize("known", [True, False])
def test_low_rank_plus_diagonal_says_how_far_off_it_is(known):
    model = OperatorModel.single_layer(F, "relu", precision="float64")
    dense = model.dense.Omega
    errors = []
    for rank in (5, 30, 60):
        low = model.low_rank_plus_diagonal(rank, np.diag(dense) if known else None)
        found = low.dense.Omega
        errors.append(np.linalg.norm(found - dense) / np.linalg.norm(dense))
        assert low.provenance["relative_error"]["Omega"] == pytest.approx(errors[-1], rel=0.35)
        if known:
            np.testing.assert_allclose(np.diag(found), np.diag(dense), atol=1e-10)
        rho = np.linalg.eigvalsh(dense)[::-1]
        np.testing.assert_allclose(np.linalg.eigvalsh(found)[::-1][:3], rho[:3], rtol=0.05)
    assert errors[0] > errors[1] > errors[2]
    exact = ge.predict(online(ge.GaussianModel.single_layer(F, "relu")), times=TIMES).test_error
    curve = ge.predict(online(model.low_rank_plus_diagonal(60)), times=TIMES).test_error
    np.testing.assert_allclose(curve, exact, rtol=0.02)


@pytest.mark.parametrize("sigma", ["sign", "relu"])
@pytest.mark.parametrize("P", [4_096, 20_000])
def test_the_spread_of_the_spectrum_is_measured_and_that_of_the_generator_is_found_without_bias(sigma, P):
    wide = generators.gaussian_matrix(600, 40)
    generator, exact = generators.single_layer(wide, sigma), ge.GaussianModel.single_layer(wide, sigma)

    def variance(model):
        rho = np.linalg.eigvalsh(model.Omega - model.Phi @ model.Phi.T)
        return len(rho) * np.sum(rho**2) / np.sum(rho) ** 2 - 1

    found = [generators.sampled_model(generator, P, seed=seed).provenance["spread"] for seed in range(6)]
    true, error = np.mean([f["generator"] for f in found]), np.mean([f["error"] for f in found])
    assert abs(true - variance(exact)) < 5 * error / np.sqrt(6) + 0.01 * (1 + variance(exact))
    added = np.mean([f["sample"] - f["generator"] for f in found])  # by the same random vectors
    assert added == pytest.approx(600 / P, rel=0.15)  # (tr R)^2 / P of Wishart matrices


def test_a_sampled_model_of_rank_zero_has_the_diagonal_of_the_estimate_and_a_band():
    P = 8_192
    sampled = generators.sampled_model(GENERATOR, P, seed=2)
    np.testing.assert_allclose(np.diag(sampled.dense.Omega), sampled.diagonal, atol=1e-12)
    low = sampled.low_rank_plus_diagonal(0, sampled.diagonal)
    expected = sampled.dense.Phi @ sampled.dense.Phi.T
    off = ~np.eye(90, dtype=bool)
    np.testing.assert_allclose(low.dense.Omega[off], expected[off], atol=1e-12)
    np.testing.assert_allclose(np.diag(low.dense.Omega), sampled.diagonal, atol=1e-12)
    assert low.count_of_replicates == 4
    part = sampled.replicate(1)
    np.testing.assert_allclose(np.diag(low.replicate(1).dense.Omega), part.diagonal, atol=1e-12)
    curve = ge.predict(online(low), times=TIMES, rtol=1e-4)
    assert (curve.data.test_error_se.values[1:] > 0).all()


@pytest.mark.full
@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_full_batch_learning_on_more_inputs_than_eigenvalues_are_computed_of(loss):
    """5,000 inputs, the density of states from 16 random vectors: half a percent."""
    wide = generators.gaussian_matrix(5_000, 60)
    teacher = ge.Perceptron(np.random.default_rng(0).standard_normal(60), "sign")
    curves = [
        ge.predict(ge.FullBatch(model, teacher, loss=loss, penalty=0.1), alpha=[0.01, 0.05, 0.2, 1.0]).test_error
        for model in (OperatorModel.single_layer(wide, "relu", threads=2), ge.GaussianModel.single_layer(wide, "relu"))
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.01)


def test_replicates_have_the_diagonal_that_was_given_or_their_own():
    sampled = generators.sampled_model(GENERATOR, 8_192, seed=2)
    own = sampled.low_rank_plus_diagonal(4, sampled.diagonal)
    given = sampled.low_rank_plus_diagonal(4, 1.02 * sampled.diagonal)
    trace = sampled.low_rank_plus_diagonal(4)
    part = sampled.replicate(3)
    for model, expected in ((own, part.diagonal), (given, 1.02 * sampled.diagonal)):
        np.testing.assert_allclose(np.diag(model.replicate(3).dense.Omega), expected, atol=1e-12)
    left = trace.replicate(3)
    np.testing.assert_allclose(
        np.diag(left.dense.Omega), np.diag(part.low_rank_plus_diagonal(4).dense.Omega), atol=1e-12
    )
    for model in (own, given, trace, left):
        np.testing.assert_allclose(model.diagonal, np.diag(model.dense.Omega), atol=1e-12)


def test_the_spread_weighs_parts_by_their_samples_and_its_error_is_that_of_repeated_random_vectors():
    P = 4_096 + 40  # a last chunk of 40 samples, in part 0
    found = [generators.sampled_model(GENERATOR, P, seed=seed) for seed in range(12)]
    errors = np.array([model.provenance["spread"]["error"] for model in found])
    values = np.array([model.provenance["spread"]["generator"] for model in found])
    assert 0.5 < np.sqrt(np.mean(errors**2)) / values.std(ddof=1) < 1.5
    exact = ge.GaussianModel.single_layer(F, "relu")
    rho = np.linalg.eigvalsh(exact.Omega - exact.Phi @ exact.Phi.T)
    assert abs(values.mean() - (90 * np.sum(rho**2) / rho.sum() ** 2 - 1)) < 5 * values.std(ddof=1) / np.sqrt(12)


def test_inputs_that_latents_explain_have_no_negative_diagonal():
    linear = generators.sampled_model(generators.single_layer(F, "linear"), 4_096)
    fit = np.einsum("ij,ij->i", linear.Phi @ np.eye(30), linear.Phi @ np.eye(30))
    assert (linear.diagonal >= fit).all()
    np.testing.assert_allclose(linear.diagonal, fit, rtol=1e-9)


class Own:
    """An object that may go wrong."""

    latent_dim, input_dim = 30, 90

    def __init__(self, change):
        self.change = change

    def sample(self, n, rng):
        c, x = GENERATOR.sample(n, rng)
        return self.change(c, x)


BAD = {
    "nothing": (lambda c, x: None, "sample returned a NoneType"),
    "a NaN": (lambda c, x: (c, x * np.nan), "sample returned a NaN"),
    "complex": (lambda c, x: (c, x + 0j), "dtype complex128; expected real ones"),
    "few inputs": (lambda c, x: (c, x[:, :80]), r"expected \(1024, 30\) and \(1024, 90\)"),
    "an exception": (lambda c, x: 1 / 0, "failed: ZeroDivisionError"),
}


@pytest.mark.parametrize("case", BAD)
def test_objects_that_go_wrong_get_a_sentence(case):
    change, sentence = BAD[case]
    with pytest.raises(InputError, match=sentence):
        generators.sampled_model(Own(change), 5_000)


def test_a_diagonal_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"diagonal has shape \(2,\); expected \(90,\)"):
        generators.sampled_model(GENERATOR, 4_096).low_rank_plus_diagonal(1, np.ones(2))
