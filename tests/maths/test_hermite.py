"""Sums of powers, Hermite coefficients, and the distances that they give, against naive averages and known laws."""

from itertools import product
from math import factorial, sqrt

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermeval
from scipy import stats

from gaussequiv.errors import InputError
from gaussequiv.maths import hermite
from gaussequiv.maths.hermite import Powers, Squared
from gaussequiv.maths.jackknife import jackknife


def law(kind, n, d, rng):
    """Samples (n, d) with mean zero and covariance I that are not Gaussian."""
    match kind:
        case "gamma":
            return (rng.gamma(6.0, size=(n, d)) - 6) / sqrt(6)
        case "uniform":
            return rng.uniform(-sqrt(3), sqrt(3), (n, d))
        case "dependent":  # one random scale for all
            return rng.standard_normal((n, d)) * np.where(rng.random((n, 1)) < 0.5, 0.6, sqrt(2 - 0.36))
    return rng.standard_normal((n, d))


def parts(y, G=16):
    return [Powers.of(part) for part in np.array_split(y, G)]


def naive_coefficients(y):
    """E of the products of Hermite polynomials, index by index."""
    _n, d = y.shape
    found = []
    for order in (1, 2, 3, 4):
        H = np.zeros((d,) * order)
        for index in product(range(d), repeat=order):
            powers = [index.count(i) for i in range(d)]
            H[index] = np.mean(np.prod([hermeval(y[:, i], np.eye(5)[p]) for i, p in enumerate(powers)], axis=0))
        found.append(H)
    return found


@pytest.mark.parametrize("d", [1, 2, 3])
def test_coefficients_are_averages_of_hermite_polynomials(d):
    rng = np.random.default_rng(d)
    y = rng.gamma(2.0, size=(50, d)) @ rng.standard_normal((d, d))
    A, b = rng.standard_normal((d, d)), rng.standard_normal(d)
    other, B = rng.standard_normal((30, d)), rng.standard_normal((d, d))
    stacks = hermite.coefficients([Powers.of(y), Powers.of(other)], np.stack([A, B]), np.stack([b, -b]))
    for H, naive, third in zip(
        next(iter(stacks)), naive_coefficients(y @ A.T + b), naive_coefficients(other @ B.T - b), strict=True
    ):
        np.testing.assert_allclose(H[1], third, rtol=1e-9, atol=1e-9 * np.abs(third).max())
        np.testing.assert_allclose(H[0], naive, rtol=1e-9, atol=1e-9 * np.abs(naive).max())


