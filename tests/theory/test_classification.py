"""The classification error: the angle between one student and one teacher unit, labels of drawn fields, symmetries."""

from dataclasses import replace

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError

TIMES = ge.log_times(50, 6)


@pytest.mark.parametrize(
    ("student", "teacher"), [("erf", "erf"), ("linear", "linear"), ("erf", "sign"), ("tanh", "linear")]
)
def test_one_unit_each_errs_by_the_angle_between_them(student, teacher):
    """Odd increasing activations: P = arccos(R / sqrt(Q T)) / pi, or its complement where the readouts differ in sign."""
    problem = cases.problem(K=1, M=1, student=student, teacher=teacher, train_readout=False)
    curve = ge.classification_error(ge.predict(problem, times=TIMES, rtol=1e-4), problem)
    Q, R, T = (curve.data[name].values.ravel() for name in "QRT")
    angle = np.arccos(R / np.sqrt(Q * T)) / np.pi
    expected = angle if problem.student.readout[0] * problem.teacher.readout[0] > 0 else 1 - angle
    found, error = (curve.data[name].values for name in ("classification_error", "classification_error_se"))
    assert np.ptp(expected) > 0.2
    assert np.abs((found - expected) / error).max() < 5
    assert 0 < error.max() < 0.3 * np.sqrt(0.25 / 2**14)  # far below that of as many random points


@pytest.mark.parametrize(("K", "M", "outputs", "center"), [(3, 2, None, True), (2, 2, 3, True), (2, 1, None, False)])
def test_drawn_inputs_are_labelled_alike(K, M, outputs, center):
    """The student's and the teacher's labels of inputs and latents from the model, at the start."""
    rng, model = np.random.default_rng(0), cases.correlated_model()
    model = ge.GaussianModel(
        model.Omega,
        model.Phi,
        Psi=model.Psi,
        mean_x=0.3 * rng.standard_normal(60),
        mean_c=0.2 * rng.standard_normal(20),
    )
    teacher = ge.TwoLayer.random(M, 20, "relu", 1, readout="gaussian", outputs=outputs)
    student = ge.TwoLayer.random(K, 60, "erf", 2, readout="gaussian", outputs=outputs)
    problem = ge.OnlineSGD(model, teacher, student, 0.3, center=center)
    curve = ge.predict(problem, times=[0, 1], rtol=1e-4, classification=True)
    latents, inputs = model.sample(200_000, rng)
    if center:
        latents, inputs = latents - model.mean_c, inputs - model.mean_x
    labels = [np.sign(y) if outputs is None else y.argmax(axis=1) for y in (student(inputs), teacher(latents))]
    drawn = np.mean(labels[0] != labels[1])
    error = np.hypot(np.sqrt(drawn * (1 - drawn) / 200_000), curve.data["classification_error_se"].values[0])
    assert 0.1 < drawn < 0.9
    assert abs(curve.data["classification_error"].values[0] - drawn) < 4 * error


def test_a_student_that_is_the_teacher_never_errs_and_its_negative_always_does():
    """Singular covariances: all four fields are two."""
    model, teacher = ge.GaussianModel.isotropic(30), ge.TwoLayer.random(2, 30, seed=4)
    for sign, expected in ((1, 0), (-1, 1)):
        student = ge.TwoLayer(teacher.weights, sign * teacher.readout)
        problem = ge.OnlineSGD(model, teacher, student, lr=0.5)
        data = ge.predict(problem, times=[0], classification=True).data
        assert data["classification_error"].values[0] == pytest.approx(expected, abs=1e-3)


def test_the_standard_error_is_the_spread_over_seeds():
    problem = cases.problem(K=2, M=2)
    curve = ge.predict(problem, times=[0, 5], rtol=1e-4)
    found = [ge.classification_error(curve, problem, samples=2**10, seed=s).data for s in range(40)]
    values = np.array([f["classification_error"].values for f in found])
    claimed = np.sqrt(np.mean([f["classification_error_se"].values ** 2 for f in found], axis=0))
    np.testing.assert_allclose(values.std(axis=0, ddof=1), claimed, rtol=0.4)


def test_points_without_a_value_stay_without_and_curves_with_it_are_saved(tmp_path):
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(model, teacher, student, lr=2.5, train_readout=False)
    curve = ge.predict(problem, times=[0, 1000], rtol=1e-4, classification=True)
    assert np.isfinite(curve.data["classification_error"].values).tolist() == [True, False]
    curve.save(tmp_path / "curve.nc")
    assert ge.Curve.load(tmp_path / "curve.nc").data.equals(curve.data)


def test_wrong_calls_are_refused_in_a_sentence():
    problem, other = cases.problem(K=2, M=1), cases.problem(K=3, M=1)
    curve = ge.predict(problem, times=[0], rtol=1e-4)
    with pytest.raises(InputError, match=r"shape \(times, 2, 1\); expected \(times, 3, 1\)"):
        ge.classification_error(curve, other)
    with pytest.raises(InputError, match="pass the problem that it is the curve of"):
        ge.classification_error(curve, cases.problem(K=2, M=1, seed=8))
    with pytest.raises(InputError, match="no curve"):
        ge.classification_error("curve", problem)
    with pytest.raises(InputError, match="samples=1000; expected a power of two, such as 512"):
        ge.classification_error(curve, problem, samples=1000)
    with pytest.raises(InputError, match="samples=16"):
        ge.classification_error(curve, problem, samples=16)
    with pytest.raises(InputError, match="no means of the fields"):
        ge.classification_error(curve, cases.problem(K=2, M=1, center=False))
    simulated = ge.Curve(curve.data.assign_attrs(provenance='{"kind": "simulation"}'))
    with pytest.raises(InputError, match="measured its classification error"):
        ge.classification_error(simulated, problem)
    with pytest.raises(InputError, match="a str is no problem"):
        ge.classification_error(curve, "problem")


def test_the_points_of_a_sweep_are_classified_one_by_one():
    problem = cases.problem(K=2, M=1)
    curves = ge.predict(ge.Sweep(problem, lr=[0.1, 0.2]), times=[0, 1], rtol=1e-4, classification=True)
    for lr in (0.1, 0.2):
        one = ge.predict(replace(problem, lr=lr), times=[0, 1], rtol=1e-4, classification=True)
        for name in ("classification_error", "classification_error_se"):
            np.testing.assert_array_equal(curves.curve(lr=lr).data[name], one.data[name])
