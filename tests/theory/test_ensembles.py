"""Random initial weights: closed expectations at the start, the law of large N, the same as drawing by hand."""

from dataclasses import replace

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.theory.ensembles import students


def test_the_start_has_the_closed_expectation_and_spread_of_gaussian_weights():
    """E Q = s^2 tr Omega / N, var Q_kl = s^4 (1 + delta_kl) tr Omega^2 / N^2, E R = 0, var R = s^2 |b|^2 / N."""
    problem, scale, draws = cases.problem(cases.correlated_model("spread"), 2, 2), 0.7, 400
    drawn = students(problem.student, draws, seed=3, scale=scale, readout="given")
    found = [problem.order_parameters(s.weights, s.readout) for s in drawn]
    Omega, N = problem.model.Omega, problem.model.input_dim
    Q, R = np.stack([o.Q for o in found]), np.stack([o.R for o in found])
    spread = scale**2 * np.sqrt(np.sum(Omega**2)) / N * np.sqrt(1 + np.eye(2))
    assert np.abs((Q.mean(0) - scale**2 * np.trace(Omega) / N * np.eye(2)) / spread).max() < 4 / np.sqrt(draws)
    np.testing.assert_allclose(Q.std(0), spread, rtol=4 / np.sqrt(draws))
    sd_R = scale * np.sqrt(np.sum(problem.covariance_with_teacher**2, axis=0) / N)
    assert np.abs(R.mean(0) / sd_R).max() < 4 / np.sqrt(draws)
    np.testing.assert_allclose(R.std(0), np.tile(sd_R, (2, 1)), rtol=4 / np.sqrt(draws))


def test_an_ensemble_is_the_mean_and_spread_of_the_curves_of_its_students():
    problem, times = cases.problem(K=2, M=1), [0.0, 0.5, 3.0]
    curve = ge.ensemble(problem, times, draws=4, seed=5, scale=0.5, readout="gaussian")
    drawn = students(problem.student, 4, seed=5, scale=0.5, readout="gaussian")
    each = [ge.predict(replace(problem, student=s), times=times, rtol=1e-4) for s in drawn]
    np.testing.assert_allclose(curve.data["test_errors"].values.T, [c.test_error for c in each], rtol=1e-11)
    for name in ("test_error", "Q", "R", "v"):
        values = np.stack([c.data[name].values for c in each])
        np.testing.assert_allclose(curve.data[name].values, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(curve.data[f"{name}_sd"].values, values.std(0, ddof=1), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(curve.data[f"{name}_se"].values, curve.data[f"{name}_sd"].values / 2)
    assert curve.data["Q_sd"].dims == curve.data["Q"].dims
    assert curve.provenance["kind"] == "ensemble"


@pytest.mark.slow
def test_an_ensemble_does_not_depend_on_the_number_of_its_workers():
    problem, done = cases.problem(K=2, M=1), []
    one = ge.ensemble(problem, [0.0, 1.0], draws=3)
    two = ge.ensemble(problem, [0.0, 1.0], draws=3, workers=2, progress=done.append)
    np.testing.assert_array_equal(one.data["test_errors"], two.data["test_errors"])
    assert done == [1, 2, 3]


def test_curves_of_large_inputs_concentrate_as_one_over_the_root_of_their_number():
    spread = []
    for N in (50, 800):
        problem = cases.problem(ge.GaussianModel.isotropic(N), K=2, M=2, train_readout=False)
        data = ge.ensemble(problem, [0.0, 2.0], draws=30, readout="ones").data
        spread.append([np.mean(data[name].values) for name in ("Q_sd", "R_sd")])
    np.testing.assert_allclose(np.array(spread[0]) / spread[1], 4, rtol=0.3)


def test_draws_are_nested_seeds_differ_and_no_draw_is_the_teacher():
    problem = cases.problem(ge.GaussianModel.isotropic(30), K=2, M=2)
    few, many, other = (
        students(problem.student, n, seed=s, scale=1.0, readout="given") for n, s in ((2, 1), (4, 1), (4, 2))
    )
    np.testing.assert_array_equal(few[1].weights, many[1].weights)
    weights = [s.weights for s in (*many, *other)] + [problem.teacher.weights]
    assert len({w.tobytes() for w in weights}) == len(weights)
    np.testing.assert_array_equal(few[0].readout, problem.student.readout)


def test_a_draw_that_diverges_marks_the_mean(tmp_path):
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(model, teacher, student, lr=2.5, train_readout=False)
    curve = ge.ensemble(problem, [0.0, 200.0], draws=2)
    assert list(curve.status) == [ge.Status.OK, ge.Status.DIVERGED]
    assert np.isnan(curve.test_error[1])
    curve.save(tmp_path / "curve.nc")
    assert ge.Curve.load(tmp_path / "curve.nc").data.equals(curve.data)


def test_wrong_calls_are_refused_in_a_sentence():
    problem = cases.problem()
    with pytest.raises(InputError, match="draws=1; expected an integer of at least 2"):
        ge.ensemble(problem, [0, 1], draws=1)
    with pytest.raises(InputError, match="readout='zeros'"):
        ge.ensemble(problem, [0, 1], readout="zeros")
    with pytest.raises(InputError, match="scale=-1"):
        ge.ensemble(problem, [0, 1], scale=-1)
    with pytest.raises(InputError, match="seed=-1"):
        ge.ensemble(problem, [0, 1], seed=-1)
    with pytest.raises(InputError, match="a str is no problem"):
        ge.ensemble("problem", [0, 1])
