"""Full-batch experiments beyond the default: other teachers, measured ones, a user's code, and features that are trained."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tomli_w
import torch

import gaussequiv as ge
from gaussequiv import generators, simulation
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.report import stages, terminal
from gaussequiv.report.batch_runs import BatchRun
from gaussequiv.report.experiments import Run
from gaussequiv.report.settings import Experiment

SMALL = {
    "generator": {"name": "single-layer", "input_dim": 60, "latent_dim": 30},
    "estimate": {"samples": 3000},
    "batch": {"penalty": 0.5, "alpha": [0.5, 1.0, 2.0]},
    "simulation": {"seeds": 3, "test_samples": 50},
}
TRAINED = ["features.kind=trained", "student.units=8", "times.end=2", "learning.lr=0.1"]
CODE = """
import torch

def make():
    return lambda x: torch.tanh(x[:, 0] + x[:, 1])

def scores():
    return lambda x: x[:, :3]

def broken():
    raise RuntimeError("no weights\\nhere")

def number():
    return 3

constant = 3
"""


def call(*arguments):
    command = [sys.executable, "-m", "gaussequiv.report.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(SMALL))
    return path


@pytest.fixture
def code(tmp_path, monkeypatch, request):
    """The name of a module of the user's in the current folder, a new one for every test."""
    name = re.sub(r"\W", "_", request.node.name)[-60:]
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


@pytest.fixture
def run(file, tmp_path):
    """A run of the small experiment with further settings, in one directory."""

    def made(*settings, allow_code=False, folder="run"):
        return BatchRun(Experiment.read(file, list(settings)), tmp_path / folder, lambda *_: None, allow_code)

    return made


def stamps(run):
    return {
        path.name: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.suffix in (".nc", ".safetensors")
    }


# --- where a teacher looks, and centring ---


@pytest.mark.parametrize("teacher", ["perceptron", "two-layer"])
def test_a_teacher_may_look_at_the_inputs(teacher, run):
    found = run("batch.teacher_on=inputs", f"batch.teacher={teacher}", "batch.noise=0.3")
    assert (found.problem.teacher_on, found.problem.teacher.dim) == ("inputs", 60)
    assert found.problem.field_noise == pytest.approx(0.09)
    latents = run(f"batch.teacher={teacher}", folder="other")
    assert (latents.problem.teacher_on, latents.problem.teacher.dim) == ("latents", 30)
    assert found.key_of("batch") != latents.key_of("batch")
    assert found.comparisons[0].rms_z < 4


def test_inputs_may_be_taken_as_they_come(run):
    found, centred = (
        run("generator.activation=relu", f"batch.center={word}", folder=word) for word in ("false", "true")
    )
    assert (found.problem.center, centred.problem.center) == (False, True)
    assert np.all(found.theory.test_error != centred.theory.test_error)
    assert found.comparisons[0].rms_z < 4


# --- two-layer teachers ---


def test_a_two_layer_teacher_of_the_square_loss_has_its_closed_form(run):
    found = run("batch.teacher=two-layer", "teacher.units=3", "teacher.activation=relu", "batch.noise=0.2")
    assert isinstance(found.problem.teacher, ge.TwoLayer)
    assert (found.problem.teacher.units, found.problem.teacher.activation.name) == (3, "relu")
    assert found.problem.noise == 0.2
    assert not (found.folder / "teacher-batch.safetensors").exists()
    assert found.key_of("batch") != run("batch.teacher=two-layer", "teacher.units=2").key_of("batch")


@pytest.mark.parametrize("on", ["latents", "inputs"])
@pytest.mark.parametrize(("loss", "output"), [("huber", "linear"), ("logistic", "sign"), ("square", "sign")])
def test_other_labels_of_a_two_layer_teacher_are_measured(on, loss, output, run):
    settings = ["batch.teacher=two-layer", f"batch.loss={loss}", f"batch.output={output}", f"batch.teacher_on={on}"]
    found = run(*settings, "generator.activation=relu")
    assert found.problem.teacher.output == output
    network = ge.TwoLayer.random(2, 30 if on == "latents" else 60, seed=1)
    latents, inputs = found.generator.sample(100, 3)
    seen = latents if on == "latents" else inputs - found.model.mean_x
    np.testing.assert_allclose(found.problem.teacher.function(latents, inputs), network(seen), atol=1e-9)
    assert "counts as noise" in found.theory.warnings[0]
    curves = (found.theory, found.practice, found.twin)
    kinds = [curve.provenance["problem"]["teacher"] for curve in curves]
    assert kinds == ["MeasuredTeacher", "MeasuredTeacher", "Perceptron"]
    before = stamps(found)
    assert "teacher-batch.safetensors" in before
    again = run(*settings, "generator.activation=relu")
    np.testing.assert_array_equal(again.problem.teacher.covariance, found.problem.teacher.covariance)
    np.testing.assert_array_equal(again.practice.test_error, found.practice.test_error)
    more = run(*settings, "generator.activation=relu", "batch.penalty=3.0")
    assert not np.allclose(more.theory.test_error, found.theory.test_error)
    assert stamps(found)["teacher-batch.safetensors"] == before["teacher-batch.safetensors"]
    other = run(*settings, "generator.activation=relu", "teacher.seed=9")
    assert np.abs(other.problem.teacher.covariance - found.problem.teacher.covariance).max() > 0.05


