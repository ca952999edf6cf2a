"""Without a penalty: linear programs and scikit-learn as oracles, certificates that see what is wrong, and no minimum said so."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.optimize import linprog
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC

import gaussequiv as ge
from gaussequiv import simulation
from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import LOSSES, Quadratics
from gaussequiv.simulation import batch, limits
from gaussequiv.simulation.minimisers import Risk, form

N = 40
SHAPES = [20, 60, 80, 100, 240]  # numbers of samples: random labels are separable up to about 80
SEEDS = range(2)


def data(n, seed=0, rank=N):
    """Inputs, real labels and their signs, half of which is noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, N)) * np.arange(1, N + 1) ** -0.3 / np.sqrt(N)
    if rank < N:
        Q = np.linalg.qr(rng.standard_normal((N, rank)))[0]
        x = x @ Q @ Q.T
    field = x @ rng.standard_normal(N)
    field = field / field.std() + rng.standard_normal(n)
    return torch.from_numpy(x), torch.from_numpy(field)


def limit(name, x, field, penalty=0.0):
    loss = LOSSES[name]
    w, left = batch.minimised(loss, x, field if loss.of == "residual" else torch.sign(field), [penalty])
    return w[0].numpy(), left[0]


def cost(name, x, field, w):
    loss, h = LOSSES[name], (x @ torch.as_tensor(w)).numpy()
    y = field.numpy()
    return float(loss(y - h if loss.of == "residual" else np.sign(y) * h).sum())


def separable(x, field):
    """By a linear program: are there weights with all margins at least 1?"""
    A = (torch.sign(field)[:, None] * x).numpy()
    return linprog(np.zeros(N), A_ub=-A, b_ub=-np.ones(len(A)), bounds=(None, None)).status == 0


def least(name, x, field):
    """The least cost of a piecewise linear loss, by a linear program: costs t of weights w."""
    x, y = x.numpy(), field.numpy()
    n, one = len(y), np.eye(len(y))
    if name == "hinge":
        A, b, low = np.hstack([-np.sign(y)[:, None] * x, -one]), -np.ones(n), 0
    else:
        A, b, low = np.vstack([np.hstack([-x, -one]), np.hstack([x, -one])]), np.concatenate([-y, y]), None
    return linprog(np.r_[np.zeros(N), np.ones(n)], A_ub=A, b_ub=b, bounds=[(None, None)] * N + [(low, None)] * n).fun


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", SHAPES)
@pytest.mark.parametrize("rank", [N, 25])
@pytest.mark.parametrize("name", LOSSES)
def test_every_limit_is_certified_and_is_that_of_small_penalties(name, rank, n, seed):
    x, field = data(n, seed, rank)
    w, left = limit(name, x, field)
    if name == "logistic" and separable(x, field):
        assert left == np.inf
        assert np.isnan(w).all()
        return
    assert left < 1e-12
    if np.linalg.norm(w) > 1e3:  # labels that are hardly separable: no penalty that can be solved for is small enough
        return
    distances = [np.linalg.norm(limit(name, x, field, penalty)[0] - w) for penalty in (1e-4, 1e-6)]
    assert distances[1] < max(0.05 * distances[0], 1e-8 * np.linalg.norm(w))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", SHAPES)
