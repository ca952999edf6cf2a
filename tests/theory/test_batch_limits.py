"""Full batch at the ends of its range: steep spectra, no penalty, faint noise, large fields, a teacher that nobody sees."""

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit

import gaussequiv as ge
from gaussequiv.maths.losses import LogitLabels

STEEP = 10.0 ** -np.arange(40.0)
FALLING = np.arange(1, 31) ** -8.0


def steep(loss, output="sign", noise=0.3):
    return ge.Kernel(FALLING, np.sqrt(FALLING), loss=loss, output=output, noise=noise)


def white(output, variance=1.0, noise=0.0, loss="square"):
    model = ge.GaussianModel(np.eye(4), np.full((4, 1), np.sqrt(variance / 4)), [[variance]])
    return ge.FullBatch(model, ge.Perceptron([1.0], output, noise), loss)


# --- no penalty ---


@pytest.mark.parametrize("samples", [5.5, 20.5, 30.5])
def test_no_penalty_is_none_for_the_smallest_eigenvalue(samples):
    """The norm of interpolation counts all functions of a kernel with eigenvalues over 40 decades."""
    kappa = np.exp(brentq(lambda x: np.sum(STEEP / (STEEP + np.exp(x))) - samples, -90, 0, xtol=1e-14))
    f, rest = STEEP / (STEEP + kappa), kappa / (STEEP + kappa)
    expected = (0.25 + STEEP @ rest**2) / (1 - f @ f / samples)
    found = ge.predict(ge.Kernel(STEEP, np.sqrt(STEEP), noise=0.5), samples=samples, penalty=0)
    np.testing.assert_allclose(found.test_error, expected, rtol=1e-10)


@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-8])
def test_the_peak_of_interpolation_is_as_high_as_it_is_near(distance):
    """Noise 1 and signal 1 on white inputs: d + 1 / d below the threshold, (1 + d) / d above it."""
    found = ge.predict(white("linear", noise=1.0), alpha=[1 - distance, 1 + distance], penalty=0).test_error
    expected = distance + 1 / distance, (1 + distance) / distance
    np.testing.assert_allclose(found, expected, rtol=1e-15 / distance + 1e-12)


@pytest.mark.parametrize("loss", ["hinge", "squared-hinge"])
def test_the_largest_margin_of_a_steep_spectrum_is_the_limit_of_small_penalties(loss):
    eta = np.repeat([1.0, 1e-12], 3)
    problem = ge.Kernel(eta, np.sqrt(eta), loss=loss, output="sign", noise=0.3)
    samples = 0.97 * ge.thresholds(problem).separability
    none, some = (ge.predict(problem, samples=samples, penalty=p) for p in (0, [1e-24]))
    assert none.status[0] == ge.Status.OK, none.message
    for name in ("test_error", "m", "q"):
        np.testing.assert_allclose(some.data[name].values[0], none.data[name].values[0], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize(("loss", "output"), [("huber", "linear"), ("absolute", "linear"), ("logistic", "sign")])
def test_a_unique_minimum_of_a_steep_spectrum_is_the_limit_of_small_penalties(loss, output):
    problem, threshold = steep(loss, output), ge.thresholds(steep(loss, output))
    samples = 1.03 * (threshold.interpolation if output == "linear" else threshold.separability)
    none, some = (ge.predict(problem, samples=samples, penalty=p) for p in (0, [1e-30, 1e-28]))
    for name in ("test_error", "m", "q"):
        np.testing.assert_allclose(some.data[name].values[0], none.data[name].values[0], rtol=1e-9, err_msg=name)


# --- faint noise, large fields ---


def test_separability_grows_as_one_over_a_faint_noise():
    found = np.array([ge.thresholds(white("sign", noise=n, loss="hinge")).separability for n in (1e-3, 1e-5, 1e-9)])
    np.testing.assert_allclose(found * [1e-3, 1e-5, 1e-9], found[0] * 1e-3, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.5, 2.99, 3.01, 40.0])
