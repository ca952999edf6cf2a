"""`check_generator`: every generator of the zoo holds, and each law is broken by something that breaks only it."""

import numpy as np
import pytest
import torch
from torch import nn

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import Generator, check_generator, zoo
from gaussequiv.models.streams import as_rng


@pytest.mark.parametrize("name", [name for name in zoo.NAMES if name != "dcgan-random-32"])
def test_the_zoo_holds(name):
    found = check_generator(generators.load(name), 256)
    assert found.ok, str(found)
    found.require()


def test_a_gaussian_model_a_data_set_and_a_class_of_ones_own_hold():
    class Own:
        latent_dim, input_dim = 3, 4

        def sample(self, n, rng):
            rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
            c = rng.standard_normal((n, 3))
            return c, np.tanh(c @ np.ones((3, 4)))

    data = generators.dataset(np.random.default_rng(0).standard_normal((50, 3, 3)))
    for source in (Own(), data, ge.GaussianModel.isotropic(5)):
        found = check_generator(source, 500)
        assert found.ok, str(found)
        assert "repeated calls" not in str(found)


def in_a_function(module):
    return module.forward  # no module, so that the module stays in the mode that it is in


class AlwaysDropping(nn.Module):
    def forward(self, c):
        return nn.functional.dropout(c.repeat(1, 40), 0.5, training=True)


def unseeded(n, rng):
    c = np.random.default_rng().standard_normal((n, 3))
    return c, c


def careless(n, rng):
    np.random.random()
    rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
    c = rng.standard_normal((n, 3))
    return c, c


class Sampled:
    name = "sampled"
    latent_dim = input_dim = 3

    def __init__(self, sample):
        self.sample = sample


def own_noise():
    own = torch.Generator().manual_seed(0)
    return lambda c: c + torch.randn(c.shape, generator=own)


BROKEN = {
    "batch normalisation in training mode": (
        lambda: Generator(in_a_function(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)).train()), 5),
        {"batches"},
        "as with batch normalisation in training mode inside the function",
    ),
    "batch normalisation without running statistics": (
        lambda: Generator(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False)), 5),
        {"batches"},
        r"without running statistics \(1\)",
    ),
    "dropout that is not switched off": (
        lambda: Generator(AlwaysDropping(), 5),
        {"repeated calls", "seeds"},
        "as with dropout or noise that is not switched off",
    ),
    "noise": (
        lambda: Generator(lambda c: c + 0.01 * torch.randn_like(c), 5),
        {"repeated calls", "seeds"},
        "or set stochastic",
    ),
    "a NaN": (lambda: Generator(lambda c: c / 0, 5), {"sizes"}, "returned a NaN or an infinity"),
    "a failure": (lambda: Generator(nn.Linear(4, 4), 5), {"sizes"}, "is latent="),
    "constants": (lambda: Generator(lambda c: 0 * c + 3, 5), {"seeds", "inputs"}, "do not vary with the latents"),
    "one-hot latents": (
        lambda: Generator(nn.Identity(), 5, prior=lambda n, rng: np.eye(5)[rng.integers(5, size=n)]),
        {"latents"},
        "one-hot codes",
    ),
    "a seed that is not used": (lambda: Sampled(unseeded), {"seeds"}, "the same seed gave other samples"),
    "one seed for all": (
        lambda: Sampled(lambda n, rng: careless(n, 0)),
        {"seeds", "global random state"},
        "another seed gave the same samples",
    ),
    "global random numbers": (lambda: Sampled(careless), {"global random state"}, "moves the global random numbers"),
    "a wrong shape": (lambda: Sampled(lambda n, rng: (np.zeros((n, 3)), np.zeros(n))), {"sizes"}, r"expected \(2, 3\)"),
    "latents of another law": (
        lambda: Sampled(lambda n, rng: [2 * np.random.Generator(np.random.Philox(7)).standard_normal((n, 3))] * 2),
        {"latents", "seeds"},
        "standard errors off; draw others, or let latent_dim be 0",
    ),
    "noise that no seed sets": (
        lambda: Generator(own_noise(), 5, stochastic=True),
        {"repeated calls", "seeds"},
        r"two calls with the same seed differ: .*a torch.Generator of its own",
    ),
    "noise and batch normalisation in training mode": (
        lambda: Generator(lambda c: c - c.mean(0) + torch.randn_like(c), 5, stochastic=True),
        {"batches"},
        "depend on the other latents of their batch",
    ),
    "an exception": (lambda: Sampled(lambda n, rng: 1 / 0), {"sizes"}, "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_law_can_fail_and_names_what_to_do(case):
    make, laws, sentence = BROKEN[case]
    found = check_generator(make(), 512)
    assert {finding.law for finding in found.failures} == laws, str(found)
    with pytest.raises(InputError, match="is no generator"):
        found.require()
    import re

    assert any(re.search(sentence, finding.sentence) for finding in found.failures), str(found)
    assert not any("\n" in finding.sentence for finding in found.findings)


@pytest.mark.parametrize(
    "case",
    [
        "batch normalisation in training mode",
        "dropout that is not switched off",
        "noise",
        "noise that no seed sets",
        "noise and batch normalisation in training mode",
    ],
)
def test_an_estimate_refuses_what_is_no_map(case):
    with pytest.raises(InputError, match=r"is no map from latents to inputs: .*; (expected|switch|draw)"):
        generators.estimate(BROKEN[case][0](), 1000)


def uniform(n, rng):
    return rng.uniform(-(3**0.5), 3**0.5, n)


def points(n, rng):
    return rng.choice([-1.0, 1.0], n)


@pytest.mark.parametrize("draw", [uniform, points])
def test_latents_of_your_own_object_with_the_two_moments_of_gaussian_ones_are_told_from_them(draw):
    D = 1 if draw is uniform else 3  # the fields of three uniform ones are Gaussian enough
    found = Sampled(lambda n, rng: [draw((n, D), as_rng(rng))] * 2)
    found.latent_dim = found.input_dim = D
    report = check_generator(found)
    assert {finding.law for finding in report.failures} == {"latents"}, str(report)
    with pytest.raises(InputError, match=r"not standard normal: the latents are (few points|not Gaussian enough)"):
        generators.estimate(found, 2000)


@pytest.mark.parametrize("D", [1, 3, 40, 900])
def test_gaussian_latents_of_your_own_object_hold(D):
    found = Sampled(lambda n, rng: [as_rng(rng).standard_normal((n, D))] * 2)
    found.latent_dim = found.input_dim = D
    assert check_generator(found).ok
    assert check_generator(found, 1024).ok


def test_a_module_in_training_mode_is_reported_and_its_copy_is_not():
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    found = check_generator(Generator(net, 5), 256)
    assert found.ok
    assert "1 batch normalisations (1 in training mode; the copy is not), 1 dropouts (1 in training mode" in str(found)


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(
        InputError, match=r"a int was to be checked; expected a Generator, or what has sample\(n, rng\)"
    ):
        check_generator(3)


def test_noise_that_is_declared_holds():
    generator = Generator(lambda c: c + torch.randn_like(c), 5, stochastic=True)
    assert check_generator(generator, 256).ok
    assert generators.estimate(generator, 1000).input_dim == 5
