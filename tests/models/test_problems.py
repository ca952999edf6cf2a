"""Networks, problems, streams and curves: shapes, conventions, refusals and files."""

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.streams import Purpose, stream


def test_a_network_is_its_formula():
    W, v, x = np.random.default_rng(0).standard_normal((3, 8)), np.array([1.0, -2.0, 0.5]), np.ones((4, 8))
    network = ge.TwoLayer(W, v, "tanh")
    np.testing.assert_allclose(network.local_fields(x), x @ W.T / np.sqrt(8))
    np.testing.assert_allclose(network(x), np.tanh(x @ W.T / np.sqrt(8)) @ v)


def with_correlated_latents():
    """A model with Psi != I."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((30, 40))
    joint = root @ root.T / 40
    return ge.GaussianModel(joint[:20, :20], joint[:20, 20:], joint[20:, 20:])


@pytest.mark.parametrize("teacher_on", ["latents", "inputs"])
@pytest.mark.parametrize("model", [cases.correlated_model(), with_correlated_latents()], ids=["white", "correlated"])
def test_order_parameters_are_the_covariance_of_the_local_fields(model, teacher_on):
    """Against the fields of samples of the model, in standard errors; also for a batch of weights."""
    problem = cases.problem(model, K=2, M=3, teacher_on=teacher_on)
    order = problem.order_parameters(problem.student.weights, problem.student.readout)
    latents, inputs = problem.model.sample(200_000, 0)
    seen = latents if teacher_on == "latents" else inputs
    u = np.concatenate([problem.student.local_fields(inputs), problem.teacher.local_fields(seen)], axis=1)
    error = np.sqrt((np.outer(np.diag(order.covariance), np.diag(order.covariance)) + order.covariance**2) / len(u))
    assert (np.abs(u.T @ u / len(u) - order.covariance) < 5 * error).all()
    batch = problem.order_parameters(np.stack([problem.student.weights] * 3), np.stack([problem.student.readout] * 3))
    assert batch.covariance.shape == (3, 5, 5)


def test_random_networks_have_their_scale_and_readouts():
    network = ge.TwoLayer.random(40, 500, seed=3, scale=2.5, readout="gaussian")
    assert network.weights.std() == pytest.approx(2.5, rel=0.02)
    assert 0.6 < network.readout.std() < 1.4
    np.testing.assert_array_equal(ge.TwoLayer.random(3, 5).readout, 1)
    assert not np.isclose(
        ge.TwoLayer.random(2, 50, seed=1).weights, ge.TwoLayer.random(3, 50, seed=1).weights[:2]
    ).any()


def test_networks_do_not_share_the_random_numbers_of_generators():
    from gaussequiv.generators import gaussian_matrix

    F = gaussian_matrix(10, 50, seed=1) * np.sqrt(50)
    assert not np.isclose(F.ravel()[:100], ge.TwoLayer.random(2, 50, seed=1).weights.ravel()).any()


def test_log_times_start_with_zero_and_end_at_the_end():
    t = ge.log_times(100, 20)
    assert t[0] == 0
    assert t[1] == pytest.approx(0.1)
    assert t[-1] == pytest.approx(100)
    assert len(t) == 21
    for wrong in ((0.05,), (np.inf,), (np.nan,), (100, 1)):
        with pytest.raises(InputError):
            ge.log_times(*wrong)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lr": 0}, "lr=0; expected a positive finite number"),
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr": np.nan}, "lr=nan"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"lr_readout": -1}, "lr_readout=-1; expected a non-negative"),
        ({"noise": -1}, "noise=-1"),
        ({"weight_decay": np.inf}, "weight_decay=inf"),
        ({"batch_size": 0}, "batch_size=0; expected an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"teacher_on": "labels"}, "teacher_on='labels'; expected 'latents' or 'inputs'"),
    ],
)
def test_impossible_learning_rules_are_refused_in_a_sentence(change, sentence):
    p = cases.problem()
    with pytest.raises(InputError, match=sentence):
        ge.OnlineSGD(p.model, p.teacher, p.student, **{"lr": 0.1, **change})


def test_networks_that_do_not_fit_are_refused_in_a_sentence():
    p = cases.problem()
    with pytest.raises(InputError, match="the student has 59 weights a unit; the model has N=60 inputs"):
        ge.OnlineSGD(p.model, p.teacher, ge.TwoLayer.random(2, 59), 0.1)
    with pytest.raises(InputError, match="the teacher has 60 weights a unit; expected 20, the latents"):
        ge.OnlineSGD(p.model, ge.TwoLayer.random(2, 60), p.student, 0.1)
    with pytest.raises(InputError, match=r"the readout has shape \(3,\); expected \(2,\)"):
        ge.TwoLayer(np.ones((2, 5)), np.ones(3))
    with pytest.raises(InputError, match="weights holds a NaN"):
        ge.TwoLayer(np.full((2, 5), np.nan), np.ones(2))
    with pytest.raises(InputError, match="unknown activation 'erv'"):
        ge.TwoLayer(np.ones((2, 5)), np.ones(2), "erv")
    with pytest.raises(InputError, match="units=0; expected an integer of at least 1"):
        ge.TwoLayer.random(0, 5)
    with pytest.raises(InputError, match="expected 'ones' or 'gaussian'"):
        ge.TwoLayer.random(2, 5, readout="zeros")


def test_streams_differ_in_every_coordinate_and_repeat_in_none():
    draws = {
        tuple(stream(seed, purpose, chunk=chunk, lane=lane).standard_normal(3))
        for seed in (0, 1)
        for purpose in Purpose
        for chunk in (0, 1)
        for lane in (0, 1)
    }
    assert len(draws) == 2 * len(Purpose) * 2 * 2
    np.testing.assert_array_equal(stream(5, Purpose.TRAIN).random(4), stream(5, Purpose.TRAIN).random(4))
    with pytest.raises(InputError, match="seed=-1; expected an integer of at least 0"):
        stream(-1, Purpose.TEST)


def test_a_curve_survives_its_file(tmp_path):
    curve = ge.predict(cases.problem(), times=ge.log_times(5, 4))
    path = tmp_path / "curve.nc"
    curve.save(path)
    again = Curve.load(path)
    np.testing.assert_array_equal(again.times, curve.times)
    for letter in ("test_error", "Q", "R", "T", "v"):
        np.testing.assert_array_equal(again.data[letter].values, curve.data[letter].values)
    assert list(again.status) == list(curve.status)
    assert again.provenance == curve.provenance
    assert "all 5 points" in repr(again)


def test_a_flipped_bit_in_a_curve_is_detected(tmp_path):
    curve = ge.predict(cases.problem(), times=ge.log_times(5, 40))
    path = tmp_path / "curve.nc"
    curve.save(path)
    whole = path.read_bytes()
    position = whole.index(curve.data["test_error"].values.tobytes()[:16])
    path.write_bytes(whole[: position + 3] + bytes([whole[position + 3] ^ 4]) + whole[position + 4 :])
    with pytest.raises(InputError, match="not a complete netCDF file"):
        Curve.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete netCDF file"):
        Curve.load(path)
    with pytest.raises(InputError, match="there is no file"):
        Curve.load(tmp_path / "none.nc")


def test_a_curve_becomes_a_table():
    table = ge.predict(cases.problem(), times=[0, 1, 2]).to_dataframe()
    assert len(table) == 3
    assert {"time", "test_error", "Q_0_1", "R_1_0", "v_1", "status"} <= set(table.columns)
