"""The commands `check` and `reproduce`: words, exit codes, files, and what is found again."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tomli_w
from scipy import stats

import cases
import gaussequiv as ge
from gaussequiv import generators, report, simulation
from gaussequiv.errors import InputError
from gaussequiv.generators.fields import Pass
from gaussequiv.generators.verdicts import Word
from gaussequiv.report import checks as checks_module
from gaussequiv.report import reproduce
from gaussequiv.report.batch_runs import BatchRun
from gaussequiv.report.checks import Checks, references, structure
from gaussequiv.report.experiments import Run
from gaussequiv.report.settings import Experiment
from gaussequiv.theory import predict

SMALL = {
    "generator": {"name": "single-layer", "input_dim": 200, "latent_dim": 100},
    "times": {"end": 2.0, "points": 4},
    "check": {"samples": 8_192, "gradients": 60, "trained": [0.5, 1.0]},
    "simulation": {"seeds": 3, "test_samples": 50},
}
FEW = {**SMALL, "generator": {"name": "single-layer", "input_dim": 200, "latent_dim": 2}}


def call(*arguments):
    command = [sys.executable, "-m", "gaussequiv.report.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def file_of(tmp_path, values):
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(values))
    return path


def run_of(values, tmp_path, kind=Run):
    return kind(Experiment.model_validate(values), tmp_path / "run", lambda *_: None)


@pytest.mark.slow
def test_check_says_consistent_writes_its_page_and_exits_with_zero(tmp_path):
    done = call("check", file_of(tmp_path, SMALL), "--samples", 50_000, "--out", "run")
    assert done.returncode == 0, done.stderr + done.stdout
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")][:3] == ["consistent"] * 3
    for word in (
        "for comparison, other weights:",
        "certificate: W1 <=",
        "sign smoothed",
        "norm-only bound: none",
        "structure, and for comparison:",
        "row coherence of F",
        "random rows",
    ):
        assert word in done.stdout
    assert lines[-2] == "in all: consistent (all 3 students)"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "check.json",
        "check.html",
        "check-1.png",
        "check-2.png",
        "check-3.png",
        "student-at-1.safetensors",
    } <= names
    found = json.loads((tmp_path / "run" / "check.json").read_text())
    assert set(found["verdicts"]) == {
        "student",
        "trained to t = 1",
        "trained to t = 2",
        "ones",
        "top",
        "rows",
        "columns",
        "sparse",
    }
    assert found["verdicts"]["student"]["decides"]
    assert not found["verdicts"]["sparse"]["decides"]
    html = (tmp_path / "run" / "check.html").read_text()
    page = cases.Balanced()
    page.feed(html)
    assert page.open == []
    assert page.seen.count("svg") == 3
    assert "consistent" in html
    assert call("compare", file_of(tmp_path, SMALL), "--out", "run").returncode == 0
    assert "trained to t = 2: consistent" in (tmp_path / "run" / "index.html").read_text()


@pytest.mark.slow
def test_check_says_violated_and_exits_with_one(tmp_path):
    few = {**FEW, "check": {**SMALL["check"], "trained": [], "gradients": 0}}
    done = call("check", file_of(tmp_path, few), "--samples", 10_000, "--out", "run")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("violated: beyond tolerance")
    assert "there are 2 latents only" in done.stdout
    assert (tmp_path / "run" / "check.html").is_file()
    assert "in all: violated (one student)" in (tmp_path / "run" / "check.html").read_text()
    assert json.loads((tmp_path / "run" / "check.json").read_text())["word"] == "violated"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["check.samples=100"], "check.samples"),
        (["check.gradients=10"], "at least 50 gradients"),
        (["check.beside=['unknown']"], "check.beside"),
        (["check.trained=[0]"], "check.trained"),
        (["check.tolerance=0"], "check.tolerance"),
    ],
)
def test_wrong_settings_get_a_sentence(settings, words, tmp_path):
    with pytest.raises(InputError, match=re.escape(words)):
        Experiment.read(file_of(tmp_path, SMALL), settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["learning.lr=[0.1,0.2]"], "one student"),
        (["generator.latent_dim=1", "check.trained=[]", "check.beside=['columns']"], "check.beside"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_two(settings, words, tmp_path):
    done = call("check", file_of(tmp_path, SMALL), *[part for s in settings for part in ("--set", s)], "--out", "run")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_second_check_trains_nothing_and_draws_nothing(tmp_path, monkeypatch):
    first = Checks.of(run_of(SMALL, tmp_path))
    words = {name: str(found) for name, found in first.verdicts.items()}

    def refuse(*arguments, **named):
        raise AssertionError

    monkeypatch.setattr(simulation, "train", refuse)
    monkeypatch.setattr(Pass, "_part", refuse)
    again = Checks.of(run_of(SMALL, tmp_path))
    assert {name: str(found) for name, found in again.verdicts.items()} == words


def test_the_certificate_is_that_of_student_and_teacher(tmp_path):
    checks = Checks.of(run_of({**SMALL, "check": {**SMALL["check"], "trained": []}}, tmp_path))
    assert checks.certificate.covariance.shape == (4, 4)
    assert checks.certificate.draws == 60
    T = checks.run.problem.teacher_overlap
    np.testing.assert_allclose(checks.certificate.covariance[2:, 2:], T, rtol=0.2, atol=0.1)


def test_a_damaged_student_is_trained_again(tmp_path):
    first = Checks.of(run_of(SMALL, tmp_path)).deciding["trained to t = 1"].weights
    path = tmp_path / "run" / "student-at-1.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    np.testing.assert_array_equal(Checks.of(run_of(SMALL, tmp_path)).deciding["trained to t = 1"].weights, first)


def test_numbers_that_are_none_are_no_json(tmp_path):
    checks = Checks.of(run_of({**SMALL, "check": {**SMALL["check"], "trained": [], "gradients": 0}}, tmp_path))
    json.dumps(checks.values, allow_nan=False)


def test_pixels_that_are_always_black_are_no_family(tmp_path):
    data = tmp_path / "data.npy"
    rows = np.random.default_rng(0).standard_normal((6_000, 50)).astype(np.float32)
    rows[:, 3:] = 0
    np.save(data, rows)
    values = {
        **SMALL,
        "generator": {"name": str(data)},
        "check": {**SMALL["check"], "trained": [], "beside": ["sparse", "ones"]},
    }
    checks = Checks.of(run_of({**values, "check": {"samples": 5_000, "trained": [], "gradients": 0}}, tmp_path))
    assert "sparse" not in checks.beside
    assert checks.verdicts


def test_a_changed_experiment_trains_anew(tmp_path):
    first = Checks.of(run_of(SMALL, tmp_path)).deciding["trained to t = 2"].weights
    other = {**SMALL, "learning": {"lr": 0.5}}
    assert not np.allclose(Checks.of(run_of(other, tmp_path)).deciding["trained to t = 2"].weights, first)
    seeded = {**SMALL, "check": {**SMALL["check"], "seed": 3}}
    assert not np.allclose(Checks.of(run_of(seeded, tmp_path)).deciding["trained to t = 2"].weights, first)


def test_trained_students_are_those_of_the_simulation(tmp_path):
    run = run_of(SMALL, tmp_path)
    ours = Checks.of(run).deciding["trained to t = 1"]
    np.testing.assert_array_equal(ours.weights, simulation.train(run.problem, run.generator, time=1.0).weights)


BATCH = {
    "generator": {"name": "single-layer", "input_dim": 200, "latent_dim": 100, "activation": "relu"},
    "batch": {"loss": "logistic", "penalty": [0.1, 1.0, 10.0], "alpha": [0.5, 2.0]},
    "check": {"samples": 50_000, "gradients": 0, "trained": [0.5, 2.0], "beside": ["ones", "rows"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("features", [False, True])
def test_full_batch_scores(features, tmp_path):
    values = {**BATCH, **({"features": {"kind": "gaussian", "width": 150}} if features else {})}
    checks = Checks.of(run_of(values, tmp_path, BatchRun))
    found = checks.verdicts["trained at alpha = 2"]
    assert found.error_name == "classification error"
    assert found.word is not Word.VIOLATED
    assert 0.05 < found.error < 0.5
    assert checks.certificate == "no certificate was asked for (check.gradients = 0)"
    assert checks.lines
    np.testing.assert_array_equal(
        Checks.of(run_of(values, tmp_path, BatchRun)).deciding["trained at alpha = 2"],
        checks.deciding["trained at alpha = 2"],
    )


@pytest.mark.slow
def test_best_penalties_are_those_of_the_theory(tmp_path):
    learned = {"batch": {**BATCH["batch"], "penalty": "optimal", "loss": "square", "teacher": "two-layer"}}
    checks = Checks.of(run_of({**BATCH, **learned}, tmp_path, BatchRun))
    assert set(checks.deciding) == {"trained at alpha = 0.5", "trained at alpha = 2"}
    found = checks.verdicts["trained at alpha = 2"]
    assert found.error_name == "square error"
    predicted = predict(checks.run.problem, alpha=[2.0], penalty="optimal", band=False).test_error.item()
    assert found.error == pytest.approx(predicted, rel=0.2)


def test_data_sets_have_no_certificate_and_teachers_on_the_inputs(tmp_path):
    data = tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).standard_normal((20_000, 50)).astype(np.float32))
    values = {**SMALL, "generator": {"name": str(data)}}
    checks = Checks.of(run_of(values, tmp_path))
    assert "data set" in checks.certificate
    assert checks.verdicts["student"]["moments"].word is Word.CONSISTENT
    assert checks.verdicts["student"]["shape"].word is Word.CONSISTENT
    assert "columns" not in checks.beside


# --- what they are made of ---


@pytest.mark.parametrize("loss", ["square", "logistic", "hinge"])
def test_fitted_weights_are_at_the_minimum(loss):
    """No step from them lowers the risk on their samples, which are those of no simulation."""
    model = ge.GaussianModel.single_layer(generators.gaussian_matrix(30, 15), "tanh")
    teacher = ge.Perceptron(np.random.default_rng(0).standard_normal(15), "sign")
    problem = ge.FullBatch(model, teacher, loss, penalty=0.3)
    generator = generators.single_layer(generators.gaussian_matrix(30, 15), "tanh")
    w = simulation.fit(problem, generator, alpha=2.0, seed=4)
    assert w.shape == (30,)
    np.testing.assert_array_equal(w, simulation.fit(problem, generator, alpha=2.0, penalty=0.3, seed=4))
    assert not np.allclose(w, simulation.fit(problem, generator, alpha=2.0, seed=5))
    data = simulation.batch._Data(problem, generator, 4, simulation.batch.device_of("cpu"))
    x, y = (part.numpy() for part in data.draw(60, ge.models.streams.Purpose.PRETRAIN, 0))
    phi = {
        "square": lambda z: (y - z) ** 2 / 2,
        "logistic": lambda z: np.log1p(np.exp(-y * z)),
        "hinge": lambda z: np.maximum(1 - y * z, 0),
    }

    def risk(w):
        return phi[loss](x @ w).sum() + 0.15 * w @ w

    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-1):
        for _ in range(30):
            assert risk(w + size * rng.standard_normal(30)) >= risk(w) - 1e-9


def test_a_fit_without_a_minimum_is_refused():
    model = ge.GaussianModel.isotropic(20)
    problem = ge.FullBatch(model, ge.Perceptron(np.ones(20), "sign"), "logistic", penalty=1.0)
    with pytest.raises(InputError, match="no minimum"):
        simulation.fit(problem, model, alpha=1.0, penalty=0.0)


def test_the_structure_is_that_of_its_definitions():
    model = cases.correlated_model(N=40)
    W = np.stack([np.ones(40), np.eye(40)[0]])
    found = structure(model, W)
    rho = np.linalg.eigvalsh(model.Omega)
    assert found["effective rank"] == pytest.approx(rho.sum() ** 2 / (rho**2).sum())
    assert found["largest eigenvalue / trace"] == pytest.approx(rho.max() / rho.sum())
    assert found["participation ratio of the weights"] == pytest.approx(1 / 40)
    assert found["largest weight / sqrt(N)"] == pytest.approx(1 / np.sqrt(40))
    correlations = np.abs(model.Omega / np.sqrt(np.outer(np.diag(model.Omega), np.diag(model.Omega))))
    assert found["largest correlation of two inputs"] == pytest.approx(correlations[~np.eye(40, dtype=bool)].max())
    assert found["largest eigenvalue / N"] == pytest.approx(rho.max() / 40)
    assert "row coherence of F" not in found


def test_coherent_rows_of_the_matrix_are_seen():
    F = generators.gaussian_matrix(30, 20)
    model, W = ge.GaussianModel.single_layer(F, "sign"), np.ones((1, 30))
    cosines = [abs(F[i] @ F[j]) / (np.linalg.norm(F[i]) * np.linalg.norm(F[j])) for i in range(30) for j in range(i)]
    assert structure(model, W, F)["row coherence of F"] == pytest.approx(max(cosines))
    F[7] = -3 * F[3]
    assert structure(model, W, F)["row coherence of F"] == pytest.approx(1.0)


@pytest.mark.parametrize("fields", [1, 4, 12])
def test_a_verdict_draws_itself(fields, tmp_path):
    generator = generators.single_layer(generators.gaussian_matrix(60, 30), "relu")
    found = generators.check(generator, None, np.random.default_rng(0).standard_normal((fields, 60)), samples=5_000)
    path = tmp_path / "verdict.png"
    figure = found.plot(path)
    assert path.stat().st_size > 10_000
    assert len(figure.axes) == 4
    assert report.draw_verdict(found) is not None
    assert not (tmp_path / "other.gif").exists()
    with pytest.raises(InputError, match="suffix"):
        found.plot(tmp_path / "other.gif")
    with pytest.raises(InputError, match="3 is no path"):
        found.plot(3)


def test_full_batch_without_a_trained_score_is_refused(tmp_path):
    values = {**BATCH, "check": {**BATCH["check"], "trained": []}}
    with pytest.raises(InputError, match=r"check\.trained is empty"):
        Checks.of(run_of(values, tmp_path, BatchRun))


def test_one_latent_has_no_columns_unless_they_are_asked_for(tmp_path):
    values = {**SMALL, "generator": {**SMALL["generator"], "latent_dim": 1}}
    checks = Checks.of(run_of({**values, "check": {"samples": 5_000, "trained": [], "gradients": 0}}, tmp_path))
    assert "columns" not in checks.beside
    assert checks.violated


def test_a_mode_that_carries_the_variance_is_noted(tmp_path, monkeypatch):
    checks = Checks.of(run_of({**SMALL, "check": {**SMALL["check"], "gradients": 0, "trained": []}}, tmp_path))
    assert not checks.remarks
    monkeypatch.setattr(checks_module, "LARGEST", 1e-3)
    assert any("one mode carries" in line for line in checks.remarks)


# --- reproduce ---


def test_an_unknown_figure_and_a_file_in_the_place_of_its_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected one of rate"):
        reproduce.reproduced("everything", tmp_path, 1, True, lambda *_: None)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        reproduce.reproduced("rate", tmp_path / "file", 1, True, lambda *_: None)


@pytest.mark.parametrize("content", ["{", '[{"case": 1}]', "3"])
def test_damaged_numbers_are_made_again(content, tmp_path):
    path = tmp_path / "rate-small.json"
    path.write_text(content)
    assert reproduce._kept(path) == []


def test_the_slope_is_that_of_a_power_law():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        N = np.array([50, 100, 200, 400, 800])
        error = 0.05 * N**-0.7
        value = N**-0.7 + error * rng.standard_normal(5)
        rows = [{"N": n, "distance": d, "distance_se": e} for n, d, e in zip(N, value, error, strict=True)]
        found.append(reproduce._slope(rows))
    slopes, errors = np.array(found).T
    z = (slopes + 0.7) / errors
    assert abs(z.mean()) < 0.3
    assert 0.7 < z.std() < 1.2
    assert stats.kstest(z, "norm").pvalue > 1e-4


@pytest.mark.full
def test_the_rate_is_one_over_n_for_random_and_its_root_for_aligned_weights(tmp_path):
    lines, (numbers, picture) = reproduce.reproduced("rate", tmp_path, 1, True, lambda *_: None)
    rows = json.loads(numbers.read_text())
    assert picture.stat().st_size > 10_000
    assert len(lines) == len(reproduce.CASES)
    for case in reproduce.CASES:
        slope, error = reproduce._slope([row for row in rows if row["case"] == case.name])
        assert abs(slope - case.law) < max(3.5 * error, 0.1)
    aligned = [row for row in rows if row["case"] == "ReLU, w = ones"]
    scaled = [row["distance"] * np.sqrt(row["N"]) for row in aligned]
    assert max(scaled) < 1.2 * min(scaled)
    for row in rows:
        assert row["bound"] > row["distance"] / 2
    calls = []
    again, _ = reproduce.reproduced("rate", tmp_path, 1, True, lambda *given: calls.append(given))
    assert again == lines
    assert not calls  # everything was there


# --- what is passed on, and found again ---


SCORES = {
    "generator": {"name": "single-layer", "input_dim": 40, "latent_dim": 20, "activation": "relu"},
    "batch": {"loss": "square", "penalty": [0.1, 1.0, 10.0], "alpha": [0.5, 2.0], "noise": 0.3},
    "check": {"samples": 5_000, "gradients": 0, "trained": [2.0], "beside": ["rows"], "seed": 3},
}


def score_of(values, folder):
    return next(iter(Checks.of(run_of(values, folder, BatchRun)).deciding.values()))


def test_scores_are_fitted_at_the_middle_penalty_and_found_by_all_that_they_depend_on(tmp_path):
    ours = score_of(SCORES, tmp_path)
    run = run_of(SCORES, tmp_path, BatchRun)
    assert "note: the penalty at alpha = 2 is 1" in Checks.of(run).remarks
    expected = simulation.fit(run.problem, run.generator, alpha=2.0, penalty=1.0, seed=3)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    changes = ({"check": {**SCORES["check"], "seed": 4}}, {"batch": {**SCORES["batch"], "penalty": 2.0}})
    for change in changes:
        assert not np.allclose(score_of({**SCORES, **change}, tmp_path), ours)
    np.testing.assert_array_equal(score_of(SCORES, tmp_path), ours)


def test_rows_have_teachers_with_the_noise_of_the_experiments(tmp_path):
    (score, teacher) = Checks.of(run_of(SCORES, tmp_path, BatchRun)).beside["rows"]
    assert score.shape == (40,)
    own = run_of(SCORES, tmp_path, BatchRun).teacher
    assert (teacher.noise, teacher.output) == (own.noise, own.output) == (0.3, own.output)


def test_settings_are_those_of_the_check(tmp_path, monkeypatch):
    seen = {}

    def spied(*arguments, **options):
        seen.update(options)
        return {}

    monkeypatch.setattr(checks_module, "check_families", spied)
    section = {
        "samples": 7_000,
        "seed": 5,
        "workers": 3,
        "tolerance": 0.07,
        "effect": 0.03,
        "trained": [],
        "beside": [],
    }
    run = run_of({**SMALL, "check": section}, tmp_path)
    assert Checks.of(run).verdicts == {}
    assert {name: seen[name] for name in ("samples", "seed", "workers", "tolerance", "effect")} == {
        name: section[name] for name in ("samples", "seed", "workers", "tolerance", "effect")
    }
    assert seen["folder"] == run.folder


def test_a_certificate_is_that_of_the_student_as_it_begins(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(checks_module, "certificate", lambda *given, **options: seen.append((given, options)))
    checks = Checks.of(run_of({**SMALL, "check": {"trained": [0.5], "gradients": 77, "seed": 9}}, tmp_path))
    assert checks.certificate is None
    (generator, student, teacher), options = seen[0]
    assert generator is checks.run.generator
    assert student is checks.deciding["student"]
    assert teacher is checks.run.problem.teacher
    assert (options["draws"], options["seed"]) == (77, 9)


CONSISTENT, VIOLATED, INCONCLUSIVE = Word.CONSISTENT, Word.VIOLATED, Word.INCONCLUSIVE


@pytest.mark.parametrize(
    ("words", "expected", "whose"),
    [
        ((CONSISTENT, VIOLATED), VIOLATED, "1 of 2 students: b"),
        ((VIOLATED, INCONCLUSIVE), VIOLATED, "1 of 2 students: a"),
        ((CONSISTENT, CONSISTENT), CONSISTENT, "all 2 students"),
        ((INCONCLUSIVE,), INCONCLUSIVE, "one student"),
        ((CONSISTENT, INCONCLUSIVE), INCONCLUSIVE, "1 of 2 students: b"),
        ((INCONCLUSIVE, INCONCLUSIVE, CONSISTENT), INCONCLUSIVE, "2 of 3 students: a, b"),
    ],
)
def test_the_word_of_an_experiment_is_the_worst_of_its_own_students(words, expected, whose):
    class Said:
        def __init__(self, word):
            self.word = word

    names = "abc"[: len(words)]
    checks = Checks(None, dict.fromkeys(names), {}, None)
    checks.__dict__["verdicts"] = {**dict(zip(names, map(Said, words), strict=True)), "beside": Said(VIOLATED)}
    assert checks.word is expected
    assert checks.violated == (expected is VIOLATED)
    assert checks.summary == f"in all: {expected.value} ({whose})"


@pytest.mark.parametrize("units", [1, 4])
@pytest.mark.parametrize(("N", "D"), [(60, 30), (90, 40), (60, 200)])
def test_what_is_usual_is_the_median_of_gaussian_weights_and_rows(N, D, units):
    """Half of 200 draws are below, within three standard errors and the rounding to two digits."""
    draws, model = [], ge.GaussianModel(np.eye(N), np.zeros((N, D)))
    rng = np.random.default_rng(N + D + units)
    for _ in range(200):
        F, W = rng.standard_normal((N, D)), rng.standard_normal((units, N))
        draws.append(structure(model, W, F))
    usual = references(draws[0], units)
    for name in ("row coherence of F", "largest weight / sqrt(N)"):
        number, values = float(usual[name].split()[-1]), np.array([found[name] for found in draws])
        assert np.mean(values < number - 0.005) < 0.5 + 3 * 0.035
        assert np.mean(values < number + 0.005) > 0.5 - 3 * 0.035
    if units == 1:
        inverse = np.mean([1 / found["participation ratio of the weights"] for found in draws])
        assert inverse == pytest.approx(3 * N / (N + 2), rel=0.1)  # exact in the mean
    assert "Gaussian weights .33," in usual["participation ratio of the weights"]
    assert f"{1 / N:.2g}" in usual["participation ratio of the weights"]
    assert draws[0]["effective rank"] == pytest.approx(float(usual["effective rank"].split()[-1]))
    assert draws[0]["largest eigenvalue / trace"] == pytest.approx(1 / N)


def test_sample_complexities_of_one_number_of_samples_are_refused(tmp_path):
    values = {**BATCH, "check": {**BATCH["check"], "trained": [0.5, 2.0, 0.501]}}
    with pytest.raises(InputError, match=r"alpha=0\.5 and 0\.501 are both 100 samples for N=200"):
        Checks.of(run_of(values, tmp_path, BatchRun))


def test_the_legend_names_students_and_teachers(tmp_path):
    generator = generators.single_layer(generators.gaussian_matrix(60, 30), "relu")
    rng = np.random.default_rng(0)
    found = generators.check(generator, None, rng.standard_normal((2, 60)), rng.standard_normal((3, 30)), samples=5_000)
    assert (found.units, found.marginals.shape[1]) == (2, 5)
    names = [text.get_text() for text in found.plot().axes[0].get_legend().get_texts()]
    assert names == ["student 1", "student 2", "teacher 1", "teacher 2", "teacher 3"]


@pytest.mark.parametrize(("D", "few"), [(29, True), (30, False)])
def test_few_latents_are_remarked(D, few, tmp_path):
    values = {**SMALL, "generator": {**SMALL["generator"], "latent_dim": D}, "check": {"trained": [], "beside": []}}
    assert any("latents only" in line for line in Checks.of(run_of(values, tmp_path)).remarks) == few


def test_errors_of_the_rate_are_those_of_a_root(monkeypatch):
    """The squared distances 0.04, 0.01 of two draws: 0.158 +- 0.015 / (2 * 0.158); every draw has its own seed."""
    seeds, squares = [], iter((0.04, 0.01))

    class Found(dict):
        def __init__(self, seed):
            super().__init__(sliced=type("Row", (), {"value": 0.1}))
            seeds.append(seed)
            self.provenance = {"shape_squared": next(squares)}

    monkeypatch.setattr(reproduce, "check", lambda *_, seed, **__: Found(seed))
    monkeypatch.setattr(reproduce, "certificate", lambda *_, **__: type("Bound", (), {"w1": 0.3}))
    row = reproduce._at(reproduce.CASES[0], 20, 2, 5_000, 1, lambda _: None)
    assert row["distance"] == pytest.approx(0.025**0.5)
    assert row["distance_se"] == pytest.approx(0.015 / (2 * 0.025**0.5))
    assert len(set(seeds)) == 2


def test_every_draw_of_the_rate_has_its_own_matrix_weights_and_teacher(monkeypatch):
    seen = []

    class Found(dict):
        provenance = {"shape_squared": 0.1}

    def spied(generator, model, student, teacher, *, seed, **options):
        seen.append((generator.sample(2, 0)[1], student, teacher, seed))
        return Found(sliced=type("Row", (), {"value": 0.1}))

    monkeypatch.setattr(reproduce, "check", spied)
    monkeypatch.setattr(reproduce, "certificate", lambda *_, **__: type("Bound", (), {"w1": 0.3}))
    reproduce._at(reproduce.CASES[1], 20, 3, 5_000, 1, lambda _: None)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for mine, theirs in zip(seen[one], seen[other], strict=True):
            assert not np.allclose(mine, theirs)


def test_small_and_full_rates_are_kept_apart(tmp_path, monkeypatch):
    """One computed after the other does not find its rows, and each finds its own again."""
    made = []

    def row(case, N, draws, samples, workers, done):
        made.append((N, draws, samples))
        return {"case": case.name, "N": N, "distance": 1 / N, "distance_se": 0.01 / N, "sliced": 0.1, "bound": 1.0}

    monkeypatch.setattr(reproduce, "_at", row)
    monkeypatch.setattr("gaussequiv.report.figures.rate", lambda rows: None)
    monkeypatch.setattr("gaussequiv.report.figures.save", lambda figure, path: None)
    files = {small: reproduce.rate(tmp_path, 1, small, lambda *_: None)[1][0] for small in (True, False)}
    assert files[True] != files[False]
    assert len(made) == len(reproduce.CASES) * (3 + 6)
    assert len({(draws, samples) for _, draws, samples in made}) == 2
    for small, count in ((True, 12), (False, 24)):
        assert reproduce.rate(tmp_path, 1, small, lambda *_: None)[1][0] == files[small]
        assert len(json.loads(files[small].read_text())) == count
    assert len(made) == len(reproduce.CASES) * (3 + 6)


def test_scores_of_another_generator_in_the_same_folder_are_fitted_anew(tmp_path):
    ours = score_of(SCORES, tmp_path)
    other = {**SCORES, "generator": {**SCORES["generator"], "activation": "erf"}}
    assert not np.allclose(score_of(other, tmp_path), ours)


def test_a_saved_score_is_that_of_the_best_penalty(tmp_path, monkeypatch):
    """Where theory finds another one for the same experiment, it is fitted anew."""
    from gaussequiv import theory

    fitted, best = [], iter((0.5, 0.5, 2.0))

    def spied(problem, generator, *, penalty, **options):
        fitted.append(penalty)
        return np.full(40, penalty)

    monkeypatch.setattr(simulation, "fit", spied)
    monkeypatch.setattr(theory, "predict", lambda *_, **__: type("Curve", (), {"data": {"penalty": [next(best)]}}))
    values = {**SCORES, "batch": {**SCORES["batch"], "penalty": "optimal"}}
    run = run_of(values, tmp_path, BatchRun)
    found = [checks_module._fitted(run, 2.0, checks_module._penalty(run, 2.0))[0] for _ in range(3)]
    assert found == [0.5, 0.5, 2.0]
    assert fitted == [0.5, 2.0]


@pytest.mark.parametrize("output", ["logit", "probit"])
def test_rows_have_teachers_with_the_labels_of_the_experiments(output, tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "fit", lambda *_, **__: np.ones(40))
    values = {**SCORES, "batch": {**SCORES["batch"], "loss": "logistic", "output": output}}
    (_, teacher) = Checks.of(run_of(values, tmp_path, BatchRun)).beside["rows"]
    assert (teacher.noise, teacher.output) == (0.3, output)


def test_a_certificate_is_that_of_where_the_teacher_looks(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(checks_module, "certificate", lambda *_, teacher_on, **__: seen.append(teacher_on))
    for on in ("inputs", "latents"):
        values = {**SMALL, "learning": {"teacher_on": on}, "check": {"trained": [], "beside": []}}
        assert Checks.of(run_of(values, tmp_path / on)).certificate is None
    assert seen == ["inputs", "latents"]


def test_families_are_those_of_the_seed_of_the_check(tmp_path):
    def weights(seed):
        check = {"trained": [], "beside": ["random", "ones"], "seed": seed}
        found = Checks.of(run_of({**SMALL, "check": check}, tmp_path)).beside
        return [found[name].weights for name in ("random", "ones")]

    ours, other = weights(0), weights(1)
    np.testing.assert_array_equal(weights(0), ours)
    assert not np.allclose(other[0], ours[0])
    np.testing.assert_array_equal(other[1], ours[1])


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_small_inputs_have_all_families_and_data_sets_no_few_latents(scale, tmp_path):
    """What is left out has a small share of the variance, whatever the unit of the inputs is."""
    path = tmp_path / "data.npy"
    np.save(path, (scale * np.random.default_rng(0).standard_normal((6_000, 50))).astype(np.float32))
    checks = Checks.of(run_of({**SMALL, "generator": {"name": str(path)}, "check": {"trained": []}}, tmp_path))
    assert {"ones", "top", "sparse"} <= set(checks.beside)
    assert not any("latents only" in line for line in checks.remarks)


def test_figures_of_students_that_are_gone_are_removed(tmp_path):
    values = {**SMALL, "check": {"samples": 5_000, "gradients": 0, "trained": [], "beside": []}}
    checks = Checks.of(run_of(values, tmp_path))
    folder = checks.run.folder
    folder.mkdir(exist_ok=True)
    for name in ("check-1.png", "check-2.png", "check-10.png", "check-batch-1.png", "check-mine.png"):
        (folder / name).write_bytes(b"old")
    checks.write()
    assert {path.name for path in folder.glob("*.png")} == {"check-1.png", "check-batch-1.png", "check-mine.png"}
    assert (folder / "check-1.png").stat().st_size > 3
