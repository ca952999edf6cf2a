"""What is compiled is what stands in matrix form. Where numba is not installed the loops run as plain Python."""

import dataclasses

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.maths.activations import Erf, Linear
from gaussequiv.theory import compiled_fields, compiled_motion, fields, motion, online
from gaussequiv.theory.modes import modes

PAIRS = [(Erf(), Erf()), (Erf(), Linear()), (Linear(), Erf()), (Linear(), Linear())]
SIZES = [(1, 1, 1), (2, 3, 1), (3, 2, 2)]  # K, M, outputs


def fields_of(student, teacher, K, M, outputs, seed=0):
    """A law of fields in matrix form, and a point (Q, R, v)."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((K + M, K + M + 1))
    C = root @ root.T / 2
    law = fields.LocalFields.of(
        student, teacher, np.ascontiguousarray(C[K:, K:]), rng.standard_normal((M, outputs)), 0.3, None, K, 1e-9
    )
    point = np.ascontiguousarray(C[:K, :K]), np.ascontiguousarray(C[:K, K:]), rng.standard_normal((K, outputs))
    return dataclasses.replace(law, compiled=False), point


def arguments(law, point):
    return *law._slopes, *point, law.T, law.a, law.noise


@pytest.mark.parametrize(("student", "teacher"), PAIRS, ids=str)
@pytest.mark.parametrize(("K", "M", "outputs"), SIZES)
class TestFields:
    def test_coefficients(self, student, teacher, K, M, outputs):
        law, point = fields_of(student, teacher, K, M, outputs)
        found, expected = compiled_fields.coefficients(*arguments(law, point)), law.coefficients(*point)
        for name, value in zip("ABGf", found, strict=True):
            np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-12, atol=1e-13, err_msg=name)

    def test_gradient(self, student, teacher, K, M, outputs):
        """Along symmetric changes of Q: only these occur."""
        law, point = fields_of(student, teacher, K, M, outputs)
        found, expected = compiled_fields.gradient(*arguments(law, point)), law.gradient(*point)
        rng = np.random.default_rng(1)
        dQ = rng.standard_normal((K, K, 7))
        moves = np.concatenate(
            [(dQ + dQ.swapaxes(0, 1)).reshape(K * K, 7), rng.standard_normal((K * (M + outputs), 7))]
        )
        for name, value in zip("ABGf", found, strict=True):
            np.testing.assert_allclose(
                value @ moves, getattr(expected, name) @ moves, rtol=1e-11, atol=1e-11, err_msg=name
            )

    def test_test_error(self, student, teacher, K, M, outputs):
        law, point = fields_of(student, teacher, K, M, outputs)
        found = compiled_fields.test_error(*law._slopes, *point, law.T, law.a)
        assert found == pytest.approx(law.test_error(*point), rel=1e-12, abs=1e-13)

    def test_coinciding_units(self, student, teacher, K, M, outputs):
        """A student with the teacher's weights, and units that vanish."""
        law, (Q, R, v) = fields_of(student, teacher, K, M, outputs)
        Q[0], Q[:, 0], R[0] = 0.0, 0.0, 0.0
        if K > 1:
            Q[1, 1], R[1] = law.T[0, 0], law.T[0]
            Q[1, 2:], Q[2:, 1] = R[2:, 0], R[2:, 0]
        found = compiled_fields.coefficients(*arguments(law, (Q, R, v)))
        for name, value in zip("ABGf", found, strict=True):
            np.testing.assert_allclose(value, getattr(law.coefficients(Q, R, v), name), atol=1e-12, err_msg=name)


def dynamics_of(monkeypatch, activation="erf", **options):
    """The motion in matrix form on N = 12 modes, K = 3 and M = 2, and a state on its way."""
    monkeypatch.setattr(motion, "COMPILED", False)
    monkeypatch.setattr(fields, "COMPILED", False)
    problem = cases.problem(cases.correlated_model("spread", N=12, D=6), K=3, M=2, **options)
    student = dataclasses.replace(problem.student, activation=activation)
    problem = dataclasses.replace(problem, student=student)
    law = online._fields(problem, 1e-8)
    dynamics, y = online.equations(problem, law, modes(problem, longest=0.0, tolerance=1.0))
    rng = np.random.default_rng(3)
    r, q, v = (x + 0.1 * rng.standard_normal(x.shape) for x in dynamics.unpack(y))
    return dynamics, dynamics.pack(r, q + q.swapaxes(0, 1), v)


