"""`GaussianModel`: closed forms against Monte Carlo, its own samples, refusals, and files."""

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError, StorageError
from gaussequiv.maths.activations import Custom

SIGMAS = ["sign", "erf", "relu", "tanh", "linear", np.sin, lambda z: np.cos(z) + z**2 / 4]


def moments_in_batches(draw, batches=40):
    """Means over batches of a statistic of samples, and their standard error."""
    values = np.stack([draw(i) for i in range(batches)])
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(batches)


@pytest.mark.parametrize("sigma", SIGMAS, ids=lambda s: getattr(s, "__name__", str(s)))
@pytest.mark.parametrize("row_norm", [0.5, 2.0])
def test_single_layer_moments_equal_monte_carlo(sigma, row_norm):
    """Omega, Phi and mean of x = sigma(F c), rows of different norms, entry by entry in standard errors."""
    rng = np.random.default_rng(0)
    F = rng.standard_normal((7, 4)) * row_norm * rng.uniform(0.5, 1.5, (7, 1)) / 2
    model = ge.GaussianModel.single_layer(F, sigma)
    act = {
        "sign": np.sign,
        "erf": cases.ACTIVATIONS[0],
        "relu": lambda z: np.maximum(z, 0),
        "tanh": np.tanh,
    }
    g = act.get(sigma, (lambda z: z) if sigma == "linear" else sigma)

    def draw(_):
        c = rng.standard_normal((20_000, 4))
        x = g(c @ F.T)
        centred = x - model.mean_x
        return np.concatenate([(centred.T @ centred).ravel(), (x.T @ c).ravel(), x.sum(axis=0)]) / len(c)

    mean, error = moments_in_batches(draw)
    closed = np.concatenate([model.Omega.ravel(), model.Phi.ravel(), model.mean_x])
    assert (np.abs(mean - closed) <= 5 * error + 1e-12).all()


def test_sign_has_the_arcsine_covariance_and_unit_diagonal():
    F = np.random.default_rng(0).standard_normal((6, 3))
    model = ge.GaussianModel.single_layer(F, "sign")
    norms = np.linalg.norm(F, axis=1)
    np.testing.assert_allclose(np.sin(np.pi / 2 * model.Omega), F @ F.T / np.outer(norms, norms), atol=1e-12)
    np.testing.assert_allclose(model.Phi, np.sqrt(2 / np.pi) * F / norms[:, None], atol=1e-14)


def test_a_linear_layer_is_its_matrix():
    F = np.random.default_rng(0).standard_normal((6, 3))
    model = ge.GaussianModel.single_layer(F, "linear")
    np.testing.assert_allclose(model.Omega, F @ F.T, atol=1e-13)
    np.testing.assert_allclose(model.Phi, F)


@pytest.mark.parametrize("sigma", ["erf", "relu", "tanh"])
def test_closed_forms_and_quadrature_of_the_same_function_agree(sigma):
    F = np.random.default_rng(1).standard_normal((8, 5)) / 2
    closed = ge.GaussianModel.single_layer(F, sigma)
    by_quadrature = ge.GaussianModel.single_layer(F, Custom(next(g for g in cases.ACTIVATIONS if g.name == sigma)))
    for letter in ("Omega", "Phi", "mean_x"):
        np.testing.assert_allclose(getattr(by_quadrature, letter), getattr(closed, letter), atol=1e-8)


def test_samples_have_the_moments_of_the_model():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((8, 9))
    joint = root @ root.T / 9
    model = ge.GaussianModel(joint[:5, :5], joint[:5, 5:], joint[5:, 5:], mean_x=np.arange(5.0), mean_c=-np.arange(3.0))

    def draw(i):
        c, x = model.sample(20_000, i)
        z = np.concatenate([x - model.mean_x, c - model.mean_c], axis=1)
        return np.concatenate([(z.T @ z).ravel() / len(z), z.mean(axis=0)])

    mean, error = moments_in_batches(draw)
    assert (np.abs(mean - np.concatenate([joint.ravel(), np.zeros(8)])) <= 5 * error).all()


