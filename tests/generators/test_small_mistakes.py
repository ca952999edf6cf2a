"""Laws that small mistakes would break: each was found by a change of the code that no other test noticed."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.code import find_code
from gaussequiv.errors import InputError
from gaussequiv.generators import Generator, check_generator, features, flows, from_code
from gaussequiv.generators.estimation import field_covariances
from gaussequiv.generators.priors import SAMPLES, law

F = generators.gaussian_matrix(12, 5)
GENERATOR = generators.single_layer(F, "relu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [[0.5, 1.0], np.array([0.5, 1.0]), torch.tensor([0.5, 1.0])])
def test_extra_floats_come_in_the_precision_of_the_module(dtype, gain):
    class Conditional(nn.Module):
        def forward(self, c, gain):
            assert gain.dtype == c.dtype == dtype
            return c @ torch.eye(3, dtype=dtype) + nn.functional.linear(gain, torch.ones(3, 2, dtype=dtype))

    latents, inputs = Generator(Conditional(), 3, dtype=dtype, extra={"gain": gain}).sample(4, 0)
    np.testing.assert_allclose(inputs, latents + 1.5, rtol=1e-6)


@pytest.mark.parametrize(("noise", "refused"), [(0.5, True), (0.8, False)])
def test_codes_drown_in_noise_only_where_it_is_as_large(noise, refused):
    """One of 12 corners with noise: no projection is far from Gaussian, overlaps are off by +60% or +16%."""
    rng = np.random.default_rng(0)
    draws = np.eye(12)[rng.integers(12, size=SAMPLES)] + noise / 12**0.5 * rng.standard_normal((SAMPLES, 12))
    assert ("overlaps is off by +" in law("latents", draws, rng).reason) == refused


@pytest.mark.parametrize("size", [1, 2, 3, 256])
def test_a_module_that_looks_at_its_batch_is_found_whatever_its_batch_size(size):
    generator = Generator(lambda c: c - c.mean(0) + c[:1], 5, batch_size=size)
    assert "batches" in {finding.law for finding in check_generator(generator, 256).failures}
    with pytest.raises(InputError, match="outputs depend on the other latents of their batch"):
        generators.estimate(generator, 1000)


@pytest.mark.parametrize(("N", "D"), [(900, 30), (30, 900), (900, 900)])
def test_the_default_quantities_are_fields_of_variance_one_whatever_the_sizes(N, D):
    units, half = 40, np.triu_indices(40)
    found = field_covariances(N, D, units)(ge.GaussianModel(np.eye(N), np.zeros((N, D))))
    Q, T = found[: len(half[0])], found[len(half[0]) : 2 * len(half[0])]
    for block, size in ((Q, N), (T, D)):
        diagonal = block[half[0] == half[1]]
        assert abs(diagonal.mean() - 1) < 5 * np.sqrt(2 / (size * units))


def test_shards_are_summed_in_the_precision_that_was_asked_for(tmp_path):
    generator = generators.single_layer(generators.gaussian_matrix(12, 5), "relu")
    for i in (1, 2):
        generators.estimate_shard(generator, 20_000, (i, 2), tmp_path, products="float32")
    merged, whole = generators.merge(tmp_path), generators.estimate(generator, 20_000, products="float32")
    assert merged.provenance["moments_sha256"] == whole.provenance["moments_sha256"]
    assert merged.provenance["products"] == "float32"


def test_orthogonal_features_are_uniform_rotations_of_their_own_in_every_block():
    """Over seeds: entries of mean zero; overlaps of two blocks' rows / sqrt(N) of mean zero, each of variance one."""
    N, seeds = 6, 400
    W = np.stack([features.random_features(N, 2 * N, kind="orthogonal", seed=s).weight_matrix for s in range(seeds)])
    between = np.einsum("sij,skj->sik", W[:, :N], W[:, N:]) / np.sqrt(N)
    for found in (W, between):
        assert np.abs(found.mean(0)).max() < 5 / np.sqrt(seeds)
        np.testing.assert_allclose(found.var(0), 1, atol=5 * np.sqrt(2 / seeds))


def test_a_teacher_in_training_mode_gives_the_labels_of_evaluation():
    network = nn.Sequential(
        nn.Linear(6, 1, dtype=torch.float64), nn.BatchNorm1d(1, dtype=torch.float64), nn.Dropout(0.5)
    ).train()
    found = features.measure_teacher(ge.GaussianModel.isotropic(6), network, samples=2000)
    x = np.random.default_rng(0).standard_normal((50, 6))
    whole, alone = found.function(x, x), np.concatenate([found.function(row, row) for row in np.split(x, 50)])
    np.testing.assert_allclose(whole, alone, rtol=1e-12)