OPTIONS = [{}, {"noise": 0.3, "batch_size": 3, "weight_decay": 0.1, "lr_readout": 0.05}, {"train_readout": False}]


@pytest.mark.parametrize("activation", ["erf", "relu", "quadratic"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
class TestMotion:
    def test_overlaps(self, activation, options, monkeypatch):
        dynamics, y = dynamics_of(monkeypatch, activation, **options)
        found = compiled_motion.overlaps(y, dynamics.rho, 3, 2, 1)
        for value, expected in zip(found, dynamics.overlaps(y), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-13)

    def test_velocity(self, activation, options, monkeypatch):
        dynamics, y = dynamics_of(monkeypatch, activation, **options)
        expected = dynamics(0.0, y)
        monkeypatch.setattr(motion, "COMPILED", True)
        np.testing.assert_allclose(dynamics(0.0, y), expected, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("g", [1e-3, 0.1, 10.0])
    def test_solve(self, activation, options, g, monkeypatch):
        """And it inverts I - g J, J by differences of the motion."""
        dynamics, y = dynamics_of(monkeypatch, activation, **options)
        r, q, v = dynamics.unpack(np.random.default_rng(4).standard_normal(len(y)))
        b = dynamics.pack(r, q + q.swapaxes(0, 1), v)
        expected = dynamics.linearise(0.0, y)(g)(b)
        monkeypatch.setattr(motion, "COMPILED", True)
        x = dynamics.linearise(0.0, y)(g)(b)
        known = 1e-11 if activation == "erf" else 1e-8  # derivatives of the other coefficients are differences
        np.testing.assert_allclose(x, expected, rtol=known, atol=known * np.abs(expected).max())
        step = 1e-5
        change = (dynamics(0.0, y + step * x) - dynamics(0.0, y - step * x)) / (2 * step)
        np.testing.assert_allclose(
            x - g * change,
            b,
            atol=(1e-5 if activation == "erf" else 1e-3) * (np.abs(b).max() + g * np.abs(change).max()),
        )


@pytest.mark.parametrize(("activation", "center"), [("relu", True), ("abs", True), ("tanh", False)])
def test_the_jacobian_is_exact_along_what_twins_allow(activation, center):
    """Also where averages are not smooth across it: x - g J x = b, J x by differences of the motion."""
    base = cases.correlated_model("spread", N=12, D=6)
    model = ge.GaussianModel(base.Omega, base.Phi, mean_x=np.linspace(0.2, 1, 12), mean_c=np.full(6, 0.4))
    problem = cases.problem(model, K=3, M=2, student=activation, center=center)
    W = problem.student.weights
    W = np.stack([W[0], W[1], (-1.0 if activation == "abs" else 1.0) * W[0]])
    problem = dataclasses.replace(problem, student=ge.TwoLayer(W, [0.7, -0.4, 0.7], activation))
    dynamics, y = online.equations(problem, online._fields(problem, 1e-9), modes(problem, longest=0.0, tolerance=1.0))
    assert dynamics.twins is not None
    b = dynamics.symmetrised(*dynamics.unpack(dynamics(0.0, y)))
    g, step = 0.5, 1e-4
    x = dynamics.linearise(0.0, y)(g)(b)
    change = (dynamics(0.0, y + step * x) - dynamics(0.0, y - step * x)) / (2 * step)
    np.testing.assert_allclose(x - g * change, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("kind", ["spread", "image"])
def test_curves_are_the_same(kind, monkeypatch):
    """To the accuracy that both claim; that the steps are the same to rounding is the matter of the tests above."""
    problem = cases.problem(cases.correlated_model(kind, N=80, D=20), lr=0.2, noise=0.1)
    times = ge.log_times(30, 12)
    found = ge.predict(problem, times=times)
    monkeypatch.setattr(motion, "COMPILED", False)
    monkeypatch.setattr(fields, "COMPILED", False)
    expected = ge.predict(problem, times=times)
    np.testing.assert_allclose(found.test_error, expected.test_error, rtol=1e-6)
    np.testing.assert_allclose(found.data.Q, expected.data.Q, rtol=1e-6, atol=1e-6)
