"""The equations of motion: the paper's form, Saad and Solla's limit, symmetries, converged references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import cases
import gaussequiv as ge
import oracles
from gaussequiv.errors import InputError
from gaussequiv.maths.activations import Sign
from gaussequiv.theory.fields import LocalFields
from gaussequiv.theory.modes import modes
from gaussequiv.theory.online import _fields, equations

DATA = Path(__file__).parents[1] / "data" / "online"


def started(problem, **options):
    """The equations of motion of all modes, and the state at t = 0."""
    return equations(problem, _fields(problem, 1e-11), modes(problem, longest=1.0, tolerance=1e-9), **options)


def moving(problem, time=0.7):
    """The dynamics of a problem and a state that it reaches: modes there are no longer products of weights."""
    dynamics, start = started(problem)
    rng = np.random.default_rng(3)
    r, q, v = dynamics.unpack(start.copy())
    r += 0.02 * rng.standard_normal(r.shape) * np.abs(r).max()
    extra = rng.standard_normal((*q.shape[:1], 2, q.shape[-1]))
    q += 0.1 * np.einsum("kin,lin->kln", extra, extra) / len(dynamics.rho)
    return dynamics, dynamics.pack(r, q, v)


@pytest.mark.parametrize(("K", "M"), cases.NETWORKS)
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_the_drift_is_that_of_the_papers_pairwise_form(K, M, noise):
    problem = cases.problem(cases.correlated_model(N=12, D=9), K, M, noise=noise)
    dynamics, y = moving(problem)
    r, q, v = dynamics.unpack(y)
    dr, dq, dv = dynamics.unpack(dynamics(0.0, y))
    Q, R, _ = dynamics.overlaps(y)
    C = np.block([[Q, R], [R.T, dynamics.fields.T]])
    a, eta = problem.teacher.readout, problem.lr
    for mode, rho in enumerate(dynamics.rho):
        at, weight = (..., mode), dynamics.source[mode] / rho
        expected = oracles.pairwise_drift(rho, r[at], q[at], dynamics.tt[at], C, v[:, 0], a, eta, weight, noise)
        np.testing.assert_allclose(dr[at], expected[0], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dq[at], expected[1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dv[:, 0], expected[2], rtol=1e-10, atol=1e-13)


STUDENTS = [g for g in cases.ACTIVATIONS if not isinstance(g, Sign)]


def mixed_pairs():
    """Every student once with its own kind as teacher and once with another, every teacher at least once."""
    pairs = [(g, g) for g in STUDENTS]
    return pairs + [(g, cases.ACTIVATIONS[(3 * i + 2) % len(cases.ACTIVATIONS)]) for i, g in enumerate(STUDENTS)]


@pytest.mark.parametrize("pair", mixed_pairs(), ids=lambda p: f"{p[0].name}-{p[1].name}")
@pytest.mark.parametrize(("outputs", "center"), [(1, True), (2, True), (1, False)])
def test_coefficients_are_averages_of_the_loss(pair, outputs, center):
    """A, B, G, f against Monte Carlo over the fields, by Stein's lemma in its raw form: E (u_i - m_i) d_k L = (C [A B])_ik."""
    student, teacher = pair
    (K, M), rng = (2, 2) if outputs == 2 or not center else (3, 2), np.random.default_rng(5)
    C = oracles.random_covariance(rng, K + M, scale=0.8)
    mean = np.zeros(K + M) if center else 0.5 * rng.standard_normal(K + M)
    v, a, noise = rng.standard_normal((K, outputs)), rng.standard_normal((M, outputs)), 0.3
    means = None if center else mean[K:]
    fields = LocalFields.of(student, teacher, C[K:, K:], a, noise, means, units=K, tolerance=1e-8)
    Q, R = C[:K, :K], C[:K, K:] if center else np.column_stack([C[:K, K:], mean[:K]])
    c = fields.coefficients(Q, R, v)
    u = rng.multivariate_normal(mean, C, size=300_000)
    hidden = student(u[:, :K])
    clean = hidden @ v - teacher(u[:, K:]) @ a
    difference = clean - noise * rng.standard_normal(clean.shape)
    slope = student.derivative(u[:, :K]) * (difference @ v.T)
    checks = [(slope[:, i] * slope[:, j], c.G[i, j]) for i in range(K) for j in range(K)]
    checks += [(hidden[:, i] * difference[:, o], c.f[i, o]) for i in range(K) for o in range(outputs)]
    stein = np.concatenate([c.A, c.B[:, :M]], axis=1) @ C
    checks += [(slope[:, k] * (u[:, x] - mean[x]), stein[k, x]) for k in range(K) for x in range(K + M)]
    checks.append((np.sum(clean**2, axis=1) / 2, fields.test_error(Q, R, v)))
    if not center:
        checks += [(slope[:, k], c.B[k, -1]) for k in range(K)]
    z = [(draws.mean() - value) / draws.std() * np.sqrt(len(draws)) for draws, value in checks]
    assert np.abs(z).max() < 5
    assert np.sqrt(np.mean(np.square(z))) < 2
    assert fields.averages.error < 1e-6


