"""Phases and stationary states: closed forms for linear students, Saad and Solla's plateau, laws of the events."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.theory import phases as module
from gaussequiv.theory.online import Trajectory


def committee(K=2, lr=0.5, perturbation=None, N=10):
    """A soft committee with white inputs and K orthonormal teachers; student units nearly equal, or random."""
    rng = np.random.default_rng(0)
    W = 0.3 * rng.standard_normal((K, N))
    if perturbation is not None:
        W = 0.5 * rng.standard_normal(N) + perturbation * rng.standard_normal((K, N))
    teacher = ge.TwoLayer(np.sqrt(N) * np.eye(N)[:K], np.ones(K))
    return ge.OnlineSGD(ge.GaussianModel.isotropic(N), teacher, ge.TwoLayer(W, np.ones(K)), lr, train_readout=False)


@pytest.fixture(scope="module")
def escaping():
    return ge.trajectory(committee(perturbation=1e-4), 3000, rtol=1e-6)


def least_squares(problem, lr, noise):
    """The stationary error of a linear unit with readout v on erf teachers, and what no linear unit can learn."""
    a, T = problem.teacher.readout, problem.teacher_overlap
    seen = problem.covariance_with_teacher @ (a * np.sqrt(2 / np.pi / (1 + np.diag(T))))
    scale = np.sqrt(1 + np.diag(T))
    power = a @ np.arcsin(T / np.outer(scale, scale)) @ a * 2 / np.pi
    least = (power - seen @ np.linalg.solve(problem.model.Omega, seen)) / 2
    s = lr * problem.student.readout[0] ** 2 * np.trace(problem.model.Omega) / problem.model.input_dim
    return (least + s * noise**2 / 4) / (1 - s / 2), least


@pytest.mark.parametrize("kind", ["white", "spread", "image"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_linear_student_ends_at_the_least_error_and_the_noise_of_its_steps(kind, noise):
    """2 q = lr omega (2 e + sigma^2) for every mode, so e = e_least + (s / 4) (2 e + sigma^2), s = lr v^2 tr Omega / N."""
    lr = 0.3
    model = cases.correlated_model(kind)
    problem = cases.problem(model, 1, 2, lr, student="linear", noise=noise, train_readout=False)
    expected, least = least_squares(problem, lr, noise)
    found = ge.asymptote(problem)
    assert found.status is ge.Status.OK
    assert expected > 1.05 * least > 0.01
    assert found.test_error == pytest.approx(expected, rel=1e-6)
    assert "stationary" in str(found)
    assert found.change <= 1e-6


def test_a_realisable_linear_student_ends_at_the_floor_of_the_label_noise():
    lr, sigma, N = 0.4, 0.7, 25
    teacher, student = (ge.TwoLayer.random(1, N, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(ge.GaussianModel.isotropic(N), teacher, student, lr, noise=sigma, train_readout=False)
    found = ge.asymptote(problem)
    assert found.test_error == pytest.approx(lr * sigma**2 / (2 * (2 - lr)), rel=1e-6)
    assert found.R[0, 0] == pytest.approx(teacher.readout[0] * problem.teacher_overlap[0, 0], rel=1e-6)


def test_a_student_that_matches_its_teacher_ends_without_error():
    found = ge.asymptote(committee())
    assert found.status is ge.Status.OK
    assert found.test_error < 1e-9
    np.testing.assert_allclose(np.sort(found.R.ravel()), [0, 0, 1, 1], atol=1e-5)


def test_tails_of_small_eigenvalues_are_called_not_converged():
    model = cases.correlated_model("singular")
    problem = cases.problem(model, 1, 1, student="linear", train_readout=False)
    found = ge.asymptote(problem, longest=1e3)
    assert (found.status, found.time) == (ge.Status.NOT_CONVERGED, 1e3)
    assert found.change > 1e-3
    assert "slow tails" in str(found)


def test_rest_means_a_change_below_the_tolerance_over_the_last_factor_of_ten():
    problem = cases.problem(cases.correlated_model(), 1, 1, lr=0.3, student="linear", train_readout=False)
    change = ge.asymptote(problem, rtol=1e-8, longest=500).change
    assert 1e-6 < change < 0.05
    for factor, status in ((0.5, ge.Status.NOT_CONVERGED), (2, ge.Status.OK)):
        assert ge.asymptote(problem, rtol=factor * change, longest=500).status is status


def test_an_asymptote_is_not_looked_for_on_a_plateau(monkeypatch):
    problem, height = committee(perturbation=1e-6), ge.plateau(committee(perturbation=0.0)).test_error
    assert ge.asymptote(problem, rtol=1e-2).test_error < 1e-3 * height
    monkeypatch.setattr(module, "_grows", lambda found: False)
    assert ge.asymptote(problem, rtol=1e-2).test_error == pytest.approx(height, rel=0.02)  # the check is what mends it


def test_divergence_has_no_asymptote():
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    found = ge.asymptote(ge.OnlineSGD(model, teacher, student, lr=2.5, train_readout=False))
    assert found.status is ge.Status.DIVERGED
    assert "lower the learning rate" in str(found)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_the_plateau_of_a_soft_committee_is_saad_and_sollas(K):
    """Small learning rates, K = M, T = 1, readouts of one: eg = K / pi (pi / 6 - K arcsin(1 / (2 K)))."""
    expected = K / np.pi * (np.pi / 6 - K * np.arcsin(1 / (2 * K)))
    errors = [ge.plateau(committee(K, lr)).test_error / expected - 1 for lr in (1e-3, 1e-4)]
    assert 0 < errors[1] < 2e-4
    assert errors[0] == pytest.approx(10 * errors[1], rel=0.05)  # what is left is of first order in lr


def test_the_plateau_is_that_of_the_mean_unit():
    """Readouts 1.5 and 0.5 that are kept fixed have the mean of two ones; the mean of (w, -w') is (w - w') / 2."""
    problem = committee()
    W = problem.student.weights
    uneven, opposite = ge.TwoLayer(W, [1.5, 0.5]), ge.TwoLayer(W * np.array([[1.0], [-1.0]]), [1, 1])
    assert ge.plateau(replace(problem, student=uneven)).test_error == pytest.approx(
        ge.plateau(problem).test_error, rel=1e-5
    )
    half = ge.plateau(replace(problem, student=opposite), longest=1e-6)  # not yet moved
    mean = (W[0] - W[1]) / 2
    assert pytest.approx(np.full((2, 2), mean @ mean / len(mean)), rel=1e-5) == half.Q


def test_the_plateau_of_a_trajectory_has_the_height_of_the_symmetric_state(escaping):
    found = ge.phases(escaping)
    assert len(found.plateaus) == 1
    assert found.plateau.height == pytest.approx(ge.plateau(escaping.problem).test_error, rel=2e-3)
    assert found.plateau.entered < found.plateau.flattest < found.plateau.left < found.specialisation < found.stationary


def test_events_lie_where_their_definitions_say(escaping):
    """Recomputed from the curve itself, by differences and searches of another kind."""
    found = ge.phases(escaping, slope=0.1, parting=0.3, band=0.02)
    times = np.geomspace(1, 3000, 40_000)
    slope = np.abs(np.gradient(np.log(np.maximum(escaping.test_error(times), 1e-12)), np.log(times)))
    for t in (found.plateau.entered, found.plateau.left):
        assert np.interp(t, times, slope) == pytest.approx(0.1, abs=2e-3)
    assert ge.phases(escaping, factor=1.1 * found.plateau.left / found.plateau.entered).plateaus == ()
    assert ge.phases(escaping, fall=1e-9).plateaus == ()  # below the accuracy of the trajectory nothing falls
    between = (times > 1.001 * found.plateau.entered) & (times < found.plateau.left / 1.001)
    assert slope[between].max() < 0.1
    _, R, _ = escaping.order_parameters(times)
    Q = escaping.order_parameters(times)[0]
    sight = R / np.sqrt(np.einsum("nkk->nk", Q))[:, :, None]
    D = np.sqrt(np.sum(np.var(sight, axis=1), axis=1))
    assert D[-1] == pytest.approx(np.sqrt(1 - 1 / 2), rel=1e-6)
    assert np.interp(found.specialisation, times, D) == pytest.approx(0.3 * D[-1], rel=1e-4)


def test_smaller_differences_of_the_units_lengthen_the_plateau_by_their_logarithm():
    one, two, three = (ge.phases(committee(perturbation=p), 1000, rtol=1e-5) for p in (1e-3, 1e-4, 1e-5))
    first, second = two.specialisation - one.specialisation, three.specialisation - two.specialisation
    assert second == pytest.approx(first, rel=1e-2)
    assert two.plateau.entered == pytest.approx(three.plateau.entered, rel=1e-2)


def test_a_steady_fall_has_no_plateau_and_one_unit_does_not_specialise():
    """White inputs, one linear unit: eg falls as exp(-(2 lr - lr^2) t) to the noise floor."""
    N, lr, sigma = 25, 0.4, 0.7
    teacher, student = (ge.TwoLayer.random(1, N, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(ge.GaussianModel.isotropic(N), teacher, student, lr, noise=sigma, train_readout=False)
    found = ge.phases(problem, 100, band=0.01, slope=0.5)
    start, floor = ge.predict(problem, times=[0]).test_error[0], lr * sigma**2 / (2 * (2 - lr))
    assert found.stationary == pytest.approx(np.log((start - floor) / (0.01 * floor)) / (2 * lr - lr**2), rel=1e-3)
    assert (found.plateaus, found.plateau, found.specialisation) == ((), None, None)
    assert str(found).startswith("no plateau; no specialisation with one student unit; nearly at rest from t = ")
    time = ge.phases(problem, 100, band=0.5, slope=1e-3).stationary  # here the slope decides
    rest = (start - floor) * np.exp(-(2 * lr - lr**2) * time)
    assert time * (2 * lr - lr**2) * rest / (floor + rest) == pytest.approx(1e-3, rel=1e-2)
    assert ge.phases(problem, 1).stationary is None
    assert "no specialisation with one teacher unit" in str(ge.phases(cases.problem(K=2, M=1), 3))


def test_twins_do_not_part_even_with_opposite_signs():
    problem = committee(perturbation=0.0)
    W = problem.student.weights * np.array([[1.0], [-1.0]])
    mirrored = ge.OnlineSGD(problem.model, problem.teacher, ge.TwoLayer(W, [1, -1]), 0.5, train_readout=False)
    for p in (problem, mirrored):
        found = ge.phases(p, 1000)
        assert found.specialisation is None
        assert "have not parted" in str(found)
        assert found.plateau is None  # it is never left
        assert found.stationary is not None


@pytest.mark.parametrize("activation", ["abs", pytest.param("quadratic", marks=pytest.mark.full)])
def test_mirror_images_under_an_even_activation_are_twins(activation):
    """The sign of their weights is seen by nothing: they stay together as equal units do."""
    W = committee(perturbation=0.0).student.weights[:1] * 0.5
    teacher = ge.TwoLayer(np.sqrt(W.shape[1]) * np.eye(W.shape[1])[:2], [1, 1], activation)
    curves = []
    for sign in (1.0, -1.0):
        student = ge.TwoLayer(np.concatenate([W, sign * W]), [0.5, 0.5], activation)
        problem = ge.OnlineSGD(ge.GaussianModel.isotropic(W.shape[1]), teacher, student, 0.1)
        found = ge.phases(problem, 200, rtol=1e-4)
        assert "have not parted" in found.unspecialised
        curves.append(ge.predict(problem, times=[0, 1, 10, 100, 200]))
        np.testing.assert_array_equal(curves[-1].data.R[:, 1], sign * curves[-1].data.R[:, 0])
    np.testing.assert_allclose(curves[0].test_error, curves[1].test_error, rtol=1e-9)


def test_the_phases_of_a_diverging_trajectory_end_with_it():
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    found = ge.phases(ge.OnlineSGD(model, teacher, student, lr=2.5, train_readout=False), 200)
    assert found.status is ge.Status.DIVERGED
    assert found.end < 200
    assert "diverged at t" in str(found)


def test_an_independent_solver_finds_the_same_escape(escaping):
    """The time at which R parts, from a closed system for white inputs integrated by another method."""
    problem, found, dynamics = escaping.problem, ge.phases(escaping), escaping.dynamics
    assert len(dynamics.rho) == 1  # white inputs: Q and R are the state
    start = problem.order_parameters(problem.student.weights, problem.student.readout)
    y0 = dynamics.pack(start.R[..., None], start.Q[..., None], problem.student.readout[:, None])

    def parted(t, y):
        Q, R, _ = dynamics.overlaps(y)
        return np.ptp(R[:, 0] / np.sqrt(np.diag(Q))) / 2 - 0.5 * 0.5

    parted.terminal = True
    solution = solve_ivp(dynamics, (0, 3000), y0, events=parted, rtol=1e-11, atol=1e-13, method="DOP853")
    assert found.specialisation == pytest.approx(solution.t_events[0][0], rel=1e-3)


def test_wrong_calls_are_refused_in_a_sentence(escaping):
    assert isinstance(escaping, Trajectory)
    with pytest.raises(InputError, match="pass end=1000"):
        ge.phases(escaping.problem)
    with pytest.raises(InputError, match="the trajectory ends at t = 3000"):
        ge.phases(escaping, 4000)
    with pytest.raises(InputError, match="a str has no phases"):
        ge.phases("problem", 10)
    with pytest.raises(InputError, match="factor=1"):
        ge.phases(escaping, factor=1)
    with pytest.raises(InputError, match="fall=2; expected a number between 0 and 1"):
        ge.phases(escaping, fall=2)
    with pytest.raises(InputError, match="slope=0"):
        ge.phases(escaping, slope=0)
    for function in (ge.asymptote, ge.plateau, ge.stability):
        with pytest.raises(InputError, match="a str is no problem; expected an OnlineSGD"):
            function("problem")
    with pytest.raises(InputError, match="longest=-1"):
        ge.asymptote(escaping.problem, longest=-1)
