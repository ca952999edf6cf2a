"""The Stein-Malliavin certificate: closed forms, invariances, and bounds that lie above what they bound."""

from dataclasses import replace
from math import pi, sqrt

import numpy as np
import pytest
import torch
from scipy import special, stats
from scipy.special import erf
from torch import nn

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import Generator
from gaussequiv.generators.certificate import CERTAIN, _require_explained, certificate, norm_bound, single_layer_of
from gaussequiv.generators.learners import learner
from gaussequiv.maths.activations import Erf, ReLU


def field_of(generator, w, n=200_000, seed=5):
    """Samples of a field, standardised."""
    x = generator.sample(n, seed)[1].astype(float)
    u = x @ w
    return (u - u.mean()) / u.std()


def w1(z):
    """The Wasserstein-1 distance of samples from N(0, 1)."""
    quantiles = stats.norm.ppf((np.arange(len(z)) + 0.5) / len(z))
    return np.mean(np.abs(np.sort(z) - quantiles))


class Squares(nn.Module):
    def forward(self, c):
        return c**2 - 1


def test_linear_fields_are_certified_without_a_gap():
    F = np.random.default_rng(0).standard_normal((12, 5))
    found = certificate(generators.single_layer(F, "linear"), np.eye(12)[:3], np.ones((1, 5)), draws=100)
    assert found.w1 < 1e-6
    assert found.tv < 1e-6
    np.testing.assert_allclose(found.covariance[:3, :3], (F @ F.T)[:3, :3] / 12, rtol=1e-10)
    np.testing.assert_allclose(found.covariance[:3, 3], F[:3] @ np.ones(5) / sqrt(60), rtol=1e-10)


@pytest.mark.parametrize("inner", [1, 4])
def test_quadratic_fields_have_a_closed_form(inner):
    """F = sum w_i (c_i^2 - 1) / sqrt(N): T = 2 sum w_i^2 c_i^2 / N, Var T / s^4 = 2 sum w_i^4 / (sum w_i^2)^2, for any inner."""
    w = np.linspace(0.5, 2.0, 6)
    generator = Generator(Squares(), latent=6, dtype=torch.float64)
    truth = 2 * np.sum(w**4) / np.sum(w**2) ** 2
    found = [certificate(generator, w[None], draws=400, inner=inner, seed=seed) for seed in range(12)]
    variances = np.array([one.variance for one in found])
    assert abs(variances.mean() - truth) < 4 * variances.std(ddof=1) / sqrt(12)
    assert np.median([one.error for one in found]) == pytest.approx(variances.std(ddof=1), rel=0.7)
    assert np.mean([one.covariance[0, 0] for one in found]) == pytest.approx(2 * np.mean(w**2), rel=0.05)


def test_the_worst_direction_is_the_worst_of_the_combinations():
    """Of independent quadratic fields of 1, 2 and 8 latents it is that of one latent, Var T / s^4 = 2, whatever their sizes."""
    W = np.zeros((3, 11))
    W[0, 0], W[1, 1:3], W[2, 3:] = 1.0, 5.0, 0.1
    generator = Generator(Squares(), latent=11, dtype=torch.float64)
    found = certificate(generator, W, draws=4000)
    assert found.variance == pytest.approx(2, rel=0.25)
    assert abs(found.direction[0]) * sqrt(found.covariance[0, 0]) > 0.9
    np.testing.assert_allclose(found.single, [2, 1, 0.25], rtol=0.3)
    mixed = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, -2.0], [0.5, 0.0, 1.0]])
    assert certificate(generator, mixed @ W, draws=4000).variance == pytest.approx(found.variance, rel=0.05)


def test_the_joint_bound_is_that_of_independent_fields():
    """Of fields with C = I and independent T_ii: the root of the sum of their variances."""
    generator = Generator(Squares(), latent=8, dtype=torch.float64)
    W = np.zeros((2, 8))
    W[0, :4] = W[1, 4:] = 1.0
    found = certificate(generator, W, draws=4000)
    assert found.w1_joint == pytest.approx(found.covariance[0, 0] ** 0.5 * sqrt(2 * 0.5), rel=0.3)


