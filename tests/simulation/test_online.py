"""The simulation: block by block it is plain SGD, its streams are independent, and it refuses what it cannot do."""

import dataclasses

import numpy as np
import pytest
import torch

import cases
import gaussequiv as ge
import oracles
from gaussequiv import generators, simulation
from gaussequiv.errors import InputError
from gaussequiv.maths.activations import Activation, Custom, Sign
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.simulation.blocks import Rule
from gaussequiv.simulation.compiled import KINDS, coefficients_of, value_and_slope
from gaussequiv.simulation.functions import functions
from gaussequiv.simulation.samples import Source
from gaussequiv.simulation.training import Run

CPU = torch.device("cpu")


def outputs_of(units, dim, outputs, activation="erf", seed=0):
    return ge.TwoLayer.random(units, dim, activation, seed, readout="gaussian", outputs=outputs)


def training_samples(problem, source, run, steps, lane):
    """The first samples of a seed and their noisy labels, as the run draws them."""
    b = problem.batch_size
    n = run.per_chunk * b
    x, y = [], []
    for chunk in range(-(-steps * b // n)):
        drawn, labels = source.draw(n, Purpose.TRAIN, lane, chunk)
        x.append(drawn)
        y.append(labels + problem.noise * source.noise(n, lane, chunk))
    return torch.cat(x)[: steps * b].numpy(), torch.cat(y)[: steps * b].numpy()


def assert_plain_loop(problem, steps, compiled, monkeypatch):
    """Every seed of a run is the naive loop over its own samples."""
    monkeypatch.setattr(Rule, "fastest", classmethod(lambda cls, *arguments: cls(*arguments, compiled=compiled)))
    source = Source(problem, problem.model, 7, torch.float64, CPU)
    run = Run([problem], source, seeds=2)
    run.advance(steps, lambda: None)
    g = problem.student.activation
    lr_readout = (problem.lr if problem.lr_readout is None else problem.lr_readout) if problem.train_readout else 0.0
    slope = np.zeros_like if isinstance(g, Sign) else g.derivative
    for lane in range(2):
        x, y = training_samples(problem, source, run, steps, lane)
        start, rates = problem.student, (problem.lr, lr_readout)
        W, v = oracles.sgd(
            start.weights, start.readout, x, y, *rates, problem.batch_size, problem.weight_decay, g, slope
        )
        weights, readouts = run.state[1][0]
        np.testing.assert_allclose(weights[lane, 0].numpy(), W, atol=1e-9)
        np.testing.assert_allclose(readouts[lane, 0].numpy(), v, atol=1e-9)
        assert not np.allclose(v, start.readout.reshape(v.shape), atol=1e-3) or not problem.train_readout


def falling(t):
    return 0.7 / (1 + t)


def rising(t):
    return 0.1 * t


OPTIONS = {
    "plain": {},
    "batches": {"batch_size": 3},
    "large batches": {"batch_size": 100, "weight_decay": 0.3},
    "batches of more than a chunk": {"batch_size": 700},
    "decay": {"weight_decay": 0.8},
    "everything": {"weight_decay": 0.8, "batch_size": 2, "noise": 0.3, "lr_readout": 0.05},
    "readout fixed": {"train_readout": False},
    "teacher on inputs": {"teacher_on": "inputs"},
    "schedule": {"lr": falling},
    "two schedules": {"lr": falling, "lr_readout": rising, "weight_decay": 0.4, "batch_size": 2},
    "schedule of the readout": {"lr_readout": falling, "noise": 0.2},
    "not centred": {"center": False},
}


@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "torch"])
@pytest.mark.parametrize("options", OPTIONS)
def test_blocks_are_the_plain_loop(options, compiled, monkeypatch):
    base = cases.correlated_model(N=20, D=10)
    model = ge.GaussianModel(base.Omega, base.Phi, mean_x=np.full(20, 0.3), mean_c=np.full(10, -0.2))
    problem = cases.problem(model, **{"K": 3, "lr": 0.7, **OPTIONS[options]})
    steps = 600 // max(1, problem.batch_size // 3)
    assert_plain_loop(problem, steps, compiled, monkeypatch)