@pytest.mark.parametrize("pair", mixed_pairs(), ids=lambda p: f"{p[0].name}-{p[1].name}")
@pytest.mark.parametrize("center", [True, False])
def test_the_gradient_of_the_coefficients_is_that_of_central_differences(pair, center):
    rng = np.random.default_rng(6)
    K, M = 2, 1
    C = oracles.random_covariance(rng, K + M, scale=0.8)
    v, a = rng.standard_normal((K, 1)), np.ones((M, 1))
    fields = LocalFields.of(*pair, C[K:, K:], a, 0.2, None if center else np.array([0.3]), units=K, tolerance=1e-11)
    R = C[:K, K:] if center else np.column_stack([C[:K, K:], [0.4, -0.2]])
    Q = C[:K, :K]
    found = fields.gradient(Q, R, v)
    direction = [rng.standard_normal(x.shape) for x in (Q, R, v)]
    direction[0] = direction[0] + direction[0].T
    flat, h = np.concatenate([x.ravel() for x in direction]), 1e-5
    there, back = (
        fields.coefficients(*(x + s * h * d for x, d in zip((Q, R, v), direction, strict=True))) for s in (1, -1)
    )
    for letter in ("A", "B", "G", "f"):
        expected = (getattr(there, letter) - getattr(back, letter)) / (2 * h)
        size = np.abs(expected).max() + np.abs(getattr(there, letter)).max() + 1e-2
        np.testing.assert_allclose(getattr(found, letter) @ flat, expected, atol=3e-5 * size)


@pytest.mark.parametrize(("K", "M"), cases.NETWORKS)
@pytest.mark.parametrize("options", [{}, {"noise": 0.5, "batch_size": 3}, {"weight_decay": 0.2, "lr_readout": 0.1}])
def test_the_linear_solve_inverts_the_exact_jacobian(K, M, options):
    dynamics, y = moving(cases.problem(cases.correlated_model("image", N=20, D=9), K, M, **options))
    rng = np.random.default_rng(0)
    b = rng.standard_normal(len(y))
    _, q, _ = dynamics.unpack(b)
    q[:] = (q + q.swapaxes(0, 1)) / 2
    for g in (0.01, 0.5, 20.0):
        x = dynamics.linearise(0.0, y)(g)(b)
        h = 1e-6 / np.abs(x).max()
        product = (dynamics(0.0, y + h * x) - dynamics(0.0, y - h * x)) / (2 * h)
        np.testing.assert_allclose(x - g * product, b, atol=2e-8 * max(1.0, np.abs(g * product).max()))