@pytest.mark.parametrize("kind", ["erf", "tanh", "relu", "ones", "spike", "deep"])
def test_bounds_lie_above_distances(kind):
    rng = np.random.default_rng(len(kind))
    N, D = 60, 30
    F = generators.gaussian_matrix(N, D)
    w = {"ones": np.ones(N), "spike": sqrt(N) * np.eye(N)[0]}.get(kind, rng.standard_normal(N))
    generator = generators.single_layer(F, kind if kind in ("erf", "tanh") else "relu")
    if kind == "deep":
        generator = generators.deep_random([D, 40, N], "tanh", 1)
    found = certificate(generator, w[None], draws=600)
    z = field_of(generator, w)
    assert w1(z) <= found.w1
    assert w1(z) > 1e-4
    edges = np.linspace(-3, 3, 25)
    seen = np.diff(np.searchsorted(np.sort(z), edges)) / len(z)
    assert np.abs(seen - np.diff(stats.norm.cdf(edges))).sum() / 2 <= found.tv


def test_figures_of_the_theory():
    """theory.md, section 2.2: sqrt(Var T) / s^2 of erf, D = N / 2, random w: .0727 at N = 250, .0389 at N = 1000."""
    rng = np.random.default_rng(1)
    for N, measured in ((250, 0.0727), (1000, 0.0389)):
        generator = generators.single_layer(generators.gaussian_matrix(N, N // 2), "erf")
        found = certificate(generator, rng.standard_normal((1, N)), draws=800)
        assert sqrt(found.variance) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("N", "D", "aligned"), [(200, 100, False), (200, 2, False), (200, 100, True)])
def test_signs_are_smoothed_and_the_bound_holds(N, D, aligned):
    rng = np.random.default_rng(2)
    F = generators.gaussian_matrix(N, D)
    w = F[:, 0] * sqrt(N) / np.linalg.norm(F[:, 0]) if aligned else rng.standard_normal(N)
    generator = generators.single_layer(F, "sign")
    found = certificate(generator, w[None], draws=150)
    assert found.smoothing > 0
    assert w1(field_of(generator, w)) <= found.w1
    if D > 2:
        assert found.w1 < 1.0  # it says something


def test_smoothing_less_leaves_less_between_and_a_larger_gradient():
    from gaussequiv.generators.certificate import _smoothed

    F = generators.gaussian_matrix(200, 100)
    student = learner(np.random.default_rng(0).standard_normal((1, 200)), None, 200, 100, "latents")
    found = [_smoothed(F, eps, student, 300, 4, 0) for eps in (0.05, 0.2, 0.8)]
    assert found[0].smoothed < found[1].smoothed < found[2].smoothed
    assert found[0].variance > found[1].variance > found[2].variance


def test_a_map_that_jumps_is_refused_in_a_sentence():
    class Rounded(nn.Module):
        def forward(self, c):
            return c + torch.sign(c)

    with pytest.raises(InputError, match="jumps somewhere"):
        certificate(Generator(Rounded(), latent=4), np.ones((1, 4)), draws=200)


@pytest.mark.parametrize("kind", ["model", "prior", "stochastic", "function", "draws"])
def test_what_has_no_certificate_is_refused(kind):
    generator = {
        "model": ge.GaussianModel.isotropic(4),
        "prior": Generator(nn.Linear(4, 4), latent=4, prior=lambda n, rng: rng.uniform(-1, 1, (n, 4))),
        "stochastic": Generator(nn.Linear(4, 4), latent=4, stochastic=True),
        "function": Generator(lambda c: torch.from_numpy(c.detach().numpy() ** 3), latent=4),
        "draws": Generator(nn.Linear(4, 4), latent=4),
    }[kind]
    with pytest.raises(InputError):
        certificate(generator, np.ones((1, 4)), draws=10 if kind == "draws" else 100)


def test_gradients_are_those_of_the_map():
    generator = generators.load("vae").to(dtype=torch.float64)
    c = torch.randn(2, generator.latent_dim, dtype=torch.float64, requires_grad=True)
    x = generator.differentiable(c)
    (gradient,) = torch.autograd.grad(x[0, 300], c)
    step = torch.zeros_like(c)
    step[0, 3] = 1e-5
    with torch.no_grad():
        numerical = generator.push(c + step) - generator.push(c - step)
    assert float(gradient[0, 3]) == pytest.approx(float(numerical[0, 300]) / 2e-5, rel=1e-4)


def test_teachers_on_the_inputs_are_fields_of_the_inputs():
    generator = generators.single_layer(generators.gaussian_matrix(40, 20), "tanh")
    W, B = np.random.default_rng(3).standard_normal((2, 1, 40))
    ours = certificate(generator, W, B, teacher_on="inputs", draws=200)
    both = certificate(generator, np.concatenate([W, B]), draws=200)
    np.testing.assert_allclose(ours.covariance, both.covariance, rtol=1e-10)
    assert ours.variance == pytest.approx(both.variance, rel=1e-8)


# --- what an attack found ---


class Map(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, c):
        return self.function(c)


def of(function, D):
    return Generator(Map(function), latent=D, dtype=torch.float64)


@pytest.mark.parametrize("frequency", [3, 4])
def test_beside_a_gaussian_field_the_worse_one_is_bounded(frequency):
    """The variance of T is noisy there; the search may not walk away from what it cannot tell."""
    generator = of(lambda c: torch.cat([c[:, :1], 2**0.5 * torch.sin(frequency * c[:, 1:])], dim=1), 2)
    truth = w1(field_of(generator, np.array([0.0, 1.0])))
    bounds = [certificate(generator, np.eye(2), draws=400, seed=seed).w1 for seed in range(10)]
    assert np.mean(np.array(bounds) >= truth) >= 0.9


@pytest.mark.parametrize(
    "function",
    [
        lambda c: c + 0.05 * torch.sign(c),
        lambda c: c + 0.5 * (torch.round(2 * c) / 2 - c).detach(),
        lambda c: c + 0.1 * (c**2 - 1).detach(),
    ],
)
def test_small_jumps_and_hidden_gradients_are_refused(function):
    with pytest.raises(InputError, match="jumps somewhere"):
        certificate(of(function, 1), np.ones((1, 1)), draws=100)


@pytest.mark.parametrize(
    "function",
    [
        lambda c: c + (torch.round(1000 * c) / 1000 - c).detach(),
        lambda c: c + (torch.round(100 * c) / 100 - c).detach(),
        lambda c: c + 0.001 * torch.sign(c),
        lambda c: c + 0.005 * torch.sign(c),
        lambda c: c + 0.02 * (c > 2).double(),
    ],
)
def test_jumps_that_are_smaller_are_added_to_the_bound(function):
    """A lattice is as far from a Gaussian as can be in total variation, and its steps in W1."""
    generator = of(function, 1)
    truth = w1(field_of(generator, np.ones(1)))
    for seed in range(4):
        found = certificate(generator, np.ones((1, 1)), draws=200, seed=seed)
        assert found.w1 >= truth - 0.001  # by which samples miss the distance
        assert found.tv == 1
        assert "jumps" in str(found)


def bound(generator, seed):
    """That on W1 of the one field, infinite where it is refused."""
    try:
        return certificate(generator, np.ones((1, 1)), draws=1000, seed=seed).w1
    except InputError:
        return np.inf


@pytest.mark.parametrize(
    "function",
    [
        lambda c: c + 0.3 * (c > 2.0).double(),
        lambda c: c + 0.6 * (c > 2.5).double(),
        lambda c: torch.relu(c) + 0.03 * (c > 0.5).double(),
        lambda c: c + 0.003 * torch.sin(300 * c) + 0.05 * torch.sign(c),  # too fast for the panels
    ],
)
def test_jumps_that_few_latents_meet_are_found(function):
    """There are as many ways between latents as gradients."""
    generator = of(function, 1)
    truth = w1(field_of(generator, np.ones(1)))
    assert min(bound(generator, seed) for seed in range(6)) > truth


@pytest.mark.parametrize("share", [0.002, 0.005])
@pytest.mark.parametrize("fields", [1, 3])
def test_the_share_that_jumps_is_no_less_than_it_is(share, fields):
    """By Mehler's formula; a sign has (2 / pi) asin of the correlation, not less."""
    generator = of(lambda c: c + share * torch.sign(c), fields)
    W = np.random.default_rng(0).standard_normal((fields, fields))
    found = certificate(generator, W, draws=1000)
    assert share < found.unseen < 2.5 * share


def test_a_share_as_large_as_the_field_leaves_no_bound():
    found = certificate(generators.single_layer(generators.gaussian_matrix(20, 10), "erf"), np.ones((1, 20)), draws=50)
    for share, finite in ((0.5, True), (1.0, False), (3.0, False)):
        less = replace(found, unseen=share)
        assert (less.w1 < np.inf) == (less.w1_joint < np.inf) == finite
        assert ("says nothing" in str(less)) != finite
        assert less.w1 > found.w1
    assert less.tv == 1


def test_smooth_maps_have_no_share_that_jumps():
    generator = generators.single_layer(generators.gaussian_matrix(100, 50), "erf")
    found = certificate(generator, np.ones((1, 100)), draws=100)
    assert found.unseen < 1e-3 * found.size
    assert not found.jumps


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.Identity()])
def test_modules_that_change_what_they_are_given_have_a_certificate(first):
    generator = Generator(nn.Sequential(first, nn.Linear(5, 5)), latent=5, dtype=torch.float64)
    assert 0 <= certificate(generator, np.ones((1, 5)), draws=100).w1 < 1


