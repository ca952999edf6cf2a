"""The errors of an estimated model are those of what is predicted from it: they cover, and the bias is the one that is seen."""

from dataclasses import replace

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.replicates import Replicates
from gaussequiv.theory import bands, batch, online

N, D = 40, 12
F = generators.gaussian_matrix(N, D)
EXACT = ge.GaussianModel.single_layer(F, "relu")
TIMES = [0.0, 1.0, 10.0, 50.0]
ALPHA = [0.5, 1.0, 3.0]


def online_problem(model):
    teacher = ge.TwoLayer.random(2, D, seed=1)
    return ge.OnlineSGD(model, teacher, ge.TwoLayer.random(2, N, seed=2), lr=0.5)


def batch_problem(model, loss="logistic", output="sign"):
    theta = np.random.default_rng(3).standard_normal(D)
    return ge.FullBatch(model, ge.Perceptron(theta, output=output, noise=0.2), loss=loss, penalty=0.1)


def predicted(model, kind, **options) -> Curve:
    if kind == "online":
        return ge.predict(online_problem(model), times=TIMES, rtol=1e-5, **options)
    return ge.predict(batch_problem(model), alpha=ALPHA, **options)


@pytest.fixture(scope="module")
def model() -> ge.GaussianModel:
    return generators.estimate(generators.single_layer(F, "relu"), 3_000, seed=7)


# --- the jackknife ---


def test_replicates_leave_out_one_part_of_the_samples(model):
    """Naive twin: estimates with all samples in memory but those of one group."""
    from gaussequiv.generators.plan import Plan
    from gaussequiv.models.streams import Purpose, stream

    generator = generators.single_layer(F, "relu")
    draws = [
        generator.sample(b.size, stream(7, Purpose.ESTIMATE, chunk=i)) for b in Plan(3_000).blocks for i in b.chunks
    ]
    for g in (0, 5, 15):
        c, x = (np.concatenate(part) for part in zip(*(draws[:g] + draws[g + 1 :]), strict=True))
        mean_c, mean_x = c.mean(axis=0), x.mean(axis=0)
        c, x = c - mean_c, x - mean_x
        Phi = np.linalg.lstsq(c, x, rcond=None)[0].T
        rest = x - c @ Phi.T
        shrunk = 1 - np.trace(np.linalg.inv(c.T @ c))
        replicate = model.replicate(g)
        np.testing.assert_allclose(replicate.Phi, Phi, atol=1e-7)
        np.testing.assert_allclose(replicate.Omega, Phi @ Phi.T + shrunk * rest.T @ rest / (len(c) - D - 1), atol=1e-7)
        np.testing.assert_allclose(replicate.mean_x, mean_x - Phi @ mean_c, atol=1e-7)