def test_the_twin_of_measured_labels_has_their_moments_and_gaussian_fields(run):
    for loss, output in (("huber", "linear"), ("logistic", "sign")):
        problem = run("batch.teacher=two-layer", f"batch.loss={loss}", "estimate.samples=20000", folder=loss).problem
        twin = problem.twin
        assert isinstance(twin.teacher, ge.Perceptron)
        assert (twin.output, twin.teacher_on, twin.learned) == (output, "inputs", problem.learned)
        np.testing.assert_allclose(twin.field_covariance, problem.field_covariance, atol=1e-9)
        assert twin.field_square + twin.field_noise == pytest.approx(problem.field_square, rel=1e-9)
        one, other = (ge.predict(p, alpha=[0.5, 2.0], penalty=0.5) for p in (problem, twin))
        np.testing.assert_allclose(one.test_error, other.test_error, rtol=1e-6)
        practice = simulation.simulate(twin, twin.model, alpha=[2.0], penalty=0.5, seeds=20, test_samples=2000)
        z = (practice.test_error - one.test_error[1]) / practice.data.test_error_se.values
        assert abs(z[0]) < 6
    plain = run("batch.loss=huber", folder="plain").problem
    assert plain.twin is plain


def test_with_features_a_teacher_on_the_inputs_sees_those_of_the_generator(run):
    settings = ["features.kind=gaussian", "features.width=20", "batch.teacher_on=inputs", "generator.activation=relu"]
    found = run(*settings, "estimate.samples=20000")
    latents, features = found.generator.sample(50, 1)
    inputs = found.source.sample(50, 1)[1]
    theta = stream(1, Purpose.NETWORK, chunk=60, lane=1).standard_normal(60)
    labels = (inputs - found.inputs_model.mean_x) @ theta / 60**0.5
    np.testing.assert_allclose(found.problem.teacher.function(latents, features), labels, atol=1e-9)
    assert features.shape == (50, 20)
    assert found.problem.teacher.square == pytest.approx(theta @ found.inputs_model.Omega @ theta / 60, rel=0.05)
    assert found.comparisons[0].rms_z < 4


# --- a user's own code ---