@pytest.mark.parametrize("lr", [0.1, 1.5])
def test_white_inputs_give_saad_and_solla(lr):
    """D = N, c = x: Q and R obey closed equations whatever the dimension."""
    problem = cases.problem(ge.GaussianModel.isotropic(40), K=3, M=2, lr=lr, train_readout=False)
    times = ge.log_times(30, 8)
    curve = ge.predict(problem, times=times, rtol=1e-9)
    start = problem.order_parameters(problem.student.weights, problem.student.readout)
    K, M = start.R.shape
    v, a = problem.student.readout, problem.teacher.readout

    def flow(t, y):
        dQ, dR = oracles.saad_solla(y[: K * K].reshape(K, K), y[K * K :].reshape(K, M), start.T, v, a, lr)
        return np.concatenate([dQ.ravel(), dR.ravel()])

    y0 = np.concatenate([start.Q.ravel(), start.R.ravel()])
    solution = solve_ivp(flow, (0, 30), y0, t_eval=times, rtol=1e-10, atol=1e-12, method="DOP853")
    np.testing.assert_allclose(curve.data.Q.values.reshape(len(times), -1), solution.y[: K * K].T, atol=1e-7)
    np.testing.assert_allclose(curve.data.R.values.reshape(len(times), -1), solution.y[K * K :].T, atol=1e-7)


def reference(name):
    """A case of the converged reference solutions (see tests/data/online/README.md)."""
    z = np.load(DATA / f"{name}.npz")
    root = np.linalg.cholesky(z["T"])
    Phi = (z["b_rot"] / np.sqrt(float(z["D"]))).T @ np.linalg.inv(root).T
    model = ge.GaussianModel(np.diag(z["rhos"]), Phi)
    teacher = ge.TwoLayer(np.sqrt(len(root)) * root, z["A"])
    student = ge.TwoLayer(z["w_rot"], z["v0"])
    return z, ge.OnlineSGD(model, teacher, student, float(z["lr"]), train_readout=bool(z["both"]))


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("name", ["ident", "a", "a_fixed_v"])
@pytest.mark.parametrize(
    ("rtol", "relative", "absolute"),
    [
        (1e-4, 1e-3, 1e-5),
        (1e-6, 1e-5, 1e-8),
        (1e-8, 1e-6, 1e-9),
        pytest.param(1e-10, 1e-8, 1e-10, marks=pytest.mark.slow),
    ],
)
def test_reference_curves_are_met(name, rtol, relative, absolute, reduce):
    z, problem = reference(name)
    curve = ge.predict(problem, times=z["t"], rtol=rtol, reduce=reduce)
    assert (curve.status == ge.Status.OK).all()
    assert (np.abs(curve.test_error - z["eg"]) <= np.maximum(relative * z["eg"], absolute)).all()
    for letter, rows in (("Q", z["Q"]), ("R", z["R"]), ("v", z["v"])):
        np.testing.assert_allclose(curve.data[letter].values, rows, atol=10 * rtol)


@pytest.mark.parametrize("kind", ["white", "spread", "image", "singular"])
@pytest.mark.parametrize(("K", "M"), [(2, 2), (3, 1)])
def test_a_few_nodes_carry_the_curve_of_all_modes(kind, K, M):
    problem = cases.problem(cases.correlated_model(kind, N=300, D=80), K, M, lr=0.3, noise=0.2)
    times = ge.log_times(500, 10)
    for rtol in (1e-5, 1e-8):
        few, all_modes = (ge.predict(problem, times=times, rtol=rtol, reduce=r) for r in (True, False))
        assert few.provenance["nodes"] <= 70 < all_modes.provenance["nodes"] == 300
        e = all_modes.test_error
        assert (np.abs(few.test_error - e) <= rtol * np.maximum(e, 1e-2 * e[0])).all()
        for letter in ("Q", "R", "v"):
            np.testing.assert_allclose(few.data[letter].values, all_modes.data[letter].values, atol=10 * rtol)