@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "torch"])
@pytest.mark.parametrize("options", ["plain", "large batches", "everything", "two schedules", "readout fixed"])
def test_several_outputs_are_the_plain_loop(options, compiled, monkeypatch):
    model = cases.correlated_model(N=20, D=10)
    teacher, student = outputs_of(2, 10, 3), outputs_of(4, 20, 3, "tanh", 1)
    problem = ge.OnlineSGD(model, teacher, student, **{"lr": 0.5, **OPTIONS[options]})
    assert_plain_loop(problem, 300, compiled, monkeypatch)


@pytest.mark.parametrize(
    ("case", "compiled"),
    [(g, False) for g in cases.ACTIVATIONS] + [(g, True) for g in cases.ACTIVATIONS if type(g) in KINDS],
    ids=lambda x: {True: "kernel", False: "torch"}.get(x) if isinstance(x, bool) else cases.name(x),
)
def test_every_activation_learns_by_the_plain_loop(case, compiled, monkeypatch):
    """In torch, and all but functions of the user's own in the kernel."""
    problem = cases.problem(cases.correlated_model(N=20, D=10), student=case, teacher=case, lr=0.02, batch_size=2)
    assert_plain_loop(problem, 200, compiled, monkeypatch)


def test_a_torch_function_is_used_itself_and_its_slope_is_that_of_autograd(monkeypatch):
    soft = generators.activation(lambda z: torch.tanh(z) * z)
    problem = cases.problem(cases.correlated_model(N=20, D=10), student=soft, teacher=soft, lr=0.1)
    assert functions(soft, CPU)[0] is soft.function.torch
    assert_plain_loop(problem, 200, False, monkeypatch)


def test_labels_and_inputs_are_centred_by_the_models_means():
    base = cases.correlated_model(N=12, D=6)
    moved = ge.GaussianModel(base.Omega, base.Phi, mean_x=np.full(12, 5.0), mean_c=np.full(6, -3.0))
    times = [0, 1, 3]
    plain, shifted = (
        simulation.simulate(cases.problem(m), m, times=times, seeds=3, test_samples=200) for m in (base, moved)
    )
    np.testing.assert_allclose(shifted.test_error, plain.test_error, rtol=1e-9)


@cases.each([*cases.ACTIVATIONS, generators.activation(torch.arctan), generators.activation(torch.sign)])
def test_the_simulations_activations_are_those_of_the_theory(case):
    z = np.linspace(-4, 4, 101)
    g, slope = (f(torch.from_numpy(z)).numpy() for f in functions(case, CPU))
    np.testing.assert_allclose(g, case(z), atol=1e-14)
    if case.name != "sign":
        np.testing.assert_allclose(slope, case.derivative(z), atol=1e-14)


@cases.each([case for case in cases.ACTIVATIONS if type(case) in KINDS])
def test_the_kernels_activations_are_those_of_torch(case):
    z = np.concatenate([np.linspace(-4, 4, 41), [0.0, -800.0, 800.0]])
    coefficients = coefficients_of(case)
    kernel = np.array([value_and_slope(KINDS[type(case)], coefficients, float(one)) for one in z])
    for mine, torchs in zip(kernel.T, functions(case, CPU), strict=True):
        np.testing.assert_allclose(mine, torchs(torch.from_numpy(z)).numpy(), rtol=1e-12, atol=1e-14)


def test_a_torch_function_without_a_gradient_has_slope_zero():
    step = generators.activation(lambda z: (z > 0).to(z.dtype))
    z = torch.linspace(-1, 1, 5)
    value, slope = functions(step, CPU)
    assert value(z).tolist() == [0, 0, 0, 1, 1]
    assert slope(z).tolist() == [0] * 5


