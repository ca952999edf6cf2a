"""One student, trained and kept: the plain loop on samples that no simulation has, files, and what is refused."""

import numpy as np
import pytest
import torch

import cases
import gaussequiv as ge
import oracles
from gaussequiv import generators, simulation
from gaussequiv.errors import InputError
from gaussequiv.maths.activations import LeakyReLU
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.simulation.samples import Source
from gaussequiv.simulation.training import Run

MODEL = cases.correlated_model()
STEPS = 130


def trained(problem=None, **options):
    return simulation.train(problem or cases.problem(MODEL), MODEL, **{"time": STEPS / 60} | options)


def test_the_trained_student_is_the_plain_loop_on_samples_of_its_own_purpose():
    problem = cases.problem(MODEL, noise=0.3, weight_decay=0.2)
    source = Source(problem, MODEL, 5, torch.float64, torch.device("cpu"), Purpose.PRETRAIN)
    x, y = source.draw(Run([problem], source, 1).per_chunk, Purpose.PRETRAIN, 0, 0)
    zeta = stream(5, Purpose.PRETRAIN, lane=2**63).standard_normal((len(y), 1))
    g, start = problem.student.activation, problem.student
    W, v = oracles.sgd(
        start.weights,
        start.readout,
        x.numpy()[:STEPS],
        (y.numpy() + 0.3 * zeta)[:STEPS],
        0.3,
        0.3,
        1,
        0.2,
        g,
        g.derivative,
    )
    network = trained(problem, seed=5)
    np.testing.assert_allclose(network.weights, W, atol=1e-9)
    np.testing.assert_allclose(network.readout, v.ravel(), atol=1e-9)
    assert network.activation == g


def test_the_same_seed_gives_the_same_student_and_another_one_another():
    one, same, other = trained(seed=1), trained(seed=1), trained(seed=2)
    np.testing.assert_array_equal(one.weights, same.weights)
    assert np.abs(one.weights - other.weights).max() > 0.01
    start = cases.problem(MODEL).student
    np.testing.assert_array_equal(trained(time=0).weights, start.weights)


def test_the_overlaps_of_trained_students_are_those_of_the_theory():
    problem = cases.problem(cases.correlated_model(N=400, D=100), lr=0.1)
    Q = []
    for seed in range(6):
        network = simulation.train(problem, problem.model, time=2.0, seed=seed)
        Q.append(problem.order_parameters(network.weights, network.readout).Q)
    expected = ge.predict(problem, times=[0, 2.0]).data["Q"].values[-1]
    np.testing.assert_allclose(np.mean(Q, axis=0), expected, atol=0.1 * np.abs(expected).max())


def test_several_outputs_keep_their_readout():
    assert trained(cases.problem(MODEL, outputs=3)).readout.shape == (2, 3)


def test_an_interrupted_training_continues_to_the_same_student(tmp_path):
    def stop(done, of):
        if done >= 512:
            raise KeyboardInterrupt

    path = tmp_path / "training"
    with pytest.raises(KeyboardInterrupt):
        trained(time=20, checkpoint=path, progress=stop)
    assert path.exists()
    seen = []
    again = trained(time=20, checkpoint=path, progress=lambda done, of: seen.append(done))
    assert min(seen) > 512
    assert not path.exists()
    np.testing.assert_array_equal(again.weights, trained(time=20).weights)


def test_a_checkpoint_of_a_simulation_is_not_that_of_a_training(tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(cases.problem(MODEL), MODEL, times=[5.0], seeds=1, checkpoint=path, progress=stop)
    with pytest.raises(InputError, match="checkpoint of another simulation"):
        trained(time=5.0, checkpoint=path)


def test_what_cannot_be_trained_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="diverged before t = 50; train it with a smaller learning rate"):
        trained(cases.problem(MODEL, lr=500.0, student="linear"), time=50)
    with pytest.raises(InputError, match="time=-1; expected a non-negative"):
        trained(time=-1)
    with pytest.raises(InputError, match="expected an OnlineSGD"):
        trained(3)
    with pytest.raises(InputError, match=r"the inputs have \(N, D\) = \(60, 20\); the model has \(20, 20\)"):
        trained(cases.problem(ge.GaussianModel.isotropic(20)))


def test_features_of_a_trained_student_are_its_hidden_units_on_centred_inputs():
    F = generators.gaussian_matrix(60, 20, seed=1)
    generator, model = generators.single_layer(F, "relu"), ge.GaussianModel.single_layer(F, "relu")
    network = simulation.train(cases.problem(model), generator, time=1.0)
    inputs, features = (made.sample(5, 0)[1] for made in (generator, generator.then(network, mean=model.mean_x)))
    np.testing.assert_allclose(features, network.activation(network.local_fields(inputs - model.mean_x)), atol=1e-9)


# --- files ---


@pytest.mark.parametrize("activation", ["erf", "quadratic", "sign"])
@pytest.mark.parametrize("outputs", [None, 2])
def test_a_network_survives_its_file(activation, outputs, tmp_path):
    network = ge.TwoLayer.random(3, 7, activation, readout="gaussian", outputs=outputs)
    network.save(tmp_path / "net.safetensors", {"key": "k"})
    again, provenance = ge.TwoLayer.load_with_provenance(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again.weights, network.weights)
    np.testing.assert_array_equal(again.readout, network.readout)
    assert again.activation == network.activation
    assert provenance == {"key": "k"}


def test_files_that_are_no_networks_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    for activation in (np.sin, "leaky"):
        given = LeakyReLU(0.3) if activation == "leaky" else activation
        with pytest.raises(InputError, match="has no name to be saved by"):
            ge.TwoLayer.random(3, 7, given).save(path)
    MODEL.save(path)
    with pytest.raises(InputError, match="expected a gaussequiv two-layer network file"):
        ge.TwoLayer.load(path)
