"""The largest stable learning rates: closed forms, eigenvalues of the whole Jacobian, trajectories on either side."""

import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.theory.modes import modes
from gaussequiv.theory.online import _fields, equations
from gaussequiv.theory.stability import growth, jacobian, noise_limit


def started(problem):
    return equations(problem, _fields(problem, 1e-11), modes(problem, longest=1.0, tolerance=1e-9))


def linear(kind="spread", lr=0.3, **options):
    return cases.problem(cases.correlated_model(kind), 1, 1, lr, student="linear", teacher="linear", **options)


@pytest.mark.parametrize("kind", ["white", "spread", "image", "singular"])
def test_the_noise_of_a_linear_unit_is_damped_below_two_over_the_mean_eigenvalue(kind):
    """dq = -2 eta rho v^2 q + eta^2 v^2 omega rho (2 e): a positive system, stable iff eta v^2 tr Omega / N < 2."""
    for batch in (1, 4):
        problem = linear(kind, train_readout=False, batch_size=batch)
        v, N, rho = problem.student.readout[0], problem.model.input_dim, problem.model.spectrum
        found = ge.stability(problem)
        assert found.noise == pytest.approx(2 * batch * N / (v**2 * rho.sum()), rel=1e-6)
        assert found.step == pytest.approx(2 * N / (v**2 * rho.max()), rel=1e-9)


def test_white_inputs_and_readout_one_give_two():
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(model, teacher, student, lr=1.0, train_readout=False)
    assert ge.stability(problem).noise == pytest.approx(2, rel=1e-6)
    assert ge.stability(problem, 5.0).noise == pytest.approx(2, rel=1e-6)  # a linear unit's does not move


@pytest.mark.parametrize("kind", ["white", "image"])
def test_trajectories_diverge_on_the_far_side_of_the_limit_only(kind):
    limit = ge.stability(linear(kind, train_readout=False)).noise
    below, above = (linear(kind, lr=x * limit, train_readout=False) for x in (0.95, 1.05))
    assert ge.predict(below, times=[0, 3000], rtol=1e-4).status[-1] is ge.Status.OK
    curve = ge.predict(above, times=[0, 3000], rtol=1e-4)
    assert curve.status[-1] is ge.Status.DIVERGED
    assert f"above {limit:.4g}, where the noise of SGD" in curve.message
    assert curve.message.count("unstable at t = 0") == 1
    assert "noise of SGD" in curve.provenance["divergence"]
    assert "divergence" not in ge.predict(below, times=[0, 1], rtol=1e-4).provenance


def test_a_limit_that_is_passed_later_is_found_where_the_growth_sets_in():
    """The learning rate is raised beyond the limit at t = 5."""
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(model, teacher, student, lambda t: 1.0 if t < 5 else 3.0, train_readout=False, noise=0.1)
    why = ge.predict(problem, times=[0, 100], rtol=1e-4).provenance["divergence"]
    assert "lr = 3 is above 2" in why
    assert 5 <= float(re.search(r"at t = ([\d.]+)", why).group(1)) < 10


def test_growth_that_no_linear_response_explains_is_called_so():
    """Divergence by a bound that is set too low: nothing was passed."""
    found = ge.trajectory(linear(), 5.0, rtol=1e-4)
    ended = replace(found, solution=replace(found.solution, status=ge.Status.DIVERGED))
    assert ended.divergence.startswith("no limit of small perturbations was passed")


@pytest.mark.parametrize(("K", "M", "student"), [(3, 2, "linear"), (2, 2, "relu"), (2, 1, "relu")])
def test_a_growing_eigenvalue_of_the_jacobian_appears_at_the_limit(K, M, student):
    model = cases.correlated_model(N=20, D=10)
    dynamics, y = started(cases.problem(model, K, M, student=student, train_readout=False))
    limit = noise_limit(dynamics, y)

    def fastest(lr):
        return growth(replace(dynamics, rates=lambda t: (lr, 0.0)), 0.0, y) / lr

    assert fastest(0.99 * limit) < 1e-6 < 1e-3 < fastest(1.01 * limit)


def test_limits_scale_as_they_must():
    """A readout twice as large, or inputs of four times the variance, divide what the first layer can bear by four."""
    problem = linear()
    student = problem.student
    loud = replace(problem, student=ge.TwoLayer(student.weights, 2 * student.readout, "linear"))
    one, other = ge.stability(problem), ge.stability(loud)
    assert (one.noise / other.noise, one.step / other.step) == (pytest.approx(4, rel=1e-6), pytest.approx(4))
    assert one.readout == pytest.approx(other.readout)
    Q = problem.order_parameters(student.weights, student.readout).Q[0, 0]
    assert one.readout == pytest.approx(2 * problem.model.input_dim / Q)  # (1 - eta_v lambda^2 / N) v


