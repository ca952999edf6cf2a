"""The worst direction: distances against integrals, planted directions that are found, and the null that is shipped."""

from math import pi, sqrt

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from gaussequiv.maths import sliced
from gaussequiv.maths.sphere import uphill


def naive(z):
    """The integral of the squared difference of the quantile functions."""
    z, n = np.sort(z), len(z)
    u = (np.arange(200_000) + 0.5) / 200_000
    return np.mean((z[(u * n).astype(int)] - ndtri(u)) ** 2)


def whitened(kind, n, d, rng, rotate=True):
    """Gaussian samples of which one direction is not, and that direction after whitening."""
    y = rng.standard_normal((n, d))
    y[:, 0] = {
        "uniform": rng.uniform(-sqrt(3), sqrt(3), n),
        "skew": (rng.gamma(20.0, size=n) - 20) / sqrt(20),
        "lattice": rng.choice([-1.0, 1.0], (n, 8)).sum(axis=1) / sqrt(8),
        "atom": np.where(rng.random(n) < 0.3, 0.0, rng.standard_normal(n) / sqrt(0.7)),
    }[kind]
    R = np.linalg.qr(rng.standard_normal((d, d)))[0] if rotate else np.eye(d)
    found, A = sliced.whitened(y @ R)
    e = np.linalg.solve(A, R[0]) if d > 1 else R[0]
    return found, e / np.linalg.norm(e)


@pytest.mark.parametrize("n", [10, 100, 5000])
def test_the_distance_of_points_is_that_of_quantile_functions(n):
    z = np.random.default_rng(n).gamma(2.0, size=n)
    z = (z - z.mean()) / z.std()
    assert sliced.squared_distance(z) == pytest.approx(naive(z), abs=2e-4)


def test_two_points():
    assert sliced.squared_distance(np.array([1.0, -1.0])) == pytest.approx(2 - 2 * sqrt(2 / pi))


@pytest.mark.parametrize("kind", ["uniform", "skew", "lattice", "atom"])
@pytest.mark.parametrize("d", [1, 2, 6])
def test_a_planted_direction_is_found(kind, d):
    rng = np.random.default_rng([d, len(kind)])
    y, e = whitened(kind, 8000, d, rng)
    found = sliced.worst(y, rng)
    assert found.value >= sliced.squared_distance(y @ e) * 0.99
    assert abs(found.vector @ e) > 0.97
    np.testing.assert_allclose(found.projections, y @ found.vector)
    assert np.linalg.norm(found.vector) == pytest.approx(1)


def test_directions_of_interest_are_looked_at():
    """A lattice along a field hides from every search in many dimensions, but not from a look at the field."""
    rng = np.random.default_rng(0)
    y, e = whitened("lattice", 4000, 16, rng)
    assert sliced.worst(y, np.random.default_rng(1), e[None]).value >= sliced.squared_distance(y @ e)


def test_uphill_finds_the_largest_eigenvalue():
    rng = np.random.default_rng(2)
    S = rng.standard_normal((5, 5))
    S = S @ S.T
    start = rng.standard_normal(5)
    e, value = uphill(lambda e: float(e @ S @ e), lambda e: 2 * S @ e, start / np.linalg.norm(start))
    assert value == pytest.approx(np.linalg.eigvalsh(S)[-1], rel=1e-2)
    assert np.linalg.norm(e) == pytest.approx(1)


def test_a_start_of_one_dimension_stays():
    e, value = uphill(lambda e: 3.0, lambda e: e, np.array([1.0]))
    assert (e, value) == (np.array([1.0]), 3.0)


@pytest.mark.parametrize(
    "points", [np.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]]), np.concatenate([np.eye(3), -np.eye(3)])]
)
def test_laws_without_a_preferred_direction_have_a_distance(points):
    y = np.tile(points, (400, 1))
    y = y / y.std(axis=0)
    found = sliced.worst(y, np.random.default_rng(0))
    assert np.isfinite(found.value)
    assert found.value >= sliced.squared_distance(y[:, 0])


def parts(y, G=16):
    return np.array_split(y, G)


@pytest.mark.parametrize("d", [1, 3, 5])
def test_without_its_null_the_square_is_that_of_the_law(d):
    """Of a uniform field: W2^2 = 2 - 2 sqrt(3 / pi)."""
    rng = np.random.default_rng([3, d])
    y, _ = whitened("uniform", 30_000, d, rng)
    found, _ = sliced.max_sliced(parts(y), rng)
    truth = sqrt(2 - 2 * sqrt(3 / pi))
    low, high = found.interval()
    assert low < truth < high
    assert found.distance == pytest.approx(truth, rel=0.03)
    assert found.p < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 4])