def test_isotropic_inputs_are_their_latents():
    model = ge.GaussianModel.isotropic(6)
    latents, inputs = model.sample(100, 3)
    np.testing.assert_allclose(latents, inputs, atol=1e-12)
    np.testing.assert_allclose(model.spectrum, 1.0)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others():
    model = cases.correlated_model()
    for one, other in zip(model.sample(5, 1), model.sample(5, 1), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(model.sample(5, 1)[1], model.sample(5, 2)[1])


def test_eigenmodes_diagonalise_omega():
    model = cases.correlated_model("image")
    rho, E = model.eigenmodes
    np.testing.assert_allclose((E * rho) @ E.T, model.Omega, atol=1e-12)
    assert (np.diff(rho) >= 0).all()
    assert rho[-1] == pytest.approx(0.3 * model.input_dim)


def test_the_boundary_of_the_covariances_is_valid():
    singular = np.ones((3, 3))
    assert ge.GaussianModel(singular, np.zeros((3, 2))).spectrum[0] >= 0
    Omega = np.diag([1.0, 0.5, 0.0])
    model = ge.GaussianModel(Omega, Omega, Psi=Omega)
    latents, inputs = model.sample(10, 0)
    np.testing.assert_allclose(latents, inputs, atol=1e-7)


@pytest.mark.parametrize("largest", [1.0, 300.0])
def test_eigenvalues_are_refused_below_minus_a_ten_billionth_of_the_largest(largest):
    spectrum = np.ones(40)
    spectrum[0], spectrum[-1] = largest, -0.5e-10 * largest
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    assert ge.GaussianModel((U * spectrum) @ U.T, np.zeros((40, 1))).spectrum[0] == 0
    spectrum[-1] = -2e-10 * largest
    with pytest.raises(InputError, match=r"has the eigenvalue -\d.*e-\d"):
        ge.GaussianModel((U * spectrum) @ U.T, np.zeros((40, 1)))


def test_a_model_cannot_be_changed():
    model = ge.GaussianModel.isotropic(3)
    with pytest.raises(ValueError, match="read-only"):
        model.Omega[0, 0] = 2
    with pytest.raises(AttributeError):
        model.Omega = np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"Omega": np.eye(3), "Phi": 2 * np.eye(3)},
            "not the covariance of one Gaussian: the joint matrix has the eigenvalue -1",
        ),
        ({"Omega": -np.eye(3), "Phi": np.zeros((3, 1))}, "not the covariance of one Gaussian"),
        ({"Omega": np.diag([1.0, np.nan]), "Phi": np.zeros((2, 1))}, "Omega holds a NaN"),
        ({"Omega": np.eye(3), "Phi": np.full((3, 1), np.inf)}, "Phi holds a NaN or an infinity"),
        (
            {"Omega": np.eye(3), "Phi": np.zeros((4, 2))},
            r"Omega has shape \(3, 3\); with Phi of shape \(4, 2\) expected \(4, 4\)",
        ),
        ({"Omega": np.eye(3), "Phi": np.zeros(3)}, r"Phi has shape \(3,\); expected a matrix"),
        ({"Omega": np.triu(np.ones((3, 3))), "Phi": np.zeros((3, 1))}, "Omega is not symmetric"),
        ({"Omega": np.eye(3), "Phi": np.zeros((3, 1)), "Psi": np.eye(2)}, "Psi has shape"),
        ({"Omega": np.eye(3), "Phi": np.zeros((3, 1)), "mean_x": np.zeros(4)}, "mean_x has shape"),
        ({"Omega": "abc", "Phi": np.zeros((3, 1))}, "Omega is not an array of numbers"),
    ],
)
def test_what_is_not_one_joint_covariance_is_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        ge.GaussianModel(**arguments)


def test_wrong_single_layers_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="row 1 of F is zero"):
        ge.GaussianModel.single_layer(np.array([[1.0, 0.0], [0.0, 0.0]]), "sign")
    with pytest.raises(InputError, match="unknown activation"):
        ge.GaussianModel.single_layer(np.eye(2), "gelo")
    with pytest.raises(InputError, match="F holds a NaN"):
        ge.GaussianModel.single_layer(np.full((2, 2), np.nan))


def test_save_and_load_give_the_same_model(tmp_path):
    model = cases.correlated_model()
    model = ge.GaussianModel(
        model.Omega, model.Phi, standard_errors={"Omega": model.Omega}, provenance={"source": "here"}
    )
    path = tmp_path / "folder" / "model.safetensors"
    model.save(path)
    again = ge.GaussianModel.load(path)
    for letter in ("Omega", "Phi", "Psi", "mean_x", "mean_c"):
        np.testing.assert_array_equal(getattr(again, letter), getattr(model, letter))
    np.testing.assert_array_equal(again.standard_errors["Omega"], model.Omega)
    assert again.provenance == {"source": "here"}
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def _umask():
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_damaged_foreign_and_missing_files_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "model.safetensors"
    ge.GaussianModel.isotropic(4).save(path)
    whole = path.read_bytes()
    for position in (len(whole) - 3, len(whole) // 2):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"damaged|complete"):
            ge.GaussianModel.load(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        ge.GaussianModel.load(path)
    with pytest.raises(InputError, match="there is no file"):
        ge.GaussianModel.load(tmp_path / "other.safetensors")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(InputError, match="is a foreign file; expected a gaussequiv model file"):
        ge.GaussianModel.load(path)


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not create the folder"):
        ge.GaussianModel.isotropic(2).save(tmp_path / "file" / "model.safetensors")


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_what_is_no_covariance_is_none_in_any_units(scale):
    """x -> s x: neither a negative variance nor one that is too small for Phi is hidden beside large latents."""
    with pytest.raises(ge.InputError, match="not the covariance of one Gaussian"):
        ge.GaussianModel(scale * np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros((2, 1)))
    with pytest.raises(ge.InputError, match="not the covariance of one Gaussian"):
        ge.GaussianModel(scale * np.eye(2), np.sqrt(scale) * np.ones((2, 1)))
    model = ge.GaussianModel(scale * np.eye(2), np.sqrt(scale / 2) * np.ones((2, 1)))  # the boundary
    np.testing.assert_allclose(model.spectrum, scale)


@pytest.mark.parametrize("kind", ["sign", "relu", "erf", "abs"])
@pytest.mark.parametrize("N", [3, 200])
def test_one_latent_is_a_model(kind, N):
    """All inputs are functions of one number: signs of it are equal, to the last bit."""
    F = np.random.default_rng(N).standard_normal((N, 1))
    model = ge.GaussianModel.single_layer(F, kind)
    if kind == "sign":
        np.testing.assert_array_equal(model.Omega, np.sign(F @ F.T))
