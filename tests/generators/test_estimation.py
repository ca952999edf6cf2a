"""Estimated moments: unbiased in their own standard errors, one joint covariance, the same for any number of workers."""

import numpy as np
import pytest
import scipy.linalg
import torch

import cases
import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators.moments import Accumulator, Moments, OnDevice, pack, tree, unpack
from gaussequiv.generators.plan import Plan
from gaussequiv.models.streams import Purpose, stream

F = generators.gaussian_matrix(24, 8)


@pytest.mark.parametrize("sigma", ["sign", "erf", "relu", "tanh"])
def test_estimates_equal_the_closed_form_within_their_standard_errors(sigma):
    exact = ge.GaussianModel.single_layer(F, sigma)
    model = generators.estimate(generators.single_layer(F, sigma), samples=200_000, seed=1)
    scores = []
    for name in ("Omega", "Phi", "mean_x"):
        error = model.standard_errors[name]
        difference = getattr(model, name) - getattr(exact, name)
        known = error > 1e-9  # the variance of a sign is known exactly
        z = difference[known] / error[known]
        assert np.abs(z).max() < 7  # Student's law with 15 degrees of freedom, 800 entries
        scores.append(z)
        np.testing.assert_allclose(difference[~known], 0, atol=1e-6)
    assert 0.8 < np.sqrt(np.mean(np.concatenate(scores) ** 2)) < 1.3


def test_a_linear_generator_is_found_without_error():
    """x = F c is its own regression: five times as many samples as latents suffice."""
    model = generators.estimate(generators.single_layer(F, "linear"), samples=60)
    np.testing.assert_allclose(model.Phi, F, atol=1e-12)
    np.testing.assert_allclose(model.Omega, F @ F.T, atol=1e-11)
    np.testing.assert_allclose(model.mean_x, 0, atol=1e-12)  # although the sample mean is not


@pytest.mark.slow
def test_small_samples_are_unbiased_and_jointly_positive():
    """The factor 1 - tr S_cc^-1: where the residual is independent of the latents, Omega is unbiased at any size."""
    exact = cases.correlated_model(N=24, D=8)
    estimates = [generators.estimate(exact, samples=60, seed=s) for s in range(600)]
    for name in ("Omega", "Phi"):
        values = np.stack([getattr(m, name) for m in estimates])
        z = (values.mean(axis=0) - getattr(exact, name)) / (values.std(axis=0, ddof=1) / np.sqrt(len(values)))
        assert np.sqrt(np.mean(z**2)) < 1.3
    trace = np.array([np.trace(m.Omega) for m in estimates])
    assert abs(trace.mean() - np.trace(exact.Omega)) < 4 * trace.std() / np.sqrt(len(trace))
    for model in estimates[:20]:
        joint = np.block([[model.Omega, model.Phi], [model.Phi.T, np.eye(8)]])
        assert scipy.linalg.eigvalsh(joint)[0] > -1e-10


def test_regression_needs_fewer_samples_than_plain_moments():
    generator, exact = generators.single_layer(F, "erf"), ge.GaussianModel.single_layer(F, "erf")
    latents, inputs = generator.sample(20_000, 0)
    x, c = inputs - inputs.mean(axis=0), latents - latents.mean(axis=0)
    plain = np.linalg.norm(x.T @ x / len(x) - exact.Omega), np.linalg.norm(x.T @ c / len(x) - exact.Phi)
    model = generators.estimate(generator, samples=20_000)
    assert np.linalg.norm(model.Omega - exact.Omega) < plain[0] / 1.5
    assert np.linalg.norm(model.Phi - exact.Phi) < plain[1] / 2


