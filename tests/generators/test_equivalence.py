"""The check of the equivalence: averages of learners, one pass, the battery, and verdicts over families of cases."""

import dataclasses
import re
from itertools import product
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

import cases
import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import equivalence, fields
from gaussequiv.generators.equivalence import check, check_families
from gaussequiv.generators.families import families
from gaussequiv.generators.families import networks as families_as_networks
from gaussequiv.generators.fields import FieldSums, Pass, Pilot
from gaussequiv.generators.learners import learner
from gaussequiv.generators.verdicts import Finding, Word, adjusted, enough, needed
from gaussequiv.maths.activations import Sign

# --- learners: what is wrong, and what it would be for Gaussian fields ---


def networks(student="erf", teacher="erf", K=2, M=2, N=30, D=12, outputs=None):
    return (
        ge.TwoLayer.random(K, N, student, 1, readout="gaussian", outputs=outputs),
        ge.TwoLayer.random(M, D, teacher, 2, readout="gaussian", outputs=outputs),
    )


def covariance(L, rng):
    A = rng.standard_normal((L, 2 * L))
    return A @ A.T / (2 * L)


def agrees(of, C, rng, n=200_000):
    """Averages over samples beside those in closed form, in standard errors."""
    u = rng.standard_normal((n, len(C))) @ np.linalg.cholesky(C).T
    values = of.functionals(u)
    z = (values.mean(axis=0) - of.gaussian(C)) / np.maximum(values.std(axis=0) / sqrt(n), 1e-12)
    assert np.abs(z).max() < 4.5
    assert np.sqrt(np.mean(z**2)) < 2 + 1 / sqrt(z.size)


@cases.each([g for g in cases.ACTIVATIONS if not isinstance(g, Sign)])
def test_averages_of_networks_are_those_of_gaussian_fields(case):
    rng = np.random.default_rng(0)
    of = learner(*networks(case, case), 30, 12, "latents")
    assert of.what == "prediction error"
    agrees(of, covariance(4, rng), rng)


@pytest.mark.parametrize(("student", "teacher"), [("erf", "relu"), ("relu", "erf"), ("erf", "sign"), ("tanh", "erf")])
@pytest.mark.parametrize("outputs", [None, 3])
def test_the_same_of_mixed_networks_and_several_outputs(student, teacher, outputs):
    rng = np.random.default_rng(1)
    of = learner(*networks(student, teacher, 3, 2, outputs=outputs), 30, 12, "latents")
    agrees(of, covariance(5, rng), rng)


@pytest.mark.parametrize("output", ["linear", "sign", "logit", "probit"])
@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("overlap", [-0.5, 0.3, 0.98])
def test_averages_of_scores(output, noise, overlap):
    rng = np.random.default_rng(2)
    of = learner(np.ones(30), ge.Perceptron(np.ones(12), output, noise), 30, 12, "latents")
    C = np.array([[1.7, overlap * sqrt(1.7 * 0.8)], [overlap * sqrt(1.7 * 0.8), 0.8]])
    agrees(of, C, rng)


@cases.each([g for g in cases.ACTIVATIONS if not isinstance(g, Sign)])
def test_averages_of_scores_of_networks(case):
    """The mean of the labels, which no score has, is part of the error."""
    rng = np.random.default_rng(9)
    teacher = networks(case, case, M=3)[1]
    of = learner(np.ones(30), teacher, 30, 12, "latents")
    u = rng.standard_normal((50, 4))
    expected = (case(u[:, 1:]) @ teacher.readout - u[:, 0]) ** 2
    np.testing.assert_allclose(of.functionals(u), expected[:, None], rtol=1e-12)
    agrees(of, covariance(4, rng), rng)


@pytest.mark.parametrize("on", ["latents", "inputs"])
@pytest.mark.parametrize("activation", ["relu", "sign", "tanh"])
def test_the_error_of_a_score_of_a_network_is_that_of_its_problem(on, activation):
    r"""$E y^2 - 2 w \cdot E[x y] / \sqrt N + w \cdot \Omega w / N$, from the two moments that the full-batch theory knows."""
    F = generators.gaussian_matrix(30, 12)
    model, w = ge.GaussianModel.single_layer(F, "relu"), np.random.default_rng(1).standard_normal(30)
    teacher = networks(teacher=activation, D=30 if on == "inputs" else 12)[1]
    problem = ge.FullBatch(model, teacher, "square", teacher_on=on)
    of = learner(w, teacher, 30, 12, on)
    expected = problem.field_square - 2 * w @ problem.field_covariance / sqrt(30) + w @ model.Omega @ w / 30
    assert of.what == "square error"
    assert of.gaussian(of.covariance(model)) == pytest.approx([expected], rel=1e-6)
    assert of.scale(of.covariance(model)) == pytest.approx(problem.field_square + w @ model.Omega @ w / 30)


def test_scores_of_labels_that_are_drawn():
    """P(sign score != y) by drawing the labels themselves."""
    rng = np.random.default_rng(3)
    C = np.array([[1.0, 0.6], [0.6, 1.0]])
    u = rng.standard_normal((400_000, 2)) @ np.linalg.cholesky(C).T
    zeta = 0.5 * rng.standard_normal(len(u))
    drawn = {
        "sign": np.sign(u[:, 1] + zeta),
        "probit": np.sign(u[:, 1] + zeta + rng.standard_normal(len(u))),
        "logit": np.where(rng.random(len(u)) < 1 / (1 + np.exp(-u[:, 1] - zeta)), 1, -1),
    }
    for output, y in drawn.items():
        of = learner(np.ones(3), ge.Perceptron(np.ones(3), output, 0.5), 3, 3, "latents")
        wrong = np.sign(u[:, 0]) != y
        assert of.functionals(u).mean() == pytest.approx(wrong.mean(), abs=4 * wrong.std() / sqrt(len(u)))


