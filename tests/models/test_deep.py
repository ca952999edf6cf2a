"""`GaussianModel.deep`: where the recursion is exact, in standard errors; where it is not, its error falls with the width."""

import itertools

import numpy as np
import pytest

import cases
import gaussequiv as ge
import oracles
from gaussequiv.errors import InputError
from gaussequiv.maths.activations import activation

LETTERS = ("Omega", "Phi", "mean_x")
MIXED = ["sign", "erf", "relu", "tanh", "gelu", "abs", "sigmoid"]


def random_matrices(widths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]


def push(matrices, activations, c):
    for F, sigma in zip(matrices, activations, strict=True):
        c = activation(sigma)(c @ F.T)
    return c


def assert_same(one, other, atol=1e-12):
    for letter in LETTERS:
        np.testing.assert_allclose(getattr(one, letter), getattr(other, letter), atol=atol)


@cases.each(cases.ACTIVATIONS)
def test_one_layer_is_a_single_layer_to_the_last_bit(case):
    F = 0.7 * np.random.default_rng(0).standard_normal((12, 5))
    one, other = ge.GaussianModel.deep([F], case), ge.GaussianModel.single_layer(F, case)
    for letter in LETTERS:
        np.testing.assert_array_equal(getattr(one, letter), getattr(other, letter))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_linear_layers_are_the_product_of_their_matrices(depth):
    matrices = random_matrices([6, *[8] * depth])
    product = np.linalg.multi_dot([*matrices[::-1], np.eye(6)])
    model = ge.GaussianModel.deep(matrices, "linear")
    np.testing.assert_allclose(model.Phi, product, atol=1e-13)
    np.testing.assert_allclose(model.Omega, product @ product.T, atol=1e-13)
    np.testing.assert_array_equal(model.mean_x, 0)


@cases.each(cases.ACTIVATIONS)
def test_a_linear_layer_before_is_multiplied_and_one_behind_multiplies(case):
    F, G, H = random_matrices([5, 7, 9, 4])
    model = ge.GaussianModel.deep([F, G, H], ["linear", case, "linear"])
    single = ge.GaussianModel.single_layer(G @ F, case)
    np.testing.assert_allclose(model.Omega, H @ single.Omega @ H.T, atol=1e-9)
    np.testing.assert_allclose(model.Phi, H @ single.Phi, atol=1e-11)
    np.testing.assert_allclose(model.mean_x, H @ single.mean_x, atol=1e-11)


@pytest.mark.parametrize("sigma", MIXED)
@pytest.mark.parametrize("layers", ["first layer", "fields of the second", "linear around"])
def test_where_the_recursion_is_exact_every_family_of_entries_equals_monte_carlo(sigma, layers):
    """Diagonal, off-diagonal, Phi and means, each entry in standard errors of 40 batches."""
    matrices, activations = {
        "first layer": (random_matrices([5, 9]), [sigma]),
        "fields of the second": (random_matrices([5, 6, 8]), [sigma, "linear"]),
        "linear around": (random_matrices([5, 4, 6, 7]), ["linear", sigma, "linear"]),
    }[layers]
    model = ge.GaussianModel.deep(matrices, activations)
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(40):
        c = rng.standard_normal((10_000, 5))
        x = push(matrices, activations, c) - model.mean_x
        draws.append([x.T @ x / len(c), x.T @ c / len(c), x.mean(axis=0)])
    off = ~np.eye(model.input_dim, dtype=bool)
    families = {
        "diagonal": (np.diag(model.Omega), [np.diag(d[0]) for d in draws]),
        "off-diagonal": (model.Omega[off], [d[0][off] for d in draws]),
        "Phi": (model.Phi, [d[1] for d in draws]),
        "means": (np.zeros(model.input_dim), [d[2] for d in draws]),
    }
    for family, (exact, batches) in families.items():
        error = np.std(batches, axis=0, ddof=1) / np.sqrt(40)
        assert (np.abs(np.mean(batches, axis=0) - exact) <= 5 * error + 1e-12).all(), family


@pytest.mark.parametrize("sigma", MIXED)
def test_the_recursion_pair_by_pair_over_the_plane_gives_the_same(sigma):
    matrices = random_matrices([4, 5, 4, 3], seed=2)
    mean, Omega = oracles.naive_recursion(matrices, activation(sigma))
    model = ge.GaussianModel.deep(matrices, sigma)
    np.testing.assert_allclose(model.Omega, Omega, atol=1e-8)
    np.testing.assert_allclose(model.mean_x, mean, atol=1e-10)