def test_samples_are_raw_where_they_are_not_centred():
    base = cases.correlated_model(N=12, D=6)
    model = ge.GaussianModel(base.Omega, base.Phi, mean_x=np.full(12, 5.0), mean_c=np.full(6, -3.0))
    p = cases.problem(model, center=False)
    x, y = Source(p, model, 0, torch.float64, CPU).draw(50, Purpose.TRAIN, 1, 2)
    latents, inputs = model.sample(50, stream(0, Purpose.TRAIN, chunk=2, lane=1))
    np.testing.assert_allclose(x.numpy(), inputs)
    np.testing.assert_allclose(y[:, 0].numpy(), p.teacher(latents))


def test_a_teacher_may_be_any_function():
    p = cases.problem(teacher=np.sin)
    _, y = Source(p, p.model, 0, torch.float64, CPU).draw(50, Purpose.TRAIN, 0, 0)
    latents, _ = p.model.sample(50, stream(0, Purpose.TRAIN))
    np.testing.assert_allclose(y[:, 0].numpy(), p.teacher(latents))


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


@pytest.mark.parametrize("white", [True, False])
def test_the_twin_is_made_on_the_device_from_the_samples_of_the_model(white):
    base = cases.correlated_model(N=12, D=6)
    Psi = None if white else np.diag(np.linspace(1, 2, 6))
    model = ge.GaussianModel(base.Omega, base.Phi, Psi, mean_x=np.full(12, 2.0), mean_c=np.full(6, -1.0))
    p = cases.problem(model)
    samples = [
        Source(p, inputs, 0, torch.float64, CPU).draw(50, Purpose.TEST, 1, 2) for inputs in (model, Recorder(model))
    ]
    for one, other in zip(*samples, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-12)


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
    source = Source(p, p.model, 0, torch.float64, CPU)
    train, test = (source.draw(5, purpose, 0, 0)[0] for purpose in (Purpose.TRAIN, Purpose.TEST))
    assert not torch.isclose(train, test).any()


def test_label_noise_has_unit_variance_and_a_stream_of_its_own():
    p = cases.problem()
    p = dataclasses.replace(p, teacher=outputs_of(2, 20, 2), student=outputs_of(2, 60, 2))
    source = Source(p, p.model, 0, torch.float64, CPU)
    noise = source.noise(100_000, 0, 0).numpy()
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=4.5 * np.sqrt(2 / len(noise)))
    latents = p.model.sample(100, stream(0, Purpose.TRAIN))[0]
    assert not np.isclose(noise[:100, :1], latents.ravel()[:2000]).any()


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
    with pytest.raises(
        InputError, match=r"the derivative of sin is needed here; pass it: Custom\(function, derivative\)"
    ):
        simulation.simulate(cases.problem(student=np.sin), p.model, times=[0, 1])
    with pytest.raises(InputError, match=r"Custom\(sin\) is a NumPy function and the simulation runs on meta"):
        functions(Custom(np.sin, np.cos), torch.device("meta"))
    with pytest.raises(InputError, match="no torch form of the activation"):
        functions(Unknown(), CPU)


class Unknown(Activation):
    name = "unknown"

    def __call__(self, z):
        return z

    def derivative(self, z):
        return z


# --- several problems at once ---


def variants(model=None):
    base = cases.problem(model, noise=0.1)
    change = lambda **options: dataclasses.replace(base, **options)
    wide = ge.TwoLayer.random(4, base.model.input_dim, "erf", 9)
    return (
        base,
        change(lr=0.05, noise=0.0),
        change(student=wide, weight_decay=0.3),
        change(lr=falling),
        change(student=dataclasses.replace(wide, activation="relu"), lr=0.1, train_readout=False),
        change(batch_size=3, lr_readout=0.02),
        change(student=dataclasses.replace(base.student, weights=2 * base.student.weights)),
        change(student=dataclasses.replace(base.student, activation=Custom(np.sin, np.cos))),
        change(student=dataclasses.replace(base.student, activation=generators.activation(torch.tanh))),
    )