def test_drifts_are_gradients_of_the_error():
    """E u_a d(error)/d(lambda_k) and d(error)/d(v_k), by finite differences."""
    student, teacher = networks("tanh", "erf")
    of = learner(student, teacher, 30, 12, "latents")
    u = np.random.default_rng(4).standard_normal((5, 4))
    values = of.functionals(u)
    for k in range(2):
        step = 1e-5 * np.eye(4)[k]
        slope = (of.functionals(u + step)[:, 0] - of.functionals(u - step)[:, 0]) / 2e-5
        np.testing.assert_allclose(values[:, 1 + 4 * k : 5 + 4 * k], slope[:, None] * u, rtol=1e-6, atol=1e-8)
        changed = []
        for sign in (1, -1):
            readout = student.readout + sign * 1e-5 * np.eye(2)[k]
            moved = learner(ge.TwoLayer(student.weights, readout, "tanh"), teacher, 30, 12, "latents")
            changed.append(moved.functionals(u)[:, 0])
        np.testing.assert_allclose(values[:, 9 + k], (changed[0] - changed[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("on", ["latents", "inputs"])
def test_covariances_of_a_model_are_the_order_parameters(on):
    F = generators.gaussian_matrix(30, 12)
    model = ge.GaussianModel.single_layer(F, "relu")
    student, teacher = networks(D=30 if on == "inputs" else 12)
    problem = ge.OnlineSGD(model, teacher, student, 0.1, teacher_on=on)
    C = learner(student, teacher, 30, 12, on).covariance(model)
    np.testing.assert_allclose(C[2:, 2:], problem.teacher_overlap)
    np.testing.assert_allclose(C[:2, 2:], student.weights @ problem.covariance_with_teacher / sqrt(30))
    np.testing.assert_allclose(C[:2, :2], student.weights @ model.Omega @ student.weights.T / 30)


def test_the_error_of_a_model_is_the_prediction_at_the_start():
    F = generators.gaussian_matrix(60, 30)
    model = ge.GaussianModel.single_layer(F, "tanh")
    student, teacher = networks(N=60, D=30)
    curve = ge.predict(ge.OnlineSGD(model, teacher, student, 0.1), times=[0.0, 1.0])
    of = learner(student, teacher, 60, 30, "latents")
    assert of.gaussian(of.covariance(model))[0] == pytest.approx(curve.test_error[0], rel=1e-9)


BAD = {
    "dims": (np.ones((2, 7)), np.ones((1, 12)), "latents", "expected \\(units, 30\\)"),
    "teacher dims": (np.ones((2, 30)), np.ones((1, 30)), "latents", "numbers? of the latents|expected \\(units, 12\\)"),
    "nothing": (None, None, "latents", "expected 1 to 32"),
    "too many": (np.ones((33, 30)), None, "latents", "expected 1 to 32"),
    "nan": (np.full((1, 30), np.nan), None, "latents", "NaN"),
    "zero": (np.zeros((1, 30)), None, "latents", "zero weights"),
    "words": ("weights", None, "latents", "expected"),
    "gradients": ([torch.ones(30, requires_grad=True)] * 2, None, "latents", "expected a network"),
    "no units": (np.zeros((0, 30)), np.ones((1, 12)), "latents", "student has no units"),
    "complex": (1j * np.ones((1, 30)), None, "latents", "complex"),
    "where": (np.ones((1, 30)), None, "outputs", "teacher_on"),
    "outputs": (*networks(outputs=2)[:1], networks()[1], "latents", "outputs"),
    "outputs of a score's teacher": (np.ones(30), networks(outputs=2)[1], "latents", "2 outputs.*one number"),
    "kinds": (
        networks()[0],
        ge.Perceptron(np.ones(12)),
        "latents",
        "expected two networks, or .* the student's weights",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_wrong_learners_get_a_sentence(kind):
    student, teacher, on, words = BAD[kind]
    with pytest.raises(InputError, match=words):
        learner(student, teacher, 30, 12, on)


# --- one pass ---


def a_pass(samples=20_000, seed=0, generator=None, **learners):
    generator = generator or generators.single_layer(generators.gaussian_matrix(30, 12), "relu")
    learners = learners or {
        "a": learner(*networks(), 30, 12, "latents"),
        "b": learner(np.ones((3, 30)), None, 30, 12, "latents"),
    }
    means = np.full(generator.input_dim, 0.3), np.zeros(generator.latent_dim)
    return Pass(generator, learners, means, samples, seed)


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        ours, others = first[name].arrays("x"), second[name].arrays("x")
        assert ours.keys() == others.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], others[key])


def test_sums_are_those_of_the_fields():
    going = a_pass(samples=4096)
    found = going.run(1, None)
    chunks = [going._fields(i, 256) for i in range(16)]
    for number, (name, of) in enumerate(going.learners.items()):
        u = np.concatenate([chunk[number] for chunk in chunks])
        sums = found[name]
        total = sum(sums.groups[1:], sums.groups[0])
        assert sums.samples == 4096
        np.testing.assert_allclose(sums.covariance(total), np.cov(u, rowvar=False, bias=True), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(sums.functionals.sum(axis=0), of.functionals(u).sum(axis=0), rtol=1e-10, atol=1e-8)
        y = np.concatenate([rows for _, rows in sums.kept])
        np.testing.assert_allclose(y @ sums.pilot.B.T, u, atol=1e-9)


def test_fields_are_those_of_the_centred_inputs():
    going = a_pass()
    (u, _) = going._fields(3, 100)
    student, teacher = networks()
    rng = ge.models.streams.stream(0, ge.models.streams.Purpose.CHECK, chunk=3, lane=fields.LANE)
    c, x = going.generator.sample(100, rng)
    np.testing.assert_allclose(u[:, :2], student.local_fields(x - 0.3), atol=1e-6)
    np.testing.assert_allclose(u[:, 2:], teacher.local_fields(c), atol=1e-6)


def test_threads_do_not_change_the_sums():
    same(a_pass().run(1, None), a_pass().run(3, None))


def test_an_interrupted_pass_goes_on(tmp_path, monkeypatch):
    whole = a_pass().run(1, None)
    monkeypatch.setattr(fields, "EVERY", 0.0)

    def stop(done, of):
        if done > 9_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_pass().run(2, stop, tmp_path)
    seen = []
    same(a_pass().run(1, lambda done, of: seen.append(done), tmp_path), whole)
    assert min(seen) > 9_000  # it did not begin again


def test_more_samples_go_on_and_fewer_leave_them(tmp_path):
    a_pass(20_480).run(1, None, tmp_path)
    seen = []
    more = a_pass(30_720).run(1, lambda done, of: seen.append(done), tmp_path)
    assert min(seen) > 20_480
    same(more, a_pass(30_720).run(1, None))
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    same(a_pass(20_480).run(1, None, tmp_path), a_pass(20_480).run(1, None))
    assert file.read_bytes() == before


def test_a_damaged_file_is_made_again_and_other_questions_have_other_files(tmp_path):
    whole = a_pass(5000).run(1, None, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    same(a_pass(5000).run(1, None, tmp_path), whole)
    a_pass(5000, seed=1).run(1, None, tmp_path)
    a_pass(5000, a=learner(np.ones((1, 30)), None, 30, 12, "latents")).run(1, None, tmp_path)
    other = generators.single_layer(generators.gaussian_matrix(30, 12, seed=9), "relu")
    a_pass(5000, generator=other).run(1, None, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_parts_merge_to_the_whole():
    going = a_pass(16_384 * 2)
    sums = going.run(1, None)
    whole, pilots = sums["a"], [one.pilot for one in sums.values()]
    halves = [FieldSums.empty(whole.pilot, whole.functionals.shape[1]) for _ in range(2)]
    for index in range(32):
        halves[index // 16].add(index % 16, going._part(index, 1024, pilots)[0])
    merged = halves[0] + halves[1]
    for name, array in whole.arrays("x").items():
        np.testing.assert_allclose(merged.arrays("x")[name], array, rtol=1e-12, atol=1e-9)
    with pytest.raises(InputError, match="coordinates"):
        _ = merged + FieldSums.empty(Pilot(2 * whole.pilot.P, whole.pilot.B), 1)


def test_only_the_first_samples_are_kept(monkeypatch):
    monkeypatch.setattr(fields.sliced, "MOST", 3000)
    sums = a_pass(16_384).run(1, None)["a"]
    assert sum(len(rows) for _, rows in sums.kept) == 3000
    assert sums.samples == 16_384


def test_fields_that_depend_on_each_other_lose_a_dimension():
    W = np.random.default_rng(0).standard_normal((2, 30))
    of = learner(np.concatenate([W, W[:1] - W[1:]]), None, 30, 12, "latents")
    sums = a_pass(5000, a=of).run(1, None)["a"]
    assert sums.pilot.P.shape == (2, 3)
    np.testing.assert_allclose(sums.pilot.P @ sums.pilot.B, np.eye(2), atol=1e-9)


def test_a_field_that_does_not_vary_is_refused():
    generator = generators.single_layer(np.eye(4, 3), "relu")
    with pytest.raises(InputError, match="does not vary"):
        check(generator, None, np.eye(4)[3:], samples=5000)


def test_a_generator_that_fails_names_the_chunk():
    class Failing:
        latent_dim, input_dim = 3, 4

        def sample(self, n, rng):
            x = np.ones((n, 4)) if n < 300 else np.full((n, 4), np.nan)
            return np.zeros((n, 3)), x

    with pytest.raises(InputError, match="the first samples of the check: sample returned a NaN"):
        check(Failing(), None, np.ones((1, 4)), samples=16_384)
    with pytest.raises(InputError, match="chunk 0 of the check"):
        check(Failing(), ge.GaussianModel(np.eye(4), np.zeros((4, 3))), np.ones((1, 4)), samples=16_384)


# --- verdicts ---


def single(N, D, kind, seed=0):
    F = generators.gaussian_matrix(N, D, seed=seed)
    return generators.single_layer(F, kind), ge.GaussianModel.single_layer(F, kind)


def pair(N, D, seed=0):
    return ge.TwoLayer.random(2, N, "erf", seed + 1), ge.TwoLayer.random(2, D, "erf", seed + 2)


@pytest.mark.parametrize("kind", ["relu", "sign"])
def test_the_gaussian_twin_is_consistent(kind):
    _, model = single(100, 50, kind)
    found = check(model, model, *pair(100, 50), samples=200_000)
    assert found.word is Word.CONSISTENT
    assert str(found).startswith("consistent")
    assert not found.measurable
    assert found["moments"].p > 1e-3
    assert found["error"].low < 0 < found["error"].high


def adversary(kind):
    """Generator, model, student, teacher of a case in which fields are not Gaussian."""
    rng = np.random.default_rng(7)
    match kind:
        case "two latents":
            generator, model = single(200, 2, "sign")
            return generator, model, *pair(200, 2)
        case "sparse":
            generator, model = single(300, 150, "sign")
            W = np.zeros((2, 300))
            W[0, :1], W[1, 5:9] = sqrt(300), sqrt(300) / 2
            return generator, model, ge.TwoLayer(W, [1.0, 1.0], "erf"), pair(300, 150)[1]
        case "spiked":
            F = generators.gaussian_matrix(300, 150)
            student = ge.TwoLayer(rng.standard_normal((1, 300)) + 15 * np.eye(300)[:1], [1.0], "erf")
            teacher = ge.TwoLayer(F[:1] * sqrt(150) / np.linalg.norm(F[0]), [1.0], "erf")
            generator, model = single(300, 150, "sign")
            return generator, model, student, teacher

    class Atomic:
        """Isotropic inputs of which a third are zero."""

        latent_dim = input_dim = 50

        def sample(self, n, rng):
            rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
            x = rng.standard_normal((n, 50)) * np.where(rng.random((n, 1)) < 0.3, 0.0, 1 / sqrt(0.7))
            return x, x

    return Atomic(), ge.GaussianModel.isotropic(50), *pair(50, 50)


@pytest.mark.parametrize("kind", ["two latents", "sparse", "spiked", "atomic"])
def test_adversaries_are_violated(kind):
    generator, model, student, teacher = adversary(kind)
    found = check(generator, model, student, teacher, samples=60_000)
    assert found.word is Word.VIOLATED, str(found)
    assert found.violated
    assert str(found).startswith("violated: beyond tolerance")
    assert found.measurable
    assert found["moments"].word is Word.CONSISTENT  # the model is right
    felt = found["error"].word is not Word.CONSISTENT or found["moved"].word is Word.VIOLATED
    assert ("does not feel" in found.sentence) == (not felt)


def test_moments_fail_on_their_own():
    """The small-correlation form of Omega for ReLU has the wrong variance along ones, where fields are nearly Gaussian."""
    N, D = 400, 200
    F = generators.gaussian_matrix(N, D)
    exact = ge.GaussianModel.single_layer(F, "relu")
    b, c, a = 0.5, 0.5, 1 / sqrt(2 * np.pi)
    Omega = b**2 * F @ F.T + (c - a**2 - b**2) * np.eye(N)
    approximate = ge.GaussianModel(Omega, b * F, mean_x=exact.mean_x)
    student, teacher = ge.TwoLayer(np.ones((1, N)), [1.0], "erf"), pair(N, D)[1]
    generator = generators.single_layer(F, "relu")
    assert check(generator, exact, student, teacher, samples=20_000)["moments"].word is Word.CONSISTENT
    found = check(generator, approximate, student, teacher, samples=20_000)
    assert found["moments"].word is Word.VIOLATED
    assert found.violated


@pytest.mark.slow
def test_errors_of_an_estimated_model_are_not_held_against_the_generator():
    """Its moments, from a tenth of the samples, are off by more than the check's own noise."""
    generator, _ = single(60, 20, "relu")
    student, teacher = pair(60, 20)
    found = [
        check(generator, generators.estimate(generator, 2_000, seed=seed), student, teacher, samples=32_768, seed=seed)
        for seed in range(12)
    ]
    p = np.array([one["moments"].p for one in found])
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.mean([one["moments"].low for one in found]) < 0.01
    assert all(one["moments"].high < 0.08 for one in found)
    assert sum(one["moved"].low > 0 or one["moved"].high < 0 for one in found) <= 3


def test_moments_of_a_model_with_means_that_are_off_are_violated():
    generator, model = single(60, 20, "relu")
    student, teacher = pair(60, 20)
    off = ge.GaussianModel(model.Omega, model.Phi, mean_x=model.mean_x + 0.2 * np.sign(student.weights[0]))
    assert check(generator, off, student, teacher, samples=20_000)["moments"].word is Word.VIOLATED


def test_dependent_fields_of_the_model_that_the_samples_tell_apart():
    model = ge.GaussianModel(np.ones((2, 2)), np.ones((2, 1)))
    found = check(ge.GaussianModel.isotropic(2), None, np.eye(2) * sqrt(2), samples=5_000)
    assert found["shape"].word is not Word.VIOLATED

    class Free:
        latent_dim, input_dim = 1, 2

        def sample(self, n, rng):
            rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
            return rng.standard_normal((n, 1)), rng.standard_normal((n, 2))

    found = check(Free(), model, np.eye(2), samples=5_000)
    assert found["moments"].value == np.inf
    assert found.violated


def test_the_square_loss_sees_moments_only():
    generator, model = single(60, 2, "sign")
    teacher = ge.Perceptron(np.ones(2))
    found = check(generator, model, np.random.default_rng(0).standard_normal(60), teacher, samples=20_000)
    assert found["error"].value == 0
    assert found["error"].word is Word.CONSISTENT
    assert found["shape"].word is Word.VIOLATED
    assert found.error_name == "square error"
    linear = [ge.TwoLayer.random(2, size, "linear", 1) for size in (60, 2)]
    assert check(generator, model, *linear, samples=20_000)["error"].value == 0
    score = np.random.default_rng(0).standard_normal(60)
    assert check(generator, model, score, linear[1], samples=20_000)["error"].value == 0


def test_a_score_of_a_network_feels_the_law_of_the_fields():
    """The response of a sign to sign(F c) is no line if there are two latents only; there is no drift of SGD."""
    for D, word in ((2, Word.VIOLATED), (100, Word.CONSISTENT)):
        generator, model = single(200, D, "sign")
        teacher = ge.TwoLayer(np.eye(D)[:1], [1.0], "sign")
        w = model.Phi[:, 0] / model.Phi.std()
        found = check(generator, model, w, teacher, samples=100_000)
        assert found.error_name == "square error"
        assert "drift" not in [finding.name for finding in found.findings]
        assert found["error"].word is word, str(found)


def test_classification_on_features():
    """Full batch: the score of a student on features of a generator, with a perceptron on the latents."""
    generator, _ = single(80, 40, "relu")
    features = generators.random_features(80, 100, "erf", "gaussian", 0)
    learned = generator.then(features)
    model = generators.estimate(learned, 40_000)
    teacher = ge.Perceptron(np.random.default_rng(1).standard_normal(40), "sign")
    found = check(learned, model, np.random.default_rng(2).standard_normal(100), teacher, samples=60_000)
    assert found.error_name == "classification error"
    assert 0 < found.error < 1
    assert abs(found["error"].value) < 0.02
    assert "drift" not in [finding.name for finding in found.findings]


def test_several_students_have_the_verdicts_of_each():
    generator, model = single(60, 30, "relu")
    student, teacher = pair(60, 30)
    other = ge.TwoLayer(np.ones((2, 60)) * [[1], [-1]] + student.weights, [1.0, 2.0], "erf")
    both = check_families(generator, model, {"a": student, "b": (other, teacher)}, teacher, samples=20_000)
    for name, one in (("a", student), ("b", other)):
        alone = check(generator, model, one, teacher, samples=20_000)
        for ours, others in zip(both[name].findings, alone.findings, strict=True):
            assert (ours.value, ours.low, ours.high) == pytest.approx(
                (others.value, others.low, others.high), rel=1e-6, abs=1e-9
            )


def test_teachers_on_the_inputs_and_data_sets():
    generator, model = single(60, 30, "tanh")
    student, teacher = ge.TwoLayer.random(2, 60, "erf", 1), ge.TwoLayer.random(1, 60, "erf", 2)
    found = check(generator, model, student, teacher, teacher_on="inputs", samples=40_000)
    assert found["moments"].word is Word.CONSISTENT
    data = generators.dataset(np.random.default_rng(0).gamma(1.0, size=(6000, 20)).astype(np.float32))
    W = np.zeros((1, 20))
    W[0, 0] = 1
    found = check(data, generators.estimate(data), W, samples=20_000)
    assert found["shape"].word is Word.VIOLATED
    assert found["moments"].word is not Word.VIOLATED
    assert found.samples == 16 * 375


def test_samples_of_a_data_set_are_taken_once():
    """Drawn with replacement, or in the order of their classes, samples of a Gaussian law would not look like those."""
    rows = np.random.default_rng(1).standard_normal((5000, 20)).astype(np.float32)
    rows = rows[np.argsort(rows[:, 0])]
    data, W = generators.dataset(rows), np.eye(20)[:4]
    found = check(data, generators.estimate(data), W, samples=100_000)
    assert found["shape"].p > 1e-3
    assert found["shape"].low == 0
    assert found.samples == 16 * 312
    going = Pass(data, {"a": learner(W, None, 20, 0, "latents")}, (np.zeros(20), np.zeros(0)), 5000, 0)
    seen = np.concatenate([going._fields(i, 312)[0] for i in range(16)])
    assert len(np.unique(seen[:, 0])) == len(seen)
    with pytest.raises(InputError, match="expected 4096"):
        check(generators.dataset(rows[:4000]), None, W)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.0, 0.04, "consistent"),
        (0.03, 0.06, "inconclusive"),
        (0.06, 0.09, "violated"),
        (-0.04, 0.03, "consistent"),
        (-0.06, 0.03, "inconclusive"),
        (-0.09, -0.06, "violated"),
        (-0.04, -0.01, "consistent"),
        (-0.09, 0.09, "inconclusive"),
    ],
)
def test_the_word_of_an_interval(low, high, word):
    assert Finding("error", (low + high) / 2, low, high, 0.05, 0.5).word == word


def test_what_is_not_a_number_decides_nothing():
    assert Finding("shape", np.nan, np.nan, np.nan, 0.05, np.nan).word is Word.INCONCLUSIVE


@pytest.mark.parametrize(
    ("p", "p_holm", "ending"),
    [
        (np.nan, np.nan, "consistent"),
        (0.04, np.nan, "p = 0.04"),
        (1.23e-5, 0.5, "p = 1.2e-05 (Holm 0.5)"),
        (0.0, 1e-200, "p < 1e-300 (Holm 1e-200)"),
        (0.0, 0.0, "p < 1e-300 (Holm < 1e-300)"),
    ],
)
def test_p_values_that_are_no_numbers_any_more_say_so(p, p_holm, ending):
    assert str(Finding("shape", 0.01, 0.0, 0.02, 0.05, p, p_holm)).endswith(ending)


@pytest.mark.parametrize(("p_holm", "measurable"), [(0.04, True), (0.06, False)])
def test_measurable_is_what_all_tests_together_say(p_holm, measurable):
    """A p-value that is small among six is none."""
    generator, model = single(60, 30, "sign")
    found = check(generator, model, *pair(60, 30), samples=5_000)
    rows = [dataclasses.replace(f, p=0.01, p_holm=p_holm if f.name == "shape" else 1.0) for f in found.findings]
    assert dataclasses.replace(found, findings=tuple(rows)).measurable == measurable


def test_needed_samples_are_those_after_which_the_interval_leaves_the_tolerance():
    row = Finding("shape", 0.04, 0.02, 0.06, 0.05, 0.5)
    n = needed(row, 1000)
    assert n == pytest.approx(4000)
    half = 0.02 * sqrt(1000 / n)
    assert 0.04 + half == pytest.approx(0.05)
    cut = Finding("shape", 0.01, 0.0, 0.06, 0.05, 0.5)  # an interval that begins at zero
    assert needed(cut, 1000) == pytest.approx(1000 * (0.05 / 0.04) ** 2)
    above = Finding("shape", 0.06, 0.045, 0.07, 0.05, 0.5)
    assert needed(above, 1000) == pytest.approx(1000 * (0.015 / 0.01) ** 2)
    assert needed(Finding("sliced", 0.045, 0.035, 0.055, 0.05, 0.5), 400_000) == np.inf
    assert needed(Finding("sliced", 0.03, 0.0, 0.055, 0.05, 0.5), 10_000) == pytest.approx(15_625)
    assert needed(Finding("shape", 0.05, 0.04, 0.06, 0.05, 0.5), 1000) == np.inf
    assert needed(Finding("shape", 0.01, 0.0, 0.02, 0.05, 0.5), 1000) == 0


@given(
    st.sampled_from(["error", "moved", "shape", "moments"]),
    st.floats(-0.2, 0.2),
    st.floats(1e-4, 0.3),
    st.floats(0.005, 0.1),
)
def test_an_open_question_needs_more_samples_and_is_decided_by_them(name, value, half, tolerance):
    """Of effects, which have a sign, and of distances, whose intervals end at zero."""
    if name in ("shape", "moments"):
        value = abs(value)

    def at(n):
        low, high = value - half * sqrt(1000 / n), value + half * sqrt(1000 / n)
        return Finding(name, value, max(low, 0.0) if name in ("shape", "moments") else low, high, tolerance, 0.5)

    n = needed(at(1000), 1000)
    if at(1000).word is not Word.INCONCLUSIVE:
        assert n == 0
    else:
        assert n >= 1000 * (1 - 1e-9)
        cut = name in ("shape", "moments") and half > value > tolerance  # what is below zero is not known
        assert n == np.inf or cut or at(1.01 * n).word is not Word.INCONCLUSIVE
        assert n == np.inf or at(max(0.99 * n, 1000)).word is Word.INCONCLUSIVE


def test_inconclusive_says_how_many_samples_decide_and_they_do():
    generator, model = single(100, 50, "relu")
    student, teacher = ge.TwoLayer(np.ones((1, 100)), [1.0], "erf"), pair(100, 50)[1]
    tolerance = 0.11
    found = check(generator, model, student, teacher, samples=4_096, tolerance=tolerance, effect=0.5)
    assert found.word is Word.INCONCLUSIVE, str(found)
    assert "samples would decide" in found.sentence
    more = check(
        generator, model, student, teacher, samples=int(min(4 * found.needed, 200_000)), tolerance=tolerance, effect=0.5
    )
    assert more.word is not Word.INCONCLUSIVE


def test_holm():
    """Against the definition, over all orders."""
    rng = np.random.default_rng(5)
    p = rng.random(5) ** 3
    rows = adjusted(
        [Finding(str(i), 0, 0, 0, 1, value) for i, value in enumerate(p)] + [Finding("x", 0, 0, 0, 1, np.nan)]
    )
    order = np.argsort(p)
    naive = np.maximum.accumulate(np.minimum((5 - np.arange(5)) * p[order], 1.0))
    np.testing.assert_allclose([rows[i].p_holm for i in order], naive)
    assert np.isnan(rows[-1].p_holm)


def test_names_of_statistics():
    generator, model = single(60, 30, "relu")
    found = check(generator, model, *pair(60, 30), samples=5_000)
    names = [finding.name for finding in found.findings]
    assert names == ["moments", "shape", "kurtosis", "sliced", "error", "moved", "drift"]
    assert found["drift"].name == "drift"
    with pytest.raises(InputError, match="there are moments, shape"):
        found["hotelling"]
    for finding in found.findings:
        assert finding.name in str(found)


@pytest.mark.parametrize("units", [1, 2, 5])
def test_families_have_the_length_of_random_weights(units):
    _, model = single(64, 32, "relu")
    found = families(model, units)
    assert set(found) == {"random", "ones", "top", "rows", "columns", "sparse"}
    spiked, teachers = found.pop("rows")
    for W in (*found.values(), spiked, teachers):
        assert W.shape == (units, 32 if W is teachers else 64)
        np.testing.assert_allclose(np.linalg.norm(W, axis=1), sqrt(W.shape[1]))
        assert np.linalg.matrix_rank(W) == units
    top = found["top"][0] / 8
    assert top @ model.Omega @ top == pytest.approx(model.spectrum[-1])
    assert set(np.unique(found["ones"][0])) == {1.0}
    np.testing.assert_array_equal((found["sparse"] != 0).sum(axis=1), 1 + np.arange(units) % 4)
    columns = found["columns"] / np.linalg.norm(found["columns"], axis=1, keepdims=True)
    cosines = columns @ (model.Phi / np.linalg.norm(model.Phi, axis=0))
    np.testing.assert_allclose(np.abs(cosines).max(axis=1), 1)
    largest = np.abs(spiked).argmax(axis=1)
    rows = model.Phi[largest] / np.linalg.norm(model.Phi[largest], axis=1, keepdims=True)
    np.testing.assert_allclose(np.sum(rows * teachers, axis=1), sqrt(32))


@pytest.mark.slow
def test_rows_with_their_teachers_are_violated():
    """sign(F c) at N = 300: the student sees the sign of what the teacher sees."""
    generator, model = single(300, 150, "sign")
    student, teacher = pair(300, 150)
    students = families_as_networks(families(model, 2), student, teacher)
    found = check_families(generator, model, students, teacher, samples=40_000)
    assert found["rows"].word is Word.VIOLATED
    assert not found["random"].violated
    assert found["random"]["shape"].word is Word.CONSISTENT
    np.testing.assert_array_equal(students["rows"][1].readout, [1, 1])


def test_rows_are_those_that_latents_reach():
    _, model = single(30, 12, "relu")
    Phi = model.Phi * (np.arange(30) < 3)[:, None]
    dead = ge.GaussianModel(Phi @ Phi.T + np.eye(30), Phi)
    found = families(dead, 3)["rows"]
    assert set(np.abs(found[0]).argmax(axis=1)) == {0, 1, 2}
    assert "rows" not in families(dead, 4)


WRONG = {
    "no generator": ({"generator": 3}, "the generator is an int"),
    "another model": ({"model": ge.GaussianModel.isotropic(3)}, "the model has 3 inputs"),
    "too few": ({"samples": 100}, "samples=100"),
    "tolerance": ({"tolerance": 0}, "tolerance"),
    "effect": ({"effect": -1}, "effect"),
    "workers": ({"workers": 0}, "workers"),
    "seed": ({"seed": -1}, "seed"),
    "student": ({"student": np.ones((1, 3))}, "the student's weights"),
    "no field": ({"student": None, "teacher": None}, "expected 1 to 32"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_calls_get_a_sentence(kind):
    generator, model = single(60, 30, "relu")
    student, teacher = pair(60, 30)
    arguments = {"generator": generator, "model": model, "student": student, "teacher": teacher, "samples": 5_000}
    change, words = WRONG[kind]
    with pytest.raises(InputError, match=words):
        check(**(arguments | change))


def test_no_students_are_refused():
    generator, model = single(60, 30, "relu")
    with pytest.raises(InputError, match="no student"):
        check_families(generator, model, {})
    with pytest.raises(InputError, match="students are a list; expected them by name"):
        check_families(generator, model, [np.ones((1, 60))])


def test_float32_modules_and_threads_of_torch_give_the_same_verdict():
    generator, model = single(60, 30, "relu")
    once = check(generator, model, *pair(60, 30), samples=20_000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = check(generator.to(dtype=torch.float32), model, *pair(60, 30), samples=20_000, workers=2)
    finally:
        torch.set_num_threads(threads)
    for ours, others in zip(once.findings, again.findings, strict=True):
        assert ours.value == pytest.approx(others.value, abs=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sign", "relu", "dcgan-random"])
def test_dense_generators_are_consistent(kind):
    if kind == "dcgan-random":
        generator = generators.load(kind)
        model = generators.estimate(generator, 100_000)
    else:
        generator, model = single(1000, 500, kind)
    found = check(generator, model, *pair(generator.input_dim, generator.latent_dim), samples=200_000)
    assert found.word is Word.CONSISTENT, str(found)


@pytest.mark.slow
def test_small_relu_generators_are_measurably_not_gaussian_and_harmless():
    """N = 200 at 400,000 samples: a distance of .03 to .05 that is beyond doubt, and an error that does not feel it."""
    generator, model = single(200, 100, "relu")
    found = check(generator, model, *pair(200, 100), samples=400_000)
    assert found.word is Word.CONSISTENT, str(found)
    assert "measurably non-Gaussian, harmless" in found.sentence
    assert 0.025 < found["shape"].value < 0.05
    assert found["shape"].p_holm < 1e-10
    assert abs(found["error"].value) < 0.005


# --- what an attack found ---


class Law:
    """Inputs that are drawn by a function of (n, rng), latents that are their first numbers."""

    def __init__(self, function, D=2):
        self.function, self.latent_dim = function, D
        self.input_dim = function(2, np.random.default_rng(0)).shape[1]

    def sample(self, n, rng):
        rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
        x = self.function(n, rng)
        return x[:, : self.latent_dim], x


@pytest.mark.parametrize("kind", ["erf", "relu", "tanh"])
@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, 1e-3])
def test_a_student_that_is_its_teacher_is_consistent_on_gaussian_fields(kind, distance):
    model = ge.GaussianModel.isotropic(20)
    teacher = ge.TwoLayer.random(2, 20, kind, 1)
    change = np.random.default_rng(0).standard_normal((2, 20))
    student = ge.TwoLayer(teacher.weights + distance * change, teacher.readout, kind)
    found = check(model, model, student, teacher, teacher_on="inputs", samples=20_000)
    assert not found.violated, str(found)
    if distance == 0:
        assert found["error"].value == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
def test_gaussian_inputs_with_means_are_consistent_without_a_model(size):
    """ReLU feels a mean to first order; what is left of it is taken off."""
    generator = Law(lambda n, rng: rng.standard_normal((n, 20)) + size)
    rng = np.random.default_rng(5)
    z = []
    for _ in range(4):
        student = ge.TwoLayer(rng.standard_normal((2, 20)), [1.0, 1.0], "relu")
        teacher = ge.TwoLayer(rng.standard_normal((1, 2)), [0.5], "relu")
        row = check(generator, None, student, teacher, samples=100_000)["error"]
        z.append(2 * row.value / (row.high - row.low) * 2.13)
    assert np.abs(z).max() < 4


@pytest.mark.slow
def test_errors_of_the_means_of_a_model_are_not_held_against_the_generator():
    """A model from few samples of a law with means, which are as far off as samples let them be."""
    rng = np.random.default_rng(6)
    A, mean = rng.standard_normal((10, 10)), 2 + rng.standard_normal(10)
    generator = Law(lambda n, rng: rng.standard_normal((n, 10)) @ A.T + mean, 0)
    p, moved = [], 0
    for seed in range(4):
        model = generators.estimate(generator, 2_000, seed=seed)
        student, teacher = ge.TwoLayer.random(2, 10, "relu", seed), ge.TwoLayer.random(1, 10, "relu", 9)
        found = check(generator, model, student, teacher, teacher_on="inputs", samples=65_536)
        p.append(found["moments"].p)
        moved += found["moved"].low > 0 or found["moved"].high < 0
        assert found["moments"].word is not Word.VIOLATED
    assert min(p) > 1e-4
    assert moved <= 1


def test_latents_with_a_mean_are_centred():
    """With a model by its means; without one by those of the samples."""
    generator = Law(lambda n, rng: rng.standard_normal((n, 6)) + 1, D=6)
    model = ge.GaussianModel(np.eye(6), np.eye(6), mean_x=np.ones(6), mean_c=np.ones(6))
    student, teacher = ge.TwoLayer.random(2, 6, "relu", 1), ge.TwoLayer.random(2, 6, "relu", 2)
    for known in (model, None):
        found = check(generator, known, student, teacher, samples=60_000)
        assert abs(found["error"].value) < 0.02
        assert not found.violated, str(found)


@pytest.mark.parametrize("kind", ["perceptron", "networks"])
def test_gaussian_fields_with_errors_that_hardly_occur_are_rarely_violated(kind):
    """A student that has all but learned its teacher: a handful of samples, or none, shows an error.

    Of 15 intervals of 95 % four and more miss with a probability of half a percent.
    """
    model, violated = ge.GaussianModel.isotropic(20), 0
    for seed, near in product(range(5), (1e-5, 1e-4, 1e-3)):
        rng = np.random.default_rng(seed)
        teacher, student = ge.TwoLayer.random(2, 20, "sign", seed), None
        W = teacher.weights + near * rng.standard_normal((2, 20))
        if kind == "perceptron":
            student, teacher = W[0], ge.Perceptron(teacher.weights[0], "sign")
        else:
            student = ge.TwoLayer(W, teacher.readout, "sign")
        found = check(model, model, student, teacher, teacher_on="inputs", samples=20_000, seed=seed)
        assert found.word is not Word.CONSISTENT, str(found)
        assert found["error"].high - found["error"].low > 0.5
        if kind == "perceptron":  # a Poisson number of samples, as many as are expected, or seen if these are more
            a, b = W[0], teacher.weights
            expected = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / np.pi
            least = stats.t.ppf(0.975, 15) * sqrt(max(expected, found.error) / found.samples) / expected
            for name in ("error", "moved"):
                assert found[name].high - found[name].low >= 1.9 * least
        violated += found.violated
    assert violated <= 3


def test_rare_errors_have_the_interval_of_their_number():
    """Of k samples with an error among n the relative error is 1 / sqrt(k), whatever the groups that they fell in."""
    model, rng = ge.GaussianModel.isotropic(20), np.random.default_rng(0)
    B = rng.standard_normal(20)
    found = check(model, model, B + 0.01 * rng.standard_normal(20), ge.Perceptron(B, "sign"), teacher_on="inputs")
    expected = 1 / sqrt(found.samples * found.error)
    half = (found["error"].high - found["error"].low) / 2
    assert half >= 0.9 * stats.t.ppf(0.975, 15) * expected
    assert half < 3 * stats.t.ppf(0.975, 15) * expected


@pytest.mark.parametrize("sign", [1, -1])
def test_labels_that_are_never_or_always_missed(sign):
    model, B = ge.GaussianModel.isotropic(20), np.random.default_rng(0).standard_normal(20)
    found = check(model, model, sign * B, ge.Perceptron(B, "sign"), teacher_on="inputs", samples=10_000)
    assert found.error == (sign < 0)
    assert found.word is Word.CONSISTENT
    assert found["error"].value == found["error"].high == 0


def test_steps_of_errors():
    sign, smooth = (ge.TwoLayer(np.eye(3), [1.0, -4.0, 2.0], name) for name in ("sign", "erf"))
    for student, teacher, step in ((sign, sign, 32), (sign, smooth, 32), (smooth, sign, 32), (smooth, smooth, 0)):
        assert learner(student, teacher, 3, 3, "latents").step == step
    for flip in (1, 0, 2):  # one unit of the student is on the other side: the step is the largest of these
        u = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        u[0, flip] = -1
        of = learner(sign, sign, 3, 3, "latents")
        assert of.functionals(u)[0, 0] == 2 * sign.readout[flip] ** 2 <= of.step
    assert learner(np.ones(3), sign, 3, 3, "latents").step == 64
    assert learner(np.ones(3), ge.Perceptron(np.ones(3), "sign"), 3, 3, "latents").step == 1


def test_samples_that_depend_where_the_model_does_not_are_violated():
    generator = Law(lambda n, rng: np.repeat(rng.standard_normal((n, 1)), 2, axis=1), D=1)
    model = ge.GaussianModel(np.eye(2), np.zeros((2, 1)))
    assert check(generator, model, np.eye(2), samples=20_000).violated
    right = ge.GaussianModel(np.ones((2, 2)), np.ones((2, 1)))
    assert check(generator, right, np.eye(2), samples=20_000)["moments"].word is Word.CONSISTENT


def test_a_field_that_varies_on_one_sample_only_is_refused():
    rows = np.random.default_rng(7).standard_normal((8000, 6))
    rows[:, 5] = 0
    rows[4321, 5] = 1
    data = generators.dataset(rows)
    for W in (np.eye(6), np.eye(6)[5:]):
        with pytest.raises(InputError, match=r"does not vary|on few samples only"):
            check(data, generators.estimate(data), W)


@pytest.mark.parametrize("rows", [4096, 4097, 4111, 6000])
def test_of_a_data_set_hardly_a_sample_is_left_out(rows):
    data = generators.dataset(np.random.default_rng(0).standard_normal((rows, 3)))
    found = check(data, None, np.eye(3), samples=100_000)
    assert rows - 16 < found.samples <= rows


def test_folders_that_are_no_paths_are_refused():
    generator = generators.single_layer(generators.gaussian_matrix(3, 3), "erf")
    for folder in ("", 3, b"folder"):
        for make in (
            lambda given: check(generator, None, np.eye(3), samples=5000, folder=given),
            lambda given: generators.estimate(generator, 5000, folder=given),
            lambda given: generators.estimate_shard(generator, 5000, (1, 2), given),
            generators.merge,
        ):
            with pytest.raises(InputError, match=f"folder={folder!r}; expected the path of a folder"):
                make(folder)


def test_a_progress_that_is_no_function_is_refused():
    model, generator = ge.GaussianModel.isotropic(3), generators.single_layer(np.eye(3), "tanh")
    for call in (
        lambda: check(model, None, np.eye(3), samples=5000, progress=3),
        lambda: generators.certificate(generator, np.eye(3), progress=3),
        lambda: generators.estimate(generator, 5000, progress=3),
        lambda: generators.estimate(generators.dataset(np.random.default_rng(0).random((50, 3))), progress=3),
    ):
        with pytest.raises(InputError, match="progress=3; expected a function"):
            call()


def test_weights_of_torch_are_weights():
    """With a gradient or without, as those of `nn.Linear` come."""
    W, F = np.random.default_rng(0).standard_normal((2, 3)), np.eye(3)
    tensor = torch.tensor(W, requires_grad=True)
    np.testing.assert_array_equal(learner(tensor, None, 3, 3, "latents").student, W)
    np.testing.assert_array_equal(ge.TwoLayer(tensor, torch.ones(2, requires_grad=True)).weights, W)
    np.testing.assert_array_equal(ge.Perceptron(tensor[0]).weights, W[0])
    assert generators.norm_bound(F, "erf", tensor[0]) == generators.norm_bound(F, "erf", W[0])


def finding(name, value, half, decides="both"):
    return Finding(name, value, value - half, value + half, 0.05, 0.5, decides=decides)


def test_one_statistic_that_is_beyond_decides_alone():
    """If one seems beyond its tolerance the first that is decides, and what only violates may; else all have to be within."""
    far, near, open_, moved = (
        finding("shape", 0.07, 0.03),
        finding("sliced", 0.051, 0.02),
        finding("moments", 0.04, 0.02),
        finding("moved", 0.06, 0.02, "violated"),
    )
    ours = needed(far, 1000)
    assert needed(near, 1000) == np.inf
    assert enough([far, near, open_], 1000) == ours == pytest.approx(1000 * (0.03 / 0.02) ** 2)
    assert enough([open_, moved], 1000) == needed(moved, 1000) == pytest.approx(4000)
    assert enough([open_, finding("error", 0.0, 0.06)], 1000) == pytest.approx(4000)  # and 1,440 of the other
    assert enough([finding("shape", 0.0, 0.01), finding("moved", 0.04, 0.02, "violated")], 1000) == 0
    assert enough([finding("shape", 0.1, 0.01), open_], 1000) == 0


def test_weights_that_seem_beyond_are_told_how_many_samples_decide():
    """Although the sliced distance, which sees 32,768 at most, may stay open."""
    generator, model = single(200, 100, "relu")
    teacher = ge.TwoLayer.random(2, 100, seed=2)
    found = check(generator, model, np.ones(200), teacher, samples=5_000, effect=0.1)
    assert found.word is Word.INCONCLUSIVE, str(found)
    assert found["shape"].value > 0.05
    assert 5_000 < found.needed < 200_000
    assert "no number" not in found.sentence
    assert check(generator, model, np.ones(200), teacher, samples=int(4 * found.needed), effect=0.1).violated


def test_other_rows_of_a_data_set_are_another_question(tmp_path):
    rows = np.random.default_rng(8).standard_normal((6000, 5))
    other = rows.copy()
    index = np.random.default_rng(9).choice(6000, 40, replace=False)
    other[index] = 9 * np.abs(other[index])
    found = [check(generators.dataset(X), None, np.eye(5), folder=tmp_path)["shape"].value for X in (rows, other)]
    assert found[1] > 2 * found[0]


@pytest.mark.parametrize(("N", "units"), [(8, 6), (20, 20), (64, 8)])
def test_ones_are_as_many_directions_as_units(N, units):
    _, model = single(N, N, "relu")
    assert np.linalg.matrix_rank(families(model, units)["ones"]) == units


@pytest.mark.parametrize("variance", [100.0, 1e4])
@pytest.mark.parametrize("r", [0.5, 0.9999])
def test_logit_labels_of_large_teachers(variance, r):
    """Against the integral over both fields by a fine grid of the teacher's."""
    of = learner(np.ones(3), ge.Perceptron(np.ones(3), "logit"), 3, 3, "latents")
    z = np.concatenate(
        [np.linspace(-9, -0.1, 200_001), np.linspace(-0.1, 0.1, 400_001)[1:-1], np.linspace(0.1, 9, 200_001)]
    )
    above, positive = stats.norm.cdf(r * z / sqrt(1 - r**2)), expit(sqrt(variance) * z)
    truth = np.trapezoid(stats.norm.pdf(z) * (above * (1 - positive) + (1 - above) * positive), z)
    C = np.array([[1.0, r * sqrt(variance)], [r * sqrt(variance), variance]])
    assert of.gaussian(C)[0] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"model": "x"}, {"folder": 3}, {"student": np.ones((1, 60)) * 1j}, {"student": (1, 2, 3)}],
)
def test_other_wrong_calls_get_a_sentence(change):
    generator, model = single(60, 30, "relu")
    with pytest.raises(InputError):
        check(**({"generator": generator, "model": model, "student": np.ones((1, 60)), "samples": 5_000} | change))
    with pytest.raises(InputError):
        check_families(generator, model, [np.ones((1, 60))])
    with pytest.raises(InputError):
        families(None)


def sums_of(of, u, G=16):
    """Field sums of samples (n, L)."""
    pilot = Pilot.of(u)
    sums = FieldSums.empty(pilot, of.functionals(u[:1]).shape[1])
    for g, part in enumerate(np.array_split(u, G)):
        y, values = part @ pilot.P.T, of.functionals(part)
        sums.add(g, (ge.maths.hermite.Powers.of(y), values.sum(axis=0), values.T @ y, y))
    return sums


@pytest.mark.slow
def test_errors_have_no_bias_at_few_samples():
    """What the noise of the covariance adds to the closed form is taken off."""
    rng = np.random.default_rng(20)
    of = learner(*networks("quadratic", "quadratic", 1, 1), 30, 12, "latents")
    root = np.linalg.cholesky(np.array([[1.0, 0.8], [0.8, 1.0]]))
    values = []
    for _ in range(150):
        u = rng.standard_normal((64, 2)) @ root.T
        values.append(next(iter(equivalence._effects(sums_of(of, u), of, None, 0.01))).value)
    assert abs(np.mean(values)) < 4 * np.std(values) / sqrt(150)


def test_drifts_of_gaussian_fields_are_as_often_nothing_as_not():
    rng = np.random.default_rng(21)
    of = learner(*networks(), 30, 12, "latents")
    root = np.linalg.cholesky(covariance(4, rng)).T
    rows = [
        list(equivalence._effects(sums_of(of, rng.standard_normal((2000, 4)) @ root), of, None, 0.01))[-1]
        for _ in range(80)
    ]
    assert 0.25 < np.mean([row.value == 0 for row in rows]) < 0.8
    assert np.mean([row.low == 0 for row in rows]) > 0.9


@pytest.mark.parametrize("scale", [0.7, 1.4])
@pytest.mark.parametrize("output", ["linear", "sign"])
def test_moved_is_what_a_wrong_model_gets_wrong(output, scale):
    """Inputs of another size, or less aligned, than the model says: (real - predicted) / predicted, sign and all."""
    rng, noise = np.random.default_rng(3), 0.4
    real = ge.GaussianModel.isotropic(30)
    model = ge.GaussianModel(real.Omega * scale**2, scale**2 * real.Phi / 2, Psi=real.Psi)
    w = rng.standard_normal(30)
    b = w + 0.6 * rng.standard_normal(30)
    errors = []
    for of in (real, model):
        q, m, rho = w @ of.Omega @ w / 30, w @ of.Phi @ b / 30, b @ of.Psi @ b / 30
        angle = np.arccos(m / sqrt(q * (rho + noise**2))) / np.pi
        errors.append(angle if output == "sign" else rho + noise**2 + q - 2 * m)
    expected = errors[0] / errors[1] - 1
    found = check(real, model, w, ge.Perceptron(b, output, noise=noise), samples=100_000)
    assert abs(expected) > 0.2
    assert found.error == pytest.approx(errors[0], rel=0.03)
    assert found["moved"].value == pytest.approx(expected, abs=0.02)
    assert found["moved"].low < expected < found["moved"].high
    assert found.violated


def test_the_size_of_readouts_is_no_part_of_relative_effects():
    generator, model = single(100, 2, "sign")
    student, teacher = pair(100, 2)
    large = [ge.TwoLayer(one.weights, 30 * one.readout, one.activation) for one in (student, teacher)]
    ours, others = (check(generator, model, *two, samples=10_000) for two in ((student, teacher), large))
    for name in ("error", "moved", "drift"):
        for end in ("value", "low", "high"):
            assert getattr(others[name], end) == pytest.approx(getattr(ours[name], end), rel=1e-6, abs=1e-12)
    assert ours["drift"].low > 0
    assert others.error == pytest.approx(900 * ours.error)


@pytest.mark.parametrize(
    ("moved", "word"), [((-0.02, 0.02), "consistent"), ((0.02, 0.04), "violated"), ((-0.001, 0.001), "consistent")]
)
def test_what_the_model_predicts_can_only_violate(moved, word):
    generator, model = single(60, 30, "sign")
    found = check(generator, model, *pair(60, 30), samples=5_000, tolerance=1.0, effect=0.5)
    assert found["moved"].decides == "violated"
    rows = [
        Finding("moved", sum(moved) / 2, *moved, 0.01, np.nan, decides="violated") if f.name == "moved" else f
        for f in found.findings
    ]
    assert dataclasses.replace(found, findings=tuple(rows)).word == word


def test_the_errors_of_a_model_widen_its_intervals():
    generator, model = single(60, 20, "relu")
    student, teacher = pair(60, 20)
    exact = check(generator, model, student, teacher, samples=32_768)
    rough = check(generator, generators.estimate(generator, 1_000), student, teacher, samples=32_768)
    for name in ("moments", "moved"):
        assert rough[name].high - rough[name].low > 1.5 * (exact[name].high - exact[name].low)
    assert rough["error"].high - rough["error"].low == pytest.approx(exact["error"].high - exact["error"].low, rel=0.2)


# --- sizes and power ---


@pytest.mark.slow
def test_the_error_rejects_gaussian_fields_at_the_level():
    """The end metric over two thousand nulls: fields that are Gaussian, with a covariance that nobody knows."""
    rng = np.random.default_rng(11)
    of = learner(*networks(), 30, 12, "latents")
    C = covariance(4, rng)
    rejected, covered = [], []
    for _ in range(2000):
        sums = sums_of(of, rng.standard_normal((4000, 4)) @ np.linalg.cholesky(C).T)
        row = next(iter(equivalence._effects(sums, of, None, 0.01)))
        rejected.append(row.p < 0.05)
        covered.append(row.low <= 0 <= row.high)
    assert 0.03 < np.mean(rejected) < 0.07
    assert np.mean(covered) > 0.9


# --- what survived mutants ---


def question(**changes):
    given = {
        "samples": 20_000,
        "seed": 0,
        "generator": ge.GaussianModel.isotropic(6),
        "student": ge.TwoLayer.random(2, 6, seed=1),
        "teacher": ge.TwoLayer.random(2, 6, seed=2),
        "on": "latents",
        "mean": 0.0,
    } | changes
    of = learner(given["student"], given["teacher"], 6, given["generator"].latent_dim, given["on"])
    means = np.full(6, given["mean"]), np.zeros(given["generator"].latent_dim)
    return Pass(given["generator"], {"a": of}, means, given["samples"], given["seed"])


def key_of(**changes):
    return question(**changes)._key()


KEYS = {
    "chunk": {"samples": 5_000},
    "seed": {"seed": 1},
    "generator": {"generator": cases.correlated_model(N=6, D=6)},
    "student": {"student": ge.TwoLayer.random(2, 6, seed=3)},
    "readout": {"student": ge.TwoLayer(ge.TwoLayer.random(2, 6, seed=1).weights, [3.0, 1.0])},
    "teacher": {"teacher": ge.TwoLayer.random(2, 6, seed=4)},
    "on": {"on": "inputs"},
    "means": {"mean": 0.1},
}


@pytest.mark.parametrize("kind", KEYS)
def test_sums_of_another_question_are_not_found(kind):
    assert key_of(**KEYS[kind]) != key_of()
    assert key_of(samples=30_000) == key_of()  # more of the same chunks go on


@pytest.mark.parametrize("kind", KEYS)
def test_questions_with_one_folder_have_their_own_sums(kind, tmp_path):
    question(**KEYS[kind]).run(1, None, tmp_path)
    same(question().run(1, None, tmp_path), question().run(1, None))


def test_data_sets_are_known_by_all_their_rows():
    rows = np.random.default_rng(0).standard_normal((8000, 6))
    other = rows.copy()
    other[-1] += 1.0
    keys = [
        key_of(generator=generators.dataset(X), teacher=None, student=np.eye(6), on="inputs", samples=8000)
        for X in (rows, rows.copy(), other)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_slopes_are_those_of_regression_whatever_the_means():
    """Cov(f, y) C^-1, of fields that are not centred at all."""
    going = a_pass(samples=16 * 256, a=learner(*networks(), 30, 12, "latents"))
    going = dataclasses.replace(going, means=(np.full(30, -1.0), np.full(12, 0.3)))
    sums = going.run(1, None)["a"]
    u = np.concatenate([going._fields(i, 256)[0] for i in range(16)])
    y, f = u @ sums.pilot.P.T, going.learners["a"].functionals(u)
    C = np.cov(np.concatenate([f, y], axis=1), rowvar=False, bias=True)
    p = f.shape[1]
    total = sum(sums.groups[1:], sums.groups[0])
    ours = sums.slope(total, sums.functionals.sum(axis=0), sums.slopes.sum(axis=0))
    np.testing.assert_allclose(ours, C[:p, p:] @ np.linalg.inv(C[p:, p:]), rtol=1e-8, atol=1e-10)


def gaussian_sums(mean=0.0, samples=16 * 1024):
    """Sums of one relu student and one relu teacher on Gaussian inputs, with their model."""
    model = ge.GaussianModel.isotropic(4)
    of = learner(
        ge.TwoLayer(np.eye(4)[:1] * 2, [1.0], "relu"), ge.TwoLayer(np.ones((1, 4)), [2.0], "relu"), 4, 4, "inputs"
    )
    return (
        Pass(model, {"a": of}, (np.full(4, mean), np.zeros(4)), samples, 0).run(1, None)["a"],
        of,
        of.covariance(model),
    )


def prediction(C, shifts):
    return equivalence.Prediction(C, np.broadcast_to(C, (len(shifts), *C.shape)), np.asarray(shifts))


def test_errors_of_the_means_of_a_model_make_distances_smaller_and_wider():
    """Their expectation is taken off: (G - 1) / G times the sum of squares, about their mean, in units of the fields."""
    sums, _, C = gaussian_sums()
    rng = np.random.default_rng(0)
    shifts = 0.01 * rng.standard_normal((16, 2)) @ np.linalg.cholesky(C).T
    exact = equivalence._moments(sums, equivalence.Prediction(C, np.zeros((0, 2, 2)), np.zeros((0, 2))), 0.05)
    same = equivalence._moments(sums, prediction(C, np.broadcast_to([0.3, 0.1], (16, 2))), 0.05)
    assert (same.value, same.p) == pytest.approx((exact.value, exact.p), rel=1e-6, abs=1e-9)
    far = equivalence._moments(gaussian_sums(mean=0.2)[0], prediction(C, shifts), 0.05)
    near = equivalence._moments(
        gaussian_sums(mean=0.2)[0], equivalence.Prediction(C, np.zeros((0, 2, 2)), np.zeros((0, 2))), 0.05
    )
    centred = shifts - shifts.mean(axis=0)
    expected = 15 / 16 * np.trace(centred @ np.linalg.inv(C) @ centred.T)
    assert near.value**2 - far.value**2 == pytest.approx(expected, rel=1e-6)
    assert far.high**2 - far.low**2 > 1.5 * (near.high**2 - near.low**2)


def test_errors_of_the_means_of_a_model_reach_the_error():
    sums, of, C = gaussian_sums()
    shifts = 0.02 * np.random.default_rng(0).standard_normal((16, 2))
    rows = [
        {f.name: f for f in equivalence._effects(sums, of, m, 0.01)}
        for m in (prediction(C, shifts), prediction(C, 0 * shifts))
    ]
    u = np.random.default_rng(1).multivariate_normal(np.zeros(2), C, 400_000)
    step = 1e-3
    slope = [
        (of.functionals(u + step * e)[:, 0] - of.functionals(u - step * e)[:, 0]).mean() / (2 * step) for e in np.eye(2)
    ]
    moved = shifts @ slope
    spread = np.sqrt(15 / 16 * np.sum((moved - moved.mean()) ** 2)) / of.gaussian(C)[0]
    halves = [(row["moved"].high - row["moved"].low) / 2 / stats.t.ppf(0.975, 15) for row in rows]
    assert sqrt(halves[0] ** 2 - halves[1] ** 2) == pytest.approx(spread, rel=0.1)


def test_the_interval_of_the_moved_error_is_the_jackknife_of_a_mean():
    sums, of, C = gaussian_sums()
    found = {
        f.name: f
        for f in equivalence._effects(sums, of, equivalence.Prediction(C, np.zeros((0, 2, 2)), np.zeros((0, 2))), 0.01)
    }
    means = sums.functionals[:, 0] / np.array([powers.count for powers in sums.powers])
    half = stats.t.ppf(0.975, 15) * means.std(ddof=1) / 4 / of.gaussian(C)[0]
    assert found["moved"].high - found["moved"].low == pytest.approx(2 * half, rel=1e-6)


def test_means_that_are_left_over_are_taken_off_to_first_order():
    """Fields of N(m, C) have the error of N(0, C), up to m^2: the first order is a hundred times as large."""
    values = []
    for mean in (0.0, 0.03, -0.03):
        sums, of, _ = gaussian_sums(mean=mean, samples=64 * 1024)
        values.append(next(f for f in equivalence._effects(sums, of, None, 0.01) if f.name == "error").value)
    assert abs(values[1] - values[2]) < 0.1 * 0.03
    assert abs(values[1] - values[0]) < 0.1 * 0.03


def test_what_only_violates_asks_for_no_samples():
    model = ge.GaussianModel.isotropic(40)
    student, teacher = ge.TwoLayer.random(2, 40, "relu", 1), ge.TwoLayer.random(2, 40, "relu", 2)
    found = check(model, model, student, teacher, samples=16_384, effect=0.03)
    assert found["moved"].word is Word.INCONCLUSIVE
    assert found.word is Word.CONSISTENT, str(found)
    assert found.needed == 0
    assert re.search(r"moved .*not violated", str(found))


def test_variance_that_only_the_model_has_is_a_violation():
    generator = Law(lambda n, rng: np.repeat(rng.standard_normal((n, 1)), 2, axis=1), D=1)
    for own in (0.0, 1e-3):
        model = ge.GaussianModel(np.ones((2, 2)) + own * np.diag([1.0, 0.0]), np.ones((2, 1)))
        assert check(generator, model, np.eye(2), samples=5_000).violated == (own > 0)


def test_errors_of_the_covariance_of_a_model_make_distances_smaller_and_wider():
    """As those of its means do: a quarter of their sum of squares about their mean, and the jackknife's spread."""
    sums, _, C = gaussian_sums(mean=0.2)
    exact = equivalence._moments(sums, equivalence.Prediction(C, np.zeros((0, 2, 2)), np.zeros((0, 2))), 0.05)
    same = equivalence._moments(sums, equivalence.Prediction(C, np.array(16 * [1.1 * C]), np.zeros((16, 2))), 0.05)
    assert (same.value, same.low, same.high) == pytest.approx((exact.value, exact.low, exact.high), rel=1e-6)
    changes = 0.01 * np.random.default_rng(0).standard_normal((16, 2, 2))
    covariances = C + changes + np.swapaxes(changes, 1, 2)
    found = equivalence._moments(sums, equivalence.Prediction(C, covariances, np.zeros((16, 2))), 0.05)
    off = np.linalg.solve(C, covariances - covariances.mean(axis=0))
    expected = 15 / 16 * np.trace(off @ off, axis1=1, axis2=2).sum() / 4
    assert exact.value**2 - found.value**2 == pytest.approx(expected, rel=1e-6)

    u = np.concatenate(sums.kept_groups()) @ sums.pilot.B.T
    solved = np.linalg.solve(covariances, u.T @ u / len(u)) - np.eye(2)
    values = u.mean(axis=0) @ np.linalg.solve(covariances, u.mean(axis=0)).T + np.trace(solved @ solved, 0, 1, 2) / 4
    halves = [(row.high**2 - row.value**2) / stats.t.ppf(0.975, 15) for row in (found, exact)]
    spread = sqrt(15 / 16 * np.sum((values - values.mean()) ** 2))
    assert sqrt(halves[0] ** 2 - halves[1] ** 2) == pytest.approx(spread, rel=0.02)


def by_hand(of, u, G=16):
    """Averages beside those of Gaussian fields without the jackknife's bias, its errors, and the Gaussian averages."""

    def difference(u):
        f, C = of.functionals(u), np.cov(u, rowvar=False, bias=True)
        slope = np.linalg.solve(C, (u - u.mean(axis=0)).T @ f / len(u)).T
        return f.mean(axis=0) - slope @ u.mean(axis=0) - of.gaussian(C)

    members = np.array_split(np.arange(len(u)), G)
    full, left = difference(u), np.array([difference(np.delete(u, some, axis=0)) for some in members])
    errors = np.sqrt((G - 1) / G * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    return G * full - (G - 1) * left.mean(axis=0), errors, of.gaussian(np.cov(u, rowvar=False, bias=True))


def test_effects_are_jackknives_by_hand():
    """Of the error, and of the drift: the mean square of what either layer's is off, relative to it, less the noise."""
    rng = np.random.default_rng(22)
    of = learner(*networks("tanh", "erf"), 30, 12, "latents")
    u = rng.gamma(1.0, size=(800, 4)) @ rng.standard_normal((4, 4))
    u -= u.mean(axis=0) + 0.05
    rows = {row.name: row for row in equivalence._effects(sums_of(of, u), of, None, 0.01)}
    value, error, gaussian = by_hand(of, u)
    half = stats.t.ppf(0.975, 15) * error[0]
    ours = [rows["error"].value, rows["error"].low, rows["error"].high]
    np.testing.assert_allclose(ours, (value[0] + np.array([0, -half, half])) / gaussian[0], rtol=1e-6)
    square = 0.0
    for layer in (slice(1, 9), slice(9, 11)):  # of two units: weights of four fields, and readouts
        square += (value[layer] @ value[layer] - error[layer] @ error[layer]) / np.sum(gaussian[layer] ** 2) / 2
    assert rows["drift"].value == pytest.approx(sqrt(square), rel=1e-6)


def test_means_are_those_of_other_samples_than_the_check_looks_at():
    drawn = []

    def noted(n, rng):
        x = rng.standard_normal((n, 3))
        drawn.append(x[0, 0])
        return x

    check(Law(noted), None, np.eye(3), samples=5_000)
    means = equivalence.MEANS // 1_024
    first, rest = drawn[1 : 1 + means], drawn[1 + means :]  # `Law` draws once for its sizes
    assert len(set(first)) == means
    assert len(set(rest)) == 16
    assert not set(first) & set(rest)


def test_a_question_that_was_answered_is_read(tmp_path):
    whole, seen = a_pass(5_000).run(1, None, tmp_path), []
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    same(a_pass(5_000).run(1, lambda done, of: seen.append(done), tmp_path), whole)
    assert not seen
    assert file.stat().st_mtime_ns == written


def test_sums_are_not_those_of_another_name(tmp_path):
    of = learner(np.ones((1, 30)), None, 30, 12, "latents")
    for name in ("a", "b"):
        assert list(a_pass(5_000, **{name: of}).run(1, None, tmp_path)) == [name]


@pytest.mark.parametrize("spread", [1e-4, 1e-8])
def test_fields_that_vary_little_beside_their_mean_vary(spread):
    u = 3 + spread * np.random.default_rng(0).standard_normal((1_000, 2))
    y = u @ Pilot.of(u).P.T
    np.testing.assert_allclose(np.cov(y, rowvar=False, bias=True), np.eye(2), atol=1e-5)


def test_fields_of_inputs_with_large_means_are_exact():
    """A float32 of 1e6 is known to 1/16."""
    x = np.random.default_rng(0).standard_normal((64, 30))
    mean = np.full(30, 1e6)
    generator = Law(lambda n, rng: mean + x[:n], D=12)
    of = learner(*networks(), 30, 12, "latents")
    (u,) = Pass(generator, {"a": of}, (mean, mean[:12]), 5_000, 0)._fields(0, 64)
    np.testing.assert_allclose(u, of.local_fields(x[:, :12], x), atol=1e-8)


@pytest.mark.parametrize("most", [300, 500])
def test_of_parts_that_merge_the_first_samples_are_kept(most, monkeypatch):
    of = learner(np.ones((2, 30)), None, 30, 12, "latents")
    u = np.random.default_rng(0).standard_normal((200, 2))
    half = sums_of(of, u)
    monkeypatch.setattr(fields.sliced, "MOST", most)
    kept = np.concatenate([rows for _, rows in (half + half + half).kept]) @ half.pilot.B.T
    np.testing.assert_allclose(kept, np.concatenate([u, u, u])[:most], atol=1e-12)