def test_an_input_that_is_always_zero_is_no_obstacle():
    F = generators.gaussian_matrix(30, 10)
    F[3] = 0
    assert certificate(generators.single_layer(F, "sign"), np.ones((1, 30)), draws=100).w1 < 1


def test_the_joint_bound_is_that_of_the_upper_end():
    generator = generators.single_layer(generators.gaussian_matrix(100, 50), "erf")
    W = np.random.default_rng(0).standard_normal((2, 100))
    truth = certificate(generator, W, draws=10_000)
    bounds = [certificate(generator, W, draws=100, seed=seed).w1_joint for seed in range(1, 21)]
    assert np.mean(np.array(bounds) >= truth.w1_joint - CERTAIN * truth.joint_error) >= 0.85


@pytest.mark.parametrize("kind", ["relu", "abs", "dcgan-random", "vae"])
def test_kinks_are_no_jumps(kind):
    generator = generators.load(kind) if kind in ("dcgan-random", "vae") else generators.single_layer(np.eye(3), kind)
    found = certificate(generator, np.ones((1, generator.input_dim)), draws=50)
    assert found.w1 > 0
    assert not found.jumps
    assert found.unseen < 0.3 * found.size


@pytest.mark.full
@pytest.mark.parametrize("name", ["realnvp", "realnvp-pixels", "dcgan", "realnvp-random"])
def test_trained_generators_have_a_gradient(name):
    """Trained flows bend so sharply that the sums over ways need hundreds of nodes, and the bound may say nothing."""
    generator = generators.load(name)
    rng = np.random.default_rng(2)
    found = certificate(
        generator,
        rng.standard_normal((2, generator.input_dim)),
        rng.standard_normal((2, generator.latent_dim)),
        draws=50,
    )
    assert found.w1 > 0
    assert np.isfinite(found.w1) or name in ("realnvp", "realnvp-pixels")


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_scales_of_fields_do_not_matter(scale):
    generator = of(lambda c: torch.cat([c[:, :1], c[:, 1:] ** 2 - 1], dim=1), 2)
    ours = certificate(generator, np.array([[1.0, 0.0], [0.0, scale]]), draws=300)
    assert ours.variance == pytest.approx(certificate(generator, np.eye(2), draws=300).variance, rel=1e-6)
    assert ours.variance > 1