@pytest.mark.parametrize("samples", [100, 5_000, 40_001])
def test_the_result_does_not_depend_on_the_number_of_workers(samples):
    generator = generators.single_layer(F, "relu")
    one, three = (generators.estimate(generator, samples=samples, workers=w) for w in (1, 3))
    for name in ("Omega", "Phi", "mean_x"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
        np.testing.assert_array_equal(one.standard_errors[name], three.standard_errors[name])


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 100, 16_384, 16_385, 1_000_000])
def test_the_plan_draws_every_sample_once(samples):
    plan = Plan(samples)
    chunks = [(index, block.size) for block in plan.blocks for index in block.chunks]
    assert sorted(index for index, _ in chunks) == list(range(len(chunks)))
    assert sum(size for _, size in chunks) == sum(block.samples for block in plan.blocks) == samples
    assert len(plan.groups) <= 16
    sizes = [sum(block.samples for block in group) for group in plan.groups]
    assert max(sizes) - min(sizes) <= plan.chunk


@pytest.mark.parametrize(
    ("fewer", "more"), [(16_384, 16_385), (100_000, 1_000_000), (262_144, 262_145), (20_000, 30_000)]
)
def test_a_plan_of_more_samples_begins_with_the_same_chunks(fewer, more):
    first, then = ({(b.group, b.start): b for b in Plan(n).blocks if b.size == 1024} for n in (fewer, more))
    assert all(then[at].chunks[: block.count] == block.chunks for at, block in first.items())


@pytest.mark.parametrize("shards", [1, 2, 5, 7, 100])
def test_shards_share_all_blocks(shards):
    plan = Plan(300_000)
    parts = [plan.share((i, shards)) for i in range(1, shards + 1)]
    assert [block for part in parts for block in part] == list(plan.blocks)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def moments(rng, n, shift=0.0):
    return rng.standard_normal((n, 3)), rng.standard_normal((n, 5)) + shift


@pytest.mark.parametrize("cuts", [[10], [1, 2, 3], [5, 40, 41], list(range(3, 60, 3))])
def test_merged_parts_are_the_whole_and_can_be_taken_out_again(cuts):
    rng = np.random.default_rng(0)
    c, x = moments(rng, 64, shift=1e4)
    whole = Moments.of(c, x)
    parts = [Moments.of(*part) for part in zip(np.split(c, cuts), np.split(x, cuts), strict=True)]
    merged = tree(parts)
    rest = merged.without(parts[0])
    for name in ("mean_x", "mean_c", "xx", "xc", "cc"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-10, atol=1e-7)
        expected = getattr(Moments.of(c[cuts[0] :], x[cuts[0] :]), name)
        np.testing.assert_allclose(getattr(rest, name), expected, rtol=1e-10, atol=1e-7)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("products", ["float64", "float32"])