def test_a_problem_has_the_same_result_alone_and_with_others():
    problems = variants()
    options = {"times": [0, 1, 7], "seeds": 2, "test_samples": 300}
    together = simulation.simulate_many(problems, problems[0].model, **options)
    assert len(together) == len(problems)
    for problem, curve in zip(problems, together, strict=True):
        alone = simulation.simulate(problem, problem.model, **options)
        assert set(alone.data) == set(curve.data)
        for name in ("test_errors", "classification_error", "Q", "R", "v"):
            np.testing.assert_allclose(curve.data[name].values, alone.data[name].values, rtol=1e-9, atol=1e-12)
        assert curve.provenance == alone.provenance
    ends = [curve.test_error[-1] for curve in together]
    assert len(np.unique(np.round(ends, 6))) == len(ends)


def test_inputs_are_drawn_once_for_all_problems():
    problems = [p for p in variants() if p.batch_size == 1]
    one, many = Recorder(problems[0].model), Recorder(problems[0].model)
    simulation.simulate(problems[0], one, times=[0, 3], seeds=2, test_samples=50)
    simulation.simulate_many(problems, many, times=[0, 3], seeds=2, test_samples=50)
    assert one.first == many.first


def test_a_problem_may_come_twice():
    p = cases.problem()
    one, two = simulation.simulate_many((p, p), p.model, times=[1], seeds=2, test_samples=50)
    np.testing.assert_array_equal(one.data["test_errors"], two.data["test_errors"])


@pytest.mark.parametrize("name", ["model", "teacher", "teacher_on", "center"])
def test_problems_that_share_no_stream_are_refused(name):
    p = cases.problem(ge.GaussianModel.isotropic(20))
    other = {
        "model": ge.GaussianModel.isotropic(20),
        "teacher": ge.TwoLayer.random(2, 20, "erf", 5),
        "teacher_on": "inputs",
        "center": False,
    }
    with pytest.raises(InputError, match=f"problem 2 has another {name} than the first"):
        simulation.simulate_many((p, dataclasses.replace(p, **{name: other[name]})), p.model, times=[1])


def test_no_problem_and_no_problems_are_refused():
    with pytest.raises(InputError, match="no problem was given"):
        simulation.simulate_many((), ge.GaussianModel.isotropic(3), times=[1])
    with pytest.raises(InputError, match="a problem is an int; expected an OnlineSGD"):
        simulation.simulate_many((3,), ge.GaussianModel.isotropic(3), times=[1])


# --- what is measured ---


def exact(teacher_readout, student_readout, dim=12):
    """A student with the teacher's first layer, at its start: its errors are known."""
    model = ge.GaussianModel.isotropic(dim)
    weights = ge.TwoLayer.random(2, dim, "tanh", 3).weights
    teacher, student = (ge.TwoLayer(weights, np.array(v), "tanh") for v in (teacher_readout, student_readout))
    return ge.OnlineSGD(model, teacher, student, 0.1)


def test_classification_error_of_a_student_that_is_the_teacher_its_double_and_its_negative():
    run = lambda *readouts: simulation.simulate(p := exact(*readouts), p.model, times=[0], seeds=2, test_samples=200)
    for student, expected in (([1.0, -0.5], 0.0), ([2.0, -1.0], 0.0), ([-1.0, 0.5], 1.0)):
        curve = run([1.0, -0.5], student)
        np.testing.assert_array_equal(curve.data["classification_error"].values, [expected])
        np.testing.assert_array_equal(curve.data["classification_error_se"].values, [0.0])
    swapped = run([[1.0, 0.2], [0.3, 1.0]], [[0.2, 1.0], [1.0, 0.3]])  # the two outputs exchanged
    np.testing.assert_array_equal(swapped.data["classification_error"].values, [1.0])
    scaled = run([[1.0, 0.2], [0.3, 1.0]], [[3.0, 0.6], [0.9, 3.0]])
    np.testing.assert_array_equal(scaled.data["classification_error"].values, [0.0])