def test_sums_merge_and_take_away():
    rng = np.random.default_rng(0)
    y, z = rng.standard_normal((30, 4)), rng.standard_normal((20, 4))
    both = Powers.of(np.concatenate([y, z]))
    for ours, whole in ((Powers.of(y) + Powers.of(z), both), (both - Powers.of(z), Powers.of(y))):
        assert ours.count == whole.count
        for name in ("first", "second", "third", "fourth"):
            np.testing.assert_allclose(getattr(ours, name), getattr(whole, name), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(both.mean, np.concatenate([y, z]).mean(axis=0))
    np.testing.assert_allclose(both.covariance, np.cov(np.concatenate([y, z]), rowvar=False, bias=True))


@pytest.mark.parametrize("d", [1, 3])
def test_whitened_samples_have_mean_zero_and_covariance_one(d):
    rng = np.random.default_rng(1)
    y = rng.gamma(2.0, size=(100, d)) @ rng.standard_normal((d, d)) + 3
    powers = Powers.of(y)
    first, second, _, _ = next(iter(hermite.coefficients([powers], *powers.whitening())))
    np.testing.assert_allclose(first, 0, atol=1e-10)
    np.testing.assert_allclose(second, 0, atol=1e-10)


def population(kind, d):
    """|h_3|^2 / 3 + |h_4|^2 / 4 of a law."""
    match kind:
        case "gamma":
            return d * ((2 / sqrt(6)) ** 2 / 18 + 1.0**2 / 96)
        case "uniform":
            return d * 1.2**2 / 96
        case "dependent":  # E y_i^2 y_j^2 - 1 = Var s^2 for i != j, and 3 Var s^2 for i = j
            v = (0.36**2 + (2 - 0.36) ** 2) / 2 - 1
            return (9 * v**2 * d + 3 * v**2 * d * (d - 1)) / 24 / 4
    return 0.0


@pytest.mark.parametrize("kind", ["gamma", "uniform", "dependent", "normal"])
@pytest.mark.parametrize("d", [1, 3])
def test_the_squared_distance_has_no_bias(kind, d):
    """Over many sets of samples; groups of other sizes are allowed."""
    rng = np.random.default_rng([d, len(kind)])
    values = []
    for _ in range(150):
        y = law(kind, 4000, d, rng) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
        cuts = np.sort(rng.choice(np.arange(100, 3900), 15, replace=False))
        groups = [Powers.of(part) for part in np.split(y, cuts) if len(part)]
        values.append(hermite.shape(groups).value)
    off = (np.mean(values) - population(kind, d)) / (np.std(values, ddof=1) / sqrt(len(values)))
    assert abs(off) < 4
    assert np.std(values, ddof=1) / sqrt(len(values)) < max(0.03 * population(kind, d), 1e-4)  # it can fail


def test_in_one_dimension_it_is_skewness_and_kurtosis():
    """Up to the bias that is taken off: n / G of it with groups of one law."""
    rng = np.random.default_rng(3)
    y = rng.gamma(2.0, size=(64_000, 1))
    z = (y - y.mean()) / y.std()
    skew, kurt = (z**3).mean(), (z**4).mean() - 3
    found = hermite.shape(parts(y))
    assert found.distance == pytest.approx(sqrt(skew**2 / 18 + kurt**2 / 96), rel=0.01)


@pytest.mark.parametrize("kind", ["gamma", "dependent"])
def test_no_affine_map_changes_it(kind):
    rng = np.random.default_rng(4)
    y = law(kind, 2000, 3, rng)
    A, b = rng.standard_normal((3, 3)) + 2 * np.eye(3), rng.standard_normal(3)
    ours, others = hermite.shape(parts(y)), hermite.shape(parts(y @ A.T + b))
    assert others.value == pytest.approx(ours.value, rel=1e-7)
    assert others.error == pytest.approx(ours.error, rel=1e-7)
    np.testing.assert_allclose(*(hermite.mardia_kurtosis([Powers.of(z)]) for z in (y, y @ A.T + b)), rtol=1e-7)


def test_mardia_is_the_fourth_moment_of_the_length():
    rng = np.random.default_rng(5)
    y = law("gamma", 500, 3, rng)
    centred = y - y.mean(axis=0)
    lengths = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(centred.T @ centred / 500), centred)
    value, _ = hermite.mardia_kurtosis([Powers.of(law("uniform", 70, 3, rng)), Powers.of(y)])
    assert value[1] == pytest.approx((lengths**2).mean() / 15 - 1, rel=1e-10)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_moments_are_the_distance_of_two_gaussians(d):
    """|m|^2 + |C - I|^2 / 4 in white coordinates, without bias; in one dimension near that of N(m, s^2) from N(0, 1)."""
    rng = np.random.default_rng([6, d])
    root = np.linalg.cholesky(np.eye(d) + 0.1 * np.ones((d, d))) * 1.05
    mean = 0.05 * np.ones(d)
    C = root @ root.T
    A = rng.standard_normal((d, d)) + 3 * np.eye(d)
    values = []
    for _ in range(200):
        y = rng.standard_normal((2000, d)) @ root.T + mean
        values.append(hermite.moments(parts(y @ A.T), A @ A.T).value)
    expected = mean @ mean + np.sum((C + np.outer(mean, mean) - np.eye(d)) ** 2) / 4
    assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / sqrt(200)
    if d == 1:
        s = sqrt(C[0, 0])
        assert sqrt(expected) == pytest.approx(sqrt((s - 1) ** 2 + 0.05**2), rel=0.1)


def test_noise_of_the_covariance_is_taken_off():
    rng = np.random.default_rng(7)
    groups = parts(rng.standard_normal((2000, 2)))
    plain, less = hermite.moments(groups, np.eye(2)), hermite.moments(groups, np.eye(2), 0.01)
    assert less.value == pytest.approx(plain.value - 0.01)
    assert less.error == pytest.approx(plain.error)