def test_signs_of_dependent_fields_and_of_rows_of_any_length():
    F = generators.gaussian_matrix(60, 30)
    w = np.random.default_rng(0).standard_normal((1, 60))
    once = certificate(generators.single_layer(F, "sign"), w, draws=100)
    twice = certificate(generators.single_layer(F, "sign"), np.concatenate([w, 2 * w]), draws=100)
    scaled = certificate(generators.single_layer(1e3 * F, "sign"), w, draws=100)
    assert twice.w1 == pytest.approx(once.w1, rel=1e-6)
    assert scaled.w1 == pytest.approx(once.w1, rel=1e-6)


def test_a_constant_map_is_refused():
    with pytest.raises(InputError, match="does not vary"):
        certificate(of(lambda c: 0 * c + 1, 3), np.ones((1, 3)), draws=100)


def test_a_hidden_direction_among_many_is_found():
    rng = np.random.default_rng(1)
    R = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    generator = of(lambda c: torch.cat([c[:, :1] ** 2 - 1, c[:, 1:]], dim=1), 16)
    assert certificate(generator, R, draws=2000).variance > 1.5


def test_what_smoothing_changes_is_the_distance_and_the_variance():
    """Of one field: the root of E (F - F_eps)^2, and what its other variance adds, in standard deviations."""
    from gaussequiv.generators.certificate import _smoothed

    F, w = generators.gaussian_matrix(40, 20), np.random.default_rng(2).standard_normal(40)
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    found = _smoothed(F, 0.5, learner(w, None, 40, 20, "latents"), 2000, 4, 0)
    u = np.random.default_rng(3).standard_normal((100_000, 20)) @ F.T
    rough, smooth = np.sign(u) @ w, special.erf(u / 0.5 / sqrt(2)) @ w
    s, t = rough.std(), smooth.std()
    added = (rough - smooth).std() / s + sqrt(2 / pi) * abs(1 - t / s) + sqrt(2 / pi) * found.size * max(t / s - 1, 0)
    assert found.smoothed == pytest.approx(added, rel=0.03)
    assert found.w1 == pytest.approx(sqrt(2 / pi) * found.size + found.smoothed)
    assert found.tv == 1.0


