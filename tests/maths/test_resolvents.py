"""Resolvent sums: identities, what does not cancel, and the interpolated form against the direct one."""

import numpy as np
import pytest

from gaussequiv.maths import resolvents
from gaussequiv.maths.resolvents import Resolvents

KAPPA = np.geomspace(1e-6, 1e3, 7)


def problem(N=300, rest=0.3, noise=0.2, decay=1.5, seed=0):
    omega = np.arange(1, N + 1.0) ** -decay
    parts = np.random.default_rng(seed).random(N)
    parts /= parts.sum()
    return Resolvents.of_directions(omega, N * omega * parts, 1 + rest, noise)


def test_sums_are_what_they_are_called():
    p = problem()
    s, f = p(KAPPA), p.omega / (KAPPA[:, None] + p.omega)
    np.testing.assert_allclose(s.A1, f.mean(1), rtol=1e-13)
    np.testing.assert_allclose(s.A2, (f**2).mean(1), rtol=1e-10)
    np.testing.assert_allclose(s.B, (f * (1 - f)).mean(1), rtol=1e-9)
    np.testing.assert_allclose(s.miss, p.total - 2 * s.T1 + s.T2, rtol=1e-12)
    np.testing.assert_allclose(s.gap, p.total * s.T2 - s.T1**2, rtol=1e-9)


def test_a_teacher_that_is_linear_in_the_inputs_leaves_no_rounding():
    """rho - 2 T1 + T2 = kappa^2 (sum pi / omega^2) to first order: far below the rounding of its terms."""
    p = problem(rest=0.0, noise=0.0, decay=0.5)
    kappa = np.array([1e-10])
    assert p.unseen == 0.0
    np.testing.assert_allclose(p(kappa).miss, kappa**2 * np.sum(p.parts / p.omega**2), rtol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 1.5, 4.0])
def test_interpolated_sums_equal_direct_ones(decay, monkeypatch):
    direct = problem(decay=decay)(KAPPA)
    monkeypatch.setattr(resolvents, "DIRECT", 10)
    table = problem(decay=decay)(KAPPA)
    for name in ("A1", "A2", "B", "T1", "T2", "D", "miss", "gap"):
        np.testing.assert_allclose(getattr(table, name), getattr(direct, name), rtol=1e-11, atol=1e-25, err_msg=name)