def test_classification_error_of_two_directions_is_their_angle_over_pi():
    dim, angle = 40, 0.7
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, 2)))[0].T
    teacher = ge.TwoLayer(basis[:1], np.ones(1), "linear")
    student = ge.TwoLayer(np.cos(angle) * basis[:1] + np.sin(angle) * basis[1:], np.ones(1), "linear")
    model = ge.GaussianModel.isotropic(dim)
    curve = simulation.simulate(
        ge.OnlineSGD(model, teacher, student, 0.1), model, times=[0], seeds=20, test_samples=2_000
    )
    z = (curve.data["classification_error"].values - angle / np.pi) / curve.data["classification_error_se"].values
    assert np.abs(z).max() < 4.5


def test_the_test_error_of_several_outputs_is_summed_over_them():
    model = ge.GaussianModel.isotropic(10)
    teacher, student = outputs_of(2, 10, 3), outputs_of(3, 10, 3, seed=1)
    together = simulation.simulate(ge.OnlineSGD(model, teacher, student, 0.1), model, times=[0], test_samples=500)
    column = lambda network, o: dataclasses.replace(network, readout=network.readout[:, o])
    single = [
        simulation.simulate(
            ge.OnlineSGD(model, column(teacher, o), column(student, o), 0.1), model, times=[0], test_samples=500
        )
        for o in range(3)
    ]
    np.testing.assert_allclose(together.test_error, sum(curve.test_error for curve in single))
    assert together.data["v"].dims == ("time", "unit", "output")


def test_means_of_the_fields_are_measured_where_inputs_are_not_centred():
    base = cases.correlated_model(N=12, D=6)
    model = ge.GaussianModel(base.Omega, base.Phi, mean_x=np.linspace(-1, 1, 12), mean_c=np.full(6, 0.5))
    p = cases.problem(model, center=False)
    curve = simulation.simulate(p, model, times=[0, 2], seeds=3, test_samples=50)
    np.testing.assert_allclose(curve.data["means"].values[0], p.student.weights @ model.mean_x / np.sqrt(12))
    assert curve.data["means"].dims == ("time", "unit")
    assert (curve.data["means_se"].values[1] > 0).all()
    centred = simulation.simulate(cases.problem(model), model, times=[0, 2], seeds=3, test_samples=50)
    assert "means" not in centred.data


# --- interrupted and resumed ---


