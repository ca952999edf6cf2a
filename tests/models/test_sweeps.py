"""Sweeps: every point is its own problem, whatever the number of workers; labels, padding, files and refusals."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv import simulation
from gaussequiv.errors import InputError
from gaussequiv.maths.solvers import Status
from gaussequiv.models import sweeps
from gaussequiv.models.sweeps import Curves

TIMES = ge.log_times(3, 4)
N = 60


def draw(units=2, seed=7):
    return ge.TwoLayer.random(units, N, seed=seed, readout="gaussian")


@pytest.fixture(scope="module")
def sweep():
    return ge.Sweep(cases.problem(), lr=[0.3, 0.1], units=[3, 1, 2], student=draw)


@pytest.fixture(scope="module")
def curves(sweep):
    return ge.predict(sweep, times=TIMES)


def same(one, other, rtol=0.0):
    assert set(one.data.data_vars) == set(other.data.data_vars)
    assert list(one.status) == list(other.status)
    for name in one.data.data_vars:
        if name != "status":
            np.testing.assert_allclose(one.data[name].values, other.data[name].values, rtol=rtol, err_msg=str(name))


def test_the_problems_are_those_of_the_product_of_the_axes_in_order(sweep):
    assert [(p.lr, p.student.units) for p in sweep.problems] == [
        (lr, units) for lr in (0.3, 0.1) for units in (3, 1, 2)
    ]
    assert sweep.points[4] == {"lr": 0.1, "units": 1}
    assert len(sweep) == 6
    assert repr(sweep) == "Sweep(6 problems: lr=[0.3, 0.1], units=[3, 1, 2])"


def test_every_number_of_a_learning_rule_can_be_an_axis():
    values = {
        "lr": [0.1, 0.2],
        "lr_readout": [0.0, 0.3],
        "noise": [0.1, 0.4],
        "batch_size": [1, 5],
        "weight_decay": [0.0, 0.2],
    }
    assert set(values) == set(sweeps.OPTIONS)
    grid = ge.Sweep(cases.problem(), **values)
    for problem, point in zip(grid.problems, grid.points, strict=True):
        assert {name: getattr(problem, name) for name in values} == dict(point)


def test_the_student_may_depend_on_size_and_seed_in_this_order():
    grid = ge.Sweep(cases.problem(), student_seed=[5, 6], units=[1, 2], student=draw)
    for problem, point in zip(grid.problems, grid.points, strict=True):
        np.testing.assert_array_equal(problem.student.weights, draw(point["units"], point["student_seed"]).weights)
    seeds = ge.Sweep(cases.problem(), student_seed=[5, 6], student=lambda seed: draw(seed=seed))
    assert not np.isclose(seeds.problems[0].student.weights, seeds.problems[1].student.weights).any()
    given = {1: draw(1), 2: draw(2)}
    assert ge.Sweep(cases.problem(), units=[2, 1], student=given.get).problems[0].student is given[2]


def test_a_point_of_a_predicted_sweep_is_the_prediction_of_its_problem(sweep, curves):
    for problem, point in zip(sweep.problems, sweep.points, strict=True):
        alone = ge.predict(problem, times=TIMES)
        same(curves.curve(**point), alone, rtol=1e-10)
        assert curves.curve(**point).provenance["problem"] == problem.describe()
        assert curves.curve(**point).data["Q"].dims == alone.data["Q"].dims


def test_a_point_of_a_simulated_sweep_is_the_simulation_of_its_problem(sweep):
    options = {"times": [0, 1], "seeds": 2, "test_samples": 50}
    seen = []
    found = simulation.simulate(sweep, sweep.base.model, **options, progress=lambda done, of: seen.append(done / of))
    for problem, point in zip(sweep.problems, sweep.points, strict=True):
        same(found.curve(**point), simulation.simulate(problem, problem.model, **options), rtol=1e-10)
    assert found.data["test_errors"].dims == ("lr", "units", "time", "seed")
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_the_number_of_workers_changes_no_bit(sweep, curves):
    seen, alone = [], []
    again = ge.predict(sweep, times=TIMES, workers=2, progress=seen.append)
    ge.predict(sweep, times=TIMES, progress=alone.append)
    assert set(again.data.data_vars) == {"test_error", "Q", "R", "T", "v", "status"}
    for name in again.data.data_vars:
        np.testing.assert_array_equal(again.data[name].values, curves.data[name].values, err_msg=str(name))
    assert again.provenance == curves.provenance
    np.testing.assert_allclose(seen, TIMES[-1] * np.arange(1, 7) / 6)
    assert seen == alone


def test_labels_are_coordinates(curves):
    np.testing.assert_array_equal(
        curves.data.test_error.sel(lr=0.1, units=2).values, curves.curve(units=2, lr=0.1).test_error
    )
    assert curves.test_error.shape == curves.status.shape == (2, 3, 5)
    assert curves.axes == {"lr": (0.3, 0.1), "units": (3, 1, 2)}
    assert curves.test_error[0, 1, 0] != curves.test_error[0, 2, 0]
    one = ge.predict(ge.Sweep(cases.problem(), lr=[0.3], noise=[0, 0.5]), times=[0, 1])
    np.testing.assert_array_equal(one.curve(noise=0.5).test_error, one.test_error[0, 1])


def test_smaller_students_are_padded_with_nan_and_come_back_without(curves):
    assert curves.data["Q"].shape == (2, 3, 5, 3, 3)
    inside = np.zeros((3, 3), dtype=bool)
    inside[:2, :2] = True
    assert (np.isfinite(curves.data["Q"].sel(lr=0.3, units=2).values) == inside).all()
    assert curves.curve(lr=0.3, units=2).data["Q"].shape == (5, 2, 2)
    assert curves.curve(lr=0.3, units=1).data["R"].shape == (5, 1, 2)
    assert np.isfinite(curves.data["T"].values).all()


def test_curves_survive_their_file_and_are_told_from_one_curve(curves, tmp_path):
    curves.save("grid.nc")
    again = Curves.load("grid.nc")
    for name in curves.data.variables:
        np.testing.assert_array_equal(again.data[name].values, curves.data[name].values)
        assert again.data[name].dims == curves.data[name].dims
    assert again.provenance == curves.provenance
    assert (again.status == curves.status).all()
    assert again.axes == curves.axes
    curves.curve(lr=0.1, units=2).save("one.nc")
    assert isinstance(sweeps.load("one.nc"), ge.Curve)
    assert isinstance(sweeps.load("grid.nc"), Curves)
    with pytest.raises(InputError, match=r"holds the curves of a sweep; load it with Curves\.load"):
        ge.Curve.load("grid.nc")
    with pytest.raises(InputError, match=r"holds one curve; load it with Curve\.load"):
        Curves.load("one.nc")
    whole = (tmp_path / "grid.nc").read_bytes()
    (tmp_path / "grid.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete netCDF file"):
        Curves.load("grid.nc")


def test_the_provenance_of_a_large_sweep_fits_its_file():
    grid = ge.Sweep(cases.problem(), lr=np.linspace(0.1, 0.2, 200))
    one = ge.predict(cases.problem(), times=[0.0])
    curves = Curves.of(grid, [one] * 200)
    assert len(curves.data.attrs["provenance"]) > 65_536
    curves.save("large.nc")
    assert Curves.load("large.nc").provenance == curves.provenance


def test_a_point_that_diverges_or_is_refused_leaves_the_others(monkeypatch):
    base = cases.problem(ge.GaussianModel.isotropic(20), 1, 1, student="linear", teacher="linear", train_readout=False)
    grid = ge.Sweep(base, lr=[0.3, 100.0], noise=[0.0, 0.5])
    good = ge.predict(grid, times=[0, 50])
    assert (good.status[0] == Status.OK).all()
    assert good.curve(lr=100, noise=0).status[-1] == Status.DIVERGED
    assert good.message.startswith("lr=100, noise=0: first at t = 50: diverged")

    from gaussequiv.theory import online

    honest = online.predict

    def strict(problem, **options):
        if problem.noise > 0.1 and problem.lr < 1:
            raise InputError("too noisy for that rate")
        return honest(problem, **options)

    monkeypatch.setattr(online, "predict", strict)
    found = ge.predict(grid, times=[0, 50])
    assert (found.status == Status.UNDEFINED).tolist() == [[[False] * 2, [True] * 2], [[False] * 2] * 2]
    same(found.curve(lr=0.3, noise=0), good.curve(lr=0.3, noise=0))
    assert [w for w in found.warnings if "refused" in w] == ["lr=0.3, noise=0.5: refused: too noisy for that rate"]
    assert np.isnan(found.curve(lr=0.3, noise=0.5).test_error).all()
    assert "warning: lr=0.3, noise=0.5: refused" in repr(found)
    found.save("some.nc")
    assert Curves.load("some.nc").warnings == found.warnings


def test_what_is_wrong_with_all_points_is_refused():
    grid = ge.Sweep(cases.problem(student="sign"), lr=[0.1, 0.2])
    for workers in (1, 2):
        with pytest.raises(InputError, match="sign has no derivative"):
            ge.predict(grid, times=[0, 1], workers=workers)
    with pytest.raises(InputError, match="pass times="):
        ge.predict(grid)
    with pytest.raises(InputError, match="strictly increasing"):
        ge.predict(grid, times=[1, 1])
    with pytest.raises(InputError, match="workers=0"):
        ge.predict(grid, times=[0, 1], workers=0)
    with pytest.raises(InputError, match="expected an OnlineSGD"):
        ge.predict(3, times=[0, 1])
    with pytest.raises(InputError, match="expected an OnlineSGD"):
        simulation.simulate(3, grid.base.model, times=[0, 1])


def test_functions_that_cannot_travel_are_refused_before_the_workers_start():
    grid = ge.Sweep(cases.problem(lr=lambda t: 0.1), noise=[0.1, 0.2])
    with pytest.raises(InputError, match=r"cannot be sent to other processes .* use workers=1"):
        ge.predict(grid, times=[0, 1], workers=2)
    schedule = ge.schedules.Step((0.1, 0.2), at=(1.0,))
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_a_script_that_starts_workers_as_it_is_imported_is_told_so(tmp_path):
    """It would start workers in its workers; the problem is larger than a pipe holds."""
    script = tmp_path / "script.py"
    script.write_text(
        "import gaussequiv as ge\n"
        "model = ge.GaussianModel.isotropic(150)\n"
        "teacher, student = (ge.TwoLayer.random(1, 150, seed=seed) for seed in (1, 2))\n"
        "sweep = ge.Sweep(ge.OnlineSGD(model, teacher, student, 0.1), noise=[0.0, 0.1])\n"
        "ge.predict(sweep, times=[0, 1], workers=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("gaussequiv.errors.InputError: the worker processes ended early")


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"rate": [0.1]}, "rate is no axis of a sweep; expected one of lr, lr_readout, noise"),
        ({}, "a sweep without an axis; expected one or more of lr"),
        ({"lr": []}, "the axis lr is empty; expected at least one number"),
        ({"lr": [0.1, 0.2, 0.1]}, "the axis lr has 0.1 twice; expected different values"),
        ({"lr": ["fast", 0.1]}, "lr='fast'; expected a positive finite number"),
        ({"lr": "fast"}, "lr='fast'; an axis of a sweep is a sequence of numbers"),
        ({"lr": 0.1}, r"lr=0.1; an axis of a sweep is a sequence of numbers, such as \[0.1, 0.2\]"),
        ({"lr": [0.0]}, "lr=0.0; expected a positive finite number"),
        ({"noise": [0.1, np.nan]}, "noise=nan"),
        ({"noise": [True]}, "noise=True"),
        ({"batch_size": [1.5]}, "batch_size=1.5; expected an integer of at least 1"),
        ({"units": [2]}, r"the axis units needs student=, the function of \(units\) that draws the network"),
        ({"lr": [0.1], "student": draw}, "student= is the function of the axes units and student_seed"),
        ({"units": [2], "student": lambda units: units}, r"student\(units=2\) returned a int; expected a TwoLayer"),
        ({"units": [2], "student": lambda units: draw(3)}, "returned a network of 3 units; expected 2"),
        ({"units": [2], "student": lambda units: ge.TwoLayer.random(2, 59)}, "the student has 59 weights a unit"),
    ],
)
def test_impossible_sweeps_are_refused_in_a_sentence(axes, sentence):
    with pytest.raises(InputError, match=sentence):
        ge.Sweep(cases.problem(), **axes)


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({"lr": 0.2, "units": 2}, "lr=0.2 is not on the grid; expected one of 0.3, 0.1"),
        ({"lr": 0.1}, "units was left out; expected one of 3, 1, 2"),
        ({"lr": 0.1, "units": 2, "noise": 0}, "noise is no axis of these curves; expected lr, units"),
        ({"lr": "fast", "units": 2}, "lr='fast'"),
    ],
)
def test_a_point_off_the_grid_is_refused_in_a_sentence(curves, point, sentence):
    with pytest.raises(InputError, match=sentence):
        curves.curve(**point)


def test_curves_that_do_not_belong_together_are_refused(sweep):
    one, other = (ge.predict(cases.problem(), times=t) for t in ([0, 1], [0, 2]))
    with pytest.raises(InputError, match="1 curves for a sweep of 6 points"):
        Curves.of(sweep, [one])
    with pytest.raises(InputError, match="different times"):
        Curves.of(sweep, [one] * 5 + [other])


def test_curves_become_a_long_table(curves):
    table = curves.to_dataframe()
    assert len(table) == 2 * 3 * 5
    assert list(table.columns) == ["lr", "units", "time", "test_error", "status"]
    row = table[(table.lr == 0.1) & (table.units == 2) & (table.time == TIMES[-1])]
    assert row.test_error.item() == curves.curve(lr=0.1, units=2).test_error[-1]


def test_a_curve_carries_warnings():
    curve = ge.predict(cases.problem(), times=[0, 1])
    assert curve.warnings == ()
    warned = ge.Curve.from_arrays(
        curve.times, {"test_error": curve.test_error}, (Status.OK,) * 2, {"warnings": ["N is small"]}
    )
    assert warned.warnings == ("N is small",)
    assert repr(warned).endswith("; warning: N is small)")
    assert "warning" not in repr(curve)
