"""The user's own generators from the command line: the whole job, found again, and one sentence for every mistake."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.report.batch_runs import BatchRun
from gaussequiv.report.experiments import Run
from gaussequiv.report.settings import Experiment

QUICK = ["times.end=0.5", "times.points=3", "simulation.seeds=2", "simulation.test_samples=20", "estimate.samples=2000"]
CODE = """
import numpy as np
import torch
from torch import nn

def net(width=16):
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 25), nn.Unflatten(1, (1, 5, 5)))

class Several(nn.Module):
    latent = (2, 3)

    def forward(self, c, gain=1.0, label=None):
        assert label is None or label.shape == (len(c),)
        return c, (gain if isinstance(gain, float) else gain[:, None, None]) * c.exp()

class Named(nn.Module):
    def forward(self, z, w):
        return z + w.flatten(1)

def moving():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).train().forward

def uniform(n, rng):
    return rng.uniform(-1, 1, (n, 4, 10))

def one_hot(n, rng):
    return np.eye(6)[rng.integers(6, size=n)]
"""


def call(*arguments):
    command = [sys.executable, "-m", "gaussequiv.report.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def settings(*values):
    return [word for value in values for word in ("--set", value)]


@pytest.fixture
def code(tmp_path, monkeypatch):
    name = f"adapted_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def run(*values, kind=Run, allowed=True):
    return kind(Experiment.read(None, [*QUICK, *values]), Path("run"), lambda *_: None, allowed)


def weights(seed, path="net.pt", width=16):
    torch_rng = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 25))
    torch.save({k: torch.randn(v.shape, generator=torch_rng) for k, v in net.state_dict().items()}, path)


@pytest.mark.slow
def test_the_whole_job_from_code_and_weights(code):
    weights(0)
    given = settings("generator.latent=6", "generator.weights=net.pt", *QUICK)
    done = call("demo", "--generator", f"{code}:net", "--allow-code", "--out", "out", *given)
    assert done.returncode == 0, done.stderr
    assert "written: out/curve.png" in done.stdout
    again = call("demo", "--generator", f"{code}:net", "--allow-code", "--out", "out", *given)
    assert (again.returncode, again.stderr) == (0, ""), "nothing is computed again"
    assert again.stdout == done.stdout
    copy = call("demo", "out/experiment.toml", "--allow-code", "--out", "copy")
    assert copy.stdout.replace("copy/", "out/") == done.stdout, copy.stderr
    checked = call("generators", "check", f"{code}:net", "--allow-code", *settings("generator.latent=6"))
    assert checked.returncode == 0
    assert checked.stdout.startswith("net: a generator\nok     sizes: D = 6 latents, N = 25 inputs\n")
    shown = call("generators", "show", f"{code}:net", "--allow-code", *settings("generator.latent=6"))
    assert shown.returncode == 0, shown.stderr
    assert "D = 6 latents, N = 25 inputs (1 x 5 x 5)" in shown.stdout
    without_a_name = call("demo", "--generator", f"{code}:net", "--allow-code", *given)
    assert "written: gaussequiv-net/curve.png" in without_a_name.stdout


def test_other_weights_and_other_code_are_computed_anew(code, tmp_path):
    given = [f"generator.name={code}:net", "generator.latent=6", "generator.weights=net.pt"]
    weights(0)
    first = run(*given).model
    weights(1)
    assert np.abs(run(*given).model.Omega - first.Omega).max() > 0.1
    weights(0)
    np.testing.assert_array_equal(run(*given).model.Omega, first.Omega)


def test_random_weights_follow_from_the_seed_of_the_generator(code):
    given = [f"generator.name={code}:net", "generator.latent=6"]
    a, b, c = (run(*given, f"generator.seed={seed}").source.sample(3, 0)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.01


def test_settings_are_those_of_from_code(code):
    generator = run(
        f"generator.name={code}:Several", "generator.output=1", "generator.extra={gain = 2.0, label = 3}"
    ).source
    latents, inputs = generator.sample(4, 0)
    np.testing.assert_allclose(inputs, 2 * np.exp(latents), rtol=1e-6)
    named = run(f"generator.name={code}:Named", "generator.latent={z = 6, w = [2, 3]}").source
    latents, inputs = named.sample(4, 0)
    np.testing.assert_allclose(inputs, latents[:, :6] + latents[:, 6:], rtol=1e-6)
    wide = run(
        f"generator.name={code}:net", "generator.latent=6", "generator.arguments={width = 3}", "generator.crop=3"
    )
    assert wide.source.output_shape == (1, 3, 3)


def test_a_prior_reaches_the_model_and_the_simulation(code):
    given = ["generator.name=torch.nn:Identity", "generator.latent=[4, 10]", f"generator.prior={code}:uniform"]
    found = run(*given, "batch.alpha=[1.0]", kind=BatchRun)
    np.testing.assert_allclose(np.diag(found.model.Psi), 1 / 3, atol=0.05)
    assert np.isfinite(found.practice.test_error).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["generator.name={}:net"], "does not say how many latents it has"),
        (["generator.name={}:net", "generator.latent=0"], "expected the shape of one latent"),
        (["generator.name={}:net", "generator.latent=[]"], "expected the shape of one latent"),
        (["generator.name={}:net", "generator.latent=7"], "is latent=(7,) the shape that the module expects?"),
        (["generator.name={}:net", "generator.latent=6", "generator.weights=none.pt"], "there is no file none.pt"),
        (["generator.name={}:net", "generator.latent=6", "generator.weights=text.pt"], "text.pt"),
        (
            ["generator.name={}:net", "generator.latent=6", "generator.weights=wide.pt"],
            "0.weight has shape (5, 6); expected (16, 6)",
        ),
        (["generator.name={}:net", "generator.latent=6", "generator.prior=uniform"], "expected package.module:sampler"),
        (["generator.name={}:nothing"], "has no nothing; expected a function of that name"),
        (["generator.name={}:Several"], "choose one by output"),
        (
            ["generator.name={}:Several", "generator.output=1", "generator.extra={{gain = [[1], 2]}}"],
            "expected a number or a list",
        ),
        (["generator.name={}:moving", "generator.latent=6"], "outputs depend on the other latents of their batch"),
        (["generator.name=dcgan", "generator.latent=6"], "latent cannot be set for dcgan"),
        (["generator.name=dcgan", "generator.output=0"], "output cannot be set for dcgan"),
        (["generator.name=dcgan", "generator.key=zz"], "key='zz' is that of a file of several arrays"),
        (["generator.name=nosuch", "generator.latent=6"], "unknown generator 'nosuch'; expected a name of"),
        (["generator.name={}.py:net"], "modules are named without .py"),
        (["generator.name=net.pt"], "net.pt are weights without their module; expected package.module:factory"),
        (["generator.name={}:Several", "generator.output=3.5"], "output = 3.5: expected the position or the name"),
        (["generator.name={}:Several", "generator.extra=3"], "extra = 3: expected a table of names and values"),
        (["generator.name={}:Several", "generator.prior=7"], "prior = 7: expected package.module:sampler"),
        (["generator.name={}:net", "generator.latent=6", "generator.weights="], "at least 1 character"),
        (["generator.name={}:net", "generator.latent=1000000000000"], "expected 10000000 at most"),
        (["generator.name=none.onnx"], "there is no file none.onnx"),
        (["generator.name=text.onnx"], "is no ONNX model that runs here"),
        (["generator.name=text.onnx", "generator.weights=x.pt"], "weights cannot be set for text.onnx"),
        (
            ["generator.name=torch.nn:Identity", "generator.latent=6", "generator.prior={}:one_hot"],
            "few points, as one-hot codes are",
        ),
    ],
)
def test_mistakes_are_one_sentence(code, values, sentence):
    weights(0, "wide.pt", width=5)
    for name in ("text.pt", "text.onnx"):
        Path(name).write_text("nothing")
    with pytest.raises(InputError) as caught:
        _ = run(*(value.format(code) for value in values)).model
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_exit_codes(code):
    refused = call("estimate", "--generator", f"{code}:net", *settings("generator.latent=6"))
    assert refused.returncode == 2
    assert refused.stderr == f"error: generator.name = '{code}:net' runs your code; allow it with --allow-code\n"
    prior = settings("generator.latent=6", f"generator.prior={code}:one_hot")
    refused = call("estimate", "--generator", "model.onnx", *prior)
    assert (refused.returncode, refused.stderr) == (
        2,
        f"error: generator.prior = '{code}:one_hot' runs your code; allow it with --allow-code\n",
    )
    broken = call("generators", "check", f"{code}:net", "--allow-code", *settings("generator.latent=7"))
    assert (broken.returncode, broken.stdout) == (2, "")
    assert "is latent=(7,) the shape that the module expects?" in broken.stderr
    broken = call("generators", "check", f"{code}:moving", "--allow-code", *settings("generator.latent=6"))
    assert (broken.returncode, broken.stderr) == (1, "")
    assert "FAILS  batches: outputs depend on the other latents" in broken.stdout


@pytest.mark.slow
def test_theory_and_training_agree_on_a_generator_from_code(code):
    weights(0)
    given = ["simulation.seeds=8", "simulation.test_samples=500", "estimate.samples=40000", "times.end=4"]
    found = run(f"generator.name={code}:net", "generator.latent=6", "generator.weights=net.pt", *given)
    comparison, _ = found.comparisons
    assert isinstance(found.theory, ge.Curve)
    ratio = comparison.practice.test_error / comparison.theory.test_error
    np.testing.assert_allclose(ratio, 1, atol=0.3)