def rates(n, d, draws, seed, level=0.05):
    """How often each statistic rejects Gaussian samples; how often an interval holds the truth."""
    rng = np.random.default_rng([n, d, seed])
    rejected, held = [], []
    for _ in range(draws):
        groups = parts(rng.standard_normal((n, d)))
        shape, moments = hermite.shape(groups), hermite.moments(groups, np.eye(d))
        _, p = hermite.mardia_kurtosis([sum(groups[1:], groups[0])])
        rejected.append([shape.p < level, moments.p < level, p[0] < level])
        held.append([shape.interval()[0] == 0, moments.interval()[0] == 0])
    return np.mean(rejected, axis=0), np.mean(held, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(2000, 2), (8000, 5)])
def test_gaussian_samples_are_rejected_at_the_level(n, d):
    rejected, held = rates(n, d, 300, 0)
    assert (np.abs(rejected - 0.05) < 4 * sqrt(0.05 * 0.95 / 300)).all()
    assert (held > 0.93).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "d"), [(4000, 3), *(pytest.param(n, d, marks=pytest.mark.full) for n, d in ((20_000, 1), (8000, 6)))]
)
def test_the_size_of_the_tests_over_two_thousand_nulls(n, d):
    rejected, held = rates(n, d, 2000, 1)
    assert (rejected > 0.03).all()
    assert (rejected < 0.07).all()
    assert (held > 0.95).all()


@pytest.mark.parametrize("kind", ["gamma", "uniform", "dependent"])
def test_jackknife_intervals_cover(kind):
    """Of 95 % at the least nine in ten, also where the squared distance is near its noise."""
    rng = np.random.default_rng([8, len(kind)])
    mixed = 0.3 if kind == "gamma" else 1.0
    held = []
    for _ in range(200):
        y = law(kind, 4000, 3, rng)
        y = mixed * y + sqrt(1 - mixed**2) * rng.standard_normal(y.shape)
        low, high = hermite.shape(parts(y)).interval()
        truth = (
            sqrt(3 * (mixed**6 * (2 / sqrt(6)) ** 2 / 18 + mixed**8 / 96))
            if kind == "gamma"
            else sqrt(population(kind, 3))
        )
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.90


def test_an_interval_of_a_negative_square_begins_at_zero():
    left = np.linspace(-1e-3, 1e-3, 16)
    found = Squared(-1e-4, 1e-3, left, 0.5)
    low, high = found.interval()
    assert found.distance == 0
    assert low == 0
    assert high == pytest.approx(sqrt(-1e-4 + 2.1314 * 1e-3), rel=1e-3)


@pytest.mark.slow
def test_mardia_has_no_bias():
    rng = np.random.default_rng(12)
    values = [hermite.mardia_kurtosis([Powers.of(rng.standard_normal((60, 3)))]) for _ in range(3000)]
    z = [np.sign(v[0] + 2 / 61) * stats.norm.isf(p[0] / 2) for v, p in values]
    assert abs(np.mean(z)) < 4 / sqrt(3000) * 1.2


def test_moments_about_a_mean():
    rng = np.random.default_rng(13)
    y = rng.standard_normal((4000, 3))
    A = np.array([[2.0, 0.3, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.5]])
    ours = hermite.moments(parts(y @ A.T + 7), A @ A.T, mean=7.0 * np.ones(3))
    assert ours.value == pytest.approx(hermite.moments(parts(y), np.eye(3)).value, rel=1e-6)


def test_unequal_groups_keep_the_level():
    rng = np.random.default_rng(14)
    rejected = []
    for _ in range(400):
        groups = [Powers.of(part) for part in np.split(rng.standard_normal((2048, 2)), [128, 256, 1024, 1900])]
        rejected.append(hermite.shape(groups).p < 0.05)
    assert np.mean(rejected) < 0.1


def test_covariances_that_few_samples_carry_are_refused():
    y = np.random.default_rng(15).standard_normal((1600, 2))
    y[:, 1] = 0
    y[5, 1] = 1
    with pytest.raises(InputError, match="few samples"):
        hermite.shape(parts(y))


def test_the_tail_is_that_of_a_sum_of_chi_squares():
    rng = np.random.default_rng(9)
    laws = [(10, 3), (15, 4)]
    draws = sum((rng.chisquare(p, 200_000) - p) / k for p, k in laws)
    for value in (-2.0, 0.0, 3.0, 6.0):
        assert hermite._tail(value, laws, 0.0) == pytest.approx(np.mean(draws > value), abs=0.005)