def test_readouts_that_grow_far_beyond_their_start_enlarge_the_range_of_relaxation_times():
    """Teacher and student start small together with a linear unit that must grow: the nodes are chosen again."""
    model = cases.correlated_model("spread", N=200, D=60)
    teacher = ge.TwoLayer(30 * np.random.default_rng(0).standard_normal((1, 60)), [0.3], "linear")
    student = ge.TwoLayer(0.1 * np.random.default_rng(1).standard_normal((1, 200)), [0.1], "linear")
    problem = ge.OnlineSGD(model, teacher, student, lr=0.02, lr_readout=0.5)
    times = ge.log_times(200, 10)
    few, all_modes = (ge.predict(problem, times=times, rtol=1e-7, reduce=r) for r in (True, False))
    assert np.abs(all_modes.data["v"].values).max() > 2
    np.testing.assert_allclose(few.test_error, all_modes.test_error, rtol=1e-6)


@pytest.mark.parametrize("kind", ["white", "spread", "image"])
def test_a_tighter_tolerance_changes_the_curve_by_less_than_the_looser_one(kind):
    problem = cases.problem(cases.correlated_model(kind, N=200, D=50), lr=0.2)
    times = ge.log_times(1000, 12)
    fine = ge.predict(problem, times=times, rtol=1e-8).test_error
    for rtol in (1e-4, 1e-6):
        coarse = ge.predict(problem, times=times, rtol=rtol).test_error
        assert (np.abs(coarse - fine) <= rtol * np.maximum(fine, 1e-2 * fine[0])).all()


def test_explicit_integration_of_the_same_equations_agrees():
    """An independent solver on the same right-hand side."""
    problem = cases.problem(cases.correlated_model(N=30, D=10), noise=0.2, batch_size=2, weight_decay=0.05)
    dynamics, start = started(problem)
    times = ge.log_times(20, 6)
    solution = solve_ivp(dynamics, (0, 20), start, t_eval=times, rtol=1e-11, atol=1e-13, method="DOP853")
    curve = ge.predict(problem, times=times, rtol=1e-8)
    for index, y in enumerate(solution.y.T):
        np.testing.assert_allclose(curve.data.Q.values[index], dynamics.overlaps(y)[0], atol=1e-8)


def test_a_student_that_is_the_teacher_stays_there():
    model = ge.GaussianModel.isotropic(30)
    teacher = ge.TwoLayer.random(2, 30, seed=4)
    curve = ge.predict(ge.OnlineSGD(model, teacher, teacher, lr=0.5), times=[0, 1, 10])
    np.testing.assert_allclose(curve.test_error, 0, atol=1e-15)
    np.testing.assert_allclose(curve.data.Q.values, curve.data.R.values, atol=1e-12)


@pytest.mark.parametrize("kind", ["twins", "zero row", "zero readout"])
def test_degenerate_students_are_followed_without_special_cases(kind):
    """Identical units stay identical, a unit without weights and readout stays put; nothing divides by zero."""
    model = cases.correlated_model()
    W = np.random.default_rng(2).standard_normal((3, model.input_dim))
    v = np.array([0.7, 0.7, -0.3])
    match kind:
        case "twins":
            W[1] = W[0]
        case "zero row":
            W[2] = 0.0
        case "zero readout":
            v[2] = 0.0
    teacher = ge.TwoLayer.random(2, model.latent_dim, seed=1)
    curve = ge.predict(ge.OnlineSGD(model, teacher, ge.TwoLayer(W, v), lr=0.3), times=ge.log_times(20, 5))
    assert np.isfinite(curve.test_error).all()
    if kind == "twins":
        Q, R, v_t = (curve.data[name].values for name in "QRv")
        np.testing.assert_allclose(R[:, 0], R[:, 1], atol=1e-9)
        np.testing.assert_allclose(v_t[:, 0], v_t[:, 1], atol=1e-9)
        np.testing.assert_allclose(Q[:, 0, 0], Q[:, 0, 1], atol=1e-9)