def test_the_joint_sum_has_the_products_of_two_fields_twice():
    generator = of(lambda c: torch.stack([c[:, 0] * c[:, 1], c[:, 1] * c[:, 2]], dim=1), 3)
    found = [certificate(generator, np.eye(2) * sqrt(2), draws=500, seed=seed).joint for seed in range(10)]
    # T_11 = (c_1^2 + c_2^2) / 2, T_22 = (c_2^2 + c_3^2) / 2, T_12 = T_21 = c_1 c_3 / 2
    assert abs(np.mean(found) - (1 + 1 + 2 * 0.25)) < 4 * np.std(found, ddof=1) / sqrt(10)


@pytest.mark.parametrize("wrong", [np.zeros(20), np.full(20, np.nan)])
def test_norms_of_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="finite"):
        norm_bound(generators.gaussian_matrix(20, 10), "erf", wrong)


def test_slopes_without_end_have_no_norm_bound():
    assert norm_bound(generators.gaussian_matrix(20, 10), "quadratic", np.ones(20)).tv == np.inf


def test_the_constants_are_those_of_nourdin_and_peccati():
    found = certificate(of(lambda c: c**2 - 1, 1), np.ones((1, 1)), draws=200)
    size = sqrt(found.variance + 1.96 * found.error)
    assert found.w1 == pytest.approx(sqrt(2 / pi) * size)
    assert found.tv == min(2 * size, 1.0)


def test_the_joint_bound_is_scaled_as_its_norms():
    """W1 of fields of standard deviation s is s times as large: C grows by s^2, Var T by s^4."""
    generator = of(lambda c: c**2 - 1, 4)
    W = np.eye(4)[:2]
    one, ten = certificate(generator, W, draws=200), certificate(generator, 10 * W, draws=200)
    assert ten.w1_joint == pytest.approx(10 * one.w1_joint, rel=1e-6)


# --- norms only ---


def test_the_norm_bound_is_the_product_of_its_terms():
    N, D = 80, 40
    F, w = generators.gaussian_matrix(N, D), np.random.default_rng(4).standard_normal(N)
    found = norm_bound(F, "erf", w)
    assert found.operator == pytest.approx(np.linalg.svd(F)[1][0])
    assert found.slope == pytest.approx(sqrt(2 / pi), rel=1e-6)
    assert found.curvature == pytest.approx(sqrt(2 / pi) * np.exp(-0.5), rel=1e-4)
    assert found.variance == pytest.approx(w @ ge.GaussianModel.single_layer(F, "erf").Omega @ w / N)
    terms = found.operator**3 * found.slope * found.curvature
    weights = np.abs(w).max() * np.linalg.norm(w) / N
    assert found.tv == pytest.approx(2 * sqrt(5) * terms * weights / found.variance)
    assert found.tv > certificate(generators.single_layer(F, "erf"), w[None], draws=300).tv


