"""The simulation: block by block it is plain SGD, its streams are independent, and it refuses what it cannot do."""

import numpy as np
import pytest
import torch
from scipy.special import erf

import cases
import gaussequiv as ge
import oracles
from gaussequiv import generators, simulation
from gaussequiv.errors import InputError
from gaussequiv.maths.activations import Sign
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.simulation.online import FUNCTIONS, _Run, _Source


def trained(problem, steps, seeds=2, inputs=None):
    """Weights and readouts after some steps, and the training samples of every seed."""
    source = _Source(problem, inputs or problem.model, 7, torch.float64, torch.device("cpu"))
    run = _Run(problem, source, seeds)
    run.advance(steps, lambda done: None)
    b, per_chunk = problem.batch_size, run._per_chunk * problem.batch_size
    samples = []
    for lane in range(seeds):
        x, y = [], []
        for chunk in range(-(-steps * b // per_chunk)):
            xs, ys = source.draw(per_chunk, Purpose.TRAIN, lane, chunk)
            x.append(xs)
            y.append(ys + source.noise(per_chunk, lane, chunk) if problem.noise else ys)
        samples.append((torch.cat(x)[: steps * b].numpy(), torch.cat(y)[: steps * b].numpy()))
    return run, samples


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 3},
        {"batch_size": 100, "weight_decay": 0.3},
        {"batch_size": 700},
        {"weight_decay": 0.8},
        {"weight_decay": 0.8, "batch_size": 2, "noise": 0.3, "lr_readout": 0.05},
        {"train_readout": False},
        {"teacher_on": "inputs"},
    ],
)
@pytest.mark.parametrize("student", ["erf", "linear"])
def test_blocks_are_the_plain_loop(options, student):
    problem = cases.problem(cases.correlated_model(N=20, D=10), K=3, student=student, lr=0.7, **options)
    run, samples = trained(problem, steps=1500 // max(1, problem.batch_size // 3))
    act = {"erf": (oracles.g, oracles.dg), "linear": (lambda z: z, np.ones_like)}[student]
    for lane, (x, y) in enumerate(samples):
        W, v = oracles.sgd(
            problem.student.weights,
            problem.student.readout,
            x,
            y,
            *problem.rates(0.0),
            problem.batch_size,
            problem.weight_decay,
            *act,
        )
        np.testing.assert_allclose(run.weights[lane].numpy(), W, atol=1e-10)
        np.testing.assert_allclose(run.readout[lane].numpy(), v, atol=1e-10)


def test_labels_and_inputs_are_centred_by_the_models_means():
    base = cases.correlated_model(N=12, D=6)
    moved = ge.GaussianModel(base.Omega, base.Phi, mean_x=np.full(12, 5.0), mean_c=np.full(6, -3.0))
    times = [0, 1, 3]
    plain, shifted = (
        simulation.simulate(cases.problem(m), m, times=times, seeds=3, test_samples=200) for m in (base, moved)
    )
    np.testing.assert_allclose(shifted.test_error, plain.test_error, rtol=1e-9)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_simulations_activations_are_those_of_the_theory(kind):
    z = np.linspace(-4, 4, 101)
    g, slope = (f(torch.from_numpy(z)).numpy() for f in FUNCTIONS[kind])
    case = kind()
    np.testing.assert_allclose(g, case(z), atol=1e-14)
    if kind is not Sign:
        np.testing.assert_allclose(slope, case.derivative(z), atol=1e-14)


def test_the_same_seed_gives_the_same_curve_and_seeds_are_independent():
    p = cases.problem()
    run = lambda seed, seeds: simulation.simulate(p, p.model, times=[0, 1, 2], seeds=seeds, seed=seed, test_samples=100)
    a, b, c, more = run(0, 3), run(0, 3), run(1, 3), run(0, 5)
    np.testing.assert_array_equal(a.data["test_errors"], b.data["test_errors"])
    assert not np.any(a.data["test_errors"].values == c.data["test_errors"].values)
    assert len(np.unique(a.data["test_errors"].values)) == 9
    np.testing.assert_allclose(more.data["test_errors"].values[:, :3], a.data["test_errors"].values, rtol=1e-12)


def test_the_curve_does_not_depend_on_where_it_is_looked_at():
    p = cases.problem()
    run = lambda times: simulation.simulate(p, p.model, times=times, seeds=2, test_samples=10)
    few, many = run([10.0]), run(np.linspace(0, 10, 14))
    np.testing.assert_allclose(few.data.Q.values[-1], many.data.Q.values[-1], rtol=1e-10)


def test_the_start_is_that_of_the_theory():
    p = cases.problem(K=2, M=3)
    theory, practice = (
        ge.predict(p, times=[0, 1]),
        simulation.simulate(p, p.model, times=[0, 1], seeds=2, test_samples=10),
    )
    for letter in ("Q", "R", "v"):
        np.testing.assert_allclose(practice.data[letter].values[0], theory.data[letter].values[0], atol=1e-12)
        np.testing.assert_allclose(practice.data[f"{letter}_se"].values[0], 0, atol=1e-15)
    np.testing.assert_allclose(practice.data["T"].values, theory.data["T"].values)


def test_test_error_is_that_of_the_order_parameters_on_gaussian_inputs():
    """On the twin, the measured error of the initial weights is the closed form, in standard errors."""
    p = cases.problem()
    practice = simulation.simulate(p, p.model, times=[0], seeds=20, test_samples=5_000)
    theory = ge.predict(p, times=[0])
    z = (practice.test_error - theory.test_error) / practice.data["test_error_se"].values
    assert np.abs(z).max() < 4.5


def test_float32_follows_float64():
    p = cases.problem()
    one, other = (
        simulation.simulate(p, p.model, times=[0, 5], seeds=2, test_samples=50, dtype=d)
        for d in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-4)


def test_a_generator_and_its_numpy_samples_are_the_same_stream():
    """`push` is used where there is one; through `sample` the same latents come."""

    class Plain:
        def __init__(self, generator):
            self.generator = generator
            self.latent_dim, self.input_dim = generator.latent_dim, generator.input_dim

        def sample(self, n, rng):
            return self.generator.sample(n, rng)

    F = generators.gaussian_matrix(30, 10)
    model, generator = ge.GaussianModel.single_layer(F), generators.single_layer(F)
    p = cases.problem(model)
    one, other = (
        simulation.simulate(p, g, times=[0, 3], seeds=2, test_samples=50) for g in (generator, Plain(generator))
    )
    np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-10)