@pytest.mark.parametrize("speed", [0.7, 60.0])
def test_logits_of_any_field_are_averages(speed, spread):
    labels = LogitLabels(np.array([speed, 1.0]), np.array([spread, 1.0]))  # points of both kinds at once
    for xi in (-0.5, 0.01, 1.3):
        mean = speed * xi

        def average(function, mean=mean):
            near = -mean / spread
            places = sorted({x for x in (near - 5 / spread, near, near + 5 / spread, 0.0) if abs(x) < 9})
            return quad(
                lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * function(mean + spread * z),
                -9,
                9,
                points=places,
                epsabs=1e-14,
                epsrel=1e-12,
                limit=400,
            )[0]

        x = np.full((2, 1), xi)
        assert labels.weight(x)[0, 0] / 2 == pytest.approx(average(expit), rel=1e-10, abs=1e-14)
        assert labels.tilt(x)[0, 0] / 2 == pytest.approx(average(lambda u: expit(u) * expit(-u)), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_logits_of_large_fields_are_signs(loss):
    """The logistic variable is noise of variance pi^2 / 3: the excess of the error falls as one over the field's variance."""
    sign = ge.predict(white("sign", loss=loss), alpha=1.5, penalty=0.1).test_error[0]
    size = np.array([100.0, 1000.0, 10000.0])
    found = [ge.predict(white("logit", s**2, loss=loss), alpha=1.5, penalty=0.1).test_error[0] for s in size]
    excess = (np.array(found) / sign - 1) * size**2
    np.testing.assert_allclose(excess, excess[0], rtol=1e-2)
    assert excess[0] > 0


# --- a teacher that the inputs do not see ---


@pytest.mark.parametrize(("output", "loss"), [*product(["sign", "logit"], ["square", "logistic", "hinge", "absolute"])])
def test_labels_that_nothing_tells_are_guessed(output, loss):
    """Errors of one half, and else the limit of a teacher that is hardly seen."""

    def curve(seen):
        model = ge.GaussianModel(np.eye(4), np.full((4, 1), np.sqrt(seen / 4)))
        return ge.predict(ge.FullBatch(model, ge.Perceptron([1.0], output), loss), alpha=[0.5, 3.0], penalty=0.1)

    unseen, hardly = curve(0.0), curve(1e-20)
    assert (unseen.status == ge.Status.OK).all(), unseen.message
    np.testing.assert_allclose(unseen.test_error, 0.5, rtol=1e-14)
    np.testing.assert_allclose(unseen.data["m"], 0, atol=1e-200)
    for name in ("V", "q", "norm", "train_loss", "train_error"):
        np.testing.assert_allclose(unseen.data[name], hardly.data[name], rtol=1e-8, err_msg=name)


# --- Bayes, calibration ---


def test_the_law_of_point_44_over_alpha_has_no_end():
    found = ge.bayes_optimal(ge.GaussianModel.isotropic(5), [1e6, 1e8, 1e10], "sign")
    np.testing.assert_allclose(found.test_error * found.data["alpha"].values, 0.44170004358, rtol=1e-8)


@pytest.mark.parametrize("noise", [1e-2, 1e-5, 1e-8])
def test_faint_noise_is_learned_as_well_by_bayes_as_by_the_best_ridge(noise):
    model = ge.GaussianModel.isotropic(5)
    best = ge.predict(
        ge.FullBatch(model, ge.Perceptron(np.ones(5), noise=noise)), alpha=[0.5, 2, 1e6], penalty=noise**2
    )
    np.testing.assert_allclose(
        ge.bayes_optimal(model, [0.5, 2, 1e6], noise=noise).test_error, best.test_error, rtol=1e-11
    )


@pytest.mark.parametrize("penalty", [1.0, 1e-3, 1e-8])
def test_the_mean_confidence_is_an_integral(penalty):
    problem = white("sign", noise=0.1, loss="logistic")
    s = float(np.sqrt(ge.predict(problem, alpha=0.5, penalty=penalty).data["q"][0]))
    ends = [0, 1 / s, 4 / s, 16 / s, 12]
    expected = sum(
        2 * quad(lambda x: expit(s * x) * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), a, b, epsrel=1e-13, epsabs=1e-15)[0]
        for a, b in zip(sorted(ends), sorted(ends)[1:], strict=False)
    )
    assert float(ge.calibration(problem, 0.5, penalty).mean_confidence[0]) == pytest.approx(expected, rel=1e-11)


# --- what is no number ---

RIDGE = white("linear")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ge.predict(RIDGE, alpha=[[1], [1, 2]], penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=np.array([1 + 1j]), penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=["1", "2"], penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=True, penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=[10**400], penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=np.zeros((2, 2)), penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=np.ma.masked_array([1.0, 2.0], [False, True]), penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=np.datetime64("2020-01-01"), penalty=1.0), "alpha="),
        (lambda: ge.predict(RIDGE, alpha=1.0, penalty=10**400), "penalty="),
        (lambda: ge.predict(RIDGE, alpha=1.0, penalty=[0.1, 10**400]), "penalty="),
        (lambda: ge.Perceptron([10**400]), "weights"),
        (lambda: ge.Perceptron([1.0], noise=10**400), "noise="),
        (lambda: ge.Perceptron([1.0], np.array(["sign", "logit"])), "output="),
        (lambda: ge.bayes_optimal(RIDGE.model, [1.0], np.array(["sign", "logit"])), "output="),
        (lambda: ge.FullBatch(RIDGE.model, RIDGE.teacher, teacher_on=np.array(["a", "b"])), "teacher_on="),
        (lambda: ge.sphere_kernel("x", 5), "failed on"),
        (lambda: ge.sphere_kernel(lambda t: 1 / 0, 5), "failed on"),
        (lambda: ge.sphere_kernel(lambda t: t + 1j, 5), "failed on"),
    ],
)
def test_what_is_no_number_is_refused_in_a_sentence(make, name):
    with pytest.raises(ge.InputError, match=name) as caught:
        make()
    assert "\n" not in str(caught.value)


# --- what is told of a teacher ---


@pytest.mark.parametrize(("variance", "told"), [(1.0, "2.0%"), (4.0, "0.5%")])
def test_errors_of_a_measured_teacher_look_linear_as_their_squares(variance, told):
    """50 covariances of standard error 0.02, on inputs of this variance, of labels of variance 1."""
    model = ge.GaussianModel(variance * np.eye(50), np.zeros((50, 1)))
    teacher = ge.MeasuredTeacher(np.full(50, 0.05), 1.0, standard_error=np.full(50, 0.02))
    (warning,) = ge.predict(ge.FullBatch(model, teacher), alpha=1.0, penalty=1.0).warnings
    assert f"about {told} of that variance look linear" in warning


def test_noise_is_no_part_of_what_cannot_be_learned():
    model = ge.GaussianModel(np.eye(4), np.full((4, 1), np.sqrt(0.7 / 4)))
    for noise in (0.0, 0.5, 3.0):
        assert ge.FullBatch(model, ge.Perceptron([1.0], noise=noise)).unlearnable == pytest.approx(0.3)