def plateau(perturbation):
    """Two units of an isotropic soft committee that start equal but for a small perturbation."""
    N, rng = 10, np.random.default_rng(0)
    w = 0.5 * rng.standard_normal(N)
    W = np.stack([w, w]) + perturbation * rng.standard_normal((2, N))
    teacher = ge.TwoLayer(np.sqrt(N) * np.eye(N)[:2], [1, 1])
    return ge.OnlineSGD(ge.GaussianModel.isotropic(N), teacher, ge.TwoLayer(W, [1, 1]), 0.5, train_readout=False)


def test_twins_stay_on_their_plateau_for_ever_and_so_do_twins_of_opposite_sign():
    problem = plateau(0.0)
    W = problem.student.weights * np.array([[1.0], [-1.0]])
    mirrored = ge.OnlineSGD(problem.model, problem.teacher, ge.TwoLayer(W, [1, -1]), 0.5, train_readout=False)
    times = [0, 500, 2000, 20_000]
    one, other = (ge.predict(p, times=times) for p in (problem, mirrored))
    assert one.test_error[1:] == pytest.approx(one.test_error[-1], rel=1e-6)
    assert one.test_error[-1] > 0.01
    np.testing.assert_allclose(other.test_error, one.test_error, rtol=1e-9)
    np.testing.assert_array_equal(one.data.R.values[:, 0], one.data.R.values[:, 1])


@pytest.mark.parametrize("perturbation", [1e-4, pytest.param(1e-6, marks=pytest.mark.slow)])
def test_the_escape_from_a_plateau_is_accurate_although_it_amplifies_every_error(perturbation):
    problem = plateau(perturbation)
    dynamics, start = started(problem)
    times = np.array([0, 250.0, 450.0, 600.0])
    solution = solve_ivp(dynamics, (0, 600), start, t_eval=times, rtol=1e-13, atol=1e-15, method="DOP853")
    expected = np.array([dynamics.fields.test_error(*dynamics.overlaps(y)) for y in solution.y.T])
    for rtol in (1e-4, 1e-6, 1e-8):
        curve = ge.predict(problem, times=times, rtol=rtol)
        assert (curve.status == ge.Status.OK).all()
        assert (np.abs(curve.test_error - expected) <= 10 * rtol * np.maximum(expected, 1e-2 * expected[0])).all()


@pytest.mark.parametrize(("activation", "sign"), [("abs", 1), ("abs", -1), ("relu", 1)])
def test_no_accuracy_is_claimed_for_near_twins_of_a_kinked_activation(activation, sign):
    """Their averages grow as the root of their distance: errors of the steps are amplified beyond what two solutions show."""
    base = cases.problem(cases.correlated_model("spread", N=12, D=6), K=2, M=2, lr=0.2, teacher=activation)
    rng, status = np.random.default_rng(0), {}
    w, other = rng.standard_normal((2, 12))
    for distance in (0.0, 1e-7, 1e-3, 0.1):
        student = ge.TwoLayer(np.stack([w, sign * w + distance * other]), [0.5, 0.5], activation)
        status[distance] = set(ge.predict(replace(base, student=student), times=[0, 1], rtol=1e-4).status)
    ok, inaccurate = {ge.Status.OK}, {ge.Status.INACCURATE}
    assert status == {0.0: ok, 1e-7: inaccurate, 1e-3: inaccurate, 0.1: ok}


