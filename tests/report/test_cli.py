"""The commands as a user calls them: a whole small run, its resumption, and one sentence for every mistake."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tomli_w
import torch

import gaussequiv as ge
from gaussequiv.generators import zoo
from gaussequiv.report.experiments import Experiment

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


@pytest.mark.parametrize("name", ["dcgan", "dcgan-random", "deep-random"])
def test_the_generators_of_the_zoo_run_the_whole_job(name):
    quick = ["times.end=0.05", "times.start=0.01", "times.points=2", "simulation.seeds=2", "simulation.test_samples=20"]
    done = call("demo", "--generator", name, *(x for q in [*quick, "estimate.samples=4000"] for x in ("--set", q)))
    assert done.returncode == 0, done.stderr
    assert "written: gaussequiv-" in done.stdout


def test_generators_are_listed_and_shown(tmp_path):
    listed = call("generators", "list")
    assert listed.returncode == 0
    for name in zoo.NAMES:
        assert name in listed.stdout
    assert call("generators").stdout == listed.stdout
    shown = call("generators", "show", "dcgan", "--out", "grid.png")
    assert "D = 100 latents, N = 784 inputs" in shown.stdout
    assert "Fashion-MNIST" in shown.stdout
    assert (tmp_path / "grid.png").stat().st_size > 10_000


def test_train_learns_from_png_images(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(70):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    done = call("train", "dcgan", "--data", "images", "--epochs", 1, "--out", "mine.safetensors")
    assert done.returncode == 0, done.stderr
    assert zoo.load(tmp_path / "mine.safetensors").input_dim == 64


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
    "name of the weights": (["train", "dcgan", "--data", ".", "--out", "x.pt"], "ends in .safetensors"),
    "unknown command": (["predikt"], "No such command"),
    "unknown option": (["demo", "--sed", "3"], "No such option"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_gets_one_sentence_and_exit_code_two(mistake):
    arguments, sentence = WRONG[mistake]
    done = call(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert sentence in re.sub(r"\s+", " ", done.stderr.replace("│", " "))
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines() or "Usage" in done.stderr


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
    assert "chunk 0 of the estimate (seed 0): nan returned a NaN or an infinity" in done.stderr


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
        "times.end=500",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "theory.nc").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command again resumes" in message
    assert "Traceback" not in message
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_an_experiment_survives_its_file():
    experiment = Experiment.read(
        None, ["generator.name=deep-random", "generator.widths=[5, 6]", "student.readout=gaussian"]
    )
    again = Experiment.model_validate(experiment.model_dump(exclude_none=True))
    assert again == experiment
    assert again.generator.widths == (5, 6)
