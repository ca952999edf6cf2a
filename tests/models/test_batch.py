"""Full-batch problems, their teachers and kernels, and their curves: shapes, refusals in one sentence, files and tables."""

import json

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.maths.convex import Convex

MODEL = ge.GaussianModel.isotropic(6)
THETA = np.array([1.0, -2.0, 0.5, 0.0, 1.0, 3.0])
GRID = {"alpha": [0.5, 1.0, 2.0]}


def batch(output="linear", noise=0.0, **options):
    return ge.FullBatch(MODEL, ge.Perceptron(THETA, output, noise), **options)


def online():
    return ge.OnlineSGD(MODEL, ge.TwoLayer.random(1, 6), ge.TwoLayer.random(1, 6), lr=0.1)


# --- refusals ---

PROBLEMS = {
    "a teacher with 5 weights": (
        lambda: ge.FullBatch(MODEL, ge.Perceptron(np.ones(5))),
        "5 weights; expected 6, the latents",
    ),
    "a teacher on inputs with 5 weights": (
        lambda: ge.FullBatch(MODEL, ge.Perceptron(np.ones(5)), teacher_on="inputs"),
        "5 weights; expected 6, the inputs",
    ),
    "five covariances": (lambda: ge.FullBatch(MODEL, ge.MeasuredTeacher(np.ones(5), 9.0)), "5 covariances; .* N=6"),
    "no model": (lambda: ge.FullBatch(3, ge.Perceptron(THETA)), "the model is an int; expected a GaussianModel"),
    "no teacher": (lambda: ge.FullBatch(MODEL, THETA), "the teacher is a ndarray; expected a Perceptron"),
    "another place": (lambda: batch(teacher_on="outputs"), "teacher_on='outputs'; expected 'latents' or 'inputs'"),
    "center=1": (lambda: batch(center=1), "center=1; expected True or False"),
    "center=False for signs": (lambda: batch("sign", center=False), "center=False is for the square loss on linear"),
    "center=False for huber": (lambda: batch(loss="huber", center=False), "center=False is for the square loss"),
    "center=False for a network": (
        lambda: ge.FullBatch(MODEL, ge.TwoLayer.random(2, 6), center=False),
        "center=False is for .* a Perceptron",
    ),
    "noise of a perceptron": (
        lambda: ge.FullBatch(MODEL, ge.Perceptron(THETA), noise=0.1),
        "noise is that",
    ),
    "negative noise": (lambda: ge.FullBatch(MODEL, ge.TwoLayer.random(2, 6), noise=-0.1), "noise=-0.1; expected"),
    "a negative penalty": (lambda: batch(penalty=-1), "penalty=-1; expected a non-negative finite number"),
    "a penalty that is true": (lambda: batch(penalty=True), "penalty=True; expected"),
    "an infinite penalty": (lambda: batch(penalty=np.inf), "penalty=inf; expected"),
    "the best penalty of a problem": (lambda: batch(penalty="optimal"), "penalty='optimal'; expected"),
    "an unknown loss": (
        lambda: batch(loss="mse"),
        "unknown loss 'mse'; expected one of square, logistic, .* convex function",
    ),
    "a number for a loss": (lambda: batch(loss=3), "the loss is an int; expected a name, a Loss or a convex function"),
    "a loss that is least at margin 0": (lambda: batch("sign", loss=np.square), "least at the margin 0, .* falls at 0"),
    "a loss that rises": (
        lambda: batch("sign", loss=lambda x: np.logaddexp(0, x)),
        "rises with the margin at 0: it prefers wrong labels",
    ),
    "a loss that is not convex": (lambda: batch("sign", loss=np.tanh), "the loss tanh is not convex: between"),
    "logistic on real labels": (
        lambda: batch(loss="logistic"),
        "logistic loss is one of labels .* the teacher's are real",
    ),
    "a margin loss on real labels": (lambda: batch(loss=Convex(np.exp, "margin")), "exp loss is one of labels"),
    "a network and hinge": (
        lambda: ge.FullBatch(MODEL, ge.TwoLayer.random(2, 6), "hinge"),
        "hinge loss is one of labels",
    ),
    "a network and huber": (
        lambda: ge.FullBatch(MODEL, ge.TwoLayer.random(2, 6), "huber"),
        "huber loss needs the law of labels.* use loss='square'",
    ),
    "two outputs": (lambda: ge.FullBatch(MODEL, ge.TwoLayer.random(2, 6, outputs=2)), "several outputs"),
    "a perceptron of nothing": (lambda: ge.Perceptron(np.zeros(3)), "all zero; expected a direction"),
    "a perceptron of a matrix": (lambda: ge.Perceptron(np.ones((2, 2))), r"shape \(2, 2\); expected \(D,\)"),
    "a perceptron of NaN": (lambda: ge.Perceptron([np.nan]), "NaN"),
    "a relu perceptron": (
        lambda: ge.Perceptron(THETA, "relu"),
        "output='relu'; expected one of linear, sign, logit, probit",
    ),
    "a perceptron of negative noise": (lambda: ge.Perceptron(THETA, "sign", -1.0), "noise=-1.0; expected"),
    "measured signs of square 2": (lambda: ge.MeasuredTeacher(THETA, 2.0, "sign"), "labels of .* have the square 1"),
    "a measured square of -1": (lambda: ge.MeasuredTeacher(THETA, -1.0), "square=-1.0; expected a positive"),
    "measured chances": (
        lambda: ge.MeasuredTeacher(THETA, 1.0, "logit"),
        "output='logit'; labels that were measured are",
    ),
    "a matrix of covariances": (lambda: ge.MeasuredTeacher(np.ones((2, 2)), 1.0), r"shape \(2, 2\); expected \(N,\)"),
    "negative eigenvalues": (
        lambda: ge.Kernel([1.0, -1.0], [1.0, 1.0]),
        "eigenvalues of a kernel are a vector of numbers",
    ),
    "no eigenvalue": (lambda: ge.Kernel([0.0], [0.0]), "not all of them 0"),
    "a matrix of eigenvalues": (lambda: ge.Kernel([[1.0]], [[1.0]]), "eigenvalues of a kernel are a vector"),
    "two coefficients": (lambda: ge.Kernel([1.0], [1.0, 2.0]), r"coefficients have shape \(2,\); expected \(1,\)"),
    "two multiplicities": (lambda: ge.Kernel([1.0], [1.0], [1.0, 2.0]), r"multiplicities have shape \(2,\); expected"),
    "no function": (lambda: ge.Kernel([1.0], [1.0], [0.0]), "a multiplicity is not positive"),
    "a coefficient of nothing": (lambda: ge.Kernel([1.0, 0.0], [1.0, 1.0]), "count its square in rest="),
    "no target": (lambda: ge.Kernel([1.0], [0.0]), "the target is zero"),
    "a negative rest": (lambda: ge.Kernel([1.0], [1.0], rest=-1.0), "rest=-1.0; expected"),
    "a negative kernel noise": (lambda: ge.Kernel([1.0], [1.0], noise=-1.0), "noise=-1.0; expected"),
    "hinge of a real kernel": (lambda: ge.Kernel([1.0], [1.0], loss="hinge"), "hinge loss is one of labels"),
    "a penalised kernel": (lambda: ge.Kernel([1.0], [1.0], penalty=-1.0), "penalty=-1.0; expected"),
    "another output of a kernel": (lambda: ge.Kernel([1.0], [1.0], output="x"), "output='x'; expected one of"),
    "an empty grid": (lambda: ge.log_grid(1, 1), "expected 0 < start < end"),
    "a grid of one": (lambda: ge.log_grid(1, 2, 1), "points=1; expected an integer of at least 2"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problems_that_are_none_are_refused_in_a_sentence(case):
    make, sentence = PROBLEMS[case]
    with pytest.raises(ge.InputError, match=sentence):
        make()


KERNEL = ge.Kernel([1.0, 0.5], [1.0, 0.5], penalty=0.1)
PREDICTIONS = {
    "no penalty": (batch(), GRID, "no penalty: pass penalty=0.01"),
    "penalty='best'": (
        batch(),
        GRID | {"penalty": "best"},
        "penalty='best'; expected a number, increasing numbers, or 'opt",
    ),
    "a negative penalty": (batch(), GRID | {"penalty": -1.0}, "penalty=-1.0; expected a non-negative"),
    "falling penalties": (batch(), GRID | {"penalty": [2, 1]}, r"penalty=\[2 1\]; expected finite numbers, at least 0"),
    "no penalties": (batch(), GRID | {"penalty": []}, r"penalty=\[\]; expected"),
    "no alpha": (batch(penalty=1), {}, r"a FullBatch is predicted at alpha; pass alpha=log_grid"),
    "alpha zero": (
        batch(penalty=1),
        {"alpha": [0.0, 1.0]},
        r"alpha=\[0. 1.\]; expected finite numbers, positive and incr",
    ),
    "a negative alpha": (batch(penalty=1), {"alpha": -1.0}, "alpha=-1.; expected"),
    "an alpha twice": (batch(penalty=1), {"alpha": [1, 1]}, r"alpha=\[1 1\]; expected"),
    "alphas that fall": (batch(penalty=1), {"alpha": [2, 1]}, r"alpha=\[2 1\]; expected"),
    "an infinite alpha": (batch(penalty=1), {"alpha": [np.inf]}, r"alpha=\[inf\]; expected"),
    "a matrix of alphas": (batch(penalty=1), {"alpha": [[1, 2]]}, "expected finite numbers"),
    "alpha in words": (batch(penalty=1), {"alpha": "much"}, "alpha='much'; expected"),
    "times of full batch": (batch(penalty=1), {"times": [1.0]}, "a FullBatch is predicted at alpha"),
    "times and alpha": (batch(penalty=1), GRID | {"times": [1.0]}, "a FullBatch is predicted at alpha"),
    "samples of full batch": (batch(penalty=1), {"samples": [10]}, "a FullBatch is predicted at alpha"),
    "alpha of a kernel": (KERNEL, {"alpha": [1.0]}, r"a Kernel is predicted at samples; pass samples=\[100, 1000\]"),
    "alpha of online learning": (online(), {"alpha": [1.0]}, "online learning has neither alpha nor a penalty"),
    "samples of online learning": (online(), {"samples": [1.0]}, "online learning has neither alpha"),
    "a penalty of online learning": (online(), {"times": [1.0], "penalty": 1.0}, "online learning has neither alpha"),
    "a number": (
        3,
        {"alpha": [1.0]},
        "a int cannot be predicted; expected an OnlineSGD, a Sweep, a FullBatch or a Kernel",
    ),
    "a teacher too easy to see": (
        ge.FullBatch(MODEL, ge.MeasuredTeacher(np.ones(6), 1.0), penalty=1),
        GRID,
        "the inputs explain 6 of the labels' field, which has the variance 1",
    ),
    "signs too easy to see": (
        ge.FullBatch(MODEL, ge.MeasuredTeacher(np.full(6, 0.4), 1.0, "sign"), penalty=1),
        GRID,
        "no Gaussian field has labels this easy",
    ),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_grids_that_are_none_are_refused_in_a_sentence(case):
    problem, options, sentence = PREDICTIONS[case]
    with pytest.raises(ge.InputError, match=sentence):
        ge.predict(problem, **options)


# --- what problems say of themselves ---


def test_the_spectrum_of_a_problem_is_that_of_its_definition():
    """omega, the part of the field along each mode and rho, with Psi and Phi in general position."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((12, 30))
    joint = root @ root.T / 30
    model, theta = ge.GaussianModel(joint[:8, :8], joint[:8, 8:], joint[8:, 8:]), rng.standard_normal(4)
    sums = ge.FullBatch(model, ge.Perceptron(theta, "probit", 0.5)).resolvents
    omega, E = np.linalg.eigh(joint[:8, :8])
    np.testing.assert_allclose(np.sort(sums.omega), omega, rtol=1e-12)
    tau = 8 * (E.T @ (joint[:8, 8:] @ theta / 2)) ** 2
    np.testing.assert_allclose(sums.parts[np.argsort(sums.omega)], tau / omega / 8, rtol=1e-9)
    assert sums.rho == pytest.approx(theta @ joint[8:, 8:] @ theta / 4)
    assert sums.noise == 1.25
    explained = (joint[:8, 8:] @ theta / 2) @ np.linalg.solve(joint[:8, :8], joint[:8, 8:] @ theta / 2)
    assert sums.seen == pytest.approx(explained)


def test_eigenvalues_that_are_rounding_count_as_none():
    F = np.random.default_rng(0).standard_normal((20, 5))
    problem = ge.FullBatch(ge.GaussianModel(F @ F.T, F), ge.Perceptron(np.ones(5)))
    assert (problem.resolvents.omega > 0).sum() == 5
    assert ge.thresholds(problem).interpolation == 0.25
    assert problem.resolvents.unseen == 0.0


def test_numbers_of_problems_cannot_be_changed():
    weights = np.ones(6)
    teacher = ge.Perceptron(weights)
    weights[0] = 5
    assert teacher.weights[0] == 1
    measured, kernel = ge.MeasuredTeacher(np.ones(6), 9.0), ge.Kernel([1.0], [1.0])
    for array in (teacher.weights, measured.covariance, kernel.eigenvalues, kernel.coefficients, kernel.multiplicities):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 3


def test_log_grids_hold_their_ends():
    grid = ge.log_grid(0.1, 10, 5)
    np.testing.assert_allclose(grid, [0.1, 10**-0.5, 1, 10**0.5, 10])
    assert len(ge.log_grid(1, 2)) == 50


# --- curves ---


def curves():
    yield "one penalty", ge.predict(batch("sign", 0.3, loss="hinge"), **GRID, penalty=0.1)
    yield "a grid", ge.predict(batch("linear", 0.3), **GRID, penalty=[0.0, 0.1])
    yield "the best", ge.predict(batch("linear", 0.3), **GRID, penalty="optimal")
    yield "a kernel", ge.predict(KERNEL, samples=[1, 10])


CURVES = dict(curves())


@pytest.mark.parametrize("case", CURVES)
def test_curves_are_loaded_as_they_were_saved(case, tmp_path):
    curve = CURVES[case]
    curve.save(tmp_path / "curve.nc")
    loaded = ge.Curve.load(tmp_path / "curve.nc")
    assert loaded.axes == curve.axes
    for name in curve.data.variables:
        np.testing.assert_array_equal(loaded.data[name].values, curve.data[name].values, err_msg=name)
    np.testing.assert_array_equal(loaded.status, curve.status)
    assert (loaded.provenance, loaded.reasons, loaded.message) == (curve.provenance, curve.reasons, curve.message)
    assert repr(loaded) == repr(curve)


@pytest.mark.parametrize("case", CURVES)
def test_a_table_has_one_row_a_point(case):
    curve = CURVES[case]
    table = curve.to_dataframe()
    assert len(table) == curve.test_error.size
    assert {"test_error", "train_loss", "train_error", "V", "q", "m", "norm", "status"} <= set(table)
    assert set(curve.axes) <= set(table)
    np.testing.assert_array_equal(table["test_error"], curve.test_error.ravel())
    assert list(table["status"]) == [str(s) for s in curve.status.ravel()]
    if case == "a grid":
        assert list(table["alpha"]) == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]
        assert list(table["penalty"]) == [0.0, 0.1] * 3
    if case == "the best":
        np.testing.assert_array_equal(table["penalty"], curve.penalty)


def test_curves_know_their_axes_and_say_what_they_are():
    one, grid, best, kernel = CURVES.values()
    assert (one.axes, grid.axes, best.axes, kernel.axes) == (("alpha",), ("alpha", "penalty"), ("alpha",), ("samples",))
    assert float(one.penalty) == 0.1
    np.testing.assert_array_equal(grid.penalty, [0.0, 0.1])
    np.testing.assert_array_equal(kernel.samples, [1, 10])
    with pytest.raises(ge.InputError, match="this curve has no time; its axes are alpha"):
        _ = one.times
    with pytest.raises(ge.InputError, match="this curve has no alpha; its axes are samples"):
        _ = kernel.alpha
    assert repr(one) == "Curve(theory, 3 alpha, all 3 points: reached the requested accuracy)"
    assert repr(grid).startswith(
        "Curve(theory, 3 alpha x 2 penalty, first at alpha = 1, penalty = 0: diverged: alpha = 1 is"
    )
    assert list(grid.reasons) == [(1, 0)]
    assert json.loads(json.dumps(one.provenance))["problem"]["loss"] == "hinge"
    assert one.provenance["thresholds"].keys() == {"interpolation", "separability"}
    assert grid.provenance["thresholds"].keys() == {"interpolation"}


def test_theory_of_exact_moments_has_no_standard_error_and_that_of_estimated_ones_an_unknown_one():
    np.testing.assert_array_equal(CURVES["one penalty"].data["test_error_se"], 0)
    model = ge.GaussianModel(np.eye(6), np.eye(6), standard_errors={"Omega": np.full((6, 6), 0.1)})
    curve = ge.predict(ge.FullBatch(model, ge.Perceptron(THETA), penalty=1), **GRID)
    assert np.isnan(curve.data["test_error_se"]).all()


def test_a_measured_teacher_that_seems_too_easy_by_chance_counts_as_linear_in_the_inputs():
    """A noiseless sign of the inputs: half of all measurements seem to explain more than all of it."""
    theta = np.random.default_rng(0).standard_normal(60)
    model = cases.correlated_model()
    exact = ge.FullBatch(model, ge.Perceptron(theta, "sign"), "logistic", 0.1, teacher_on="inputs")
    expected = ge.predict(exact, alpha=[1.0, 3.0]).test_error
    seen = []
    for seed in range(6):
        inputs = model.sample(4_000, seed)[1]
        y = np.sign(inputs @ theta)
        error = (inputs * y[:, None]).std(0) / np.sqrt(len(y))
        measured = ge.MeasuredTeacher(inputs.T @ y / len(y), 1.0, "sign", standard_error=error)
        problem = ge.FullBatch(model, measured, "logistic", 0.1)
        seen.append(problem.resolvents.seen)
        np.testing.assert_allclose(ge.predict(problem, alpha=[1.0, 3.0]).test_error, expected, atol=0.02)
        without = ge.MeasuredTeacher(measured.covariance, 1.0, "sign")
        if problem.unlearnable == 0:
            with pytest.raises(ge.InputError, match="no Gaussian field has labels this easy"):
                _ = ge.FullBatch(model, without, "logistic", 0.1).resolvents
    assert max(seen) <= 1 + 1e-12
    assert sum(value > 1 - 1e-9 for value in seen) >= 1
    far = ge.MeasuredTeacher(2 * measured.covariance, 1.0, "sign", standard_error=error)
    with pytest.raises(ge.InputError, match="no Gaussian field has labels this easy"):
        _ = ge.FullBatch(model, far, "logistic", 0.1).resolvents