def test_the_outlier_is_that_of_the_fastest_rate_and_of_the_mean():
    """One linear unit with a fixed readout v: lr v^2 (rho_max + |mu|^2) / N at every time."""
    N, mean = 30, np.linspace(0, 1, 30)
    model = ge.GaussianModel(np.eye(N), np.eye(N), mean_x=mean)
    student, teacher = (ge.TwoLayer(np.random.default_rng(s).standard_normal((1, N)), [1.5], "linear") for s in (1, 2))
    options = {"train_readout": False}
    rising = ge.OnlineSGD(model, teacher, student, ge.schedules.Step((0.1, 0.3, 0.1), (3.0, 4.0)), **options)
    assert ge.trajectory(rising, 10).outlier == pytest.approx(0.3 * 2.25 / N)
    uncentred = ge.OnlineSGD(model, teacher, student, 0.1, center=False, **options)
    assert ge.trajectory(uncentred, 1).outlier == pytest.approx(0.1 * 2.25 * (1 + mean @ mean) / N)


@pytest.mark.slow
def test_what_rounding_leaves_undecided_is_marked_as_inaccurate():
    """Units that differ by rounding escape at a time that double precision does not know."""
    curve = ge.predict(plateau(1e-13), times=[0, 300, 900], rtol=1e-8)
    assert list(curve.status) == [ge.Status.OK, ge.Status.OK, ge.Status.INACCURATE]
    assert "first at t = 900: inaccurate" in curve.message


def test_permuting_student_units_permutes_the_order_parameters():
    problem = cases.problem(K=3)
    order = [2, 0, 1]
    student = ge.TwoLayer(problem.student.weights[order], problem.student.readout[order])
    times = ge.log_times(10, 4)
    one = ge.predict(problem, times=times, rtol=1e-9)
    other = ge.predict(ge.OnlineSGD(problem.model, problem.teacher, student, problem.lr), times=times, rtol=1e-9)
    np.testing.assert_allclose(other.test_error, one.test_error, rtol=1e-8)
    np.testing.assert_allclose(other.data.Q.values, one.data.Q.values[:, order][:, :, order], atol=1e-8)


def test_rotating_the_inputs_changes_nothing():
    problem = cases.problem()
    N = problem.model.input_dim
    U = np.linalg.qr(np.random.default_rng(9).standard_normal((N, N)))[0]
    model = ge.GaussianModel(U @ problem.model.Omega @ U.T, U @ problem.model.Phi)
    student = ge.TwoLayer(problem.student.weights @ U.T, problem.student.readout)
    times = ge.log_times(10, 4)
    one = ge.predict(problem, times=times, rtol=1e-9)
    other = ge.predict(ge.OnlineSGD(model, problem.teacher, student, problem.lr), times=times, rtol=1e-9)
    np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-8)


def test_a_teacher_on_the_inputs_is_a_teacher_on_latents_that_are_the_inputs():
    model = cases.correlated_model()
    on_inputs = cases.problem(model, teacher_on="inputs")
    same = ge.GaussianModel(model.Omega, model.Omega, Psi=model.Omega)
    on_latents = ge.OnlineSGD(same, on_inputs.teacher, on_inputs.student, on_inputs.lr)
    one, other = (ge.predict(p, times=[0, 1, 5], rtol=1e-9) for p in (on_inputs, on_latents))
    np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-9)


def test_small_learning_rates_only_rescale_time_and_large_batches_act_like_them():
    """The noise term is of second order in lr / batch: with it gone, the curve depends on lr t only."""
    times = np.array([0.0, 1.0, 4.0])
    small = ge.predict(cases.problem(lr=1e-4), times=times * 1e4)
    smaller = ge.predict(cases.problem(lr=1e-5), times=times * 1e5)
    batch = ge.predict(cases.problem(lr=1.0, batch_size=100_000), times=times)
    np.testing.assert_allclose(small.test_error, smaller.test_error, rtol=2e-4)
    np.testing.assert_allclose(batch.test_error, smaller.test_error, rtol=2e-4)


