"""Theory against simulation, in standard errors over independent seeds: they share no code but the nouns."""

import numpy as np
import pytest
import torch

import cases
import gaussequiv as ge
from gaussequiv import generators, report, simulation

OPTIONS = {
    "plain": {},
    "noise and batches": {"noise": 0.5, "batch_size": 5},
    "decay and a rate of its own": {"weight_decay": 0.1, "lr_readout": 0.1},
    "readout fixed, teacher on inputs": {"train_readout": False, "teacher_on": "inputs"},
}


def agreement(problem, inputs, end, points=12, seeds=10, test_samples=4_000, seed=0):
    theory = ge.predict(problem, times=ge.log_times(end, points))
    practice = simulation.simulate(
        problem, inputs, times=theory.times, seeds=seeds, test_samples=test_samples, seed=seed
    )
    return report.compare(theory, practice)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_gaussian_inputs_with_correlations(options):
    model = cases.correlated_model("spread", N=1000, D=500, seed=3)
    problem = cases.problem(model, K=3, M=2, lr=0.2, **OPTIONS[options])
    comparison = agreement(problem, model, end=10, test_samples=2_000)
    assert np.abs(comparison.z).max() < 4.5, comparison
    assert comparison.rms_z < 1.5, comparison


@pytest.mark.slow
@pytest.mark.parametrize("networks", [("linear", "linear"), ("erf", "linear"), ("linear", "erf")], ids=str)
def test_other_networks(networks):
    student, teacher = networks
    model = cases.correlated_model("spread", N=500, D=200, seed=4)
    comparison = agreement(cases.problem(model, lr=0.2, student=student, teacher=teacher), model, end=10)
    assert np.abs(comparison.z).max() < 4.5, comparison
    assert comparison.rms_z < 1.5, comparison


@pytest.mark.slow
def test_image_like_spectrum_at_a_small_learning_rate():
    """A top eigenvalue of 0.3 N: the equations hold where lr rho_max / N is small."""
    model = cases.correlated_model("image", N=600, D=100, seed=5)
    comparison = agreement(cases.problem(model, lr=0.02), model, end=20)
    assert np.abs(comparison.z).max() < 4.5, comparison
    assert comparison.rms_z < 1.5, comparison


@pytest.mark.slow
def test_single_layer_generator_of_the_paper():
    """A small version of the law of `make validate`: sign(F c), its exact covariances, and the real samples."""
    F = generators.gaussian_matrix(800, 400, seed=1)
    model = ge.GaussianModel.single_layer(F, "sign")
    generator = generators.single_layer(F, "sign").to(dtype=torch.float32)
    comparison = agreement(cases.problem(model, lr=0.2), generator, end=20)
    assert np.abs(comparison.z).max() < 4.5, comparison
    assert comparison.rms_z < 1.5, comparison


@pytest.mark.full
@pytest.mark.parametrize("sigma", ["sign", "erf", "tanh"])
def test_single_layer_generator_at_full_size(sigma):
    """N = 1000, D = 500, lr 0.2, t <= 100, 20 log-spaced times, 10 seeds with their own test samples."""
    F = generators.gaussian_matrix(1000, 500)
    model = ge.GaussianModel.single_layer(F, sigma)
    generator = generators.single_layer(F, sigma).to(dtype=torch.float32)
    comparison = agreement(cases.problem(model, lr=0.2), generator, end=100, points=20)
    assert np.abs(comparison.z).max() < 4.5, comparison
    assert comparison.rms_z < 1.5, comparison


@pytest.mark.full
def test_the_gaussian_twin_of_the_trained_dcgan_follows_the_theory():
    """Where the DCGAN itself departs (docs/validation.md), its twin at a small learning rate does not."""
    generator = generators.load("dcgan")
    model = generators.estimate(generator, samples=100_000)
    comparison = agreement(cases.problem(model, lr=0.02), model, end=30, points=15)
    assert np.abs(comparison.z).max() < 4.5, comparison
    assert comparison.rms_z < 1.5, comparison
