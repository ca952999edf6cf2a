"""Random matrices of four kinds, a function of the seed; deep generators of given matrices; refusals."""

import numpy as np
import pytest

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError

KINDS = ["gaussian", "orthogonal", "hadamard", "spiked"]
SIZES = [(16, 16), (8, 16), (40, 16), (30, 20), (1, 1), (5, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_matrix_is_a_function_of_seed_and_layer(kind, size):
    F = generators.matrix(kind, *size, seed=3)
    assert F.shape == size
    assert F.dtype == np.float64
    np.testing.assert_array_equal(generators.matrix(kind, *size, seed=3), F)
    if size[1] > 1:
        assert not np.array_equal(generators.matrix(kind, *size, seed=4), F)
        assert not np.array_equal(generators.matrix(kind, *size, seed=3, layer=1), F)


@pytest.mark.parametrize("kind", ["orthogonal", "hadamard"])
@pytest.mark.parametrize("size", SIZES)
def test_rows_have_norm_one(kind, size):
    np.testing.assert_allclose(np.linalg.norm(generators.matrix(kind, *size, seed=1), axis=1), 1.0, rtol=1e-13)


@pytest.mark.parametrize("kind", ["orthogonal", "hadamard"])
def test_rows_are_orthonormal_in_blocks(kind):
    F = generators.matrix(kind, 40, 16, seed=1)
    for rows in (F[:16], F[16:32], F[32:]):
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-13)
    np.testing.assert_allclose(F[:32].T @ F[:32], 2 * np.eye(16), atol=1e-13)
    assert not np.allclose(np.abs(F[:16] @ F[16:32].T).max(axis=1), 1)  # the blocks differ


@pytest.mark.parametrize("columns", [16, 20])
def test_hadamard_matrices_have_entries_of_one_size_and_rows_orthogonal_at_least_on_average(columns):
    F = generators.matrix("hadamard", 12, columns, seed=2)
    np.testing.assert_allclose(np.abs(F), 1 / np.sqrt(columns))
    overlaps = np.stack(
        [np.triu(G @ G.T, 1) for G in (generators.matrix("hadamard", 12, columns, seed=s) for s in range(300))]
    )
    assert (np.abs(overlaps.mean(axis=0)) <= 5 * overlaps.std(axis=0) / np.sqrt(300) + 1e-13).all()
    assert (np.abs(overlaps).max() < 1e-13) == (columns == 16)


def test_the_columns_of_a_hadamard_matrix_have_random_signs():
    """Without them one row of a whole block would be constant, and see the mean of its latents only."""
    assert np.abs(generators.matrix("hadamard", 64, 64, seed=0).sum(axis=1)).max() < 0.7 * np.sqrt(64)


@pytest.mark.parametrize("kind", ["gaussian", "spiked"])
def test_gaussian_rows_have_norm_one_on_average(kind):
    squares = np.stack([np.sum(generators.matrix(kind, 5, 8, seed=s, strength=1.5) ** 2, axis=1) for s in range(800)])
    expected = 1 + (1.5**2 / 5 if kind == "spiked" else 0)
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(squares.size)


def test_a_spike_is_one_direction_of_the_given_strength():
    gaussian = generators.gaussian_matrix(60, 30, seed=5)
    np.testing.assert_array_equal(generators.matrix("gaussian", 60, 30, seed=5), gaussian)
    np.testing.assert_array_equal(generators.matrix("spiked", 60, 30, seed=5, strength=0), gaussian)
    spike = np.linalg.svd(generators.matrix("spiked", 60, 30, seed=5, strength=4.0) - gaussian)[1]
    np.testing.assert_allclose(spike, [4.0, *[0] * 29], atol=1e-13)
    top = [np.linalg.svd(generators.matrix("spiked", 400, 200, seed=5, strength=s))[1][0] for s in (0.5, 4.0)]
    assert top[0] < 1.05 * (1 + np.sqrt(2))  # below (N / D)^(1/4) it hides in the bulk
    assert top[1] == pytest.approx(np.sqrt((4**2 + 1) * (4**2 + 2)) / 4, rel=0.05)  # Benaych-Georges and Nadakuditi


def test_orthogonal_matrices_are_uniform():
    """E F_ij^2 = 1/D, E F_11 F_12 F_21 F_22 = -1 / (D (D-1) (D+2)): moments of the uniform law."""
    draws = np.stack([generators.matrix("orthogonal", 3, 3, seed=s) for s in range(4000)])
    for values, exact in (
        (draws[:, 0, 0] ** 2, 1 / 3),
        (draws[:, 0, 0], 0),
        (draws[:, 0, 0] * draws[:, 0, 1] * draws[:, 1, 0] * draws[:, 1, 1], -1 / 30),
    ):
        assert abs(values.mean() - exact) < 5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("kind", KINDS)
def test_deep_generator_and_model_are_made_of_the_same_matrices(kind):
    widths, activations = (6, 9, 8, 7), ["relu", "tanh", "linear"]
    Fs = generators.matrices(widths, kind, 2, strength=1.5)
    assert [F.shape for F in Fs] == [(9, 6), (8, 9), (7, 8)]
    by_name = generators.deep_random(widths, activations, 2, matrix=kind, strength=1.5)
    latents, inputs = by_name.sample(20, 0)
    np.testing.assert_allclose(inputs, np.tanh(np.maximum(latents @ Fs[0].T, 0) @ Fs[1].T) @ Fs[2].T, atol=1e-13)
    np.testing.assert_array_equal(generators.deep(Fs, activations).sample(20, 0)[1], inputs)
    assert (by_name.name, generators.deep(Fs).name) == ("deep-random", "deep")
    model = ge.GaussianModel.deep(Fs, activations)
    estimate = generators.estimate(by_name, samples=20_000)
    assert np.abs(estimate.Phi - model.Phi).max() < 0.15
    assert np.abs(estimate.mean_x - model.mean_x).max() < 0.15


def test_matrices_of_different_precision_are_promoted():
    generator = generators.deep([np.eye(3, dtype=np.float32), np.ones((2, 3))], "linear")
    assert generator.sample(2, 0)[1].dtype == np.float64


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: generators.matrix("circulant", 3, 3),
            "kind='circulant'; expected one of gaussian, orthogonal, hadamard",
        ),
        (lambda: generators.matrix("hadamard", 0, 3), "rows=0; expected an integer of at least 1"),
        (lambda: generators.matrix("orthogonal", 3, 2.5), "columns=2.5; expected an integer"),
        (lambda: generators.matrix("spiked", 3, 3, strength=-1), "strength=-1; expected a non-negative"),
        (lambda: generators.matrices((3,)), r"expected at least \(D, N\)"),
        (lambda: generators.deep([]), "a deep generator without matrices"),
        (lambda: generators.deep([np.eye(3), np.eye(2)]), r"matrix 2 has shape \(2, 2\) behind 3 units"),
        (lambda: generators.deep([np.eye(3), np.zeros(3)]), r"matrix 2 has shape \(3,\)"),
        (lambda: generators.deep([np.eye(3)], ["sign", "erf"]), "2 activations for 1 matrices"),
    ],
)
def test_wrong_matrices_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