def test_of_gaussian_samples_nothing_is_left(d):
    rng = np.random.default_rng([5, d])
    values = [sliced.max_sliced(parts(rng.standard_normal((800, d))), rng)[0].value for _ in range(150)]
    assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / sqrt(150)


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 16])
@pytest.mark.parametrize("kind", ["skew", "atom"])
def test_intervals_cover_the_distance_of_a_planted_direction(kind, d):
    """In nine of ten cases at least, within two standard errors of sixty."""
    rng = np.random.default_rng([7, d])
    z, _ = whitened(kind, 2_000_000, 1, rng)
    truth, covered = sqrt(sliced.squared_distance(z[:, 0])), []
    for _ in range(60):
        y, _ = whitened(kind, 4096, d, rng)
        low, high = sliced.max_sliced(np.array_split(y, 16), rng)[0].interval()
        covered.append(low <= truth <= high)
    assert np.mean(covered) > 0.9 - 2 * sqrt(0.9 * 0.1 / len(covered))


def test_the_upper_end_is_as_if_one_direction_had_been_looked_at():
    """The search among Gaussian samples finds more in more dimensions, which is no reason to take it off the upper end."""
    y, _ = whitened("atom", 4096, 6, np.random.default_rng(8))
    found, direction = sliced.max_sliced(np.array_split(y, 16), np.random.default_rng(8))
    half = stats.t.ppf(0.975, 15) * found.error
    low, high = found.interval()
    assert low**2 == pytest.approx(direction.value - sliced.null(4096, 6)[0] - half)
    assert high**2 == pytest.approx(direction.value - sliced.null(4096, 1)[0] + half)


def test_samples_that_are_fewer_without_a_group_show_more_by_chance():
    """Half of the samples in one group: without it the null is twice that of all, and is taken off as that."""
    rng = np.random.default_rng(6)
    y = rng.standard_normal((2000, 2))
    found, direction = sliced.max_sliced([y[:1000], y[1000:]], rng)
    kept = sliced.whitened(y)[0][1000:] @ direction.vector
    alone = sliced.squared_distance((kept - kept.mean()) / kept.std())
    assert found.left_out[0] == pytest.approx(alone - 2 * sliced.null(2000, 2)[0], rel=1e-9)


def test_axes_are_functions_of_the_samples_before_they_are_whitened():
    rng = np.random.default_rng(4)
    y = rng.standard_normal((4000, 3)) @ np.diag([1.0, 3.0, 0.2]) @ rng.standard_normal((3, 3))
    functional = rng.standard_normal(3)
    seen = []
    original = sliced.worst
    try:
        sliced.worst = lambda z, rng, axes: (seen.append((z, axes)), original(z, rng, axes))[1]
        sliced.max_sliced(parts(y), rng, functional[None])
    finally:
        sliced.worst = original
    z, axes = seen[0]
    ours = z @ axes[0]
    theirs = (y - y.mean(axis=0)) @ functional
    np.testing.assert_allclose(ours / ours.std(), theirs / theirs.std(), atol=1e-9)


def test_the_null_is_interpolated_between_what_was_simulated():
    sizes, dims, table = sliced._table()
    assert sizes[0] == sliced.LEAST
    assert sizes[-1] == sliced.MOST
    for i, n in enumerate(sizes):
        for j, d in enumerate(dims):
            mean, deviation, skew = sliced.null(int(n), int(d))
            np.testing.assert_allclose([mean * n, deviation * n, skew], [*np.exp(table[j, i, :2]), table[j, i, 2]])
    means = [sliced.null(4000, d)[0] for d in range(1, 33)]
    assert np.all(np.diff(means) > 0)
    assert sliced.null(10**6, 3)[0] < sliced.null(sliced.MOST, 3)[0]


def rejections(n, d, draws, seed):
    rng = np.random.default_rng([n, d, seed])
    return np.mean([sliced.max_sliced(parts(rng.standard_normal((n, d))), rng)[0].p < 0.05 for _ in range(draws)])


@pytest.mark.slow
def test_gaussian_samples_are_rejected_at_the_level():
    assert 0.01 < rejections(1000, 3, 200, 0) < 0.11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "d"), [(4000, 3), *(pytest.param(n, d, marks=pytest.mark.full) for n, d in ((1000, 8), (3000, 1)))]
)
def test_the_size_over_four_hundred_nulls(n, d):
    assert 0.02 < rejections(n, d, 400, 1) < 0.085