@pytest.mark.slow
def test_a_teacher_of_ones_own_is_run_where_it_is_allowed(code, file, tmp_path):
    settings = ("--set", f"batch.teacher={code}:make", "--set", "batch.loss=logistic")
    done = call("compare", "batch", file, "--out", "run", *settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: batch.teacher = '{code}:make' runs your code; allow it with --allow-code\n"
    assert list(tmp_path.glob("run/*")) == []
    for command in ("predict", "simulate", "compare"):
        done = call(command, "batch", file, "--out", "run", "--allow-code", *settings)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("teacher 100 %") == (command == "predict")
    assert "counts as noise" in (tmp_path / "run" / "index-batch.html").read_text()
    again = call("demo", "run/experiment.toml", "--out", "copy", "--allow-code")
    assert again.stdout.splitlines()[:4] == done.stdout.splitlines()[:4]


@pytest.mark.parametrize("on", ["inputs", "latents"])
@pytest.mark.parametrize("features", ["none", "gaussian"])
def test_ones_own_teacher_looks_at_what_was_asked_for(on, features, code, run):
    settings = [f"batch.teacher={code}:make", f"features.kind={features}"]
    settings += ["features.width=20"] if features != "none" else []
    found = run(*settings, *([] if on == "inputs" else ["batch.measured_on=latents"]), allow_code=True)
    latents, inputs = found.source.sample(40, 2)
    seen = latents if on == "latents" else inputs
    labels = found.problem.teacher.function(latents, found.generator.sample(40, 2)[1])
    np.testing.assert_allclose(labels, np.tanh(seen[:, 0] + seen[:, 1]), atol=1e-6)


def test_what_was_computed_with_other_code_is_computed_again(code, run, tmp_path, monkeypatch):
    def computed():
        found = run(f"batch.teacher={code}:make", allow_code=True)
        _ = found.practice, found.theory
        return stamps(found)

    first = computed()
    assert computed() == first
    (tmp_path / f"{code}.py").write_text(CODE.replace("tanh", "sin"))
    monkeypatch.delitem(sys.modules, code)
    changed = computed()
    assert {name for name in first if changed[name] != first[name]} == {
        "teacher-batch.safetensors",
        "theory-batch.nc",
        "simulation-batch.nc",
    }


def test_a_module_of_torch_in_single_precision_is_a_teacher(code, run, tmp_path):
    text = "import torch\n\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Linear(60, 1)\n"
    (tmp_path / f"{code}.py").write_text(text)
    found = run(f"batch.teacher={code}:make", "batch.loss=logistic", allow_code=True)
    state = torch.random.get_rng_state()
    try:
        assert np.isfinite(found.theory.test_error).all()
    finally:
        torch.random.set_rng_state(state)


MISTAKES = {
    "nowhere_at_all:make": "there is no module nowhere_at_all; expected an installed one, or one in this folder",
    "gaussequiv.nowhere:make": "there is no module gaussequiv.nowhere",
    "{code}:nothing": "the module {code} has no nothing; expected a function of that name",
    "{code}:constant": "constant is an int; expected a function without arguments",
    "{code}:number": "number() returned a int; expected a torch module or a callable",
    "{code}:broken": "broken() fails: RuntimeError: no weights",
    "{code}:scores": "the teacher returned shape (4096, 3); expected (4096,), one label a sample",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_code_is_one_sentence_before_anything_is_computed(name, code, run):
    found = run(f"batch.teacher={name.format(code=code)}", allow_code=True)
    with pytest.raises(ge.InputError, match=re.escape(MISTAKES[name].format(code=code))):
        _ = found.theory
    assert not found.folder.exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import numpi", "needs numpi, which is missing"),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "fails: SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(text, sentence, code, run, tmp_path):
    (tmp_path / f"{code}.py").write_text(text)
    with pytest.raises(ge.InputError, match=sentence):
        _ = run(f"batch.teacher={code}:make", allow_code=True).practice


# --- trained features ---


def test_trained_features_are_the_first_layer_of_the_trained_student(run):
    found = run(*TRAINED, "generator.activation=relu", "batch.teacher=two-layer")
    network = found.trained
    problem = Run(Experiment.read(None, found_settings(found)), found.folder / "x", lambda *_: None).problem
    expected = simulation.train(problem, found.source, time=2.0, seed=0)
    np.testing.assert_array_equal(network.weights, expected.weights)
    inputs, features = (made.sample(20, 0)[1] for made in (found.source, found.generator))
    hidden = network.activation(network.local_fields(inputs - problem.model.mean_x))
    np.testing.assert_allclose(features, hidden, atol=1e-9)
    assert found.model.input_dim == 8
    assert found.model.provenance["samples"] == 3000
    uncentred = run(*TRAINED, "generator.activation=relu", "learning.center=false", folder="raw")
    inputs, features = (made.sample(20, 0)[1] for made in (uncentred.source, uncentred.generator))
    network = uncentred.trained
    np.testing.assert_allclose(features, network.activation(network.local_fields(inputs)), atol=1e-9)


def found_settings(run):
    """The settings of an experiment without its features, as single ones."""
    sections = run.experiment.model_dump(exclude_none=True, include={"generator", "teacher", "student", "learning"})
    return [f"{s}.{key}={json.dumps(value)}" for s, values in sections.items() for key, value in values.items()]


@pytest.mark.slow
def test_the_commands_learn_from_trained_features_and_find_them_again(file, tmp_path):
    settings = [x for setting in [*TRAINED, "batch.teacher=two-layer"] for x in ("--set", setting)]
    done = call("predict", file, "--out", "run", *settings)
    assert done.returncode == 0, done.stderr
    assert "features 100 %" in done.stderr
    names = {"features.safetensors", "model-inputs.safetensors", "model.safetensors", "theory-batch.nc"}
    paths = [tmp_path / "run" / name for name in names]
    before = [path.stat().st_mtime_ns for path in paths]
    weights = ge.TwoLayer.load(tmp_path / "run" / "features.safetensors").weights
    assert weights.shape == (8, 60)
    for command, at in (("simulate", file), ("demo", file), ("compare", tmp_path / "run" / "experiment.toml")):
        done = call(command, "batch", at, "--out", "run", *(settings if at == file else ()))
        assert done.returncode == 0, done.stderr
        assert "features" not in done.stderr
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert not list((tmp_path / "run").glob("*.partial"))
    again = call("predict", tmp_path / "run" / "experiment.toml", "--out", "copy")
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(ge.TwoLayer.load(tmp_path / "copy" / "features.safetensors").weights, weights)


@pytest.mark.parametrize(
    "setting",
    ["learning.lr=0.2", "teacher.seed=7", "student.seed=7", "times.end=3", "features.seed=1", "generator.seed=5"],
)
def test_what_training_depends_on_trains_anew(setting, run):
    first = run(*TRAINED).trained
    assert not np.array_equal(run(*TRAINED, setting).trained.weights, first.weights)


@pytest.mark.parametrize("setting", ["times.points=7", "times.start=0.5", "batch.penalty=2.0", "simulation.seeds=4"])
def test_what_it_does_not_depend_on_does_not(setting, run):
    found = run(*TRAINED)
    _ = found.model
    before = stamps(found)
    _ = run(*TRAINED, setting).theory
    assert {name: stamps(found)[name] for name in before} == before


def test_an_interrupted_training_is_resumed(file, tmp_path):
    experiment = Experiment.read(file, [*TRAINED, "times.end=40"])

    def stop(stage, done, of):
        if stage == "features" and done >= 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _ = BatchRun(experiment, tmp_path / "run", stop).trained
    assert len(list((tmp_path / "run").glob("features-*.partial"))) == 1
    seen = []
    found = BatchRun(experiment, tmp_path / "run", lambda stage, done, of: seen.append((stage, done)))
    whole = BatchRun(experiment, tmp_path / "whole", lambda *_: None)
    np.testing.assert_array_equal(found.trained.weights, whole.trained.weights)
    assert min(done for stage, done in seen if stage == "features") > 1024


def test_theory_and_training_on_trained_features_agree(run):
    settings = ["features.kind=trained", "student.units=40", "student.scale=0.3", "times.end=5", "learning.lr=0.05"]
    found = run(
        *settings, "batch.noise=0.3", "simulation.seeds=12", "simulation.test_samples=1000", "estimate.samples=20000"
    )
    comparison, twin = found.comparisons
    assert comparison.agrees, comparison.summary
    assert twin.agrees, twin.summary


def test_the_key_of_a_stage_holds_what_its_features_depend_on(run):
    trained, plain = run(*TRAINED), run()
    sections = {"teacher", "student", "learning", "times"}
    assert sections <= set(trained._values)
    assert not sections & set(plain._values)
    assert trained.key_of(*stages.MODEL) != run(*TRAINED, "learning.noise=0.5").key_of(*stages.MODEL)
    assert plain.key_of(*stages.MODEL) == run("learning.noise=0.5").key_of(*stages.MODEL)


# --- points without a value ---


@pytest.mark.slow
def test_points_without_a_value_are_listed_with_their_reasons_and_the_others_computed(file, tmp_path):
    settings = ("--set", "batch.penalty=[0, 0.5]", "--set", "batch.alpha=[0.5, 1, 2]", "--set", "batch.noise=0.5")
    line = "at alpha = 1, penalty = 0: diverged: alpha = 1 is the interpolation threshold rank / N"
    done = call("predict", "batch", file, "--out", "run", *settings)
    assert done.returncode == 0, done.stderr
    assert [text for text in done.stdout.splitlines() if text.startswith(line)]
    assert done.stdout.splitlines()[3].split()[:2] == ["1", "nan"]
    done = call("compare", "batch", file, "--out", "run", *settings)
    assert done.returncode == 0, done.stderr
    assert [text for text in done.stdout.splitlines() if text.startswith(f"theory {line}")]
    assert f"<li>theory {line}" in (tmp_path / "run" / "index-batch.html").read_text()


def test_a_simulation_that_is_lost_somewhere_passes_through_the_commands(run, monkeypatch, capsys):
    """As where a minimum does not exist: NaN with a reason in theory, simulation and twin."""
    found = run("batch.loss=logistic", "batch.penalty=[0.1, 0.5]", "batch.alpha=[0.5, 1, 2]")
    whole = simulation.simulate

    def partly(problem, inputs, **options):
        curve = whole(problem, inputs, **options)
        data = curve.data.copy(deep=True)
        data["status"] = data["status"].astype("U16")
        data["status"].values[0, 0], data["test_error"].values[0, 0] = "not-converged", np.nan
        provenance = json.dumps(curve.provenance | {"reasons": {"0,0": "no minimum here"}})
        return ge.Curve(data.assign_attrs(provenance=provenance))

    monkeypatch.setattr(simulation, "simulate", partly)
    comparison, twin = found.comparisons
    assert not comparison.agrees
    assert comparison.doubts == ["simulation at alpha = 0.5, penalty = 0.1: not-converged: no minimum here"]
    terminal.show_comparison(found)
    terminal.say_how(found.practice)
    shown = capsys.readouterr().out.splitlines()
    assert shown.count("simulation at alpha = 0.5, penalty = 0.1: not-converged: no minimum here") == 1
    assert shown[-1] == "at alpha = 0.5, penalty = 0.1: not-converged: no minimum here"
    assert "<li>twin at alpha = 0.5, penalty = 0.1: not-converged: no minimum here</li>" in (
        (found.folder / "index-batch.html").read_text()
    )
    assert twin.rms_z < 5


# --- what is refused ---

WRONG = {
    "batch.center=false batch.loss=huber": "center = false is for the square loss on linear labels of a perceptron",
    "batch.center=false batch.output=sign": "center = false is for the square loss",
    "batch.center=false batch.teacher=two-layer": "center = false is for the square loss",
    "batch.center=3": "batch.center = 3: input should be a valid boolean",
    "batch.teacher_on=outputs": "batch.teacher_on = 'outputs': input should be 'latents' or 'inputs'",
    "batch.teacher=mlp": "expected perceptron, two-layer, or package.module:factory, a function of yours",
    "batch.teacher=a.:b": "expected perceptron, two-layer, or package.module:factory",
    "batch.teacher=a:b batch.teacher_on=inputs": "set measured_on for yours",
    "batch.measured_on=inputs": "measured_on is where a teacher of your own looks; set teacher_on for perceptron",
    "batch.teacher=a:b batch.noise=0.1": "labels of a teacher a:b are measured, without noise; expected noise = 0",
    "batch.teacher=a:b batch.output=probit": "labels of a teacher a:b are measured, as they come or by their sign",
    "batch.teacher=two-layer batch.output=logit": "labels of a teacher two-layer are measured",
    "batch.teacher=two-layer batch.loss=logistic batch.noise=0.1": "are measured, without noise",
    "batch.teacher_on=inputs batch.bayes=true": "bayes is the least error for perceptrons on the latents",
    "batch.teacher=two-layer batch.bayes=true": "bayes is the least error for perceptrons on the latents",
    "batch.teacher_on=inputs features.kind=gaussian batch.noise=0.1": (
        "labels of a teacher on the inputs below features are measured, without noise"
    ),
    "batch.teacher_on=inputs features.kind=gaussian batch.center=false": (
        "center = false is for a teacher on the latents where there are features"
    ),
    "features.width=7": "width of no features; set features.kind to gaussian or orthogonal, too",
    "features.kind=trained features.width=7": "width cannot be set for trained features; they are those of the section",
    "features.kind=trained features.activation=erf": "activation cannot be set for trained features",
    "features.kind=trained learning.lr=[0.1,0.2]": "trained features are those of one student; expected one value of lr",
}


@pytest.mark.parametrize("settings", WRONG)
def test_what_does_not_fit_is_refused_in_a_sentence(settings):
    with pytest.raises(ge.InputError, match=re.escape(WRONG[settings])):
        Experiment.read(None, settings.split(" "))


def test_trained_features_are_for_full_batch_learning_and_have_no_closed_form(file):
    done = call("predict", "online", file, "--set", "features.kind=trained")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: features.kind = 'trained' is for full-batch learning")
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(ge.InputError, match="trained features have no closed-form moments"):
        _ = Experiment.read(file, ["features.kind=trained", "estimate.closed_form=true"]).uses_closed_form


def test_a_training_that_diverges_is_one_sentence(file):
    settings = [*TRAINED, "learning.lr=1000", "student.activation=linear"]
    done = call("predict", "batch", file, *(x for setting in settings for x in ("--set", setting)))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the student diverged before t = 2; train it with a smaller")


def test_ones_own_teacher_fails_in_its_own_words_below_features():
    base = generators.single_layer(generators.gaussian_matrix(20, 10))
    wrong = generators.on_inputs_of(base, lambda x: x)
    features = base.then(generators.random_features(20, 5))
    with pytest.raises(ge.InputError, match=r"^the teacher returned shape \(13, 20\); expected \(13,\), one label"):
        generators.measure_teacher(features, wrong, on="latents", samples=200)