@pytest.mark.parametrize("name", ["hinge", "absolute"])
def test_piecewise_linear_losses_reach_the_value_of_a_linear_program(name, n, seed):
    x, field = data(n, seed)
    assert cost(name, x, field, limit(name, x, field)[0]) == pytest.approx(least(name, x, field), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", ["hinge", "squared-hinge"])
@pytest.mark.parametrize("n", [20, 60])
def test_separable_labels_have_the_largest_margin_of_scikit_learn(name, n):
    """SVC adds an intercept: mirrored samples make it zero."""
    x, field = data(n)
    w, left = limit(name, x, field)
    both, signs = torch.cat([x, -x]).numpy(), torch.sign(torch.cat([field, -field])).numpy()
    expected = SVC(C=1e8, kernel="linear", tol=1e-8).fit(both, signs).coef_[0]
    np.testing.assert_allclose(w, expected, atol=1e-3 * np.linalg.norm(expected))
    assert left < 1e-12
    assert (torch.sign(field) * (x @ torch.from_numpy(w))).min() > 1 - 1e-12


def test_minima_of_smooth_losses_are_those_of_scikit_learn():
    x, field = data(240)
    y = torch.sign(field).numpy()
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, solver="newton-cg", max_iter=1000)
    np.testing.assert_allclose(limit("logistic", x, field)[0], model.fit(x, y).coef_[0], rtol=1e-5)
    svm = LinearSVC(C=1e7, fit_intercept=False, dual=False, tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(limit("squared-hinge", x, field)[0], svm.fit(x, y).coef_[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["logistic", "squared-hinge", "huber"])
def test_minima_of_smooth_losses_have_no_gradient(name):
    (x, field), loss = data(240), LOSSES[name]
    w, _ = limit(name, x, field)
    h, y = x @ torch.from_numpy(w), torch.sign(field)
    residual = loss.of == "residual"
    argument, sign = (field - h, -torch.ones_like(y)) if residual else (y * h, y)
    np.testing.assert_allclose(x.T @ (sign * torch.from_numpy(loss.slope(argument.numpy()))), np.zeros(N), atol=1e-12)


@pytest.mark.parametrize("name", ["huber", "absolute"])
@pytest.mark.parametrize("noise", [True, False])
def test_labels_that_can_be_interpolated_are_with_the_least_norm(name, noise):
    x, field = data(30)
    if not noise:  # more samples than weights, and labels that are linear in the inputs
        x, _ = data(100)
        field = x @ torch.ones(N, dtype=torch.float64)
    w, left = limit(name, x, field)
    np.testing.assert_allclose(w, np.linalg.lstsq(x.numpy(), field.numpy(), rcond=None)[0], atol=1e-9)
    assert left < 1e-12


def test_samples_that_come_twice_change_nothing():
    for n, names in ((60, ["hinge", "squared-hinge"]), (240, LOSSES)):
        x, field = data(n)
        for name in names:
            w, left = limit(name, torch.cat([x, x]), torch.cat([field, field]))
            assert left < 1e-12
            np.testing.assert_allclose(w, limit(name, x, field)[0], atol=1e-8 * np.linalg.norm(w))


# --- certificates ---


def margins(n):
    x, field = data(n)
    return torch.sign(field)[:, None] * x


def test_the_certificate_of_a_largest_margin_sees_another_one():
    A = margins(60)
    w, left = limits.limit(LOSSES["hinge"], torch.zeros(60), A)
    assert left < 1e-12
    held = A @ w < 1 + 1e-6
    assert 5 < held.sum() < N
    other = A[held][1:]  # one sample of the margin is let go: another one that separates, with a larger norm
    least = torch.linalg.lstsq(other, torch.ones(len(other), dtype=A.dtype)[:, None]).solution[:, 0]
    for wrong in (least * 1.01, w + 0.1 * least, w * 0.99):
        found, gap = limits._widest(A, wrong)
        assert gap > 1e-3 or torch.allclose(found, w)
    mixed = w + 0.3 * torch.linalg.norm(w) * torch.linalg.svd(A[held])[2][-1]  # the same margins, a larger norm
    assert limits._widest(A[held], mixed)[1] < 1e-12  # finds its way back
    assert not torch.allclose(mixed, w)


def test_the_certificate_of_a_corner_sees_another_corner():
    for name in ("hinge", "absolute"):
        x, field = data(240)
        c, A = (torch.zeros(240), margins(240)) if name == "hinge" else (field, -x)
        phi = form(LOSSES[name], A)
        w, left = limits.limit(LOSSES[name], c, A)
        assert left < 1e-12
        assert limits._corner(phi, c, A, w)[1] < 1e-12
        on = torch.nonzero(((c + A @ w)[:, None] - phi.kinks).abs().flatten() < 1e-9)[:, 0]
        assert len(on) == N
        off = next(i for i in range(240) if i not in on)
        rows = torch.cat([on[1:], torch.tensor([off])])  # a neighbour
        other = torch.linalg.solve(A[rows], phi.kinks - c[rows])
        assert limits._corner(phi, c, A, other)[1] > 1e-6


@pytest.mark.parametrize("name", ["logistic", "squared-hinge", "huber"])
def test_the_certificate_without_a_penalty_is_the_distance_to_the_minimum(name):
    x, field = data(240)
    c, A = (field, -x) if name == "huber" else (torch.zeros(240), margins(240))
    bare = Risk(form(LOSSES[name], A), c, A, 0.0)
    w, _ = limits.limit(LOSSES[name], c, A)
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-4, 1e-3):
        v = w * (1 + size * torch.from_numpy(rng.standard_normal(N)))
        excess = bare.at(v, c + A @ v) - bare.at(w, c + A @ w)
        assert bare.certificate(v) ** 2 * bare.at(v, c + A @ v) == pytest.approx(excess, rel=0.2, abs=1e-10)


def test_separable_labels_are_never_certified_to_have_a_minimum():
    A = margins(60)
    phi = form(LOSSES["logistic"], A)
    assert limits._smooth(phi, torch.zeros(60), A, 1.0)[1] > 1e-3


# --- in a simulation ---


@pytest.fixture(scope="module")
def model():
    return ge.GaussianModel.isotropic(40)


def problem(model, loss, output="sign"):
    return ge.FullBatch(model, ge.Perceptron(np.ones(40), output, 0.5), loss, 0.0)


def test_what_has_no_minimum_is_a_point_with_a_reason(model):
    curve = simulation.simulate(problem(model, "logistic"), model, alpha=[0.5, 6.0], seeds=3, test_samples=100)
    assert curve.status.tolist() == ["diverged", "ok"]
    assert "3 of 3 seeds are linearly separable" in curve.reasons[(0,)]
    assert np.isnan(curve.test_error[0])
    assert np.isfinite(curve.test_error[1])
    assert curve.data["residual"].values[0] == np.inf
    grid = simulation.simulate(
        problem(model, "logistic"), model, alpha=[0.5, 6.0], penalty=[0.0, 0.1], seeds=3, test_samples=100
    )
    assert list(grid.reasons) == [(0, 0)]
    assert grid.test_error[1, 0] == curve.test_error[1]


def test_where_some_seeds_are_separable_there_is_no_mean(model):
    curve = simulation.simulate(problem(model, "logistic"), model, alpha=[4.0], seeds=8, test_samples=10)
    (reason,) = curve.reasons.values()
    count = int(reason.split(" of 8 seeds")[0].split()[-1])
    assert 0 < count < 8


@pytest.mark.parametrize("loss", [lambda x: np.maximum(0, 1 - x), lambda x: np.logaddexp(0, -x)])
def test_the_limit_of_a_function_is_not_known(model, loss):
    curve = simulation.simulate(problem(model, loss), model, alpha=[1.0], penalty=[0.0, 0.1], seeds=2, test_samples=10)
    assert curve.status.tolist() == [["undefined", "ok"]]
    assert "losses with a name" in curve.reasons[(0, 0)]


def test_a_loss_is_known_by_its_pieces_not_by_its_name():
    assert all(limits.known(loss) for loss in LOSSES.values())
    assert limits.known(Quadratics("slanted", "residual", (), ((0.3, 0.7, 2.0),)))
    other = Quadratics("hinge", "margin", (2.0,), ((2.0, -1.0, 0.0), (0.0, 0.0, 0.0)))
    assert not limits.known(other)
    assert not limits.known(Convex(np.abs, "residual"))


def test_best_penalties_may_be_zero(model):
    best = xr.DataArray([0.0, 0.1], dims="alpha")
    p = problem(model, "hinge")
    curve = simulation.simulate(p, model, alpha=[0.5, 1.0], penalty=best, seeds=2, test_samples=100)
    grid = simulation.simulate(p, model, alpha=[0.5, 1.0], penalty=[0.0, 0.1], seeds=2, test_samples=100)
    np.testing.assert_array_equal(curve.test_error, np.diag(grid.test_error))
    np.testing.assert_array_equal(curve.penalty, [0.0, 0.1])


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_theory_and_training_agree_without_a_penalty(name):
    """Below and above the thresholds of interpolation (1) and of separability (3.0)."""
    model = ge.GaussianModel.isotropic(120)
    margin = LOSSES[name].of == "margin"
    teacher = ge.Perceptron(np.ones(120), "sign" if margin else "linear", 0.8)
    p, alpha = ge.FullBatch(model, teacher, name, 0.0), [0.5, 6.0] if margin else [0.5, 3.0]
    theory = ge.predict(p, alpha=alpha)
    practice = simulation.simulate(p, model, alpha=alpha, seeds=12, test_samples=5_000)
    assert (theory.status == practice.status).all()
    assert (theory.status == "ok").sum() == 2 - (name == "logistic")
    scores = []
    for quantity in ("test_error", "train_loss", "train_error", "q", "m", "norm"):
        expected, found, error = (
            curve.data[quantity + end].values for curve, end in ((theory, ""), (practice, ""), (practice, "_se"))
        )
        zero = (expected == 0) | (error == 0)
        assert (found[zero] < 1e-12).all()
        there = ~zero & np.isfinite(expected)
        scores += list((found[there] - expected[there]) / error[there])
    assert np.abs(scores).max() < 4.5  # Student's law with 11 degrees of freedom
    assert np.sqrt(np.mean(np.square(scores))) < 2.0
