"""Minimisers against scikit-learn, conditions of optimality and each other; samples, labels, checkpoints, refusals."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC

import gaussequiv as ge
from gaussequiv import generators, simulation
from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import LOSSES
from gaussequiv.models.streams import Purpose
from gaussequiv.simulation import batch

SHAPES = [(40, 60), (60, 60), (150, 60)]
PENALTIES = list(np.array([1.0, 0.01]))


def data(n, N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, N)) * np.arange(1, N + 1) ** -0.3 / np.sqrt(N)
    field = x @ rng.standard_normal(N) * 3 + 0.3 * rng.standard_normal(n)
    return torch.from_numpy(x), torch.from_numpy(field)


def minimised(loss, x, y):
    return batch.minimised(loss, x, y, PENALTIES)


@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_is_that_of_scikit_learn(shape):
    x, y = data(*shape)
    w, left = minimised(LOSSES["square"], x, y)
    for found, penalty in zip(w, PENALTIES, strict=True):
        expected = Ridge(alpha=penalty, fit_intercept=False, tol=1e-12).fit(x.numpy(), y.numpy()).coef_
        np.testing.assert_allclose(found, expected, atol=1e-10)
    assert max(left) < 1e-11


@pytest.mark.parametrize("shape", SHAPES)
def test_logistic_regression_is_that_of_scikit_learn(shape):
    x, field = data(*shape)
    y = torch.sign(field)
    w, left = minimised(LOSSES["logistic"], x, y)
    for found, penalty in zip(w, PENALTIES, strict=True):
        model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-12, solver="newton-cg", max_iter=1000)
        np.testing.assert_allclose(found, model.fit(x.numpy(), y.numpy()).coef_[0], rtol=1e-5, atol=1e-6)
    assert max(left) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_the_hinge_loss_is_no_worse_than_that_of_scikit_learn_and_near_it(shape):
    """SVC adds an intercept: pairs of mirrored samples make it zero."""
    x, field = data(*shape)
    y = torch.sign(field)
    x, y = torch.cat([x, -x]), torch.cat([y, -y])
    w, left = minimised(LOSSES["hinge"], x, y)
    for found, penalty in zip(w, PENALTIES, strict=True):
        model = SVC(C=1 / penalty, kernel="linear", tol=1e-8).fit(x.numpy(), y.numpy())
        expected = torch.tensor(model.coef_[0])
        heights = [float(torch.relu(1 - y * (x @ v)).sum() + penalty / 2 * v @ v) for v in (found, expected)]
        assert heights[0] <= heights[1] * (1 + 1e-12)
        assert heights[0] == pytest.approx(heights[1], rel=1e-5)  # the accuracy of libsvm
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert max(left) < 1e-10


@pytest.mark.parametrize("name", ["huber", "squared-hinge", "logistic", "square"])
@pytest.mark.parametrize("shape", SHAPES)
def test_smooth_minima_have_no_gradient(name, shape):
    loss, (x, y) = LOSSES[name], data(*shape, seed=1)
    y = y if loss.of == "residual" else torch.sign(y)
    w, _ = minimised(loss, x, y)
    for found, penalty in zip(w, PENALTIES, strict=True):
        h = x @ found
        argument, sign = (y - h, -torch.ones_like(y)) if loss.of == "residual" else (y * h, y)
        slopes = torch.from_numpy(loss.slope(argument.numpy()))
        np.testing.assert_allclose(x.T @ (sign * slopes) + penalty * found, np.zeros(shape[1]), atol=1e-11)


@pytest.mark.parametrize("name", ["absolute", "hinge"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_direction_leads_down_from_a_minimum_with_kinks(name, shape):
    loss, (x, y) = LOSSES[name], data(*shape, seed=2)
    y = y if loss.of == "residual" else torch.sign(y)
    w, _ = minimised(loss, x, y)
    rng = np.random.default_rng(0)
    for found, penalty in zip(w, PENALTIES, strict=True):

        def height(v, penalty=penalty):
            h = x @ v
            return float(loss((y - h if loss.of == "residual" else y * h).numpy()).sum()) + penalty / 2 * float(v @ v)

        lowest = height(found)
        for _ in range(50):
            step = torch.from_numpy(rng.standard_normal(shape[1]))
            for size in (1e-4, 1e-2):
                assert height(found + size * step) >= lowest - 1e-12 * abs(lowest)


@pytest.mark.parametrize(
    ("name", "function", "of"),
    [
        ("hinge", lambda x: np.maximum(0, 1 - x), "margin"),
        ("absolute", np.abs, "residual"),
        ("huber", lambda r: np.where(np.abs(r) < 1, r**2 / 2, np.abs(r) - 0.5), "residual"),
        ("logistic", lambda x: np.logaddexp(0, -x), "margin"),
    ],
)
def test_a_loss_by_its_values_has_the_minimum_of_the_one_with_a_name(name, function, of):
    x, y = data(60, 30, seed=3)
    y = y if of == "residual" else torch.sign(y)
    one, left = minimised(Convex(function, of), x, y)
    other, _ = minimised(LOSSES[name], x, y)
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert max(left) < 1e-9


def test_no_penalty_is_the_solution_of_least_norm():
    x, y = data(20, 50)
    w, _ = batch.minimised(LOSSES["square"], x, y, [0.0])
    np.testing.assert_allclose(w[0], np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0], atol=1e-9)


# --- samples and labels ---


@pytest.fixture(scope="module")
def model():
    return ge.GaussianModel.single_layer(generators.gaussian_matrix(60, 30, 1), "relu")


def problem(model, output="sign", loss="logistic", noise=0.4, **options):
    theta = np.random.default_rng(0).standard_normal(options.pop("dim", model.latent_dim))
    return ge.FullBatch(model, ge.Perceptron(theta, output, noise), loss, 0.1, **options)


@pytest.mark.parametrize("output", ["linear", "sign", "logit", "probit"])
@pytest.mark.parametrize("teacher_on", ["latents", "inputs"])
def test_labels_have_the_correlation_with_the_field_that_theory_says(model, output, teacher_on):
    p = problem(model, output, "square", teacher_on=teacher_on, dim=30 if teacher_on == "latents" else 60)
    x, y = batch._Data(p, model, 0, torch.device("cpu")).draw(60_000, Purpose.TRAIN, 0)
    found = (x * y[:, None]).mean(0).numpy() * np.sqrt(60)
    total = p.resolvents.total
    slope = {"linear": 1.0, "sign": np.sqrt(2 / (np.pi * total)), "probit": np.sqrt(2 / (np.pi * total))}.get(output)
    if slope is None:
        z = np.random.default_rng(1).standard_normal(10**6) * np.sqrt(total)
        slope = np.mean(2 / (1 + np.exp(-z)) / (1 + np.exp(z)))
    errors = np.sqrt(np.diag(model.Omega) * float((y**2).mean()) / 60_000)
    score = (found - slope * p.field_covariance) / errors
    assert np.sqrt(np.mean(score**2)) < 1.4
    assert abs(float(x.mean())) < 0.01


def test_fewer_samples_are_the_first_of_more_and_every_seed_has_its_own(model):
    source = batch._Data(problem(model), model, 3, torch.device("cpu"))
    few, labels = source.draw(50, Purpose.TRAIN, 1)
    many, more = source.draw(1500, Purpose.TRAIN, 1)
    np.testing.assert_array_equal(few, many[:50])
    np.testing.assert_array_equal(labels, more[:50])
    for purpose, lane in ((Purpose.TRAIN, 2), (Purpose.TEST, 1)):
        assert abs(source.draw(50, purpose, lane)[0] - few).max() > 0.1


def test_points_of_a_grid_are_those_alone(model):
    p = problem(model)
    grid = simulation.simulate(p, model, alpha=[0.5, 2], penalty=[0.1, 1], seeds=3, test_samples=200)
    alone = simulation.simulate(p, model, alpha=[2], penalty=0.1, seeds=3, test_samples=200)
    for name in ("test_error", "train_loss", "q", "m", "norm", "test_error_se"):
        np.testing.assert_allclose(
            grid.data[name].sel(alpha=2.0, penalty=0.1), alone.data[name].sel(alpha=2.0), rtol=1e-7
        )
    paired = simulation.simulate(
        p, model, alpha=[0.5, 2], penalty=xr.DataArray([1.0, 0.1], dims="alpha"), seeds=3, test_samples=200
    )
    np.testing.assert_allclose(paired.test_error, [grid.test_error[0, 1], grid.test_error[1, 0]])
    np.testing.assert_array_equal(paired.penalty, [1.0, 0.1])


def test_what_is_measured_is_what_it_is_called(model):
    p = problem(model, "linear", "square")
    curve = simulation.simulate(p, model, alpha=[1.5], seeds=1, test_samples=300)
    source = batch._Data(p, model, 0, torch.device("cpu"))
    (x, y), (test, wanted) = source.draw(90, Purpose.TRAIN, 0), source.draw(300, Purpose.TEST, 0)
    a, b = x.numpy(), y.numpy()
    w = np.linalg.solve(a.T @ a + 0.1 * np.eye(60), a.T @ b)
    expected = {
        "test_error": np.mean((test.numpy() @ w - wanted.numpy()) ** 2),
        "train_error": np.mean((x.numpy() @ w - y.numpy()) ** 2),
        "train_loss": np.mean((x.numpy() @ w - y.numpy()) ** 2) / 2,
        "q": w @ model.Omega @ w / 60,
        "m": w @ p.field_covariance / np.sqrt(60),
        "norm": w @ w / 60,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(curve.data[name].values, [value], rtol=1e-9, err_msg=name)


OPTIONS = {"alpha": [0.5, 1, 1.5], "penalty": [0.1, 1.0], "seeds": 3, "test_samples": 100}


def stopped(p, inputs, path, fits, **options):
    """Interrupt a simulation after this many fits."""

    def stop(done, of):
        if done >= fits:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(p, inputs, **(OPTIONS | options), checkpoint=path, progress=stop)
    assert path.exists()


@pytest.mark.parametrize("fits", [2, 6, 10, 18])
def test_an_interrupted_simulation_goes_on_with_the_same_result(model, tmp_path, monkeypatch, fits):
    p, path = problem(model), tmp_path / "part.safetensors"
    whole = simulation.simulate(p, model, **OPTIONS)
    stopped(p, model, path, fits)
    found, minimised = [], batch.minimised
    monkeypatch.setattr(batch, "minimised", lambda *given: found.append(given) or minimised(*given))
    seen = []
    again = simulation.simulate(p, model, **OPTIONS, checkpoint=path, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 18) for done in range(fits + 2, 20, 2)]
    assert len(found) == len(seen)  # nothing that was done, in the middle of a seed or not, is done again
    assert not path.exists()
    assert again.data.drop_attrs().identical(whole.data.drop_attrs())


def test_a_checkpoint_is_written_inside_a_seed(model, tmp_path):
    path, seen = tmp_path / "part.safetensors", []
    options = {**OPTIONS, "seeds": 1, "checkpoint": path, "progress": lambda *_: seen.append(path.is_file())}
    simulation.simulate(problem(model), model, **options, checkpoint_every=0)
    assert seen == [True] * 3
    simulation.simulate(problem(model), model, **options)
    assert seen[3:] == [False] * 3


@pytest.mark.parametrize("every", [-1, float("nan"), "often", True, None])
def test_a_time_between_checkpoints_is_a_number(model, every):
    with pytest.raises(ge.InputError, match="checkpoint_every="):
        simulation.simulate(problem(model), model, **OPTIONS, checkpoint_every=every)


def measured(model, function, output="linear"):
    teacher = ge.MeasuredTeacher(0.01 * np.ones(60), 1.0, output, function)
    return ge.FullBatch(model, teacher, "square", 0.1)


def flat(model, theta, activation="erf"):
    """A problem whose inputs see nothing of the latents: its moments do not depend on the teacher's direction."""
    silent = ge.GaussianModel(model.Omega, 0 * model.Phi)
    if isinstance(activation, str):
        return ge.FullBatch(silent, ge.Perceptron(theta, "sign"), "logistic", 0.1)
    return ge.FullBatch(silent, ge.TwoLayer(theta[None], [1.0], activation), "square", 0.1)


