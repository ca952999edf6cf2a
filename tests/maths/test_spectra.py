"""Nodes stand for many eigenvalues: integrals of relaxation functions, to the tolerance that was asked for."""

import numpy as np
import pytest

import cases
from gaussequiv.maths.spectra import relaxation_nodes


@pytest.mark.parametrize("kind", ["spread", "image"])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-12])
def test_sums_over_nodes_are_sums_over_modes(kind, tolerance):
    rng = np.random.default_rng(0)
    rho = np.sort(cases.spectrum(kind, 800, rng))
    data = rng.standard_normal((5, 800)) * rho / rho.sum()
    nodes = relaxation_nodes(rho, rho / rho.max(), longest=500.0, tolerance=tolerance)
    assert len(nodes.rho) < 70
    carried, size = nodes.carry(data), np.abs(data).sum(axis=1)
    for s in (0.0, 1e-4, 0.013, 0.7, 31.0, 490.0):
        for f in (
            lambda x: np.exp(-x),
            lambda x: x * np.exp(-x),
            lambda x: np.where(x > 0, -np.expm1(-x) / np.where(x, x, 1), 1),
        ):
            error = np.abs(carried @ f(nodes.rho * s) - data @ f(rho * s))
            assert (error <= 100 * tolerance * size).all()


def test_more_accuracy_takes_a_few_more_nodes():
    rho = np.sort(cases.spectrum("image", 3000, np.random.default_rng(0)))
    counts = [len(relaxation_nodes(rho, rho / rho.max(), 1e3, tol).rho) for tol in (1e-4, 1e-8, 1e-12)]
    assert counts[0] < counts[1] < counts[2] < 70


def test_nodes_are_eigenvalues_and_carry_their_own_data():
    rho = np.sort(cases.spectrum("spread", 200, np.random.default_rng(1)))
    nodes = relaxation_nodes(rho, np.ones(200), 10.0, 1e-10)
    assert set(nodes.rho) <= set(rho)
    picked = np.searchsorted(rho, nodes.rho)
    np.testing.assert_allclose(nodes.P[:, picked], np.eye(len(picked)), atol=1e-14)


def test_equal_eigenvalues_are_one_node():
    assert len(relaxation_nodes(np.ones(50), np.ones(50), 100.0, 1e-12).rho) == 1
    zero = relaxation_nodes(np.zeros(5), np.ones(5), 100.0, 1e-12)
    np.testing.assert_allclose(zero.carry(np.arange(5.0)), [10.0])