def test_weight_decay_alone_shrinks_the_student():
    """A student and a teacher without readout feel the decay only: Q falls as exp(-2 lr kappa t)."""
    model = cases.correlated_model()
    student = ge.TwoLayer(np.random.default_rng(0).standard_normal((2, model.input_dim)), np.zeros(2))
    teacher = ge.TwoLayer(np.ones((1, model.latent_dim)), np.zeros(1))
    curve = ge.predict(
        ge.OnlineSGD(model, teacher, student, 0.5, weight_decay=0.3, train_readout=False), times=[0, 2.0]
    )
    np.testing.assert_allclose(curve.data.Q.values[1], np.exp(-2 * 0.5 * 0.3 * 2.0) * curve.data.Q.values[0], rtol=1e-7)


def test_a_linear_student_on_a_linear_teacher_ends_at_the_label_noise_floor():
    """Least squares by SGD, white inputs: eg obeys de/dt = -(2 lr - lr^2) e + lr^2 sigma^2 / 2, a closed line."""
    N, lr, sigma = 25, 0.4, 0.7
    teacher, student = (ge.TwoLayer.random(1, N, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(ge.GaussianModel.isotropic(N), teacher, student, lr, noise=sigma, train_readout=False)
    times = np.array([0.0, 0.5, 2.0, 40.0])
    e = ge.predict(problem, times=times, rtol=1e-8).test_error
    rate, source = 2 * lr - lr**2, lr**2 * sigma**2 / 2
    np.testing.assert_allclose(e, source / rate + (e[0] - source / rate) * np.exp(-rate * times), rtol=1e-7)


def test_a_learning_rate_beyond_the_stability_limit_is_called_divergence():
    """White inputs, one linear unit: the error falls if and only if lr < 2."""
    model = ge.GaussianModel.isotropic(20)
    teacher, student = (ge.TwoLayer.random(1, 20, "linear", seed) for seed in (1, 2))
    problem = ge.OnlineSGD(model, teacher, student, lr=2.5, train_readout=False)
    curve = ge.predict(problem, times=ge.log_times(200, 5))
    assert curve.status[0] is ge.Status.OK
    assert curve.status[-1] is ge.Status.DIVERGED
    assert np.isnan(curve.test_error[-1])
    assert "lower the learning rate" in curve.message


def test_the_curve_does_not_depend_on_where_it_is_looked_at():
    problem = cases.problem()
    many = ge.predict(problem, times=np.linspace(0, 5, 21)).test_error
    few = ge.predict(problem, times=[2.5, 5.0]).test_error
    np.testing.assert_allclose(few, many[[10, 20]], rtol=1e-6)


def test_wrong_calls_are_refused_in_a_sentence():
    problem = cases.problem()
    for times in ([], [1, 0], [-1, 2], [0, np.nan], [[0, 1]]):
        with pytest.raises(InputError, match="strictly increasing"):
            ge.predict(problem, times=times)
    with pytest.raises(InputError, match=r"pass times=log_times\(100\)"):
        ge.predict(problem)
    with pytest.raises(InputError, match="cannot be predicted"):
        ge.predict("problem", times=[0, 1])
    with pytest.raises(InputError, match="rtol=0"):
        ge.predict(problem, times=[0, 1], rtol=0)
    with pytest.raises(InputError, match="sign has no derivative"):
        ge.predict(cases.problem(student="sign"), times=[0, 1])
    with pytest.raises(InputError, match="derivative of sin is needed"):
        ge.predict(cases.problem(student=np.sin), times=[0, 1])


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("student", "teacher"), [("erf", "erf"), ("relu", "relu"), ("tanh", "quadratic")])
def test_one_step_of_sgd_moves_every_mode_as_the_equations_of_finite_size_say(student, teacher, batch_size):
    """Exact at any N: E(q after a step - q before) = (dq/dt) / N; without the terms of finite size it is far off."""
    N, K, samples = 6, 2, 400_000
    problem = cases.problem(
        cases.correlated_model("spread", N=N, D=5),
        K,
        1,
        lr=0.7,
        student=student,
        teacher=teacher,
        noise=0.3,
        batch_size=batch_size,
        train_readout=False,
    )
    model, rng = problem.model, np.random.default_rng(8)
    c, x = model.sample(samples * batch_size, rng)
    v, W = problem.student.readout, problem.student.weights
    fields = problem.student.local_fields(x)
    label = problem.teacher(c) + 0.3 * rng.standard_normal(len(x))
    delta = problem.student.activation(fields) @ v - label
    slope = v * problem.student.activation.derivative(fields) * delta[:, None]
    moves = -0.7 / np.sqrt(N) * (slope[:, :, None] * x[:, None, :]).reshape(samples, batch_size, K, N).mean(axis=1)
    E = model.eigenmodes[1]
    w, moved = W @ E / np.sqrt(N), (W + moves) @ E / np.sqrt(N)
    change = N * (np.einsum("skn,sln->skln", moved, moved) - np.einsum("kn,ln->kln", w, w))
    error = change.std(axis=0) / np.sqrt(samples)
    exact, limit = (started(problem, finite_size=f) for f in (True, False))
    for (dynamics, y), agrees in ((exact, True), (limit, False)):
        _, dq, _ = dynamics.unpack(dynamics(0.0, y))
        z = (change.mean(axis=0) - dq) / error
        assert bool(np.abs(z).max() < 5) == agrees, np.abs(z).max()


def test_what_the_largest_mode_does_in_a_step_is_warned_of():
    problem = cases.problem(cases.correlated_model("image", N=100, D=30), lr=2.0)
    with pytest.warns(ge.FiniteSizeWarning, match="lr a_max rho_max / N"):
        curve = ge.predict(problem, times=[0, 1], rtol=1e-4)
    assert "finite_size=True" in curve.warnings[0]
    assert not ge.predict(cases.problem(cases.correlated_model("white", N=200, D=30), lr=0.1), times=[0, 1]).warnings


def test_a_schedule_without_announced_jumps_is_followed():
    """A pulse between steps, as a function and with its jumps announced."""

    def pulse(t):
        return 5.0 if 50 < t < 50.1 else 1e-3

    model = cases.correlated_model("spread", N=100, D=50)
    announced = ge.schedules.Step((1e-3, 5.0, 1e-3), (50.0, 50.1))
    times = [0, 49, 51, 100]
    one, other = (ge.predict(cases.problem(model, lr=lr), times=times, rtol=1e-5) for lr in (pulse, announced))
    np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-4)
    assert abs(one.test_error[2] / one.test_error[1] - 1) > 0.01


