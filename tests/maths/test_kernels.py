"""Dot-product kernels on the sphere: Mercer's sum, closed eigenvalues, and what is no kernel."""

import numpy as np
import pytest

from gaussequiv.errors import InputError
from gaussequiv.maths.activations import Erf, ReLU
from gaussequiv.maths.kernels import sphere_kernel


def gram(function, dim, n, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, dim))
    x /= np.linalg.norm(x, axis=1)[:, None]
    return function(np.clip(x @ x.T, -1, 1))


def test_the_linear_kernel_has_one_level_of_d_functions():
    eta, counts = sphere_kernel(lambda t: t, 7, degrees=3)
    np.testing.assert_allclose(eta, [0, 1 / 7, 0, 0], atol=1e-15)
    np.testing.assert_allclose(counts, [1, 7, 27, 77])


@pytest.mark.parametrize("dim", [3, 8, 30])
def test_a_polynomial_kernel_has_no_level_beyond_its_degree_and_the_whole_trace(dim):
    eta, counts = sphere_kernel(lambda t: (1 + t) ** 3, dim, degrees=6)
    assert len(eta) == 7
    assert (eta[:4] > 0).all()
    assert not eta[4:].any()
    assert eta @ counts == pytest.approx(8.0, rel=1e-12)


@pytest.mark.parametrize("degrees", [2, 5])
def test_the_levels_and_the_rest_make_up_the_trace(degrees):
    eta, counts = sphere_kernel(lambda t: ReLU().product(ReLU(), 1.0, 1.0, t), 6, degrees=degrees)
    assert eta @ counts == pytest.approx(0.5, rel=1e-12)
    assert len(eta) == degrees + 2


def test_mean_squares_of_a_gram_matrix_are_those_of_the_eigenvalues():
    """E k(x, x')^2 = sum of eta^2 over all functions."""
    function, dim, n = np.exp, 5, 1500
    eta, counts = sphere_kernel(function, dim, degrees=15)
    off = gram(function, dim, n)[~np.eye(n, dtype=bool)] ** 2
    assert off.mean() == pytest.approx(float(counts @ eta**2), rel=0.01)


def test_eigenvalues_of_a_large_gram_matrix_come_in_levels():
    function, dim, n = (lambda t: Erf().product(Erf(), 1.0, 1.0, t)), 4, 3000
    eta, counts = sphere_kernel(function, dim, degrees=6)
    found = np.linalg.eigvalsh(gram(function, dim, n))[::-1] / n
    start = 0
    for value, count in zip(eta[[1, 3]], counts[[1, 3]].astype(int), strict=True):  # the even degrees of erf vanish
        np.testing.assert_allclose(found[start : start + count].mean(), value, rtol=0.03)
        start += count


@pytest.mark.parametrize(
    ("function", "dim", "sentence"),
    [
        (lambda t: -t, 5, "no kernel"),
        (lambda t: np.full_like(t, np.nan), 5, "finite numbers"),
        (lambda t: t, 2, "dim=2"),
    ],
)
def test_what_is_no_kernel_is_refused(function, dim, sentence):
    with pytest.raises(InputError, match=sentence):
        sphere_kernel(function, dim)


@pytest.mark.parametrize("dim", [3, 50, 784, 3072, 100_000])
def test_the_exponential_kernel_has_bessel_functions_for_eigenvalues(dim):
    r"""$2^{-k} \Gamma(\nu + 1) / \Gamma(\nu + k + 1) \sum_j 4^{-j} / j! (\nu + k + 1)_j$; what rounding hides is rest."""
    eta, counts = sphere_kernel(np.exp, dim, degrees=10)
    nu = dim / 2 - 1
    for k in range(11):
        before = np.prod(0.5 / (nu + 1 + np.arange(k)))
        terms = [np.prod(0.25 / ((1 + np.arange(j)) * (nu + k + 1 + np.arange(j)))) for j in range(12)]
        if eta[k]:
            assert eta[k] == pytest.approx(before * np.sum(terms), rel=1e-3 if k > 3 else 1e-9)
        else:
            assert k > 4
    assert eta @ counts == pytest.approx(np.e, rel=1e-12)
