"""Latents of another law: moments of all of them, effect sizes with known limits, refusals with a reason."""

import numpy as np
import pytest
import torch
from torch import nn

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import Generator
from gaussequiv.generators.priors import SAMPLES, TOLERANCES, WIDEST, law

RNG = np.random.default_rng


def of(draws, seed=1):
    return law("latents", draws, RNG(seed))


def rotation(D, seed=0):
    return np.linalg.qr(RNG(seed).standard_normal((D, D)))[0]


# --- effect sizes ---


@pytest.mark.parametrize("D", [1, 2, 5, 20, 100, 400])
@pytest.mark.parametrize("seed", [0, 1])
def test_gaussian_latents_of_any_covariance_have_no_effect(D, seed):
    scale = np.geomspace(1, 1e4, D) if D > 1 else [3.0]
    found = of(RNG(seed).standard_normal((SAMPLES, D)) * scale @ rotation(D) + 7)
    assert found.rank == D
    assert found.distinct == 1
    # fourth moments of P draws: sqrt(96 / P) of one projection, as excess; 64 of them share its noise for D = 1
    assert abs(found.projections) < 4.5 * np.sqrt(96 / SAMPLES) / 3 / min(D, 64) ** 0.5
    assert abs(found.overlaps) < 0.16
    assert not found.reason


@pytest.mark.parametrize("D", [3, 10, 40])
@pytest.mark.parametrize(("sampler", "excess"), [("uniform", -1.2), ("exponential", 6.0), ("laplace", 3.0)])
def test_independent_latents_average_out_as_one_over_D(D, sampler, excess):
    """Of projections on the sphere E sum v^4 = 3 / (D + 2) is left of the excess kurtosis of one latent."""
    found = of(getattr(RNG(0), sampler)(size=(SAMPLES, D)))
    np.testing.assert_allclose(found.projections, excess / (D + 2), rtol=0.35, atol=0.02)


@pytest.mark.parametrize("D", [2, 3, 5, 10, 30, 100])
def test_one_hot_latents_have_the_overlaps_of_their_corners(D):
    """In r = D - 1 dimensions overlaps are r with probability 1 / D, and else -1."""
    r = D - 1
    fourth = (r**4 + r) / D
    found = of(np.eye(D)[RNG(0).integers(D, size=SAMPLES)])
    assert found.rank == r
    np.testing.assert_allclose(found.overlaps, fourth / (3 * r * (r + 2)) - 1, rtol=0.15, atol=0.05)
    assert found.distinct <= D / SAMPLES
    assert "few points" in found.reason


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda rng: rng.standard_normal((SAMPLES, 3000)) * np.geomspace(1, 100, 3000), ""),
        (
            lambda rng: np.eye(3000)[rng.integers(3000, size=SAMPLES)] + 1e-3 * rng.standard_normal((SAMPLES, 3000)),
            "overlaps",
        ),
        (lambda rng: rng.standard_normal((SAMPLES, 2000)) * rng.exponential(size=(SAMPLES, 1)), "projections"),
    ],
)
def test_many_latents_are_seen_through_random_fields(draw, reason):
    found = of(draw(RNG(5)))
    assert found.rank == WIDEST
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)


@pytest.mark.parametrize("D", [5, 50])
def test_effects_do_not_depend_on_units_or_axes(D):
    draws = RNG(0).exponential(size=(SAMPLES, D))
    A = rotation(D) * np.geomspace(0.1, 10, D)
    one, other = of(draws), of(draws @ A + 3)
    np.testing.assert_allclose(one.overlaps, other.overlaps, rtol=1e-6)  # invariant, as whitened overlaps are
    np.testing.assert_allclose(one.projections, other.projections, atol=0.15 * abs(one.projections) + 0.02)


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda rng: rng.uniform(-1, 1, (SAMPLES, 30)), ""),
        (lambda rng: rng.choice([-1.0, 1.0], (SAMPLES, 40)), ""),
        (lambda rng: rng.standard_normal((SAMPLES, 60)) / rng.uniform(0.9, 1.1, (SAMPLES, 1)), ""),
        (lambda rng: rng.uniform(-1, 1, (SAMPLES, 2)), "projections is off by -"),
        (lambda rng: rng.standard_t(5, (SAMPLES, 4)), "projections is off by +"),
        (
            lambda rng: rng.standard_normal((SAMPLES, 60)) * rng.exponential(size=(SAMPLES, 1)),
            "projections is off by +",
        ),
        (lambda rng: rng.choice([-1.0, 1.0], (SAMPLES, 3)), "few points"),
        (lambda rng: rng.standard_normal((400, 90))[rng.integers(400, size=SAMPLES)], "few points"),
        (lambda rng: np.eye(3000)[rng.integers(3000, size=SAMPLES), :600], "few points|overlaps is off"),
        (lambda rng: np.full((SAMPLES, 3), 0.1), "constant; expected ones that vary"),
    ],
)
def test_what_a_gaussian_stands_for_and_what_not(draw, reason):
    import re

    found = of(draw(RNG(3))).reason
    assert bool(found) == bool(reason)
    assert re.search(reason.replace("+", r"\+"), found)