def test_tensors_that_are_turned_in_several_stacks_are_the_same(monkeypatch):
    rng = np.random.default_rng(11)
    groups = parts(law("gamma", 800, 3, rng))
    whole = hermite.shape(groups)
    monkeypatch.setattr(hermite, "STACK", 200)
    np.testing.assert_array_equal(hermite.shape(groups).left_out, whole.left_out)


def test_orthonormal_norms():
    """|h_k|^2 = |H_k|^2 / k!, the sum over multi-indices of squared averages of orthonormal polynomials."""
    rng = np.random.default_rng(10)
    y = rng.gamma(3.0, size=(40, 2))
    H = next(iter(hermite.coefficients([Powers.of(y)], np.eye(2), np.zeros(2))))[2][0]
    naive = 0.0
    for a in range(4):
        polynomial = hermeval(y[:, 0], np.eye(4)[a]) * hermeval(y[:, 1], np.eye(4)[3 - a])
        naive += np.mean(polynomial) ** 2 / (factorial(a) * factorial(3 - a))
    assert np.sum(H**2) / 6 == pytest.approx(naive, rel=1e-12)


def test_a_squared_norm_without_bias_is_that_of_pairs_of_groups():
    """sum_{g != h} w_g w_h h_g . h_h / sum_{g != h} w_g w_h, by hand for groups of other sizes."""
    rng = np.random.default_rng(0)
    counts = [100, 200, 100, 300]
    groups = [Powers.of(rng.standard_normal((n, 2)) + 0.3) for n in counts]
    w, means = np.array(counts) / sum(counts), np.array([group.mean for group in groups])

    def pairs(kept):
        v = w[kept] / w[kept].sum()
        products = np.outer(v, v) * (means[kept] @ means[kept].T)
        return (products.sum() - np.trace(products)) / (1 - v @ v)

    def norm(sums):
        return sums.mean @ sums.mean

    everything = np.arange(4)
    total = sum(groups[1:], groups[0])
    norms = np.array([norm(total), *(norm(total - group) for group in groups)])
    found = hermite._estimated(groups, norms, np.array([norm(group) for group in groups]), [(2, 1)])
    left = np.array([pairs(everything[everything != g]) for g in everything])
    np.testing.assert_allclose(found.left_out, left, rtol=1e-10)
    assert found.value == pytest.approx(pairs(everything) - 3 * (left.mean() - pairs(everything)))


def test_a_mean_is_in_the_second_order_as_well():
    """|m|^2 + |m m^T|^2 / 4 of N(m, I)."""
    m = np.array([0.6, -0.8])
    y = np.random.default_rng(0).standard_normal((400_000, 2)) + m
    assert hermite.moments(parts(y), np.eye(2)).value == pytest.approx(1 + 1 / 4, rel=0.02)


def test_the_jackknife_of_a_mean_is_exact():
    """Of two halves as well: half of their difference; of G parts the deviation of their means over sqrt(G)."""
    for G in (2, 5):
        x = np.random.default_rng(G).standard_normal(G)
        left = (x.sum() - x) / (G - 1)
        found = jackknife(np.array(x.mean()), left)
        assert found.error == pytest.approx(x.std(ddof=1) / np.sqrt(G))
        assert found.bias == pytest.approx(0, abs=1e-12)
        square = jackknife(np.array(x.mean() ** 2), left**2)
        assert square.bias == pytest.approx(x.var(ddof=1) / G)


def test_moments_of_an_estimated_gaussian_are_rejected_at_the_level():
    """Mean and covariance from as many samples as are held against them, which doubles the noise."""
    rng = np.random.default_rng(16)
    n, d = 1000, 3
    noise = (d + d * (d + 1) / 4) / n
    rejected = []
    for _ in range(250):
        y, z = rng.standard_normal((2, n, d))
        found = hermite.moments(parts(y, 8), np.cov(z, rowvar=False), noise, z.mean(axis=0))
        rejected.append(found.p < 0.05)
    assert abs(np.mean(rejected) - 0.05) < 4 * sqrt(0.05 * 0.95 / 250)


def test_pairs_within_a_group_do_not_count():
    """With three groups they are a third of all pairs; normal scores of the p-values have variance one all the same."""
    rng = np.random.default_rng(17)
    p = [hermite.moments(parts(rng.standard_normal((600, 8)), 3), np.eye(8)).p for _ in range(800)]
    assert np.var(stats.norm.isf(p)) == pytest.approx(1, abs=4 * sqrt(2 / 800))
