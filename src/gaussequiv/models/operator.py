r"""`OperatorModel`: a Gaussian law of latents and inputs whose covariances are known by their products only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.maths.activations import Activation
from gaussequiv.maths.activations import activation as named
from gaussequiv.maths.averages import Array
from gaussequiv.maths.lanczos import Density, Krylov, density_of_states
from gaussequiv.maths.large_layers import LayerCovariance
from gaussequiv.models.gaussian import GaussianModel, _matrix

OVER, POWERS = 10, 3  # more vectors than the rank of an approximation, and how often they are multiplied
COUNTED = 4096  # inputs up to which an operator's eigenvalues are all computed: seconds, and 0.13 GB
RANDOM = 16  # random vectors for the density of states of a larger one
SLACK = 0.01  # part of their sampling error that the quadrature may add to it
PROBES = 4  # random vectors that every covariance is tried on
ROUNDING = 1e-8  # asymmetry, and part of a norm below zero, that products may have


@dataclass(frozen=True, eq=False)
class OperatorModel:
    r"""The joint law of `GaussianModel`, for covariances that are too large to be held: it stands in its place in a problem.

    Matrices are anything that `scipy.sparse.linalg.aslinearoperator` takes: operators, sparse matrices, arrays. Only
    products from the left are asked for, $\Omega X$, $\Phi C$ and $\Psi C$ with blocks of columns; no adjoint.

    Args:
        Omega: covariance of the inputs, (N, N).
        Phi: covariance of inputs and latents, (N, D).
        Psi: covariance of the latents, (D, D); the identity if left out, which is then not stored.
        mean_x: mean of the inputs, (N,); zero if left out.
        mean_c: mean of the latents, (D,); zero if left out.
        provenance: where the numbers came from, plain JSON values.
        density: eigenvalues of Omega, (n,), and the weight of each in a mean over all, (n,), where they are known; otherwise
            the theory finds them with random vectors.
        moments: returns tr Omega / N and tr Omega^2 / N, where they are known; they make random vectors more accurate.
        diagonal: of Omega, (N,), where it is known.
        tried: True leaves out the trial by random vectors, of what is a covariance by its construction.
        without: the model without one part of the samples that it was estimated from.
        parts: how many there are.

    Raises:
        InputError: shapes that do not fit, complex or infinite numbers, or matrices that random vectors show not to be one
            joint covariance: not symmetric, negative, or with $|\Phi c|^4 > (\Phi c)^T \Omega\, (\Phi c)\; c^T \Psi c$. What
            random vectors do not show is found, if at all, by the eigenvalues that the theory meets.

    """

    Omega: LinearOperator
    Phi: LinearOperator
    Psi: LinearOperator = None
    mean_x: Array = None  # type: ignore[assignment]
    mean_c: Array = None  # type: ignore[assignment]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    density: tuple[Array, Array] | None = None
    moments: Callable[[], tuple[float, float]] | None = None
    diagonal: Array | None = None
    tried: bool = field(default=False, repr=False)
    without: "Callable[[int], OperatorModel] | None" = field(default=None, repr=False)
    parts: int = 0

    def __post_init__(self) -> None:
        Phi = _operator("Phi", self.Phi)
        N, D = Phi.shape
        if not N * D:
            raise InputError(f"Phi has shape {Phi.shape}; expected at least one input and one latent")
        given: dict[str, tuple[Any, tuple[int, ...]]] = {
            "Omega": (_operator("Omega", self.Omega), (N, N)),
            "Phi": (Phi, (N, D)),
            "Psi": (_identity(D) if self.Psi is None else _operator("Psi", self.Psi), (D, D)),
            "mean_x": (_vector("mean_x", self.mean_x, N), (N,)),
            "mean_c": (_vector("mean_c", self.mean_c, D), (D,)),
        }
        for name, (value, shape) in given.items():
            if tuple(value.shape) != shape:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}; with Phi of shape ({N}, {D}) expected {shape}"
                )
            object.__setattr__(self, name, value)
        if not self.tried:
            _try_one_covariance(self.Omega, self.Phi, self.Psi)

    @classmethod
    def single_layer(
        cls,
        F: Any,
        activation: "str | Activation | Callable[[Array], Array]" = "sign",
        *,
        precision: str = "float32",
        threads: int = 1,
    ) -> "OperatorModel":
        r"""Exact moments of $x = \sigma(F c)$ as `GaussianModel.single_layer` has them, with products by blocks of rows.

        Args:
            F: (N, D), rows as given.
            activation: sigma.
            precision: of the entries of Omega, "float32" or "float64".
            threads: that share the blocks; the result does not depend on it.

        Raises:
            InputError: F is not a matrix, holds a NaN, or has a zero row.

        """
        F = _matrix("F", F)
        Omega = LayerCovariance(named(activation), F, precision, threads)
        N = len(F)
        operator = LinearOperator((N, N), matvec=Omega.__matmul__, matmat=Omega.__matmul__, dtype=np.float64)
        source = {"source": "single_layer", "activation": Omega.sigma.name, "precision": precision}
        return cls(
            operator,
            Omega.slope[:, None] * F,
            mean_x=Omega.mean,
            provenance=source,
            moments=Omega.moments,
            diagonal=Omega.diagonal,
            tried=True,
        )

    def low_rank_plus_diagonal(self, rank: int, diagonal: Any = None, seed: int = 0) -> "OperatorModel":
        r"""The model with $\Omega \approx \Phi \Psi^{-1} \Phi^T + U \Lambda U^T + \mathrm{diag}(d)$: products for N (D + rank).

        U are eigenvectors of the largest eigenvalues of what is not linear in the latents, from a block Krylov space of random
        vectors; d is what is left of the diagonal, or of the trace where the diagonal is not known. It is one joint law by its
        construction. How far off it is in the Frobenius norm, relative, is found with random vectors and stands in the
        provenance.

        Args:
            rank: of U; 0 leaves the linear part and a diagonal.
            diagonal: of Omega, (N,): `model.diagonal` for rank 0, where what is not linear is nearly diagonal.
            seed: of the random vectors.

        Raises:
            InputError: a rank that is not below N, or a diagonal of another length.

        """
        N, D, rank = self.input_dim, self.latent_dim, integer("rank", rank, 0)
        if rank >= N:
            raise InputError(f"rank={rank}; expected less than the N={N} inputs")
        linear = product(self.Phi, np.eye(D))
        inverse = np.linalg.pinv(product(self.Psi, np.eye(D)), hermitian=True)

        def known(X: Array) -> Array:
            return np.asarray(linear @ (inverse @ (linear.T @ X)))

        def rest(X: Array) -> Array:
            return product(self.Omega, X) - known(X)

        rng = np.random.default_rng(seed)
        rho, U = _largest(rest, N, rank, rng) if rank else (np.zeros(0), np.zeros((N, 0)))
        probes = rng.standard_normal((N, PROBES**2))
        found = product(self.Omega, probes)
        explained = np.einsum("ij,ij->i", linear @ inverse, linear) + U**2 @ rho
        own = diagonal is not None and diagonal is self.diagonal  # then a replicate has its own
        if diagonal is not None:
            diagonal = _vector("diagonal", diagonal, N)
            left = diagonal - explained
        else:
            left = np.full(N, float(np.sum(probes * (found - known(probes)))) / (N * PROBES**2) - rho.sum() / N)
        left = left.clip(0.0)

        def times(X: Array) -> Array:
            columns = X.reshape(N, -1)
            return np.asarray(known(columns) + U @ (rho[:, None] * (U.T @ columns)) + left[:, None] * columns).reshape(
                X.shape
            )

        error = float(np.linalg.norm(found - times(probes)) / np.linalg.norm(found))
        about = {**self.provenance, "approximation": f"rank {rank} plus diagonal", "relative_error": {"Omega": error}}
        operator = LinearOperator((N, N), matvec=times, matmat=times, dtype=np.float64)
        without = self.without
        return OperatorModel(
            operator,
            self.Phi,
            self.Psi,
            self.mean_x,
            self.mean_c,
            provenance=about,
            tried=True,
            diagonal=explained + left,
            without=None
            if without is None
            else lambda i: _reduced(without(i), rank, None if own else diagonal, own, seed),
            parts=self.parts,
        )

    @property
    def input_dim(self) -> int:
        """N, the number of inputs."""
        return int(self.Phi.shape[0])

    @property
    def latent_dim(self) -> int:
        """D, the number of latents."""
        return int(self.Phi.shape[1])

    def states(
        self,
        *,
        longest: float,
        tolerance: float,
        probes: int | None = None,
        seed: int = 0,
        spaces: dict[str, Krylov] | None = None,
    ) -> Density:
        """The density of states of Omega: known, from all eigenvalues where N is at most 4096, or from random vectors.

        Args:
            longest: longest relaxation time.
            tolerance: of the quadrature; of random vectors no finer than a hundredth of their own error.
            probes: random vectors, if not as above.
            seed: of these.
            spaces: as in `maths.lanczos.relaxation_rule`.

        """
        if self.density is not None:
            return Density(self.density[0], np.atleast_2d(self.density[1]))
        N = self.input_dim
        probes = probes if probes is not None else N if N <= COUNTED else RANDOM
        moments = None if self.moments is None or probes >= N else self.moments()
        enough = max(tolerance, SLACK * np.sqrt(2 / N / max(probes, 1)))
        return density_of_states(
            self.Omega,
            N=N,
            probes=probes,
            longest=longest,
            tolerance=enough,
            seed=seed,
            moments=moments,
            spaces=spaces,
        )

    @property
    def count_of_replicates(self) -> int:
        """How many models that leave out one part of the samples there are."""
        return self.parts

    def replicate(self, index: int) -> "OperatorModel":
        """The model without part `index` of the samples that it was estimated from."""
        if self.without is None or not 0 <= index < self.parts:
            raise InputError(f"there is no replicate {index}: this model has {self.parts}")
        return self.without(index)

    @cached_property
    def dense(self) -> GaussianModel:
        """The same law with its matrices held as arrays, by N + 2 D products."""
        Omega, Phi, Psi = (A @ np.eye(A.shape[1]) for A in (self.Omega, self.Phi, self.Psi))
        return GaussianModel(
            (Omega + Omega.T) / 2, Phi, (Psi + Psi.T) / 2, self.mean_x, self.mean_c, provenance=self.provenance
        )

    @property
    def eigenmodes(self) -> tuple[Array, Array]:
        """Eigenvalues (N,) and eigenvectors (N, N) of Omega, by way of `dense`: for the N of which there is room."""
        return self.dense.eigenmodes

    @property
    def spectrum(self) -> Array:
        """Eigenvalues rho of Omega, ascending, (N,), by way of `dense`."""
        return self.dense.spectrum

    def sample(self, n: int, rng: np.random.Generator | int) -> tuple[Array, Array]:
        """Draw `n` latents (n, D) and inputs (n, N) of the law, by way of `dense`."""
        return self.dense.sample(n, rng)

    def describe(self) -> dict[str, Any]:
        """The model in plain values."""
        return {"model": repr(self), "N": self.input_dim, "D": self.latent_dim, **self.provenance}

    def __repr__(self) -> str:
        return f"OperatorModel(N={self.input_dim}, D={self.latent_dim}, source={self.provenance.get('source', 'operators')!r})"


def product(A: "LinearOperator | Array", X: Array) -> Array:
    """A X for X (..., n, k): a `LinearOperator` multiplies single matrices only."""
    columns = np.moveaxis(X, -2, 0)
    result = np.asarray(A @ columns.reshape(len(columns), -1))
    return np.moveaxis(result.reshape(-1, *columns.shape[1:]), 0, -2)


def _reduced(model: OperatorModel, rank: int, diagonal: Array | None, own: bool, seed: int) -> OperatorModel:
    return model.low_rank_plus_diagonal(rank, model.diagonal if own else diagonal, seed)


def _largest(times: Callable[[Array], Array], N: int, rank: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """The largest eigenvalues of a symmetric operator and their eigenvectors, from a block of random vectors."""
    basis = np.linalg.qr(rng.standard_normal((N, min(rank + OVER, N))))[0]
    for _ in range(POWERS):
        basis = np.linalg.qr(times(basis))[0]
    rho, rotation = np.linalg.eigh(basis.T @ times(basis))
    return rho[-rank:].clip(0.0), basis @ rotation[:, -rank:]


def _identity(D: int) -> LinearOperator:
    def same(c: Array) -> Array:
        return c

    return LinearOperator((D, D), matvec=same, rmatvec=same, matmat=same, rmatmat=same, dtype=np.float64)


def _operator(name: str, value: Any) -> LinearOperator:
    try:
        A = aslinearoperator(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is {a_kind(value)}; expected a LinearOperator or a matrix") from error
    if A.dtype is not None and A.dtype.kind not in "fiub":
        raise InputError(f"{name} has the type {A.dtype}; expected real numbers")
    return A


def _vector(name: str, value: Any, size: int) -> Array:
    try:
        array = np.zeros(size) if value is None else np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array of numbers ({error})") from error
    if array.shape != (size,):
        raise InputError(f"{name} has shape {array.shape}; expected ({size},)")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds a NaN or an infinity; expected finite numbers")
    array.flags.writeable = False
    return array


def _tried(name: str, A: LinearOperator, X: Array) -> Array:
    """The product with probes, refused if it fails or is not finite."""
    try:
        result = np.asarray(A @ X, dtype=np.float64)
    except Exception as error:  # whatever a user's operator may raise
        raise InputError(f"{name} fails on a block of {X.shape[1]} vectors ({error}); expected {name} @ X") from error
    if result.shape != (A.shape[0], X.shape[1]) or not np.isfinite(result).all():
        raise InputError(
            f"{name} @ X of shape {result.shape} is wrong or holds a NaN or an infinity; expected finite numbers of shape "
            f"{(A.shape[0], X.shape[1])}"
        )
    return result


def _try_one_covariance(Omega: LinearOperator, Phi: LinearOperator, Psi: LinearOperator) -> None:
    rng = np.random.default_rng(0)
    u, c = rng.standard_normal((Phi.shape[0], PROBES)), rng.standard_normal((Phi.shape[1], PROBES))
    for name, A, X in (("Omega", Omega, u), ("Psi", Psi, c)):
        AX = _tried(name, A, X)
        size = np.linalg.norm(X, axis=0) * np.linalg.norm(AX, axis=0)
        form = X.T @ AX
        if (np.abs(form - form.T) > ROUNDING * np.sqrt(np.outer(size, size))).any():
            raise InputError(f"{name} is not symmetric; expected a covariance")
        if (np.diag(form) < -ROUNDING * size).any():
            raise InputError(f"{name} has negative eigenvalues: u^T {name} u = {np.diag(form).min():.2e}")
    b = _tried("Phi", Phi, c)
    squared = (b**2).sum(axis=0)
    largest = (b * _tried("Omega", Omega, b)).sum(axis=0) * (c * _tried("Psi", Psi, c)).sum(axis=0)
    if (squared**2 > (1 + ROUNDING) * largest).any():
        raise InputError(
            "Omega, Phi and Psi are not the covariance of one Gaussian: some b = Phi c has |b|^4 > b^T Omega b c^T Psi c; "
            "estimate all three from the same samples"
        )
