"""The commands as a user calls them: a whole small run, its resumption, and one sentence for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

import cases
import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.generators import zoo
from gaussequiv.models import schedules
from gaussequiv.report import cli
from gaussequiv.report.batch_runs import PROBLEM as BATCHED
from gaussequiv.report.batch_runs import BatchRun
from gaussequiv.report.experiments import PROBLEM, SIMULATED, Run
from gaussequiv.report.settings import Experiment

SMALL = {
    "generator": {"name": "single-layer", "input_dim": 60, "latent_dim": 30},
    "times": {"end": 2.0, "points": 4},
    "simulation": {"seeds": 3, "test_samples": 50},
}


def call(*arguments, **options):
    command = [sys.executable, "-m", "gaussequiv.report.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(SMALL))
    return path


def test_demo_writes_a_table_a_figure_a_page_and_everything_to_repeat_it(experiment, tmp_path):
    done = call("demo", experiment, "--out", "run")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"^[\d.]+ ", line)]
    assert len(rows) == 5
    assert all(len(row) == 8 for row in rows)
    assert "The test errors of theory and simulation" in done.stdout
    assert "The largest difference of an overlap is that of" in done.stdout
    assert "On the Gaussian twin: " in done.stdout
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "experiment.toml",
        "provenance.json",
        "model.safetensors",
        "theory.nc",
        "simulation.nc",
        "twin.nc",
        "comparison.json",
        "comparison-twin.json",
        "curve.png",
        "index.html",
    }
    again = call("demo", tmp_path / "run" / "experiment.toml", "--out", "copy")
    assert again.stdout.splitlines()[:8] == done.stdout.splitlines()[:8]


@pytest.mark.slow
def test_the_same_command_again_finds_its_results_and_a_changed_one_computes(experiment, tmp_path):
    assert call("compare", experiment, "--out", "run").returncode == 0
    stamp = lambda name: (tmp_path / "run" / name).stat().st_mtime_ns
    before = {name: stamp(name) for name in ("model.safetensors", "theory.nc", "simulation.nc", "twin.nc")}
    assert call("compare", experiment, "--out", "run").returncode == 0
    assert {name: stamp(name) for name in before} == before
    assert call("compare", experiment, "--out", "run", "--set", "simulation.seeds=4").returncode == 0
    assert {name for name in before if stamp(name) != before[name]} == {"simulation.nc", "twin.nc"}
    assert call("compare", experiment, "--out", "run", "--set", "learning.lr=0.1").returncode == 0
    assert stamp("theory.nc") != before["theory.nc"]
    assert stamp("model.safetensors") == before["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["estimate", "predict", "simulate"])
def test_each_stage_is_a_command_of_its_own(command, experiment, tmp_path):
    done = call(
        command, experiment, "--out", "run", "--set", "estimate.closed_form=false", "--set", "estimate.samples=3000"
    )
    assert done.returncode == 0, done.stderr
    assert "written: run/" in done.stdout
    model = ge.GaussianModel.load(tmp_path / "run" / "model.safetensors")
    assert model.provenance["samples"] == 3000
    assert set(model.standard_errors) == {"Omega", "Phi", "mean_x"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan", "dcgan-random", "deep-random", "realnvp", "vae"])
def test_the_generators_of_the_zoo_run_the_whole_job(name):
    quick = ["times.end=0.05", "times.start=0.01", "times.points=2", "simulation.seeds=2", "simulation.test_samples=20"]
    done = call("demo", "--generator", name, *(x for q in [*quick, "estimate.samples=4000"] for x in ("--set", q)))
    assert done.returncode == 0, done.stderr
    assert "written: gaussequiv-" in done.stdout


def test_generators_are_listed():
    listed = call("generators", "list")
    assert listed.returncode == 0
    for name in zoo.NAMES:
        assert name in listed.stdout
    assert call("generators").stdout == listed.stdout


SHOWN = {
    "dcgan": ("D = 100 latents, N = 784 inputs", "Fashion-MNIST", "of the trace, participation ratio 7."),
    "realnvp": ("D = 784 latents, N = 784 inputs", "bits_per_dim", "of the trace, participation ratio "),
    "vae": ("D = 20 latents, N = 784 inputs", "elbo", "of the trace, participation ratio "),
    "realnvp-random": ("D = 784 latents, N = 784 inputs", "of the trace, participation ratio "),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_generator_is_shown_with_its_card_its_spectrum_and_samples(name, tmp_path):
    shown = call("generators", "show", name, "--out", "grid.png")
    assert shown.returncode == 0, shown.stderr
    for text in SHOWN[name]:
        assert text in shown.stdout
    assert (tmp_path / "grid.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dcgan", "realnvp", "vae"])
def test_train_learns_from_png_images(kind, tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(70):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    done = call("train", kind, "--data", "images", "--epochs", 1, "--out", "mine.safetensors")
    assert done.returncode == 0, done.stderr
    assert "training 100 %" in done.stderr
    generator = zoo.load(tmp_path / "mine.safetensors")
    assert generator.input_dim == 64
    assert isinstance(generator.module, zoo.ARCHITECTURES[kind][1])


GRID = ["--set", "learning.lr=[0.1, 0.3]", "--set", "student.units=[1, 2]"]


@pytest.mark.slow
def test_lists_are_a_sweep_whose_grid_is_run_shown_and_found_again(experiment, tmp_path):
    done = call("compare", experiment, "--out", "run", *GRID)
    assert done.returncode == 0, done.stderr
    head, *rows = [line.split() for line in done.stdout.splitlines()[1:6]]
    assert head[:5] == ["lr", "units", "theory", "simulation", "standard"]
    assert [row[:2] for row in rows] == [["0.1", "1"], ["0.1", "2"], ["0.3", "1"], ["0.3", "2"]]
    assert "of 4 points of the grid" in done.stdout
    theory, practice = (ge.Curves.load(tmp_path / "run" / f"{name}.nc") for name in ("theory", "simulation"))
    final = theory.curve(lr=0.3, units=1).test_error[-1]
    assert rows[2][2] == f"{final:.5g}"
    assert practice.axes == theory.axes == {"lr": (0.1, 0.3), "units": (1, 2)}
    page = (tmp_path / "run" / "index.html").read_text()
    assert f"<td>{final:.5g}</td>" in page
    assert page.count("<svg") >= 2
    assert (tmp_path / "run" / "curve.png").exists()

    stamp = lambda name: (tmp_path / "run" / name).stat().st_mtime_ns
    before = {name: stamp(name) for name in ("model.safetensors", "theory.nc", "simulation.nc")}
    written = tmp_path / "run" / "experiment.toml"
    again = call("simulate", written, "--out", "run", "--set", "theory.workers=2")
    assert again.returncode == 0, again.stderr
    assert "simulation.png" in again.stdout
    assert call("predict", written, "--out", "run", "--set", "theory.workers=2").returncode == 0
    assert {name: stamp(name) for name in before} == before

    single = call("predict", experiment, "--out", "run", "--set", "learning.lr=0.3", "--set", "student.units=1")
    assert single.returncode == 0, single.stderr
    alone = ge.Curve.load(tmp_path / "run" / "theory.nc")
    np.testing.assert_allclose(alone.test_error, theory.curve(lr=0.3, units=1).test_error, rtol=1e-9)


@pytest.mark.slow
def test_the_workers_of_a_sweep_are_processes_and_change_no_number(experiment, tmp_path):
    for workers in (1, 2):
        done = call("predict", experiment, "--out", str(workers), "--set", f"theory.workers={workers}", *GRID)
        assert done.returncode == 0, done.stderr
    one, two = (ge.Curves.load(tmp_path / name / "theory.nc") for name in "12")
    np.testing.assert_array_equal(one.test_error, two.test_error)


@pytest.mark.slow
def test_seeds_of_the_student_are_an_axis(experiment, tmp_path):
    done = call(
        "predict", experiment, "--out", "run", "--set", "student.seed=[5, 6, 7]", "--set", "learning.noise=[0.5]"
    )
    assert done.returncode == 0, done.stderr
    assert ge.Curves.load(tmp_path / "run" / "theory.nc").axes == {"noise": (0.5,), "student_seed": (5, 6, 7)}


def test_every_option_of_the_learning_rule_reaches_the_problem_and_the_key(tmp_path):
    base = ["generator.name=single-layer", "generator.input_dim=20", "generator.latent_dim=10"]
    options = {
        "learning.lr={kind='step', values=[0.5, 0.1], at=[10.0]}": ("lr", schedules.Step((0.5, 0.1), (10.0,))),
        "learning.lr={kind='power', start=0.5, exponent=0.5, scale=10.0}": ("lr", schedules.Power(0.5, 0.5, 10.0)),
        "learning.lr={kind='power', start=0.5, exponent=1.0}": ("lr", schedules.Power(0.5, 1.0, 1.0)),
        "learning.lr={kind='exponential', start=0.5, rate=0.1}": ("lr", schedules.Exponential(0.5, 0.1)),
        "learning.lr_readout={kind='power', start=0.5, exponent=1.0}": ("lr_readout", schedules.Power(0.5, 1.0)),
        "learning.lr_readout=0.3": ("lr_readout", 0.3),
        "learning.noise=0.4": ("noise", 0.4),
        "learning.batch_size=3": ("batch_size", 3),
        "learning.weight_decay=0.2": ("weight_decay", 0.2),
        "learning.train_readout=false": ("train_readout", False),
        "learning.teacher_on=inputs": ("teacher_on", "inputs"),
        "learning.center=false": ("center", False),
    }
    keys = set()
    for setting, (name, value) in options.items():
        run = Run(Experiment.read(None, [*base, setting]), tmp_path, lambda *_: None)
        assert getattr(run.problem, name) == value, setting
        keys.add((run.key_of(*PROBLEM), run.key_of(*SIMULATED)))
    for setting in ("learning.noise=0.0", "student.outputs=1", "student.outputs=3"):
        run = Run(Experiment.read(None, [*base, setting]), tmp_path, lambda *_: None)
        keys.add((run.key_of(*PROBLEM), run.key_of(*SIMULATED)))
    assert run.problem.student.readout.shape == run.problem.teacher.readout.shape == (2, 3)
    assert len(keys) == len(options) + 3


@pytest.mark.slow
def test_warnings_of_a_curve_are_lines_of_their_own(experiment, tmp_path):
    assert call("compare", experiment, "--out", "run").returncode == 0
    path = tmp_path / "run" / "theory.nc"
    curve = ge.Curve.load(path)
    provenance = json.dumps(curve.provenance | {"warnings": ["N is small"]})
    ge.Curve(curve.data.assign_attrs(provenance=provenance)).save(path)
    for command in ("predict", "compare"):
        done = call(command, experiment, "--out", "run")
        assert done.returncode == 0
        assert done.stderr.splitlines() == ["warning: N is small"]
    assert "Warning: N is small" in (tmp_path / "run" / "index.html").read_text()


# --- full batch ---

BATCH = SMALL | {
    "batch": {"loss": "square", "noise": 0.5, "penalty": [0.05, 0.5, 5.0], "alpha": [0.5, 1.0, 2.0], "bayes": True}
}


STAGES = (".nc", ".safetensors")


@pytest.fixture
def batch(tmp_path):
    path = tmp_path / "batch.toml"
    path.write_text(tomli_w.dumps(BATCH))
    return path


@pytest.mark.slow
def test_demo_batch_writes_tables_figures_a_page_and_everything_to_repeat_it(batch, tmp_path):
    done = call("demo", batch, "--out", "run")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"^[\d.]+ ", line)]
    assert [row[:2] for row in rows] == [[a, p] for a in ("0.5", "1", "2") for p in ("0.05", "0.5", "5")]
    assert all(len(row) == 9 for row in rows)
    assert "The test errors and training losses of theory and simulation" in done.stdout
    assert "On the Gaussian twin: " in done.stdout
    names = {"experiment.toml", "provenance.json", "model.safetensors"}
    names |= {f"{name}-batch.nc" for name in ("theory", "simulation", "twin", "bayes")}
    names |= {f"{name}-batch.png" for name in ("curve", "theory-map", "simulation-map")}
    names |= {"comparison-batch.json", "comparison-twin-batch.json", "index-batch.html"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == names
    page = (tmp_path / "run" / "index-batch.html").read_text()
    parser = cases.Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page.count("<svg") == 4
    assert "Bayes-optimal" in page
    again = call("demo", tmp_path / "run" / "experiment.toml", "--out", "copy")
    assert again.stdout.splitlines()[:12] == done.stdout.splitlines()[:12]


@pytest.mark.slow
def test_each_stage_of_a_batch_is_a_command_of_its_own(batch, tmp_path):
    shown = {}
    for command, name in (("predict", "theory"), ("simulate", "simulation")):
        done = call(command, "batch", batch, "--out", "run")
        assert done.returncode == 0, done.stderr
        assert f"written: run/{name}-batch.nc, run/{name}-batch.png, run/{name}-map-batch.png" in done.stdout
        assert "100 %" in done.stderr
        shown[name] = done.stdout.splitlines()
        assert shown[name][0] == "test errors, square loss on linear labels:"
    theory, practice = (ge.Curve.load(tmp_path / "run" / f"{name}-batch.nc") for name in shown)
    assert theory.axes == practice.axes == ("alpha", "penalty")
    np.testing.assert_array_equal(theory.alpha, practice.alpha)
    assert shown["theory"][4].split() == ["2", *(f"{error:.5g}" for error in theory.test_error[2])]
    assert "thresholds without a penalty: interpolation at alpha = 1" in shown["theory"]
    assert shown["theory"][6].startswith("Bayes-optimal test errors, on average over teachers: ")
    pairs = zip(practice.test_error[2], practice.data.test_error_se.values[2], strict=True)
    assert re.split("  +", shown["simulation"][4])[1:] == [f"{error:.4g} ± {se:.1g}" for error, se in pairs]


def test_stages_of_a_batch_are_found_again_and_computed_anew_where_they_depend_on_a_change(batch, tmp_path):
    def stamps(*settings):
        run = BatchRun(Experiment.read(batch, ["simulation.twin=false", *settings]), tmp_path / "run", lambda *_: None)
        _ = run.comparisons, run.bayes
        return {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.suffix in STAGES}

    first = stamps()
    assert set(first) == {"model.safetensors", "theory-batch.nc", "simulation-batch.nc", "bayes-batch.nc"}
    assert stamps() == first
    assert stamps("batch.bayes=false") == first
    more = stamps("simulation.seeds=4")
    assert {name for name in first if more[name] != first[name]} == {"simulation-batch.nc"}
    noise = stamps("simulation.seeds=4", "batch.noise=0.1")
    assert {name for name in first if noise[name] == more[name]} == {"model.safetensors"}
    features = stamps("simulation.seeds=4", "batch.noise=0.1", "features.kind=gaussian", "features.width=40")
    assert not set(features.values()) & set(noise.values())


@pytest.mark.slow
def test_best_penalties_are_found_by_theory_and_simulated(batch, tmp_path):
    settings = ["batch.penalty=optimal", "batch.loss=logistic", "simulation.twin=false"]
    done = call("compare", batch, "--out", "run", *(x for setting in settings for x in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    run = BatchRun(Experiment.read(batch, settings), tmp_path / "run", lambda *_: None)
    np.testing.assert_array_equal(run.practice.penalty, run.theory.penalty)
    rows = [line.split() for line in done.stdout.splitlines()[1:4]]
    assert [row[1] for row in rows] == [f"{penalty:.4g}" for penalty in run.theory.penalty]
    assert [path.name for path in run.draw_theory()] == ["theory-batch.png"]
    assert [path.name for path in run.draw_practice()] == ["simulation-batch.png"]


def test_the_first_word_or_the_experiment_says_what_is_learned(batch, experiment, tmp_path):
    cases_ = [
        (("batch", experiment, None, None), BatchRun),
        (("batch", None, None, ["generator.name=single-layer"]), BatchRun),
        ((None, experiment, None, ["batch.noise=0.1"]), BatchRun),
        ((str(batch), None, None, None), BatchRun),
        (("online", batch, None, None), Run),
        ((str(experiment), None, None, None), Run),
        ((None, None, "single-layer", None), Run),
    ]
    for number, (words, kind) in enumerate(cases_):
        with cli._run(*words, tmp_path / str(number)) as run:
            assert type(run) is kind, words
        sections = set(tomllib.loads((tmp_path / str(number) / "experiment.toml").read_text()))
        assert ("batch" in sections, "learning" in sections) == (kind is BatchRun, kind is Run)
        with cli._run(str(tmp_path / str(number) / "experiment.toml"), None, None, None, tmp_path / "again") as again:
            assert type(again) is kind, words
    with (
        pytest.raises(ge.InputError, match="there are two experiment files"),
        cli._run(str(batch), experiment, *[None] * 3),
    ):
        pass
    with (
        pytest.raises(ge.InputError, match=r"batch comes after .*; expected batch before the experiment file: batch "),
        cli._run(str(batch), Path("batch"), *[None] * 3),
    ):
        pass


def test_alphas_are_whole_numbers_of_samples(batch, tmp_path):
    run = BatchRun(Experiment.read(batch, ["batch.alpha=[0.015, 0.017, 0.51, 1.004]"]), tmp_path, lambda *_: None)
    np.testing.assert_allclose(run.alpha * 60, [1, 31, 60], rtol=1e-14)
    run = BatchRun(Experiment.read(batch, ["batch.alpha=[0.001, 1]"]), tmp_path, lambda *_: None)
    with pytest.raises(
        ge.InputError, match=r"batch.alpha = 0.001 is no sample of N=60 inputs; expected at least 0.017"
    ):
        _ = run.alpha


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_features_are_one_more_layer_of_generator_and_model(kind, batch, experiment, tmp_path):
    settings = [f"features.kind={kind}", "features.width=40", "features.activation=tanh"]
    run = BatchRun(Experiment.read(batch, settings), tmp_path / "run", lambda *_: None)
    assert run.generator.input_dim == run.model.input_dim == 40
    assert run.generator.latent_dim == run.model.latent_dim == run.problem.teacher.dim == 30
    assert "tanh features of single_layer" in run.model.provenance["source"]
    measured = np.cov(run.generator.sample(20_000, 0)[1].T)
    assert np.abs(measured - run.model.Omega).max() < 0.15 * np.abs(run.model.Omega).max()
    estimated = Experiment.read(batch, [*settings, "generator.activation=relu", "estimate.samples=2000"])
    assert BatchRun(estimated, tmp_path / "other", lambda *_: None).model.provenance["samples"] == 2000
    assert Run(Experiment.read(experiment, settings), tmp_path / "online", lambda *_: None).problem.student.dim == 40


def test_every_setting_of_a_batch_reaches_the_problem_and_the_key(tmp_path):
    base = ["generator.name=single-layer", "generator.input_dim=20", "generator.latent_dim=10"]
    options = ["loss=logistic", "loss=hinge", "output=sign", "output=probit", "noise=0.3", "teacher_seed=5"]
    options += ["penalty=0.1", "penalty=[0.1, 0.2]", "penalty=optimal", "alpha=1.5", "alpha.points=3", "alpha=[1, 2]"]
    keys = {}
    for setting in options:
        run = BatchRun(Experiment.read(None, [*base, f"batch.{setting}"]), tmp_path, lambda *_: None)
        keys[run.key_of(*BATCHED)] = run
    assert len(keys) == len(options)
    logistic, hinge, sign, probit, noisy, other, *rest = keys.values()
    assert (logistic.problem.learned.name, logistic.problem.output) == ("logistic", "sign")
    assert (sign.problem.learned.name, sign.problem.output, probit.problem.output) == ("square", "sign", "probit")
    assert noisy.problem.teacher.noise == 0.3
    assert not np.array_equal(other.problem.teacher.weights, noisy.problem.teacher.weights)
    np.testing.assert_array_equal(hinge.problem.teacher.weights, noisy.problem.teacher.weights)
    assert [len(run.alpha) for run in rest] == [19, 19, 19, 1, 3, 2]
    bayes = BatchRun(Experiment.read(None, [*base, "batch.bayes=true", "batch.noise=0.3"]), tmp_path, lambda *_: None)
    assert bayes.key_of(*BATCHED) == noisy.key_of(*BATCHED)


WRONG = {
    "unknown generator": (["demo", "--generator", "dcgam"], "unknown generator 'dcgam'"),
    "missing file": (["demo", "none.toml"], "there is no experiment file none.toml"),
    "missing weights": (["demo", "--generator", "none.safetensors"], "there is no file none.safetensors"),
    "unknown key": (
        ["demo", "--set", "learning.rate=0.1"],
        "learning.rate is not a setting; expected one of lr, lr_readout",
    ),
    "unknown section": (
        ["demo", "--set", "learn.lr=0.1"],
        "learn is not a setting; expected one of generator, estimate",
    ),
    "not a setting": (["demo", "--set", "lr"], "expected section.key=value, such as learning.lr=0.1"),
    "value as section": (
        ["demo", "--set", "learning.lr=1", "--set", "learning.lr.x=1"],
        "lr is a value, not a section",
    ),
    "negative rate": (["predict", "--set", "learning.lr=-1"], "learning.lr = -1: input should be greater than 0"),
    "NaN": (["predict", "--set", "learning.lr=nan"], "learning.lr = nan"),
    "text as number": (["predict", "--set", "learning.lr=fast"], "learning.lr = 'fast'"),
    "unknown activation": (
        ["predict", "--generator", "single-layer", "--set", "student.activation=gelo"],
        "unknown activation 'gelo'; expected one of erf, linear",
    ),
    "foreign size": (["predict", "--set", "generator.input_dim=10"], "input_dim cannot be set for dcgan"),
    "truth as number": (["predict", "--set", "learning.lr=true"], "learning.lr = True"),
    "huge rate": (["predict", "--set", "learning.lr=1e300"], "learning.lr = 1e+300"),
    "no memory behind it": (["estimate", "--set", "simulation.device=meta"], "device 'meta' is not there"),
    "empty list": (["predict", "--set", "learning.lr=[]"], "learning.lr = []: an empty list; expected one value"),
    "value twice": (
        ["predict", "--set", "learning.noise=[0.1, 0.2, 0.1]"],
        "learning.noise = [0.1, 0.2, 0.1]: the list has a value twice",
    ),
    "text in a list": (["predict", "--set", "learning.lr=[0.1, 'fast']"], "learning.lr.1 = 'fast': input should be"),
    "list in a list": (["predict", "--set", "learning.lr=[0.1, [0.2]]"], "learning.lr.1 = [0.2]: input should be"),
    "half a unit": (["predict", "--set", "student.units=[2, 2.5]"], "student.units.1 = 2.5: input should be"),
    "list of teachers": (["predict", "--set", "teacher.units=[1, 2]"], "teacher.units = [1, 2]: input should be"),
    "unknown schedule": (
        ["predict", "--set", "learning.lr={kind='stp'}"],
        "learning.lr = {'kind': 'stp'}: expected a kind of schedule, one of step, power, exponential",
    ),
    "no kind": (["predict", "--set", "learning.lr={start=1.0}"], "expected a kind of schedule, one of step, power"),
    "schedule that does not fit": (
        ["predict", "--set", "learning.lr={kind='step', values=[0.1], at=[1]}"],
        "a step schedule has 1 values and 1 times; expected one value more than times",
    ),
    "unknown key of a schedule": (
        ["predict", "--set", "learning.lr={kind='power', start=0.1, exponent=1, end=3}"],
        "learning.lr.end is not a setting; expected one of kind, start, exponent, scale",
    ),
    "times": (
        ["predict", "--generator", "single-layer", "--set", "times.end=0.01"],
        "expected 0 < start < end",
    ),
    "too few samples": (["estimate", "--set", "estimate.samples=50"], "50 samples for D=100 latents"),
    "closed form": (["estimate", "--set", "estimate.closed_form=true"], "dcgan has no closed-form moments"),
    "device": (["estimate", "--set", "simulation.device=tpu9"], "device 'tpu9' is not there"),
    "one seed": (
        ["compare", "--set", "simulation.seeds=1"],
        "simulate at least two seeds",
    ),
    "missing data": (["train", "dcgan", "--data", "nowhere"], "there is no nowhere"),
    "missing data of a flow": (["train", "realnvp", "--data", "nowhere"], "there is no nowhere"),
    "missing data of a VAE": (["train", "vae", "--data", "nowhere"], "there is no nowhere"),
    "name of the weights": (["train", "dcgan", "--data", ".", "--out", "x.pt"], "ends in .safetensors"),
    "unknown command": (["predikt"], "no such command 'predikt'"),
    "unknown option": (["demo", "--sed", "3"], "no such option: --sed"),
    "a word for a number": (["estimate", "--rtol", "abc"], "error: --rtol: input should be a valid number"),
    "picture": (["generators", "show", "no-such-name", "--out", "a.jpg"], "cannot be saved as 'a.jpg'"),
    "no argument": (["generators", "show"], "missing parameter: name; see --help"),
    "no section": (["predict", "--set", "learning="], "learning = '': expected a section of settings"),
    "folder": (["predict", "."], ". is a folder; expected a TOML file"),
    "unknown activation of the student": (["predict", "--set", "student.activation=foo"], "unknown activation 'foo'"),
    "student without a derivative": (["predict", "--set", "student.activation=sign"], "sign has no derivative"),
    "unknown loss": (
        ["predict", "batch", "--set", "batch.loss=hing"],
        "batch.loss = 'hing': unknown loss; expected one of square, logistic, hinge",
    ),
    "loss of other labels": (
        ["predict", "--set", "batch.loss=logistic", "--set", "batch.output=linear"],
        "batch: the logistic loss is one of labels +1 and -1; expected the output sign, logit or probit",
    ),
    "neither a word nor a file": (["predict", "bach"], "there is no experiment file bach; expected a TOML file"),
    "neither a word nor a file, and a file": (["predict", "bach", "x.toml"], "there is no experiment file bach"),
    "missing file after the word": (["demo", "batch", "none.toml"], "there is no experiment file none.toml"),
    "one seed of a batch": (["compare", "batch", "--set", "simulation.seeds=1"], "simulate at least two seeds"),
    "phases of a sweep": (
        ["phases", "--generator", "single-layer", "--set", "generator.input_dim=20", "--set", "learning.lr=[0.1, 0.2]"],
        "phases are those of one curve",
    ),
}


WRONG_SETTINGS = {
    "generator={name='deep-random', widths=[5]}": "expected widths of at least two numbers, all at least 1",
    "generator={name='deep-random', widths=[5, 0, 3]}": "expected widths of at least two numbers, all at least 1",
    "generator.matrix=hadamard": "generator: matrix cannot be set for dcgan",
    "generator={name='single-layer', matrix='sparse'}": "'sparse': input should be 'gaussian', 'orthogonal', 'hadamard'",
    "generator={name='single-layer', strength=1.0}": 'strength is that of spiked matrices; set matrix = "spiked"',
    "generator={name='single-layer', matrix='spiked', strength=-1.0}": "strength = -1.0: input should be greater",
    "batch.alpha=[-1]": "batch.alpha.0 = -1: input should be greater than 0",
    "batch.alpha=[2, 1]": "batch.alpha = [2, 1]: expected increasing numbers",
    "batch.alpha=[]": "batch.alpha = []: expected increasing numbers",
    "batch.alpha=0": "batch.alpha = 0: input should be greater than 0",
    "batch.alpha.end=0.01": "batch.alpha = {'end': 0.01}: expected start < end",
    "batch.alpha.step=1": "batch.alpha.step is not a setting; expected one of start, end, points",
    "batch.alpha.points=1": "batch.alpha.points = 1: input should be greater than or equal to 2",
    "batch.penalty=best": "'best': expected a number of at least 0, a list of increasing ones, or 'optimal'",
    "batch.penalty=-1": "batch.penalty = -1: input should be greater than or equal to 0",
    "batch.penalty=[1, 1]": "batch.penalty = [1, 1]: expected increasing numbers",
    "batch.penalty=[0.1, 'x']": "batch.penalty.1 = 'x': input should be a valid number",
    "batch.penalty={a=1}": "batch.penalty = {'a': 1}: input should be a valid number",
    "batch.output=softmax": "batch.output = 'softmax': input should be 'linear', 'sign', 'logit' or 'probit'",
    "batch.noise=-1": "batch.noise = -1: input should be greater than or equal to 0",
    "batch.lamda=1": "batch.lamda is not a setting; expected one of loss, output, noise",
    "batch=3": "batch = 3: expected a section of settings, such as batch.key=value",
    "features.width=0": "features.width = 0: input should be greater than or equal to 1",
    "features.kind=fourier": "features.kind = 'fourier': input should be 'none', 'gaussian', 'orthogonal' or 'trained'",
    "features.activation=gelo": "features.activation = 'gelo': unknown activation 'gelo'",
}


@pytest.mark.parametrize("setting", WRONG_SETTINGS)
def test_a_wrong_setting_is_refused_in_a_sentence(setting):
    with pytest.raises(ge.InputError, match=re.escape(WRONG_SETTINGS[setting])):
        Experiment.read(None, [setting])


def test_closed_forms_that_there_are_not_are_refused():
    relu = ["generator.name=single-layer", "generator.activation=relu", "estimate.closed_form=true"]
    assert Experiment.read(None, relu).uses_closed_form
    with pytest.raises(
        ge.InputError, match="features of a single-layer generator with means have no closed-form moments"
    ):
        _ = Experiment.read(None, [*relu, "features.kind=gaussian"]).uses_closed_form


@pytest.mark.parametrize(
    ("settings", "closed"),
    [
        (["generator.widths=[50, 200, 200, 60]"], True),  # sign: 4.75 w >= layers sqrt(samples)
        (["generator.widths=[50, 200, 199, 60]"], False),
        (["generator.widths=[50, 200, 200, 60]", "estimate.samples=101000"], False),
        (["generator.widths=[50, 200, 200, 200, 60]"], False),
        (["generator.widths=[50, 267, 267, 267, 60]"], True),
        (["generator.widths=[50, 134, 60]"], True),
        (["generator.widths=[500, 500, 500, 60]", "generator.activation=relu"], False),
        (["generator.widths=[50, 8, 60]", "generator.activation=linear"], True),
        (["generator.widths=[50, 60]", "generator.activation=relu"], True),
        (["generator.widths=[5, 6, 7]", "generator.activation=relu", "estimate.closed_form=true"], True),
        (["generator.widths=[500, 500, 500, 60]", "estimate.closed_form=false"], False),
        (["generator.widths=[500, 500, 60]", "generator.activation=linear", "features.kind=gaussian"], True),
    ],
)
def test_deep_generators_have_the_closed_form_where_it_is_more_accurate_than_the_samples(settings, closed):
    assert Experiment.read(None, ["generator.name=deep-random", *settings]).uses_closed_form == closed


@pytest.mark.parametrize("name", ["single-layer", "deep-random"])
@pytest.mark.parametrize("kind", ["orthogonal", "hadamard", "spiked"])
def test_a_kind_of_matrix_is_that_of_generator_and_model(name, kind, tmp_path):
    sizes = "generator.widths=[6, 8, 9]" if name == "deep-random" else "generator.input_dim=9"
    settings = [f"generator.name={name}", sizes, f"generator.matrix={kind}", "generator.activation=tanh"]
    settings += ["generator.latent_dim=6"] if name == "single-layer" else ["estimate.closed_form=true"]
    settings += ["generator.strength=3.0"] if kind == "spiked" else []
    run = Run(Experiment.read(None, settings), tmp_path, lambda *_: None)
    widths = (6, 8, 9) if name == "deep-random" else (6, 9)
    Fs = generators.matrices(widths, kind, strength=3.0)
    np.testing.assert_array_equal(run.model.Omega, ge.GaussianModel.deep(Fs, "tanh").Omega)
    np.testing.assert_array_equal(run.generator.sample(5, 0)[1], generators.deep(Fs, "tanh").sample(5, 0)[1])


def test_no_command_prints_the_help_and_the_version_is_that_of_the_package():
    done = call()
    assert (done.returncode, done.stderr) == (2, "") or "Usage" in done.stdout + done.stderr
    assert "error" not in done.stderr
    assert call("--version").stdout == ge.__version__ + "\n"


def test_phases_says_what_python_says(experiment):
    done = call("phases", experiment, "--out", "run")
    assert done.returncode == 0, done.stderr
    problem = Run(Experiment.read(experiment, []), experiment.parent / "other", lambda *_: None).problem
    assert done.stdout.splitlines() == [
        f"learning rate: {ge.stability(problem)}",
        f"up to t = 2: {ge.phases(problem, 2.0)}",
        f"in the end: {ge.asymptote(problem, 1e-5, longest=2000)}",
    ]


@pytest.mark.slow
def test_classification_errors_are_predicted_and_compared(experiment):
    setting = ("--set", "theory.classification=true", "--out", "run")
    assert "classification error at t = 2: 0." in call("predict", experiment, *setting).stdout
    done = call("compare", experiment, *setting)
    assert "The classification errors differ most at t = " in done.stdout


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_gets_one_sentence_and_exit_code_two(mistake):
    arguments, sentence = WRONG[mistake]
    done = call(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert sentence in re.sub(r"\s+", " ", done.stderr.replace("│", " "))
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines()
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[learning\nlr = 1", "is not TOML"),
        (b"\xff\xfe\x00", "is not TOML"),
        (b"learning = 3", "learning"),
        (b"[learning]\nlr = '</script>'", "learning.lr"),
        (b"[simulation]\nseeds = 0", "simulation.seeds = 0"),
    ],
)
def test_broken_experiment_files_are_refused_in_a_sentence(content, sentence, tmp_path):
    (tmp_path / "bad.toml").write_bytes(content)
    done = call("predict", "bad.toml")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_that_are_a_pickle_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "evil.safetensors")
    done = call("demo", "--generator", "evil.safetensors")
    assert done.returncode == 2
    assert "is not a complete safetensors file" in done.stderr


def test_weights_with_a_nan_are_refused(tmp_path):
    module = zoo.dcgan().module
    with torch.no_grad():
        next(module.parameters())[0, 0, 0, 0] = float("nan")
    zoo.save(module, tmp_path / "nan.safetensors", {})
    done = call("estimate", "--generator", "nan.safetensors", "--set", "estimate.samples=1000")
    assert done.returncode == 2
    assert "error: nan returned a NaN or an infinity; check its weights" in done.stderr


def test_a_run_directory_that_cannot_be_made_is_refused(experiment, tmp_path):
    (tmp_path / "taken").write_text("")
    done = call("predict", experiment, "--out", "taken")
    assert (done.returncode, done.stderr) == (2, "error: --out taken is a file; expected a folder\n")
    done = call("predict", experiment, "--out", "taken/below")
    assert done.returncode == 3
    assert "could not create the folder" in done.stderr


def test_a_mistake_leaves_no_folder_behind(tmp_path):
    assert call("demo", "--generator", "dcgam").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_result_is_refused_and_not_used(experiment, tmp_path):
    assert call("predict", experiment, "--out", "run").returncode == 0
    path = tmp_path / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    done = call("estimate", experiment, "--out", "run")
    assert done.returncode == 2
    assert "make it again" in done.stderr


def test_an_interrupt_ends_with_130_and_the_finished_stages_stay(experiment, tmp_path):
    command = [
        sys.executable,
        "-m",
        "gaussequiv.report.cli",
        "demo",
        str(experiment),
        "--out",
        "run",
        "--set",
        "times.end=100000",
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("simulation"))
    assert (tmp_path / "run" / "theory.nc").exists()
    os.kill(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command again goes on from there" in message
    assert "Traceback" not in message
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_an_experiment_survives_its_file():
    experiment = Experiment.read(
        None,
        [
            "generator.name=deep-random",
            "generator.widths=[5, 6]",
            "student.readout=gaussian",
            "learning.lr={kind='step', values=[0.5, 0.1], at=[10.0]}",
            "learning.noise=[0.1, 0.2]",
            "batch.penalty=[0, 1]",
            "batch.alpha.points=7",
            "batch.output=probit",
        ],
    )
    again = Experiment.model_validate(experiment.model_dump(exclude_none=True))
    assert again == experiment
    assert again.generator.widths == (5, 6)
    assert again.axes == {"noise": (0.1, 0.2)}
    assert Experiment.model_validate(tomllib.loads(tomli_w.dumps(experiment.model_dump(exclude_none=True)))) == again


@pytest.mark.slow
def test_an_accuracy_is_not_needed_where_moments_are_exact(experiment, tmp_path):
    done = call("estimate", experiment, "--out", "run", "--rtol", "0.02", "--set", "estimate.closed_form=true")
    assert done.returncode == 0, done.stderr
    assert "the moments are exact, so rtol is not needed" in done.stdout


@pytest.mark.slow
def test_an_estimate_to_an_accuracy_says_how_it_got_there(experiment, tmp_path):
    options = ("--set", "estimate.closed_form=false", "--set", "estimate.samples=40000")
    done = call("estimate", experiment, "--out", "run", "--rtol", "0.005", *options)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"^\d+ +\d", line)]
    assert [int(row[0]) for row in rows][:1] == [16_384]
    assert float(rows[-1][1]) < 0.005 or int(rows[-1][0]) == 40_000
    assert (tmp_path / "run" / "convergence.png").is_file()
    done = call("demo", experiment, "--out", "run", "--set", "estimate.rtol=0.005", *options)
    assert done.returncode == 0, done.stderr
    assert (
        f"The model: {rows[-1][0]} samples leave a relative error of " in (tmp_path / "run" / "index.html").read_text()
    )
