"""Block Lanczos and stochastic quadrature: sums over all eigenmodes, from products with the operator only."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import cases
from gaussequiv.errors import InputError
from gaussequiv.maths.lanczos import density_of_states, gauss_rule, relaxation_rule

SPECTRA = ["white", "spread", "image", "singular"]
FUNCTIONS = [
    lambda x: np.exp(-x),
    lambda x: x * np.exp(-x),
    lambda x: np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1), 1.0),
]


def dense(kind, N=200, seed=0):
    """Eigenvalues, eigenvectors and the operator with that spectrum."""
    rng = np.random.default_rng(seed)
    rho = cases.spectrum(kind, N, rng)
    E = np.linalg.qr(rng.standard_normal((N, N)))[0]
    return rho, E, aslinearoperator((E * rho) @ E.T)


def block(kind, rho, E, p, seed=1):
    """Blocks that lose rank in every way, and one that does not."""
    X = np.random.default_rng(seed).standard_normal((len(rho), p))
    match kind:
        case "duplicates":
            X[:, 1] = X[:, 0]
            X[:, 2] = -2 * X[:, 0]
        case "zeros":
            X[:, 0] = 0
        case "eigenvectors":
            X[:, :2] = E[:, [0, -1]]
        case "scales":
            X *= 10.0 ** -np.arange(p) * 1e3
        case "all zero":
            X[:] = 0
    return X


def by_modes(f, rho, E, X):
    x = E.T @ X
    return x.T * f(rho) @ x


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize(("p", "steps"), [(1, 1), (1, 7), (3, 1), (3, 5), (4, 12)])
def test_moments_are_exact_to_twice_the_number_of_steps(kind, p, steps):
    rho, E, A = dense(kind)
    X = block("generic", rho, E, p)
    rule = gauss_rule(A, X, steps)
    assert len(rule.rho) <= p * steps
    scaled, top = rule.rho / rho.max(), rho.max()
    for degree in range(2 * steps):
        exact = by_modes(lambda r, d=degree: (r / top) ** d, rho, E, X)
        found = (rule.vectors * scaled**degree) @ rule.vectors.T
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11 * np.abs(exact).max())


def test_the_moment_after_the_last_exact_one_is_not():
    rho, E, A = dense("spread")
    X = block("generic", rho, E, 2)
    rule = gauss_rule(A, X, 3)
    exact = by_modes(lambda r: r**6, rho, E, X)
    assert np.abs((rule.vectors * rule.rho**6) @ rule.vectors.T - exact).max() > 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", ["generic", "duplicates", "zeros", "eigenvectors", "scales", "all zero"])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_relaxation_sums_are_those_of_all_modes(kind, shape, tolerance):
    """X relaxes, Y drives: every sum to the tolerance of its natural size, at times that the rule has not looked at."""
    rho, E, A = dense(kind)
    X = block(shape, rho, E, 3)
    Y = (E * np.sqrt(rho)) @ E.T @ block(shape, rho, E, 3, seed=2)
    Y[:, np.linalg.norm(Y, axis=0) < 1e-13 * np.linalg.norm(Y)] = 0.0  # what a mode of eigenvalue 0 drives is rounding
    rule = relaxation_rule(A, X, Y, longest=300.0, tolerance=tolerance)
    assert rule.error <= tolerance
    x, y = rule.vectors[:3], rule.vectors[3:]
    size = np.linalg.norm(X, axis=0), np.linalg.norm(Y, axis=0)
    for s in (1e-4, 0.017, 0.7, 31.0, 290.0):
        q = np.diag(by_modes(lambda r: r, rho, E, X))
        t = np.diag(by_modes(lambda r, s=s: s * FUNCTIONS[2](r * s), rho, E, Y))
        for f in FUNCTIONS:
            values = f(rule.rho * s)
            found = (x * (values * rule.rho)) @ x.T, (x * values) @ y.T, s * (y * values) @ y.T
            modes = f(rho * s)
            ex, ey = E.T @ X, E.T @ Y
            exact = ex.T * (modes * rho) @ ex, ex.T * modes @ ey, s * (ey.T * modes) @ ey
            natural = np.outer(q, q), np.outer(q, t), np.outer(t, t)
            rounding = rho.max() * np.outer(size[0], size[0]), np.outer(*size), s * np.outer(size[1], size[1])
            for one, two, n, r in zip(found, exact, natural, rounding, strict=True):
                assert (np.abs(one - two) <= 3 * tolerance * np.sqrt(n) + 1e-14 * (1 + rho.max() * s) * r).all()


def test_more_accuracy_and_longer_times_take_more_nodes():
    rho, E, A = dense("image", 600)
    X, Y = block("generic", rho, E, 2), (E * np.sqrt(rho)) @ E.T @ block("generic", rho, E, 2, seed=3)
    counts = [
        len(relaxation_rule(A, X, Y, longest=longest, tolerance=tol).rho)
        for longest, tol in ((1.0, 1e-3), (1.0, 1e-8), (100.0, 1e-8))
    ]
    assert counts[0] < counts[1] < counts[2] < 600


def test_a_rule_is_confirmed_by_twice_as_many_steps():
    rho, E, A = dense("spread", 600)
    columns = []
    counting = LinearOperator(
        A.shape, matvec=A.matvec, matmat=lambda X: columns.append(X.shape[1]) or A @ X, dtype=float
    )
    rule = relaxation_rule(counting, block("generic", rho, E, 2), np.zeros((600, 0)), longest=30.0, tolerance=1e-8)
    assert sum(columns) == 2 * len(rule.rho) < 200


def test_a_wide_block_ends_with_the_whole_space():
    rho, E, A = dense("singular", 100)
    X = block("generic", rho, E, 16)
    rule = relaxation_rule(A, X, X[:, :0], longest=1e6, tolerance=1e-12)
    assert rule.error <= 1e-12
    assert len(rule.rho) <= 100


@pytest.mark.parametrize("columns", [1, 2, 5, 6, 20])
def test_a_tolerance_that_memory_does_not_allow_is_reported(columns, monkeypatch):
    monkeypatch.setattr("gaussequiv.maths.lanczos.LARGEST", 600 * columns)
    rho, E, A = dense("image", 600)
    X = block("generic", rho, E, 2)
    rule = relaxation_rule(A, X, X[:, :0], longest=1e4, tolerance=1e-12)
    assert len(rule.rho) <= columns
    assert rule.error > 1e-12


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("probes", [8, 16])
def test_a_density_of_states_is_within_five_of_its_standard_errors(kind, probes):
    rho, _, A = dense(kind, 500)
    density = density_of_states(A, N=500, probes=probes, longest=30.0, tolerance=1e-8)
    assert density.omega.sum() == pytest.approx(1, abs=1e-12)
    for s in (0.0, 0.01, 0.3, 10.0):
        for f in FUNCTIONS:
            values = density.rho * f(density.rho * s)
            error = abs(density.omega @ values - (rho * f(rho * s)).mean())
            assert error <= 5 * density.standard_error(values) + 1e-7 * rho.mean()


def test_standard_errors_of_a_density_of_states_are_the_spread_over_seeds():
    rho, _, A = dense("spread", 300)
    runs = [density_of_states(A, N=300, probes=8, longest=0.1, tolerance=1e-6, seed=i) for i in range(40)]
    z = [(d.omega @ d.rho - rho.mean()) / d.standard_error(d.rho) for d in runs]
    assert abs(np.mean(z)) < 1
    assert 0.6 < np.std(z) < 1.8


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("probes", [80, 1000])
def test_as_many_probes_as_inputs_count_every_eigenvalue(kind, probes):
    rho, _, A = dense(kind, 80)
    density = density_of_states(A, N=80, probes=probes, longest=10.0, tolerance=1e-8)
    np.testing.assert_allclose(np.sort(density.rho), np.sort(rho), atol=1e-12 * rho.max())
    np.testing.assert_allclose(density.omega, 1 / 80)
    assert density.standard_error(density.rho) == 0


@pytest.mark.parametrize("kind", ["white", "image", "singular"])
def test_eigenvalues_that_were_found_are_not_sampled(kind):
    """With times that take the whole space, only the copies of a repeated eigenvalue are left to their number."""
    rho, _, A = dense(kind, 120)
    density = density_of_states(A, N=120, probes=6, longest=1e4, tolerance=1e-13)
    for f in (lambda r: r, lambda r: r * np.exp(-r), lambda r: r**2):
        assert abs(density.omega @ f(density.rho) - f(rho).mean()) <= 1e-6 * f(rho).mean()


def test_copies_beyond_the_number_of_probes_are_sampled():
    """Two eigenvalues, 450 and 50 times: the space ends with one copy for every probe, which says nothing about both."""
    rho = np.repeat([1.0, 4.0], [450, 50])
    A = aslinearoperator(np.diag(rho))
    density = density_of_states(A, N=500, probes=6, longest=1.0, tolerance=1e-10)
    error = abs(density.omega @ density.rho - rho.mean())
    assert 0 < error <= 5 * density.standard_error(density.rho) < 0.3


def test_the_same_seed_gives_the_same_nodes_and_another_seed_others():
    _, _, A = dense("spread", 200)
    one, same, other = (density_of_states(A, N=200, probes=4, longest=1.0, tolerance=1e-6, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.rho, same.rho)
    np.testing.assert_array_equal(one.omega, same.omega)
    assert not np.allclose(one.omega @ one.rho, other.omega @ other.rho, rtol=1e-9)


def test_negative_eigenvalues_and_products_without_numbers_are_refused():
    X = np.random.default_rng(0).standard_normal((30, 2))
    with pytest.raises(InputError, match="the operator has the eigenvalue -"):
        gauss_rule(aslinearoperator(np.diag(np.linspace(-1, 1, 30))), X, 5)
    with pytest.raises(InputError, match="holds a NaN"):
        gauss_rule(aslinearoperator(np.full((30, 30), np.nan)), X, 5)