def test_a_run_that_explodes_is_called_diverged():
    model = ge.GaussianModel.isotropic(20)
    p = ge.OnlineSGD(model, ge.TwoLayer.random(1, 20, "linear", 1), ge.TwoLayer.random(1, 20, "linear", 2), 50.0)
    practice = simulation.simulate(p, model, times=[0, 200], seeds=2, test_samples=10)
    assert practice.status[-1] is ge.Status.DIVERGED


class Recorder:
    """Gaussian inputs that remember the first latent of every draw."""

    def __init__(self, model):
        self.model, self.first = model, []
        self.latent_dim, self.input_dim = model.latent_dim, model.input_dim

    def sample(self, n, rng):
        latents, inputs = self.model.sample(n, rng)
        self.first.append(latents[0, 0])
        return latents, inputs


def test_no_draw_of_training_or_test_samples_is_repeated():
    """Every chunk of every seed, and every test set of every seed and time, has latents of its own."""
    p = cases.problem()
    recorder = Recorder(p.model)
    simulation.simulate(p, recorder, times=[0, 1, 5, 40], seeds=3, test_samples=1_500)
    assert len(recorder.first) > 4 * 3 * 3 + 3 * 4
    assert len(set(recorder.first)) == len(recorder.first)


def test_the_test_samples_are_not_training_samples_of_the_same_seed():
    p = cases.problem()
    source = _Source(p, p.model, 0, torch.float64, torch.device("cpu"))
    train, test = (source.draw(5, purpose, 0, 0)[0] for purpose in (Purpose.TRAIN, Purpose.TEST))
    assert not torch.isclose(train, test).any()


def test_label_noise_has_its_standard_deviation_and_a_stream_of_its_own():
    p = cases.problem(noise=0.5)
    source = _Source(p, p.model, 0, torch.float64, torch.device("cpu"))
    noise = source.noise(100_000, 0, 0).numpy()
    assert abs(noise.std() / 0.5 - 1) < 4.5 / np.sqrt(2 * len(noise))
    latents = p.model.sample(100, stream(0, Purpose.TRAIN))[0]
    assert not np.isclose(noise[:100, None] / 0.5, latents.ravel()[:2000]).any()


def test_standard_errors_are_those_of_the_mean_over_seeds():
    p = cases.problem()
    practice = simulation.simulate(p, p.model, times=[0, 2], seeds=5, test_samples=100)
    errors = practice.data["test_errors"].values
    np.testing.assert_allclose(practice.data["test_error_se"].values, errors.std(axis=1, ddof=1) / np.sqrt(5))
    np.testing.assert_allclose(practice.test_error, errors.mean(axis=1))
    single = simulation.simulate(p, p.model, times=[0, 2], seeds=1, test_samples=100)
    assert np.isnan(single.data["test_error_se"].values).all()


def test_times_are_rounded_to_whole_steps():
    p = cases.problem()
    N = p.model.input_dim
    run = lambda t: simulation.simulate(p, p.model, times=[t], seeds=2, test_samples=10).data.Q.values
    np.testing.assert_array_equal(run(99.6 / N), run(100 / N))
    assert not np.array_equal(run(99.4 / N), run(100 / N))


def test_wrong_calls_are_refused_in_a_sentence():
    p = cases.problem()
    with pytest.raises(InputError, match=r"the inputs have \(N, D\) = \(5, 5\); the model has \(60, 20\)"):
        simulation.simulate(p, ge.GaussianModel.isotropic(5), times=[0, 1])
    with pytest.raises(InputError, match="seeds=0; expected an integer of at least 1"):
        simulation.simulate(p, p.model, times=[0, 1], seeds=0)
    with pytest.raises(InputError, match="device 'tpu9' is not there"):
        simulation.simulate(p, p.model, times=[0, 1], device="tpu9")
    with pytest.raises(InputError, match=r"expected torch\.float32 or torch\.float64"):
        simulation.simulate(p, p.model, times=[0, 1], dtype="float32")
    with pytest.raises(InputError, match="expected a Generator or a GaussianModel"):
        simulation.simulate(p, np.eye(60), times=[0, 1])
    with pytest.raises(InputError, match="strictly increasing"):
        simulation.simulate(p, p.model, times=[1, 1])
    for unknown in (np.sin, erf):  # scipy's erf has the name of another function
        with pytest.raises(InputError, match="no torch form of the activation"):
            simulation.simulate(cases.problem(student=unknown), p.model, times=[0, 1])
