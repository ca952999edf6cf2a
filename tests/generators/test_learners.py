"""Learners beside their averages: means of other models, sizes, and students and teachers that do not go together."""

import numpy as np
import pytest

import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.generators.learners import learner


@pytest.mark.parametrize("on", ["latents", "inputs"])
def test_the_shift_is_what_the_means_of_two_models_differ_by(on):
    """That of their centres' local fields, for student and teacher, whatever the means are that the first has itself."""
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((2, 8)), rng.standard_normal((2, 5))
    one, two = (ge.GaussianModel(np.eye(8), np.eye(8, 5), mean_x=x[i], mean_c=c[i]) for i in (0, 1))
    of = learner(rng.standard_normal((2, 8)), rng.standard_normal((3, 8 if on == "inputs" else 5)), 8, 5, on)
    expected = of.local_fields(c[1:], x[1:]) - of.local_fields(c[:1], x[:1])
    np.testing.assert_allclose(of.shift(one, two), expected[0])
    np.testing.assert_allclose(of.shift(two, one), -expected[0])
    np.testing.assert_array_equal(of.shift(one, one), 0)


@pytest.mark.parametrize(("square", "factor"), [(False, 0.5), (True, 1.0)])
def test_the_scale_is_that_of_both_outputs(square, factor):
    """Of linear units, (v.Q v + a.T a) / 2 by hand, and twice that for a square error; what they share does not enter."""
    rng = np.random.default_rng(1)
    K = 1 if square else 2
    v, a = (np.ones(1) if square else np.array([1.0, -2.0])), np.array([0.5, 3.0, 1.0])
    W, B = rng.standard_normal((K, 7)), rng.standard_normal((3, 4))
    teacher = ge.TwoLayer(B, a, "linear")
    of = learner(W[0] if square else ge.TwoLayer(W, v, "linear"), teacher, 7, 4, "latents")
    A = rng.standard_normal((K + 3, 9))
    C = A @ A.T / 9
    assert of.scale(C) == pytest.approx(factor * (v @ C[:K, :K] @ v + a @ C[K:, K:] @ a))


@pytest.mark.parametrize(("student", "teacher"), [("linear", "erf"), ("erf", "linear"), ("linear", "linear")])
def test_errors_see_only_moments_where_both_are_linear(student, teacher):
    both = ge.TwoLayer.random(2, 6, student, 1), ge.TwoLayer.random(2, 6, teacher, 2)
    assert learner(*both, 6, 6, "latents").quadratic == (student == teacher)
    assert learner(np.ones(6), both[1], 6, 6, "latents").quadratic == (teacher == "linear")


@pytest.mark.parametrize("units", [1, 2])
def test_networks_are_no_scores_of_a_perceptron(units):
    with pytest.raises(InputError, match="the student is a TwoLayer and the teacher a Perceptron"):
        learner(ge.TwoLayer.random(units, 6), ge.Perceptron(np.ones(4)), 6, 4, "latents")