def test_points_far_apart_are_seen_by_overlaps_where_no_latent_comes_back():
    """One-hot codes of 50 classes with a little noise: all different, every projection almost Gaussian."""
    rng = RNG(0)
    found = of(np.eye(50)[rng.integers(50, size=SAMPLES)] + 1e-3 * rng.standard_normal((SAMPLES, 50)))
    assert found.distinct == 1
    assert abs(found.projections) < TOLERANCES["projections"]
    assert found.overlaps > 10
    assert "overlaps" in found.reason


# --- estimation with a prior ---


MIXING = np.array([[2, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0.5, 0], [0, 0.3, 0, 1]])


def correlated(n, rng):
    return rng.standard_normal((n, 4)) @ MIXING + 1


PSI = MIXING.T @ MIXING


def test_all_moments_are_estimated_with_their_errors():
    W = RNG(0).standard_normal((7, 4))
    module = lambda c: c @ torch.from_numpy(W.T) + 2
    generator = Generator(module, 4, dtype=torch.float64, prior=correlated)
    model = generators.estimate(generator, 30_000)
    exact = {"Omega": W @ PSI @ W.T, "Phi": W @ PSI, "Psi": PSI, "mean_x": W @ np.ones(4) + 2, "mean_c": np.ones(4)}
    for name, value in exact.items():
        z = (getattr(model, name) - value) / model.standard_errors[name]
        assert np.abs(z).max() < 6, name  # 16 groups: Student's law
        assert 0.3 < np.sqrt((z**2).mean()) < 2.5, name
    assert model.provenance["estimator"] == "plain moments"


def test_a_standard_normal_prior_gives_the_model_of_no_prior():
    single = generators.single_layer(generators.gaussian_matrix(20, 8), "tanh")
    prior = lambda n, rng: rng.standard_normal((n, 8))
    other = Generator(single.module, 8, dtype=torch.float64, prior=prior)
    np.testing.assert_array_equal(single.sample(9, 0)[1], other.sample(9, 0)[1])
    a, b = generators.estimate(single, 50_000), generators.estimate(other, 50_000)
    np.testing.assert_allclose(a.Omega, b.Omega, atol=0.03)
    np.testing.assert_allclose(a.Phi, b.Phi, atol=0.03)
    np.testing.assert_allclose(b.Psi, np.eye(8), atol=0.03)


def test_theory_and_training_agree_with_latents_of_another_covariance():
    W = generators.gaussian_matrix(80, 4, 1)
    generator = Generator(lambda c: torch.tanh(c @ torch.from_numpy(W.T)), 4, dtype=torch.float64, prior=correlated)
    generator = generator.then(generators.random_features(80, 150, "erf"))
    model = generators.estimate(generator, 40_000)
    theta = ge.Perceptron(RNG(1).standard_normal(4), "linear", noise=0.5)
    problem = ge.FullBatch(model, theta, "square", penalty=0.1)
    practice = ge.simulation.simulate(problem, generator, alpha=[2.0], seeds=16, test_samples=4000)
    theory = ge.predict(problem, alpha=practice.alpha)
    np.testing.assert_allclose(practice.data.test_error, theory.data.test_error, rtol=0.12)


def test_a_distribution_of_torch_is_a_prior_and_follows_the_seed():
    normal = torch.distributions.MultivariateNormal(torch.ones(4), torch.from_numpy(PSI).float())
    generator = Generator(nn.Identity(), 4, prior=normal)
    state = torch.get_rng_state()
    a, b, c = (generator.sample(2000, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_allclose(np.cov(a.T), PSI, atol=5 * np.sqrt(2 / 2000) * PSI.max())


@pytest.mark.parametrize(
    ("prior", "sentence"),
    [
        (
            lambda n, rng: np.eye(4)[rng.integers(4, size=n)],
            "few points, as one-hot codes are: of 4096 draws 4 are different",
        ),
        (lambda n, rng: rng.standard_normal((n, 5)), r"returned shape \(\d+, 5\); expected \(\d+, 4\)"),
        (lambda n, rng: np.full((n, 4), np.nan), "prior of the latents returned a NaN"),
        (lambda n, rng: np.zeros((n, 4)), "are constant"),
        (lambda n: np.zeros((n, 4)), "prior of the latents failed: .*takes 1 positional argument"),
        (torch.distributions.Normal(0.0, 1.0), r"returned shape \(\d+,\); expected"),
    ],
)
def test_priors_that_do_not_do_are_refused_with_a_reason(prior, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        generators.estimate(Generator(nn.Identity(), 4, prior=prior), 1000)
    assert "\n" not in str(caught.value)


def test_a_class_label_beside_gaussian_latents_is_refused_by_its_name():
    labels = lambda n, rng: np.eye(10)[rng.integers(10, size=n)]
    generator = Generator(lambda z, label: z[:, :10] * label, {"z": 100, "label": 10}, prior={"label": labels})
    with pytest.raises(InputError, match="the latents label are few points, as one-hot codes are"):
        generators.estimate(generator, 1000)
    with pytest.raises(InputError, match="the latents label are few points"):
        generators.estimate(generator.then(nn.Tanh()), 1000)
    fixed = Generator(lambda z, label: z[:, :10] * (1 + label), {"z": 100}, extra={"label": torch.eye(10)[3]})
    assert generators.estimate(fixed, 1000).latent_dim == 100
