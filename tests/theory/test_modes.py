"""`modes`: nodes of an operator stand for the eigenmodes of the matrix, in every sum that the equations of motion see."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import aslinearoperator

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.models.operator import OperatorModel
from gaussequiv.theory import online
from gaussequiv.theory.modes import modes


def pair(kind="image", N=200, D=80, means=False, **options):
    """The same problem on arrays and on products."""
    model = cases.correlated_model(kind, N=N, D=D)
    if means:
        rng = np.random.default_rng(5)
        model = ge.GaussianModel(model.Omega, model.Phi, mean_x=rng.standard_normal(N), mean_c=rng.standard_normal(D))
    dense = cases.problem(model, **options)
    operator = OperatorModel(
        aslinearoperator(model.Omega), aslinearoperator(model.Phi), mean_x=model.mean_x, mean_c=model.mean_c
    )
    return dense, replace(dense, model=operator)


@pytest.mark.parametrize("kind", ["white", "spread", "image", "singular"])
@pytest.mark.parametrize(("K", "M"), [(1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("teacher_on", ["latents", "inputs"])
def test_nodes_of_products_have_the_sums_of_the_eigenmodes(kind, K, M, teacher_on):
    tolerance = 1e-9
    dense, products = pair(kind, K=K, M=M, teacher_on=teacher_on)
    exact = modes(dense, longest=300.0, tolerance=tolerance)
    found = modes(products, longest=300.0, tolerance=tolerance)
    assert (exact.error, exact.noise_error, found.noise_error) == (0, 0, 0)
    assert found.error <= tolerance
    assert found.omega.sum() == pytest.approx(1, abs=1e-12)
    order = dense.order_parameters(dense.student.weights, dense.student.readout)
    np.testing.assert_allclose((found.w * found.rho) @ found.w.T, order.Q, atol=1e-12 * exact.rho.max())
    np.testing.assert_allclose(found.w @ found.b.T, order.R, atol=1e-12 * exact.rho.max())
    q = np.sqrt(np.diag(order.Q))
    for s in (0.0, 1e-3, 0.1, 5.0, 100.0, 290.0):
        one, two = (_sums(m, s) for m in (exact, found))
        t = np.sqrt(np.diag(one[2])) if s else np.linalg.norm(exact.b, axis=1)
        scales = np.outer(q, q), np.outer(q, t), np.outer(t, t), exact.omega @ exact.rho
        for x, y, scale in zip(one, two, scales, strict=True):
            assert (np.abs(x - y) <= 10 * tolerance * scale + 1e-12).all()


def _sums(m, s):
    """Overlaps after a time s of relaxation, what the teacher has driven, and the noise."""
    decay = np.exp(-m.rho * s)
    driven = np.where(m.rho > 0, -np.expm1(-m.rho * s) / np.where(m.rho > 0, m.rho, 1), s)
    return (m.w * m.rho * decay) @ m.w.T, (m.w * decay) @ m.b.T, (m.b * driven) @ m.b.T, m.omega @ (m.rho * decay)


def test_inputs_with_means_add_their_mean_as_one_more_row():
    dense, products = pair(means=True, center=False)
    exact, found = (modes(p, longest=50.0, tolerance=1e-9) for p in (dense, products))
    mean = dense.student.weights @ dense.model.mean_x / np.sqrt(200)
    for m in (exact, found):
        assert m.b.shape == (3, len(m.rho))
        np.testing.assert_allclose(m.w @ m.b[-1], mean, atol=1e-11)
        np.testing.assert_allclose(m.b[-1] @ m.b[-1], dense.model.mean_x @ dense.model.mean_x)
    assert len(modes(pair(means=True)[1], longest=50.0, tolerance=1e-9).b) == 2


def test_units_that_are_equal_stay_equal():
    dense, products = pair(K=3)
    weights = dense.student.weights.copy()
    weights[1] = weights[0]
    twins = replace(products, student=ge.TwoLayer(weights, dense.student.readout, dense.student.activation))
    m = modes(twins, longest=50.0, tolerance=1e-9)
    np.testing.assert_allclose(m.w[1], m.w[0], atol=1e-13)


def test_a_wide_block_of_many_inputs_is_carried():
    """K + M = 16 columns, N = 3000: a diagonal operator, so that the products cost nothing."""
    N = 3000
    rho = cases.spectrum("image", N, np.random.default_rng(0))
    diagonal = aslinearoperator(scipy.sparse.diags_array(rho))
    rng = np.random.default_rng(1)
    model = OperatorModel(diagonal, np.sqrt(rho)[:, None] * rng.standard_normal((N, 20)) / N**0.5 / 2)
    problem = cases.problem(model, K=8, M=8)
    m = modes(problem, longest=20.0, tolerance=1e-6, probes=16)
    assert m.error <= 1e-6
    assert 0 < m.noise_error < 0.02
    x = problem.student.weights / np.sqrt(N)
    exact = (x * rho * np.exp(-rho)) @ x.T
    np.testing.assert_allclose((m.w * m.rho * np.exp(-m.rho)) @ m.w.T, exact, atol=1e-5)
    assert abs(m.omega @ m.rho - rho.mean()) <= 5 * m.noise_error * rho.mean()


def solved(problem, m, t):
    """The curve of the equations of motion on given modes."""
    fields = online._fields(problem, 1e-10)
    dynamics, start = online.equations(problem, fields, m)
    solution = online._integrated(dynamics, start, t[-1], 1e-8, 20_000, None)
    return np.array([fields.test_error(*o) for o in zip(*dynamics.observed(solution(t)), strict=True)])


@pytest.mark.parametrize("kind", ["spread", "image"])
def test_the_learning_curve_of_products_is_that_of_the_matrix(kind):
    dense, products = pair(kind, N=400, D=100)
    t = ge.log_times(100, 8)
    exact = solved(dense, modes(dense, longest=1.0, tolerance=1e-9), t)
    found = solved(dense, modes(products, longest=1e3, tolerance=1e-9), t)
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    curve = ge.predict(products, times=t, rtol=1e-8)
    assert (curve.status == ge.Status.OK).all()
    np.testing.assert_allclose(curve.test_error, exact, rtol=1e-6)
    sampled = modes(products, longest=1e3, tolerance=1e-9, probes=16)
    assert sampled.noise_error > 0
    np.testing.assert_allclose(solved(dense, sampled, t), exact, rtol=5 * sampled.noise_error)


def test_a_tolerance_that_memory_does_not_allow_is_reported(monkeypatch):
    monkeypatch.setattr("gaussequiv.maths.lanczos.LARGEST", 200 * 12)
    m = modes(pair()[1], longest=1e4, tolerance=1e-9)
    assert m.error > 1e-9


def test_wrong_arguments_are_refused_in_a_sentence():
    dense, products = pair(N=30, D=10)
    for p in (dense, products):
        with pytest.raises(InputError, match="longest=-1"):
            modes(p, longest=-1, tolerance=1e-6)
        with pytest.raises(InputError, match="tolerance=0"):
            modes(p, longest=1.0, tolerance=0)
    with pytest.raises(InputError, match="probes=0"):
        modes(products, longest=1.0, tolerance=1e-6, probes=0)
