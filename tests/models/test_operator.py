"""`OperatorModel`: a problem with products only is the problem with the matrices; refusals."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.models.operator import OperatorModel, product


def products_only(matrix):
    """An operator that can do nothing but multiply blocks from the left."""
    return LinearOperator(matrix.shape, matvec=lambda x: matrix @ x, matmat=lambda X: matrix @ X, dtype=float)


def pair(**options):
    """A problem on arrays, and the same one on products."""
    dense = cases.problem(**options)
    m = dense.model
    model = OperatorModel(products_only(m.Omega), products_only(m.Phi), mean_x=m.mean_x, mean_c=m.mean_c)
    return dense, ge.OnlineSGD(model, dense.teacher, dense.student, dense.lr, **_kept(options))


def _kept(options):
    return {name: value for name, value in options.items() if name in ("teacher_on", "center")}


@pytest.mark.parametrize("teacher_on", ["latents", "inputs"])
@pytest.mark.parametrize("center", [True, False])
def test_order_parameters_by_products_are_those_of_the_matrices(teacher_on, center):
    model = cases.correlated_model("image")
    rng = np.random.default_rng(3)
    model = ge.GaussianModel(model.Omega, model.Phi, mean_x=rng.standard_normal(60), mean_c=rng.standard_normal(20))
    dense, by_products = pair(model=model, teacher_on=teacher_on, center=center, K=3)
    for shape in ((3, 60), (5, 3, 60), (2, 4, 3, 60)):
        weights, readout = rng.standard_normal(shape), rng.standard_normal(shape[:-1])
        one, two = (p.order_parameters(weights, readout) for p in (dense, by_products))
        for letter in ("Q", "R", "T", "v", "a", "student_mean", "teacher_mean"):
            np.testing.assert_allclose(getattr(two, letter), getattr(one, letter), rtol=1e-12, atol=1e-12)


def test_a_model_takes_operators_sparse_matrices_and_arrays():
    Omega, Phi = np.diag([1.0, 2.0, 3.0]), np.eye(3)[:, :2] / 2
    for wrap in (np.asarray, aslinearoperator, scipy.sparse.csr_array, products_only):
        model = OperatorModel(wrap(Omega), wrap(Phi), Psi=wrap(np.eye(2)), provenance={"source": "here"})
        assert (model.input_dim, model.latent_dim) == (3, 2)
        assert repr(model) == "OperatorModel(N=3, D=2, source='here')"
        assert model.describe()["N"] == 3
        np.testing.assert_array_equal(model.dense.Omega, Omega)
        np.testing.assert_array_equal(model.dense.Phi, Phi)
        np.testing.assert_array_equal(model.eigenmodes[0], [1, 2, 3])
        np.testing.assert_array_equal(model.spectrum, [1, 2, 3])
        for one, two in zip(model.sample(4, 1), ge.GaussianModel(Omega, Phi).sample(4, 1), strict=True):
            np.testing.assert_array_equal(one, two)


def test_latents_are_white_and_means_zero_where_they_are_left_out():
    model = OperatorModel(np.eye(3), np.zeros((3, 1_000_000)))
    c = np.random.default_rng(0).standard_normal((1_000_000, 2))
    np.testing.assert_array_equal(model.Psi @ c, c)
    assert not model.mean_x.any()
    assert model.mean_c.shape == (1_000_000,)


def test_products_of_stacks_are_those_of_their_matrices():
    rng = np.random.default_rng(0)
    A, X = rng.standard_normal((4, 5)), rng.standard_normal((2, 3, 5, 6))
    np.testing.assert_allclose(product(products_only(A), X), A @ X, atol=1e-14)


def test_a_model_cannot_be_changed():
    model = OperatorModel(np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        model.mean_x[0] = 2
    with pytest.raises(AttributeError):
        model.Omega = np.eye(3)


def _failing(X):
    raise RuntimeError("no disk")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"Omega": np.ones((3, 2)), "Phi": np.eye(3)}, r"Omega has shape \(3, 2\); .* expected \(3, 3\)"),
        ({"Omega": np.eye(3), "Phi": np.eye(4)}, r"Omega has shape \(3, 3\); with Phi of shape \(4, 4\)"),
        ({"Omega": np.eye(3), "Phi": np.zeros((3, 0))}, "at least one input and one latent"),
        ({"Omega": np.triu(np.ones((3, 3))), "Phi": np.zeros((3, 1))}, "Omega is not symmetric"),
        ({"Omega": np.diag([-9.0, 1.0, 1.0]), "Phi": np.zeros((3, 1))}, "Omega has negative eigenvalues"),
        ({"Omega": np.diag([np.nan, 1.0]), "Phi": np.zeros((2, 1))}, "Omega @ X .* holds a NaN"),
        ({"Omega": np.eye(2), "Phi": np.full((2, 1), np.inf)}, "Phi @ X .* holds a NaN or an infinity"),
        ({"Omega": np.eye(2), "Phi": 2 * np.eye(2)}, "not the covariance of one Gaussian"),
        ({"Omega": np.eye(2), "Phi": np.eye(2), "Psi": np.eye(3)}, "Psi has shape"),
        ({"Omega": np.eye(2), "Phi": np.eye(2), "Psi": -np.eye(2)}, "Psi has negative eigenvalues"),
        ({"Omega": np.eye(2), "Phi": np.eye(2), "mean_x": np.zeros(3)}, "mean_x has shape"),
        ({"Omega": np.eye(2), "Phi": np.eye(2), "mean_c": [0, np.nan]}, "mean_c holds a NaN"),
        ({"Omega": np.eye(2), "Phi": np.eye(2), "mean_c": "abc"}, "mean_c is not an array of numbers"),
        ({"Omega": "abc", "Phi": np.eye(2)}, "Omega is a str; expected a LinearOperator"),
        ({"Omega": 1j * np.eye(2), "Phi": np.eye(2)}, "Omega has the type complex128; expected real"),
        (
            {"Omega": LinearOperator((2, 2), matvec=_failing, dtype=float), "Phi": np.eye(2)},
            r"Omega fails on a block of 4 vectors \(no disk\)",
        ),
    ],
)
def test_what_cannot_be_a_covariance_is_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        OperatorModel(**arguments)


def test_a_problem_refuses_what_is_no_model():
    p = cases.problem()
    with pytest.raises(InputError, match="expected a GaussianModel or OperatorModel"):
        ge.OnlineSGD(aslinearoperator(np.eye(3)), p.teacher, p.student, 0.1)


def test_a_singular_operator_on_the_boundary_is_valid():
    rho = cases.spectrum("singular", 200, np.random.default_rng(0))
    E = np.linalg.qr(np.random.default_rng(1).standard_normal((200, 200)))[0]
    Omega = (E * rho) @ E.T
    model = OperatorModel(Omega, Omega, Psi=Omega)
    assert model.input_dim == 200