def test_every_limit_that_is_passed_is_named():
    model = ge.GaussianModel.isotropic(10)
    teacher, student = (ge.TwoLayer.random(1, 10, "linear", seed) for seed in (1, 2))
    text = str(ge.stability(ge.OnlineSGD(model, teacher, student, lr=50.0)))
    assert "above 2, where the noise of SGD" in text
    assert "above 20, where SGD overshoots" in text
    assert "where the readout overshoots" in text
    assert "stable at t = 0: lr = 0.1, where the noise of SGD allows up to 2" in str(
        ge.stability(ge.OnlineSGD(model, teacher, student, lr=0.1))
    )


@pytest.mark.parametrize(("K", "M"), cases.NETWORKS)
@pytest.mark.parametrize("options", [{}, {"noise": 0.5, "batch_size": 3, "weight_decay": 0.2, "lr_readout": 0.1}])
def test_the_jacobian_is_that_of_the_vector_field_and_of_the_solver(K, M, options):
    dynamics, y = started(cases.problem(cases.correlated_model("image", N=12, D=9), K, M, **options))
    J, rng = jacobian(dynamics, 0.0, y), np.random.default_rng(0)
    x = rng.standard_normal(len(y))
    _, q, _ = dynamics.unpack(x)
    q[:] = (q + q.swapaxes(0, 1)) / 2
    difference = (dynamics(0.0, y + 1e-6 * x) - dynamics(0.0, y - 1e-6 * x)) / 2e-6
    np.testing.assert_allclose(J @ x, difference, atol=1e-8 * np.abs(difference).max())
    g = 0.3
    np.testing.assert_allclose(x, dynamics.linearise(0.0, y)(g)(x - g * (J @ x)), atol=1e-8 * np.abs(x).max())


@pytest.mark.parametrize("N", [20, 60, 200])
def test_no_limit_of_the_noise_is_made_of_rounding(N):
    """Beyond a thousand steps' limits there is none: what eigenvalues of zero leave must not be taken for one."""
    for seed in range(4):
        model = cases.correlated_model("spread", N=N, D=N // 2, seed=seed)
        found = ge.stability(cases.problem(model, K=2, M=2, seed=seed))
        assert found.noise == np.inf or found.noise < 1e4 * found.step


def test_a_mean_of_the_inputs_lowers_the_limit_of_a_step():
    """One linear unit on white inputs of mean mu: a step overshoots along mu at lr = 2 N / (v^2 (1 + |mu|^2))."""
    N, mean = 30, np.random.default_rng(0).standard_normal(30)
    model = ge.GaussianModel(np.eye(N), np.eye(N), mean_x=mean)
    teacher, student = (ge.TwoLayer(np.random.default_rng(s).standard_normal((1, N)), [1.5], "linear") for s in (1, 2))
    options = {"train_readout": False}
    found = [ge.stability(ge.OnlineSGD(model, teacher, student, 0.1, center=c, **options)).step for c in (True, False)]
    np.testing.assert_allclose(found, [2 * N / 2.25, 2 * N / (2.25 * (1 + mean @ mean))], rtol=1e-9)


def test_growth_sees_only_what_twins_allow():
    """Equal units on their plateau: the direction that parts them grows, but they cannot take it."""
    N, rng = 10, np.random.default_rng(0)
    w = 0.5 * rng.standard_normal(N)
    teacher = ge.TwoLayer(np.sqrt(N) * np.eye(N)[:2], [1, 1])
    twins = ge.OnlineSGD(
        ge.GaussianModel.isotropic(N), teacher, ge.TwoLayer(np.stack([w, w]), [1, 1]), 0.5, train_readout=False
    )
    found = ge.trajectory(twins, 1000, rtol=1e-5)
    free = replace(found.dynamics, twins=(np.arange(2), np.ones(2), np.ones(2)))
    assert growth(found.dynamics, 0.0, found.solution.final) < 1e-9
    assert growth(free, 0.0, found.solution.final) > 1e-3
    assert scipy.linalg.eigvals(jacobian(free, 0.0, found.solution.final)).real.max() > 1e-3


def test_wrong_calls_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="time=-1"):
        ge.stability(linear(), -1)
    with pytest.raises(InputError, match="the solution ends at t"):
        ge.stability(linear(lr=50.0, train_readout=False), 1e4)