def relative_error(matrices, sigma, letter, samples):
    """Of the closed form, unbiased: the product of its distances from two independent estimates."""
    model = ge.GaussianModel.deep(matrices, sigma)
    found = []
    for seed in (101, 102):
        rng, total = np.random.default_rng(seed), 0.0
        for _ in range(samples // 5_000):
            c = rng.standard_normal((5_000, matrices[0].shape[1]))
            x = push(matrices, [sigma] * len(matrices), c) - model.mean_x
            total = total + (x.T @ x if letter == "Omega" else x.T @ c)
        found.append(total / samples)
    first, second = (f - getattr(model, letter) for f in found)
    return np.sqrt(np.sum(first * second) / np.sum(found[0] * found[1]))


@pytest.mark.parametrize("sigma", ["erf", "tanh"])
@pytest.mark.parametrize("letter", ["Omega", "Phi"])
def test_the_error_of_odd_activations_falls_as_one_over_the_width(sigma, letter):
    errors = [relative_error(random_matrices([w, w, w, 60]), sigma, letter, 60_000) for w in (20, 80)]
    assert errors[0] < 0.12
    assert 2.5 < errors[0] / errors[1] < 7


def test_the_error_of_relu_is_the_fluctuation_of_the_norms_and_falls_more_slowly():
    errors = [relative_error(random_matrices([w, w, w, 60]), "relu", "Omega", 60_000) for w in (20, 80)]
    assert 1.2 < errors[0] / errors[1] < 2.6
    assert errors[1] > 0.1


def test_orthogonal_sign_layers_are_the_official_recursion():
    """No correlations at all: both are the identity, and Phi is b^L F_L ... F_1."""
    rng = np.random.default_rng(0)
    matrices = [np.linalg.qr(rng.standard_normal((8, 8)))[0] for _ in range(3)]
    model, (Omega, Phi) = ge.GaussianModel.deep(matrices, "sign"), oracles.official_recursion(matrices)
    np.testing.assert_allclose(model.Omega, Omega, atol=1e-12)
    np.testing.assert_allclose(model.Phi, Phi, atol=1e-12)


def test_sign_layers_of_unit_fields_tend_to_the_official_recursion_as_correlations_vanish():
    """The arcsine departs from its first order by the cube of correlations of order 1 / sqrt(width): 1 / width of them."""

    def departure(width):
        rows = []
        for F in random_matrices([width] * 4, seed=1):
            before = ge.GaussianModel.deep(rows, "sign").Omega if rows else np.eye(width)
            rows.append(F / np.sqrt(np.sum((F @ before) * F, axis=1))[:, None])
        model, (Omega, Phi) = ge.GaussianModel.deep(rows, "sign"), oracles.official_recursion(rows)
        off = ~np.eye(width, dtype=bool)
        return np.array(
            [
                np.linalg.norm((model.Omega - Omega)[off]) / np.linalg.norm(Omega[off]),
                np.linalg.norm(model.Phi - Phi) / np.linalg.norm(Phi),
            ]
        )

    narrow, wide = departure(50), departure(200)
    assert (narrow < 0.05).all()
    assert narrow[0] / wide[0] > 3
    assert wide[1] < 1e-12  # unit fields: the same slopes


@pytest.mark.parametrize("sigma", MIXED)
def test_the_order_of_hidden_units_changes_nothing(sigma):
    F, G, H = random_matrices([4, 6, 7, 5])
    rng = np.random.default_rng(1)
    p, q = rng.permutation(6), rng.permutation(7)
    assert_same(ge.GaussianModel.deep([F[p], G[q][:, p], H[:, q]], sigma), ge.GaussianModel.deep([F, G, H], sigma))


def test_scales_pass_through_relu_and_are_lost_in_signs():
    F, G, H = random_matrices([4, 6, 7, 5])
    scales = np.random.default_rng(0).uniform(0.3, 3, 6)
    scaled = [scales[:, None] * F, 2.0 * G / scales, 1.5 * H]
    relu, larger = ge.GaussianModel.deep([F, G, H], "relu"), ge.GaussianModel.deep(scaled, "relu")
    np.testing.assert_allclose(larger.Omega, 9 * relu.Omega, atol=1e-12)
    np.testing.assert_allclose(larger.Phi, 3 * relu.Phi, atol=1e-12)
    np.testing.assert_allclose(larger.mean_x, 3 * relu.mean_x, atol=1e-12)
    assert_same(
        ge.GaussianModel.deep([scales[:, None] * F, 2 * G, H], "sign"), ge.GaussianModel.deep([F, G, H], "sign")
    )


def test_a_deep_model_says_where_it_comes_from():
    model = ge.GaussianModel.deep(random_matrices([4, 6, 5]), ["relu", "tanh"])
    assert model.provenance == {
        "source": "closed form, layer recursion",
        "activations": ["relu", "tanh"],
        "widths": [4, 6, 5],
    }
    assert "layer recursion" in repr(model)


@pytest.mark.parametrize(
    ("matrices", "activations", "sentence"),
    [
        ([], "sign", "deep models take a list of matrices"),
        (np.eye(3), "sign", "deep models take a list of matrices"),
        (3, "sign", "deep models take a list of matrices"),
        ([np.eye(3), np.eye(2)], "sign", r"matrix 2 has shape \(2, 2\) behind 3 units; expected 3 columns"),
        ([np.eye(3), np.zeros(3)], "sign", r"matrix 2 has shape \(3,\); expected a matrix"),
        ([np.eye(3), np.full((3, 3), np.nan)], "sign", "matrix 2 holds a NaN"),
        ([np.eye(3)], ["sign", "erf"], "2 activations for 1 matrices; expected one for each"),
        ([np.eye(3)], "gelo", "unknown activation"),
        ([np.eye(2), np.array([[1.0, 0.0], [0.0, 0.0]])], "sign", "unit 1 of layer 2 does not vary with the latents"),
        ([np.ones((2, 2)), np.array([[1.0, -1.0]])], "erf", "unit 0 of layer 2 does not vary with the latents"),
        ([np.array([[1.0, 0.0], [0.0, 0.0]])], "sign", "unit 1 of layer 1 does not vary"),
    ],
)
def test_wrong_deep_models_are_refused_in_a_sentence(matrices, activations, sentence):
    with pytest.raises(InputError, match=sentence):
        ge.GaussianModel.deep(matrices, activations)


@pytest.mark.parametrize("seed", range(5))
def test_a_field_that_varies_by_rounding_only_is_refused(seed):
    """Four units of two latents, and a row that is orthogonal to both."""
    F = np.random.default_rng(seed).standard_normal((4, 2))
    row = np.linalg.svd(F.T)[2][-1:]
    with pytest.raises(InputError, match="unit 0 of layer 2 does not vary with the latents"):
        ge.GaussianModel.deep([F, row], ["linear", "sign"])