class Interrupt:
    """A progress callback that interrupts the run after some calls."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, done, of):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("calls", [1, 4, 9, 12])
def test_an_interrupted_run_continues_to_the_same_numbers(calls, tmp_path):
    problems = variants()
    options = {"times": [0, 3, 11, 12], "seeds": 2, "test_samples": 100}
    whole = simulation.simulate_many(problems, problems[0].model, **options)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate_many(problems, problems[0].model, **options, checkpoint=path, progress=Interrupt(calls))
    assert path.is_file()
    resumed = simulation.simulate_many(problems, problems[0].model, **options, checkpoint=path)
    for one, other in zip(whole, resumed, strict=True):
        assert one.data.identical(other.data)
    assert not path.exists()


def test_a_resumed_run_does_not_repeat_what_is_done(tmp_path):
    p = cases.problem()
    options = {"times": [0, 30, 60], "seeds": 2, "test_samples": 100, "checkpoint": tmp_path / "run.safetensors"}
    first, second = Recorder(p.model), Recorder(p.model)
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(p, first, **options, progress=Interrupt(6))
    simulation.simulate(p, second, **options)
    latents = lambda recorder: set(recorder.first[1:])  # without the fingerprint
    assert len(latents(first) & latents(second)) <= 2  # one chunk of each seed
    assert len(latents(first)) > 2


def test_a_checkpoint_is_written_now_and_then(tmp_path):
    p, path, seen = cases.problem(), tmp_path / "run.safetensors", []
    options = {"times": [0, 30], "seeds": 2, "test_samples": 10, "checkpoint": path}
    simulation.simulate(p, p.model, **options, checkpoint_every=0, progress=lambda *_: seen.append(path.is_file()))
    assert all(seen)
    assert not path.exists()
    seen.clear()
    simulation.simulate(p, p.model, **options, progress=lambda *_: seen.append(path.is_file()))
    assert not any(seen)


CHANGES = {
    "rate": {"lr": 0.2},
    "schedule": {"lr": falling},
    "schedule of the same name": {"lr": lambda t: 0.4 if t < 20 else 0.2},
    "noise": {"noise": 0.3},
    "model": {"model": cases.correlated_model(seed=1)},
    "student": {"student": ge.TwoLayer.random(2, 60, "erf", 8)},
    "seed": {"seed": 1},
    "seeds": {"seeds": 3},
    "times": {"times": [0, 31]},
    "test samples": {"test_samples": 11},
    "precision": {"dtype": torch.float32},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_simulation_is_refused(change, tmp_path):
    p, path = cases.problem(lr=lambda t: 0.4), tmp_path / "run.safetensors"
    options = {"times": [0, 30], "seeds": 2, "test_samples": 10, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(p, p.model, **options, progress=Interrupt(2))
    fields = [field.name for field in dataclasses.fields(p)]
    other = dataclasses.replace(p, **{name: value for name, value in CHANGES[change].items() if name in fields})
    options |= {name: value for name, value in CHANGES[change].items() if name not in fields}
    with pytest.raises(InputError, match="is the checkpoint of another simulation"):
        simulation.simulate(other, p.model, **options)


def custom(threshold=1.0, slope=1.0):
    return Custom(lambda z: np.where(z > threshold, 1.0, np.tanh(z)), lambda z: slope / np.cosh(z) ** 2)


FUNCTIONS = {
    "a step later": ({"lr": lambda t: 0.4 if t < 14.99 else 0.2}, {"lr": lambda t: 0.4 if t < 15.01 else 0.2}),
    "activation": ({"activation": custom()}, {"activation": custom(1.01)}),
    "far away": ({"activation": custom(5.0)}, {"activation": custom(6.0)}),
    "slope": ({"activation": custom()}, {"activation": custom(slope=1.1)}),
}


@pytest.mark.parametrize("change", FUNCTIONS)
def test_a_checkpoint_with_another_function_is_refused(change, tmp_path):
    def given(activation="erf", lr=0.2):
        p = cases.problem()
        student = ge.TwoLayer(p.student.weights, p.student.readout, activation)
        return dataclasses.replace(p, student=student, lr=lr)

    options = {"times": [0, 30], "seeds": 2, "test_samples": 10, "checkpoint": tmp_path / "run.safetensors"}
    one, other = (given(**change) for change in FUNCTIONS[change])
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(one, one.model, **options, progress=Interrupt(2))
    with pytest.raises(InputError, match="is the checkpoint of another simulation"):
        simulation.simulate(other, one.model, **options)


@pytest.mark.parametrize("every", [-1, float("nan"), "often", True])
def test_a_time_between_checkpoints_is_a_number(every):
    p = cases.problem()
    with pytest.raises(InputError, match="checkpoint_every="):
        simulation.simulate(p, p.model, times=[0, 1], checkpoint_every=every)


def test_a_checkpoint_of_other_inputs_is_refused(tmp_path):
    F = generators.gaussian_matrix(30, 10)
    p, path = cases.problem(ge.GaussianModel.single_layer(F)), tmp_path / "run.safetensors"
    options = {"times": [0, 30], "seeds": 2, "test_samples": 10, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(p, generators.single_layer(F), **options, progress=Interrupt(2))
    with pytest.raises(InputError, match="is the checkpoint of another simulation"):
        simulation.simulate(p, generators.single_layer(1.1 * F, "erf"), **options)