def test_standard_errors_are_those_of_the_replicates(model):
    for name in ("Omega", "Phi", "mean_x"):
        spread = model.jackknife(lambda m, name=name: getattr(m, name))
        np.testing.assert_array_equal(spread.value, getattr(model, name))
        np.testing.assert_allclose(spread.error, model.standard_errors[name], rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_the_bias_of_the_spread_of_eigenvalues_is_found():
    """tr Omega^2 of an estimate is too large by a known amount, which the jackknife takes away."""
    exact = float(np.sum(EXACT.Omega**2))
    plain, corrected = [], []
    for seed in range(300):
        one = generators.estimate(generators.single_layer(F, "relu"), 400, seed=seed)
        spread = one.jackknife(lambda m: np.sum(m.Omega**2))
        plain.append(float(spread.value))
        corrected.append(float(spread.value - spread.bias))
    z = [(np.mean(v) - exact) / (np.std(v) / np.sqrt(len(v))) for v in (plain, corrected)]
    assert z[0] > 8
    assert abs(z[1]) < 4


def test_replicates_are_saved_with_the_model(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    again = ge.GaussianModel.load(tmp_path / "m.safetensors")
    for g in range(16):
        np.testing.assert_array_equal(again.replicate(g).Omega, model.replicate(g).Omega)
        np.testing.assert_array_equal(again.replicate(g).Phi, model.replicate(g).Phi)


def test_a_model_that_was_not_estimated_has_no_replicates(model):
    with pytest.raises(InputError, match="there is no replicate 0: this model has 0"):
        EXACT.replicate(0)
    with pytest.raises(InputError, match="there is no replicate 16: this model has 16"):
        model.replicate(16)
    with pytest.raises(InputError, match="no replicates"):
        EXACT.jackknife(lambda m: m.Omega)


@pytest.mark.parametrize("kind", ["online", "batch"])
def test_what_is_known_exactly_has_no_band(kind):
    curve = predicted(EXACT, kind)
    assert curve.band is None
    assert np.array_equal(curve.corrected.test_error, curve.test_error)


# --- curves ---


@pytest.mark.parametrize("kind", ["online", "batch"])
def test_a_curve_has_the_errors_of_its_replicates(model, kind):
    """Naive twin: predict from each of sixteen models, one after the other."""
    curve = predicted(model, kind)
    plain = predicted(model, kind, band=False)
    np.testing.assert_array_equal(curve.test_error, plain.test_error)
    left_out = np.stack([predicted(model.replicate(g), kind, band=False).test_error for g in range(16)])
    mean = left_out.mean(axis=0)
    error = np.sqrt(15 / 16 * ((left_out - mean) ** 2).sum(axis=0))
    np.testing.assert_allclose(curve.data.test_error_se, error, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(curve.data.test_error_bias, 15 * (mean - plain.test_error), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(curve.corrected.test_error, 16 * plain.test_error - 15 * mean, rtol=1e-9)
    low, high = curve.band
    np.testing.assert_allclose((low + high) / 2, curve.corrected.test_error)
    np.testing.assert_allclose(high - low, 2 * 2.1314495 * error, rtol=1e-6)
    np.testing.assert_array_equal(curve.of_model.test_error, plain.test_error)
    assert "test_error_se" not in curve.of_model.data


@pytest.mark.parametrize("kind", ["online", "batch"])
def test_first_order_is_enough_for_errors(model, kind):
    if kind == "online":
        problem = online_problem(model)
        solve = lambda p: online.trajectory(p, 50.0, times=TIMES, rtol=1e-7).curve(TIMES)
    else:
        problem, solve = batch_problem(model), lambda p: batch.predict(p, ALPHA)
    full, first = (bands.with_band(solve(problem), problem, solve, first_order=f) for f in (False, True))
    np.testing.assert_allclose(first.data.test_error_se, full.data.test_error_se, rtol=0.02)
    np.testing.assert_allclose(first.corrected.test_error, full.corrected.test_error, rtol=2e-3)


@pytest.mark.parametrize("kind", ["online", "batch"])
def test_the_errors_fall_as_the_root_of_the_samples(kind):
    generator = generators.single_layer(F, "relu")
    few, many = (predicted(generators.estimate(generator, P, seed=1), kind) for P in (4_096, 65_536))
    ratio = (few.data.test_error_se / many.data.test_error_se).values
    assert 2 < np.median(ratio) < 8  # 4, with two estimates of 15 degrees of freedom


def test_the_edge_of_what_a_model_may_be_has_a_band():
    """Inputs that are linear in fewer latents: Omega is singular, and latents explain all of it, in every replicate too."""
    linear = generators.estimate(generators.single_layer(F, "linear"), 3_000)
    curve = predicted(linear, "online")
    assert not curve.warnings or "no band" not in " ".join(curve.warnings)
    np.testing.assert_allclose(curve.data.test_error_se[1:], 0, atol=1e-6)  # it is found without error
    noisy = ge.FullBatch(linear, ge.Perceptron(np.ones(D), noise=0.1), loss="square", penalty=0.1)
    np.testing.assert_allclose(ge.predict(noisy, alpha=ALPHA).data.test_error_se, 0, atol=1e-6)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["online", "batch"])
def test_replicates_that_are_the_model_have_neither_error_nor_bias(model, kind, first_order):
    """What solving by other means adds is the same for all, and must not count as a bias, fifteen times."""
    same = replace(
        model, replicates=Replicates({name: 0 * change for name, change in model.replicates.changes.items()})
    )
    problem = online_problem(same) if kind == "online" else batch_problem(same)

    def solve(one):
        return ge.predict(one, band=False, **({"times": TIMES} if kind == "online" else {"alpha": ALPHA}))

    data = bands.with_band(solve(problem), problem, solve, first_order=first_order).data
    assert np.abs(data.test_error_bias).max() < 1e-14
    assert data.test_error_se.max() < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("online", marks=pytest.mark.full), "batch"])
@pytest.mark.parametrize("samples", [400, pytest.param(3_000, marks=pytest.mark.full)])
def test_bands_cover(kind, samples):
    """Of 200 bands of 95 % between 90 and 99 % hold the converged prediction, at every point of the curve."""
    exact = predicted(EXACT, kind).test_error
    generator = generators.single_layer(F, "relu")
    inside = []
    for seed in range(200):
        low, high = predicted(generators.estimate(generator, samples, seed=1000 + seed), kind).band
        inside.append((low <= exact) & (exact <= high))
    covered = np.mean(inside, axis=0)
    assert ((covered >= 0.90) & (covered <= 0.99)).all(), covered


@pytest.mark.parametrize("other", ["squared-hinge", "square"])
def test_an_operator_has_the_full_batch_curves_of_its_matrices(other):
    """A `FullBatch` whose covariances are known by products: all eigenvalues counted, or nodes of a Krylov space."""
    from gaussequiv.models.operator import OperatorModel

    output = "linear" if other == "square" else "sign"
    dense = cases.correlated_model(N=60, D=20)
    operator = OperatorModel(dense.Omega, dense.Phi, dense.Psi)
    theta = np.random.default_rng(3).standard_normal(20)
    teacher = ge.Perceptron(theta, output=output, noise=0.2)
    curves = [
        ge.predict(ge.FullBatch(m, teacher, loss=other), alpha=ALPHA, penalty=[1e-3, 0.1, 1.0])
        for m in (dense, operator)
    ]
    np.testing.assert_allclose(curves[1].test_error, curves[0].test_error, rtol=1e-5)
    np.testing.assert_allclose(curves[1].data.train_loss, curves[0].data.train_loss, rtol=1e-4)