def test_the_sign_of_a_rectified_score_is_that_of_the_score():
    """What is not positive is the class -1, a score of exactly zero as well."""
    model, theta = ge.GaussianModel.isotropic(6), torch.arange(1.0, 7.0, dtype=torch.float64)
    plain = features.measure_teacher(model, lambda x: x @ theta, output="sign", samples=2000)
    cut = features.measure_teacher(model, lambda x: torch.relu(x @ theta), output="sign", samples=2000)
    np.testing.assert_array_equal(cut.covariance, plain.covariance)


def test_the_key_of_weights_is_that_of_a_ready_generator_as_well(tmp_path, monkeypatch):
    (tmp_path / "m31_ready.py").write_text(
        "from torch import nn\nfrom gaussequiv.generators import Generator\n\ndef ready():\n"
        "    return Generator(nn.Linear(3, 4), 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    one, other = nn.Linear(3, 4), nn.Linear(3, 4)
    torch.save({"a": one.state_dict(), "b": other.state_dict()}, tmp_path / "two.pt")
    for key, net in (("a", one), ("b", other)):
        latents, inputs = from_code("m31_ready:ready", weights=tmp_path / "two.pt", key=key).sample(5, 0)
        np.testing.assert_allclose(inputs, net(torch.from_numpy(latents)).detach(), rtol=1e-6)


def test_noise_of_one_sample_is_independent_of_that_of_another():
    generator = Generator(
        lambda c: torch.randn(len(c), 3, dtype=torch.float64), 3, dtype=torch.float64, stochastic=True
    )
    noise = np.stack([generator.sample(1, seed)[1][0] for seed in range(400)])
    assert np.abs(np.cov(noise.T) - np.eye(3)).max() < 5 * np.sqrt(2 / 400)
    model = generators.estimate(generator, 40_000)  # 40 chunks, each with noise of its own
    assert np.abs(model.mean_x).max() < 5 / np.sqrt(40_000)


@pytest.mark.parametrize("extra", [(1, 0), (0, 1), (3, 1), (2, 4)])
def test_the_middle_has_as_much_after_as_before_or_one_pixel_more(extra):
    rows, columns = 4 + extra[0], 5 + extra[1]
    image = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    kept = generators.dataset(np.stack([image, -image])).crop((4, 5)).data[0]
    for axis, index in enumerate((kept // columns, kept % columns)):
        before, after = index.min(), image.shape[axis] - 1 - index.max()
        assert 0 <= after - before <= 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_couplings_keep_the_variance_within_two_percent_each(seed):
    """Without the smaller scales it grows as e^(r^2 / 2) with every coupling."""
    flow = flows.RealNVP(flows.RealNVPShape(channels=1, size=12, width=8, local=1, hidden=64, wide=12))
    flows.draw_weights(flow, seed)
    z = torch.from_numpy(np.random.default_rng(seed).standard_normal((4000, flow.coarse))).float()
    with torch.no_grad():
        for coupling in reversed(flow.wide):
            z = coupling(z)
    assert 0.98**12 < float(z.var()) < 1.02**12


def test_a_file_of_the_folder_does_not_hide_an_installed_module(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("def rgb_to_hsv(): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert find_code("colorsys:rgb_to_hsv", "generator").__code__.co_argcount == 3


def test_code_that_exits_is_refused_and_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "m47_exits.py").write_text("import sys\n\ndef leaves():\n    sys.exit('no weights here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"leaves\(\) fails: SystemExit: no weights here"):
        from_code("m47_exits:leaves", latent=3)


def test_a_module_that_is_said_to_be_stochastic_is_one(tmp_path, monkeypatch):
    from gaussequiv.report.adapted import made
    from gaussequiv.report.generator_settings import GeneratorSection

    (tmp_path / "m49_noisy.py").write_text(
        "import torch\n\ndef noisy():\n    return lambda c: c + torch.randn_like(c)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    generator = made(GeneratorSection(name="m49_noisy:noisy", latent=3, stochastic=True), True, "cpu")
    np.testing.assert_array_equal(generator.sample(5, 1)[1], generator.sample(5, 1)[1])
    np.testing.assert_allclose(np.diag(generators.estimate(generator, 20_000).Omega), 2, rtol=0.1)
    with pytest.raises(InputError, match="or set stochastic"):
        generators.estimate(made(GeneratorSection(name="m49_noisy:noisy", latent=3), True, "cpu"), 1000)


@pytest.mark.parametrize("ratio", [1e-1, 1e-3, 1e-5])
def test_inputs_that_vary_little_are_standardised_like_others(ratio):
    data = generators.dataset(np.random.default_rng(0).standard_normal((50, 4)) * [1, ratio, 1, 1] + 2)
    found = data.standardise(generators.estimate(data))
    np.testing.assert_allclose(found.rows.std(0), 1, rtol=1e-6)
    np.testing.assert_allclose(found.rows.mean(0), 0, atol=1e-8)


@pytest.mark.parametrize(
    "quantities", [None, lambda m: m.mean_x, lambda m: np.array([100 * np.trace(m.Psi), m.Omega[0, 1], 0])]
)
def test_the_error_of_every_row_is_the_largest_relative_to_the_largest_value(quantities):
    model = generators.estimate(GENERATOR, 70_000, rtol=4e-3, quantities=quantities)
    found = model.provenance["convergence"]
    value, error, _ = model.jackknife(quantities or generators.field_covariances(12, 5))
    assert found["rows"][-1]["relative_error"] == pytest.approx(error.max() / np.abs(value).max(), rel=1e-12)
    assert found["reached"] == (error.max() <= 4e-3 * np.abs(value).max())


def test_a_teacher_is_measured_on_the_samples_of_an_estimate_of_the_same_seed():
    drawn, labelled = [], []
    generator = Generator(lambda c: drawn.append(c) or c, 3, dtype=torch.float64)
    teacher = lambda x: labelled.append(x) or x[:, 0]
    generators.estimate(generator, 20_000, seed=5)
    rows = {row.tobytes() for row in torch.cat(drawn).numpy()}
    features.measure_teacher(generator, teacher, samples=16_384, seed=5)
    assert {row.tobytes() for row in torch.cat(labelled).numpy()} <= rows


@pytest.mark.parametrize(("scale", "constant"), [(1e-3, False), (1e-5, False), (0.0, True)])
def test_inputs_are_called_constant_only_where_they_are(scale, constant):
    generator = Generator(lambda c: c * torch.tensor([1, 1, scale, 1]), 4, dtype=torch.float64)
    found = generators.check_generator(generator, 256)
    assert found.ok
    assert ("1 of 4 constant" in str(found)) == constant


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_fall_as_the_root_of_the_samples_so_the_second_number_of_them_does(seed):
    first = generators.estimate(GENERATOR, 16_384, seed, rtol=1e-9).provenance["convergence"]["rows"][0][
        "relative_error"
    ]
    rows = generators.estimate(GENERATOR, 10**6, seed, rtol=first / 2.5, quantities=None).provenance["convergence"][
        "rows"
    ]
    assert rows[1]["samples"] == pytest.approx(1.1 * 2.5**2 * 16_384, abs=1024)


@pytest.mark.parametrize(("rtol", "reached"), [(0.5, True), (1e-6, False)])
def test_what_is_accurate_with_the_last_sample_is_accurate(rtol, reached):
    found = generators.estimate(GENERATOR, 10_000, rtol=rtol).provenance["convergence"]
    assert [row["samples"] for row in found["rows"]] == [10_000]
    assert found["reached"] == reached


def test_spikes_of_strength_zero_are_none():
    from gaussequiv.report.generator_settings import GeneratorSection

    given = {"name": "single-layer", "matrix": "spiked"}
    assert GeneratorSection(**given, strength=0.0).matrix_kind == ("spiked", 0.0)
    assert GeneratorSection(**given).matrix_kind == ("spiked", 2.0)


def test_a_direction_that_makes_most_of_the_fields_is_seen():
    """Two clusters along one direction of many: whitened projections hardly see them, the fields of a teacher do."""
    rng, D = np.random.default_rng(0), 100
    draws = rng.standard_normal((SAMPLES, D)) + 3 * rng.choice([-1.0, 1.0], size=(SAMPLES, 1))
    found = law("latents", draws, rng)
    assert abs(found.projections) < 0.05
    assert "fields is off by -" in found.reason
    stretched = rng.standard_normal((SAMPLES, D)) * np.linspace(0.1, 5, D) + 3 * rng.standard_normal((SAMPLES, 1))
    assert not law("latents", stretched, rng).reason


def test_offsets_of_the_inputs_do_not_hide_dropout():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(10, 20, bias=False)
            self.offset = nn.Parameter(torch.linspace(-1, 1, 20) * 3000)

        def forward(self, z):
            return self.offset + nn.functional.dropout(self.map(z), 0.5, training=True)

    with pytest.raises(InputError, match="two calls with the same latents differ"):
        generators.estimate(Generator(Noisy(), 10), 4_000)


def test_features_of_a_data_set_that_look_at_the_batch_are_refused():
    data = generators.dataset(np.cumsum(np.random.default_rng(0).standard_normal((1000, 5)), axis=0))
    with pytest.raises(InputError, match="depend on the others of their batch"):
        data.then(lambda x: x - x.mean(0))


def test_no_accuracy_in_reach_is_no_failure():
    assert not generators.estimate(GENERATOR, 20_000, rtol=1e-200).provenance["convergence"]["reached"]
    with pytest.raises(InputError, match="the quantities are not all finite"):
        generators.estimate(GENERATOR, 20_000, rtol=0.1, quantities=lambda m: np.nan)