@pytest.mark.parametrize(
    ("change", "dominant"),
    [
        ("spike", "delocalisation of w"),
        ("long rows", "operator norm of F"),
        ("cancelled", "variance of the field"),
    ],
)
def test_the_term_that_dominates_is_named(change, dominant):
    N, D = 400, 200
    F, w = generators.gaussian_matrix(N, D), np.random.default_rng(5).standard_normal(N)
    match change:
        case "spike":
            w = sqrt(N) * np.eye(N)[0]
        case "long rows":
            F = F + 2 * np.outer(np.ones(N), np.eye(D)[0])
        case "cancelled":
            w = ge.GaussianModel.single_layer(F, "erf").eigenmodes[1][:, 0]
    assert norm_bound(F, "erf", w).dominant == dominant


def test_kinks_have_no_norm_bound():
    F = generators.gaussian_matrix(20, 10)
    for kind in ("relu", "sign"):
        found = norm_bound(F, kind, np.ones(20))
        assert found.tv == np.inf
        assert "none" in str(found)
    with pytest.raises(InputError, match="expected"):
        norm_bound(F, "erf", np.ones(10))


def test_it_falls_with_the_root_of_n():
    """For delocalised weights; the norm of F and the variance of the field stay what they are, up to fluctuations."""
    rng = np.random.default_rng(6)
    small, large = (
        norm_bound(generators.gaussian_matrix(N, N // 2), "erf", rng.choice([-1.0, 1.0], N)) for N in (100, 900)
    )
    ratio = (small.tv * small.variance / small.operator**3) / (large.tv * large.variance / large.operator**3)
    assert ratio == pytest.approx(3, rel=1e-6)
    same = [one.informative_from * one.variance**2 / one.operator**6 for one in (small, large)]
    assert same[0] == pytest.approx(same[1], rel=1e-6)  # the size does not enter but through the norms
    assert small.tv / np.sqrt(small.informative_from / 100) == pytest.approx(1)
    assert f"says nothing below N = {small.informative_from:.2g}" in str(small)
    assert large.operator == pytest.approx(1 + sqrt(2), rel=0.05)
    assert 0.15 < large.variance < 0.45


def test_single_layers_of_the_zoo_are_known():
    F = generators.gaussian_matrix(10, 5)
    for kind, cls in (("relu", ReLU), ("erf", Erf)):
        found, g = single_layer_of(generators.single_layer(F, kind))
        np.testing.assert_array_equal(found, F)
        assert isinstance(g, cls)
    for other in (generators.deep_random([5, 6, 7]), generators.load("vae"), generators.single_layer(F, torch.sin)):
        assert single_layer_of(other) == (None, None)


def test_a_map_of_steps_only_is_told_from_one_that_does_not_vary():
    for function, words in ((lambda c: torch.sign(c) + 0 * c, "jumps somewhere"), (lambda c: 0 * c, "does not vary")):
        with pytest.raises(InputError, match=words):
            certificate(of(function, 3), np.ones((1, 3)), draws=100)


def test_a_covariance_that_gradients_do_not_explain_is_refused():
    generator = of(lambda c: c, 2)
    fields = learner(sqrt(2) * np.eye(2), None, 2, 2, "latents")
    T = np.broadcast_to(np.eye(2), (200, 2, 2))
    _require_explained(generator, fields, T, 0)
    for wrong in (1.5 * T, T + 0.3 * (1 - np.eye(2))):
        with pytest.raises(InputError, match="explain"):
            _require_explained(generator, fields, wrong, 0)


def test_the_matrix_of_two_curved_fields_has_a_symmetric_variance():
    """F = (a, a b) of two latents: T_12 and T_21 differ sample by sample, and what is bounded is their mean."""
    generator = of(lambda c: torch.stack([c[:, 0] + c[:, 1] ** 2, c[:, 0] * c[:, 1]], dim=1), 2)
    ours = certificate(generator, np.eye(2), draws=4000)
    other = certificate(generator, np.eye(2)[::-1].copy(), draws=4000)
    assert ours.variance == pytest.approx(other.variance, rel=1e-6)
    np.testing.assert_allclose(ours.covariance, ours.covariance.T, rtol=1e-12)


def test_smoothing_of_several_signs_is_that_of_the_worst_combination():
    """Var of what lies between sign and smooth sign, whitened, by hand; the bound is no less than with one field alone."""
    F = generators.gaussian_matrix(60, 30)
    generator = generators.single_layer(F, "sign")
    W = np.stack(
        [np.random.default_rng(0).standard_normal(60), F[:, 0] * sqrt(30)]
    )  # of which the second hardly changes
    both = certificate(generator, W, draws=200)
    c = np.random.default_rng(1).standard_normal((40_000, 30))
    rows = F / np.linalg.norm(F, axis=1, keepdims=True)
    signs, smooth = np.sign(c @ rows.T), erf(c @ rows.T / (both.smoothing * sqrt(2)))
    u, v = (x @ W.T / sqrt(60) for x in (signs, smooth))
    C = u.T @ u / len(u)
    np.testing.assert_allclose(both.covariance, C, rtol=0.1, atol=0.1 * np.trace(C))
    A = np.linalg.inv(np.linalg.cholesky(C)).T
    between = np.linalg.eigvalsh(A.T @ ((u - v).T @ (u - v) / len(u)) @ A)
    sizes = np.sqrt(np.linalg.eigvalsh(A.T @ (v.T @ v / len(v)) @ A))
    expected = sqrt(between[-1]) + sqrt(2 / pi) * (abs(1 - sizes).max() + both.size * max(sizes[-1] - 1, 0))
    assert both.smoothed == pytest.approx(expected, rel=0.1)


def test_what_smoothing_changes_of_a_student_and_its_teacher_is_known():
    """The sign of one latent c, beside c itself: all moments in closed form, and combinations whose variance grows."""
    from gaussequiv.generators.certificate import _smoothed

    eps = 2.0
    found = _smoothed(np.ones((1, 1)), eps, learner(np.ones((1, 1)), np.ones((1, 1)), 1, 1, "latents"), 10_000, 4, 0)
    R, Q, S = sqrt(2 / pi), 2 / pi * np.arcsin(1 / (1 + eps**2)), 2 / pi * np.arcsin(1 / sqrt(1 + eps**2))
    C = np.array([[1, R], [R, 1]])
    own = np.array([[Q, R / sqrt(1 + eps**2)], [R / sqrt(1 + eps**2), 1]])
    np.testing.assert_allclose(found.covariance, C, atol=4 / sqrt(40_000))
    A = np.linalg.inv(np.linalg.cholesky(C)).T
    between = sqrt((1 - 2 * S + Q) / (1 - R**2))  # of the combination that is best seen
    sizes = np.sqrt(np.linalg.eigvalsh(A.T @ own @ A))
    assert sizes[0] < 1 < sizes[1]
    added = between + sqrt(2 / pi) * (np.abs(1 - sizes).max() + found.size * (sizes[1] - 1))
    assert found.smoothed == pytest.approx(added, rel=0.01)


def test_cubic_fields_have_a_closed_form_with_one_gradient_each():
    """F = c^3 - 3 c has T = 3 (c^2 - 1)^2, so E T = 6 = Var F and Var T / s^4 = 14: the mean over a is one of a^2."""
    generator = of(lambda c: c**3 - 3 * c, 1)
    found = [certificate(generator, np.ones((1, 1)), draws=2000, inner=1, seed=seed) for seed in range(10, 20)]
    for values, truth in (([one.covariance[0, 0] for one in found], 6), ([one.variance for one in found], 14)):
        assert abs(np.mean(values) - truth) < 4 * np.std(values, ddof=1) / sqrt(10)
    assert np.std([one.covariance[0, 0] for one in found], ddof=1) / sqrt(10) < 0.2


def test_signs_are_smoothed_as_much_as_is_best():
    from gaussequiv.generators.certificate import SMOOTHINGS, _smoothed

    best = set()
    for N, D in ((100, 10), (60, 40)):
        F, w = generators.gaussian_matrix(N, D), np.ones((1, N))
        found = certificate(generators.single_layer(F, "sign"), w, draws=50)
        bounds = {eps: _smoothed(F, eps, learner(w, None, N, D, "latents"), 50, 4, 0).w1 for eps in SMOOTHINGS}
        assert found.w1 == pytest.approx(min(bounds.values()))
        assert bounds[found.smoothing] == pytest.approx(found.w1)
        best.add(found.smoothing)
    assert len(best) == 2, best


def test_a_smoothing_whose_gradients_are_too_rare_is_left_out():
    generator = generators.single_layer(generators.gaussian_matrix(5, 1), "sign")
    assert 0 < certificate(generator, np.ones((1, 5)), draws=200, seed=3).w1 < np.inf