@pytest.mark.parametrize("where", ["arrays", "tensors"])
def test_sums_over_chunks_are_those_of_all_samples(shift, products, where):
    """Of tensors products are those that run on a GPU, here on the CPU."""

    def begun(state=None):
        return Accumulator(products, state) if where == "arrays" else OnDevice(products, state, torch.device("cpu"))

    given = (lambda c, x: (c, x)) if where == "arrays" else (lambda c, x: (c, torch.from_numpy(x)))
    rng = np.random.default_rng(1)
    c, x = moments(rng, 96, shift)
    x[:, 3] = 2 * x[:, 1]  # inputs of several sizes
    sums = begun()
    for part in zip(np.split(c, [10, 11, 60]), np.split(x, [10, 11, 60]), strict=True):
        sums.add(*given(*part))
    whole, found = Moments.of(c, x), sums.moments
    tolerance = {"float64": 1e-12, "float32": 1e-5}[products] * (1 + shift * 1e-3)
    assert found.count == 96
    for name in ("mean_x", "mean_c", "xx", "xc", "cc"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=tolerance, atol=100 * tolerance)
    again = begun(sums.moments)
    sums.add(*given(c, x))
    again.add(*given(c, x))
    for name in ("mean_x", "mean_c", "xx", "xc", "cc"):  # going on from a saved state changes no bit
        np.testing.assert_array_equal(getattr(again.moments, name), getattr(sums.moments, name))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_packed_triangle_is_the_whole_matrix(n):
    A = np.random.default_rng(n).standard_normal((n, n))
    A = A + A.T
    assert pack(A).shape == (n * (n + 1) // 2,)
    np.testing.assert_array_equal(unpack(pack(A), n), A)


def test_a_large_mean_costs_no_accuracy():
    shifted = generators.Generator(
        lambda c: c @ torch.ones(3, 2, dtype=torch.float64) + 1e8, latent=3, dtype=torch.float64
    )
    model = generators.estimate(shifted, samples=4_000)
    np.testing.assert_allclose(model.Omega, 3.0, rtol=1e-6)


def test_standard_errors_are_the_jackknife_over_the_groups_of_the_plan():
    """Naive twin: leave out each group of samples, estimate by the formulas with all samples in memory."""
    generator, samples = generators.single_layer(F, "relu"), 400
    chunks = [(i, block.size) for block in Plan(samples).blocks for i in block.chunks]
    draws = [generator.sample(size, stream(0, Purpose.ESTIMATE, chunk=i)) for i, size in chunks]

    def formulas(parts):
        c, x = (np.concatenate(piece) for piece in zip(*parts, strict=True))
        mean_c, mean_x = c.mean(axis=0), x.mean(axis=0)
        c, x = c - mean_c, x - mean_x
        Phi = np.linalg.lstsq(c, x, rcond=None)[0].T
        rest = x - c @ Phi.T
        noise = np.trace(np.linalg.inv(c.T @ c))
        return {
            "Omega": Phi @ Phi.T + (1 - noise) * rest.T @ rest / (len(c) - c.shape[1] - 1),
            "Phi": Phi,
            "mean_x": mean_x - Phi @ mean_c,
        }

    model = generators.estimate(generator, samples=samples)
    left_out = [formulas(draws[:g] + draws[g + 1 :]) for g in range(16)]
    for name, value in formulas(draws).items():
        np.testing.assert_allclose(getattr(model, name), value, atol=1e-12)
        spread = np.stack([one[name] for one in left_out])
        expected = np.sqrt(15 / 16 * ((spread - spread.mean(axis=0)) ** 2).sum(axis=0))
        np.testing.assert_allclose(model.standard_errors[name], expected, rtol=1e-6, atol=1e-12)


def test_standard_errors_fall_as_the_root_of_the_samples():
    generator = generators.single_layer(F, "relu")
    few, many = (generators.estimate(generator, n).provenance["relative_error"] for n in (4_096, 262_144))
    for name in ("Omega", "Phi"):
        assert few[name] / many[name] == pytest.approx(8, rel=0.2)


def test_a_generator_of_constants_has_no_covariance():
    model = generators.estimate(generators.Generator(lambda c: torch.ones(len(c), 3), latent=2), samples=200)
    np.testing.assert_allclose(model.Omega, 0, atol=1e-12)
    np.testing.assert_allclose(model.mean_x, 1)


def test_progress_ends_at_the_number_of_samples():
    seen = []
    generators.estimate(generators.single_layer(F), samples=5_000, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (5_000, 5_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_failures_name_the_chunk():
    calls = []

    def breaks_later(c):
        calls.append(len(c))
        return c * (float("nan") if len(calls) > 16 else 1.0)

    with pytest.raises(InputError, match=r"chunk [1-9]\d* of the estimate \(seed 0\): generator returned a NaN"):
        generators.estimate(generators.Generator(breaks_later, latent=2), samples=50_000)
    with pytest.raises(InputError, match="40 samples for D=8 latents; expected more than 40"):
        generators.estimate(generators.single_layer(F), samples=40)
    with pytest.raises(InputError, match="the latents are not standard normal"):
        generators.estimate(ge.GaussianModel(4 * np.eye(3), 4 * np.eye(3), 4 * np.eye(3)), samples=4_000)
    with pytest.raises(InputError, match="expected a Generator, or Generator"):
        generators.estimate(torch.sin, samples=400)
    with pytest.raises(InputError, match=r"samples=4000\.0; expected an integer"):
        generators.estimate(generators.single_layer(F), samples=4e3)
    with pytest.raises(InputError, match="workers=0"):
        generators.estimate(generators.single_layer(F), samples=400, workers=0)