UP, DOWN = np.eye(30)[0], np.eye(30)[1]
OTHERS = {
    "function": lambda m: [measured(m, lambda c, x: c[:, 0]), measured(m, lambda c, x: c[:, 1])],
    "classifier": lambda m: [measured(m, lambda c, x, k=k: c[:, 0] + k, "sign") for k in (0, 1e-4)],
    "network": lambda m: [measured(m, lambda c, x, k=k: np.tanh(x @ np.eye(60)[k])) for k in (0, 1)],
    "perceptron": lambda m: [flat(m, UP), flat(m, DOWN)],
    "two layers": lambda m: [flat(m, theta, np.tanh) for theta in (UP, DOWN)],
    "activation": lambda m: [flat(m, UP, lambda z, k=k: np.where(z > k, 1.0, 0.0)) for k in (0.01, 0.011)],
    "loss": lambda m: [
        problem(m, "linear", lambda r, k=k: np.where(np.abs(r) < k, r**2 / 2, k * np.abs(r) - k**2 / 2)) for k in (4, 5)
    ],
    "noise": lambda m: [problem(m, noise=noise) for noise in (0.3, 0.4)],
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_checkpoint_of_another_problem_is_refused(model, tmp_path, change):
    path = tmp_path / "part.safetensors"
    one, other = OTHERS[change](model)
    stopped(one, model, path, 2)
    with pytest.raises(ge.InputError, match="another simulation"):
        simulation.simulate(other, model, **OPTIONS, checkpoint=path)
    simulation.simulate(one, model, **OPTIONS, checkpoint=path)


@pytest.mark.parametrize("change", [{"seeds": 2}, {"alpha": [0.5, 1, 2]}, {"penalty": [0.1, 2.0]}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_refused(model, tmp_path, change):
    stopped(problem(model), model, tmp_path / "part.safetensors", 2)
    with pytest.raises(ge.InputError, match="another simulation"):
        simulation.simulate(problem(model), model, **(OPTIONS | change), checkpoint=tmp_path / "part.safetensors")


def test_sample_complexities_are_those_of_whole_samples(model):
    curve = simulation.simulate(problem(model), model, alpha=[0.503, 1.26], seeds=1, test_samples=10)
    np.testing.assert_array_equal(curve.alpha, [30 / 60, 76 / 60])
    with pytest.raises(ge.InputError, match=r"alpha=0.008 is no sample at all for N=60; expected at least 1 / N"):
        simulation.simulate(problem(model), model, alpha=[0.008, 1.0], seeds=1)
    with pytest.raises(ge.InputError, match=r"alpha=0.5 and 0.505 are both 30 samples for N=60; .*np.unique"):
        simulation.simulate(problem(model), model, alpha=[0.3, 0.5, 0.505, 1.0], seeds=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alpha": None}, "alpha=\\[0.5, 1, 2\\]"),
        ({"times": [1.0]}, "not at times"),
        ({"alpha": [-1]}, "alpha="),
        ({"penalty": -1.0}, "penalty=-1"),
        ({"penalty": float("nan")}, "penalty=nan"),
        ({"penalty": "optimal"}, "curve.data.penalty"),
        ({"penalty": xr.DataArray([1.0], dims="alpha")}, "expected one each"),
        ({"seeds": 0}, "seeds=0"),
        ({"device": "moon"}, "not there"),
        ({"dtype": torch.float32}, "leave dtype out"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, change, sentence):
    with pytest.raises(ge.InputError, match=sentence):
        simulation.simulate(problem(model), model, **({"alpha": [0.5, 1.0]} | change))


def test_inputs_of_another_size_and_teachers_without_labels_are_refused(model):
    with pytest.raises(ge.InputError, match="the model has N=60"):
        simulation.simulate(problem(model), ge.GaussianModel.isotropic(5), alpha=[1.0])
    measured = ge.FullBatch(model, ge.MeasuredTeacher(0.01 * np.ones(60), 1.0), "square", 1.0)
    with pytest.raises(ge.InputError, match="its function"):
        simulation.simulate(measured, model, alpha=[1.0])
    with pytest.raises(ge.InputError, match="Kernel has no inputs"):
        simulation.simulate(ge.Kernel([1.0], [1.0]), model, alpha=[1.0])
    nothing = ge.FullBatch(model, ge.Perceptron(np.ones(30)), "square")
    with pytest.raises(ge.InputError, match="no penalty"):
        simulation.simulate(nothing, model, alpha=[1.0])