def test_a_smooth_schedule_meets_the_tolerance_that_is_asked_for():
    """The explicit derivative in time keeps the order of the method: the steps do not multiply."""
    problem = cases.problem(lr=lambda t: 0.3 / (1 + 0.5 * t))
    reference = ge.predict(problem, times=[0, 1, 5], rtol=1e-10).test_error
    curve = ge.predict(problem, times=[0, 1, 5], rtol=1e-6)
    np.testing.assert_allclose(curve.test_error, reference, rtol=2e-6)
    dynamics, y = started(problem)
    h = 1e-4
    expected = (dynamics(1 + h, y) - dynamics(1 - h, y)) / (2 * h)
    np.testing.assert_allclose(dynamics.explicit(1.0, y), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_a_unit_of_relu_that_starts_at_zero_is_the_limit_of_small_ones():
    base = cases.problem(cases.correlated_model(N=30, D=20), student="relu", teacher="relu", lr=0.3, noise=0.3)
    curves = []
    for scale in (0.0, 1e-7):
        weights = base.student.weights * np.array([[1.0], [scale]])
        student = ge.TwoLayer(weights, base.student.readout, "relu")
        curves.append(ge.predict(replace(base, student=student), times=[0, 0.5, 1]))
    np.testing.assert_allclose(curves[0].test_error, curves[1].test_error, rtol=1e-5)
