r"""`GaussianModel`: the Gaussian law of latents and inputs that stands for a generator.

Letters: latents c in $R^D$, inputs x in $R^N$, $\Omega = \mathrm{Cov}(x, x)$, $\Phi = \mathrm{Cov}(x, c)$ of shape (N, D),
$\Psi = \mathrm{Cov}(c, c)$.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from gaussequiv.errors import InputError, detached, integer
from gaussequiv.maths.activations import Activation, activation
from gaussequiv.maths.averages import Array
from gaussequiv.maths.jackknife import Spread, jackknife
from gaussequiv.maths.layers import layer
from gaussequiv.models.replicates import Replicates
from gaussequiv.models.storage import load_arrays, save_arrays
from gaussequiv.models.streams import as_rng

BOUNDARY = 1e-10  # a joint covariance may have eigenvalues down to minus this part of its largest
RECURSION = "closed form, layer recursion"


@dataclass(frozen=True, eq=False)
class GaussianModel:
    r"""The joint Gaussian law of latents and inputs with covariance $[[\Omega, \Phi], [\Phi^T, \Psi]]$.

    Args:
        Omega: covariance of the inputs, (N, N).
        Phi: covariance of inputs and latents, (N, D); (N, 0) where the latents are unknown, as those of a data set.
        Psi: covariance of the latents, (D, D); the identity if left out.
        mean_x: mean of the inputs, (N,); zero if left out.
        mean_c: mean of the latents, (D,); zero if left out.
        standard_errors: of its arrays (their shapes), where the model was estimated.
        provenance: where the numbers came from, plain JSON values.
        replicates: the models that leave out one part of the samples at a time, where it was estimated; they carry its
            errors on to all that is predicted from it.

    Raises:
        InputError: wrong shapes, NaN, or matrices that are not one joint covariance (an eigenvalue below -1e-10 of the
            largest; the boundary is valid: a singular Omega, or Phi = Omega).

    """

    Omega: Array
    Phi: Array
    Psi: Array = None  # type: ignore[assignment]
    mean_x: Array = None  # type: ignore[assignment]
    mean_c: Array = None  # type: ignore[assignment]
    standard_errors: Mapping[str, Array] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    replicates: Replicates | None = None

    def __post_init__(self) -> None:
        Omega, Phi = _matrix("Omega", self.Omega), _matrix("Phi", self.Phi, empty=True)
        N, D = Phi.shape
        given = {
            "Omega": (Omega, (N, N)),
            "Psi": (np.eye(D) if self.Psi is None else _matrix("Psi", self.Psi, empty=True), (D, D)),
            "mean_x": (np.zeros(N) if self.mean_x is None else _array("mean_x", self.mean_x), (N,)),
            "mean_c": (np.zeros(D) if self.mean_c is None else _array("mean_c", self.mean_c), (D,)),
        }
        for name, (array, shape) in given.items():
            if array.shape != shape:
                raise InputError(f"{name} has shape {array.shape}; with Phi of shape ({N}, {D}) expected {shape}")
        for name in ("Omega", "Psi"):
            array = given[name][0]
            if np.abs(array - array.T).max(initial=0.0) > BOUNDARY * np.abs(array).max(initial=0.0):
                raise InputError(f"{name} is not symmetric; expected a covariance, such as ({name} + {name}.T) / 2")
        put = object.__setattr__
        put(self, "Phi", _frozen(Phi))
        for name, (array, _) in given.items():
            symmetric = (array + array.T) / 2 if array.ndim == 2 else array
            put(self, name, _frozen(symmetric))
        _require_one_covariance(self.Omega, self.Phi, self.Psi)

    # --- special models ---

    @classmethod
    def isotropic(cls, N: int) -> "GaussianModel":
        """White inputs that are the latents themselves: D = N, c = x, Omega = Phi = Psi = I."""
        N = integer("N", N)
        return cls(np.eye(N), np.eye(N), provenance={"source": "isotropic"})

    @classmethod
    def single_layer(
        cls, F: Any, activation: "str | Activation | Callable[[Array], Array]" = "sign"
    ) -> "GaussianModel":
        r"""Exact moments of $x = \sigma(F c)$, $c \sim N(0, I_D)$, with the rows of F, shape (N, D), as given.

        With $S = F F^T$: $\Omega_{ij} = E \sigma(u_i)\sigma(u_j) - m_i m_j$ for fields of covariance $S$,
        $m_i = E \sigma(u_i)$, and by Stein's lemma $\Phi = \mathrm{diag}(E \sigma'(u_i))\, F$. No large-N approximation is
        made.

        Raises:
            InputError: F is not a matrix, holds a NaN, or has a zero row while the activation jumps at zero.

        """
        return _single_layer(cls, _matrix("F", F), _activation(activation))

    @classmethod
    def deep(
        cls,
        matrices: "Sequence[Any]",
        activation: "str | Activation | Callable[[Array], Array] | Sequence[Any]" = "sign",
    ) -> "GaussianModel":
        r"""Moments of $x = \sigma_L(F_L \cdots \sigma_1(F_1 c))$, $c \sim N(0, I_D)$, layer by layer, with the rows as given.

        The fields of layer l are $u = F_l x_{l-1}$, of mean $\mu = F_l m_{l-1}$ and covariance $S = F_l \Omega_{l-1} F_l^T$.
        Taking them as Gaussian, with the exact averages of every pair of units,
        $m_l = E \sigma(u)$, $\Omega_l = \mathrm{Cov}(\sigma(u_i), \sigma(u_j))$, and by Stein's lemma
        $\Phi_l = \mathrm{diag}(E \sigma'(u_i))\, F_l \Phi_{l-1}$.

        Exact for one layer, where it is `single_layer`; for any number of linear ones, before or behind one layer of units; and
        for the fields of the second. Beyond, fields are Gaussian for wide layers only. With odd activations the relative
        error falls as 1 / width (sign, three layers: 2.8 % of Omega and Phi at width 100, 0.4 and 0.2 % at 400). With others
        it falls more slowly (ReLU: 18 and 12 %, 8 and 6 %), as the norms of hidden layers vary from sample to sample and
        move all means together: estimate those. `docs/validation.md` has the table.

        Args:
            matrices: $F_1, \ldots, F_L$ of shapes (width, D), (width, width), ..., (N, width).
            activation: one for all layers, or a list with one for each.

        Raises:
            InputError: matrices that do not fit each other, a NaN, or a unit whose field does not vary.

        """
        return _deep(cls, matrices, activation)

    def then(
        self, weights: Any, activation: "str | Activation | Callable[[Array], Array]" = "erf", *, center: bool = False
    ) -> "GaussianModel":
        r"""Moments of the features $v = \sigma(W x / \sqrt N)$ of Gaussian inputs, with the same latents.

        With $u = W x / \sqrt N$, $S = W \Omega W^T / N$: $\Omega'_{ij} = E \sigma(u_i) \sigma(u_j) - m_i m_j$ and, by Stein's
        lemma, $\Phi' = \mathrm{diag}(E \sigma'(u_i))\, W \Phi / \sqrt N$. Exact for Gaussian inputs; for those of a generator, up
        to what the theorem of Gaussian equivalence leaves of the fields u: O(1/N).

        Args:
            weights: W, (features, N), each row as given.
            activation: sigma.
            center: features of x - E x; otherwise the fields must have mean zero.

        Raises:
            InputError: W of another width, a field without variance, or inputs whose fields have means.

        """
        W, sigma, N = _matrix("weights", weights), _activation(activation), self.input_dim
        if W.shape[1] != N:
            raise InputError(f"the weights have shape {W.shape}; expected (features, {N}), one column an input")
        S = W @ self.Omega @ W.T / N
        variance = np.diag(S).copy()
        if np.any(variance <= 0) and sigma.name != "linear":
            raise InputError(f"feature {int(np.argmin(variance))} does not vary with the inputs; expected rows that do")
        means = W @ self.mean_x / np.sqrt(N)
        if not center and np.any(np.abs(means) > BOUNDARY * np.sqrt(variance)):
            raise InputError(
                "the inputs have means, and features of fields with means have no closed form here: pass center=True and "
                "give the generator's features the same centring, generator.then(..., mean=model.mean_x), or estimate them"
            )
        mean, slope, Omega = layer(sigma, np.zeros(len(W)), S)
        Phi = slope[:, None] * (W @ self.Phi) / np.sqrt(N)
        source = {"source": f"{sigma.name} features of {self.provenance.get('source', 'arrays')}", "features": len(W)}
        return GaussianModel(Omega, Phi, self.Psi, mean_x=mean, mean_c=self.mean_c, provenance=source)

    def linear(self, matrix: Any, offset: Any = None) -> "GaussianModel":
        r"""Moments of $A x + b$, with the same latents: $A \Omega A^T$, $A \Phi$ and $A \mu + b$, exact whatever the inputs.

        Args:
            matrix: A, (M, N): a crop is rows of the identity, pooling averages, standardisation a diagonal matrix.
            offset: b, (M,); zero if left out.

        Raises:
            InputError: shapes that do not fit, or a NaN.

        """
        A, N = _matrix("matrix", matrix), self.input_dim
        if A.shape[1] != N:
            raise InputError(f"the matrix has shape {A.shape}; expected (M, {N}), one column an input")
        b = np.zeros(len(A)) if offset is None else _array("offset", offset)
        if b.shape != (len(A),):
            raise InputError(f"the offset has shape {b.shape}; expected ({len(A)},), one number a row of the matrix")
        source = {"source": f"a linear map of {self.provenance.get('source', 'arrays')}"}
        Omega, mean = A @ self.Omega @ A.T, A @ self.mean_x + b
        return GaussianModel(Omega, A @ self.Phi, self.Psi, mean_x=mean, mean_c=self.mean_c, provenance=source)

    # --- what follows from the moments ---

    @property
    def input_dim(self) -> int:
        """N, the number of inputs."""
        return int(self.Phi.shape[0])

    @property
    def latent_dim(self) -> int:
        """D, the number of latents; 0 where they are unknown."""
        return int(self.Phi.shape[1])

    @property
    def spectrum(self) -> Array:
        """Eigenvalues rho of Omega, ascending, shape (N,)."""
        return self.eigenmodes[0]

    @cached_property
    def eigenmodes(self) -> tuple[Array, Array]:
        """Eigenvalues (N,), ascending and not negative, and orthonormal eigenvectors (N, N) of Omega, as columns."""
        rho, E = scipy.linalg.eigh(self.Omega)
        return _frozen(np.maximum(rho, 0.0)), _frozen(E)

    def sample(self, n: int, rng: np.random.Generator | int) -> tuple[Array, Array]:
        """Draw `n` latents (n, D) and inputs (n, N) of the Gaussian law: the generator's Gaussian twin."""
        n, rng = integer("n", n), as_rng(rng)
        latents = rng.standard_normal((n, self.latent_dim)) @ self.factors[0]
        inputs = latents @ self.factors[1] + rng.standard_normal((n, self.input_dim)) @ self.factors[2]
        return latents + self.mean_c, inputs + self.mean_x

    @cached_property
    def factors(self) -> tuple[Array, Array, Array]:
        r"""P, A and B with which $c = z_1 P$ and $x = c A + z_2 B$ for rows z of standard normal numbers, without the means.

        P, (D, D), is the root of Psi; A, (D, N), the regression of x on c; B, (N, N), the root of the residual covariance.
        """
        regression = np.linalg.pinv(self.Psi, hermitian=True) @ self.Phi.T
        residual = self.Omega - self.Phi @ regression
        return _root(self.Psi), regression, _root((residual + residual.T) / 2)

    # --- errors of an estimate ---

    @property
    def count_of_replicates(self) -> int:
        """How many models that leave out one part of the samples there are."""
        return 0 if self.replicates is None else len(self.replicates)

    def replicate(self, index: int) -> "GaussianModel":
        """The model without part `index` of the samples.

        Raises:
            InputError: a model that was not estimated has none.

        """
        if self.replicates is None or not 0 <= index < len(self.replicates):
            raise InputError(
                f"there is no replicate {index}: this model has {self.count_of_replicates}, which `estimate` makes"
            )
        # differences are rounded to float32, and what is left need not be one joint covariance to the last bit
        model = object.__new__(GaussianModel)
        for name in ("Phi", "Psi", "mean_x", "mean_c"):
            array: Array = getattr(self, name)
            object.__setattr__(model, name, _frozen(array + self.replicates.change(name, index, len(array))))
        Omega = self.Omega + self.replicates.change("Omega", index, self.input_dim)
        if "residual" in self.replicates.changes:
            Omega += model.Phi @ model.Phi.T - self.Phi @ self.Phi.T
            Omega += self.replicates.change("residual", index, self.input_dim)
        object.__setattr__(model, "Omega", _frozen(Omega))
        for name, value in (("standard_errors", {}), ("provenance", {**self.provenance}), ("replicates", None)):
            object.__setattr__(model, name, value)
        return model

    def jackknife(self, function: "Callable[[GaussianModel], Any]") -> Spread:
        r"""A function of the model with the standard error and the bias that finite samples give it.

        For $f$ of all samples and $f_{-g}$ without part g of G: error$^2 = \frac{G - 1}{G} \sum_g (f_{-g} - \bar f)^2$, bias
        $(G - 1)(\bar f - f)$, of order 1 / P, with $\bar f$ the mean of the $f_{-g}$.
        """
        if self.replicates is None:
            raise InputError("this model has no replicates; expected one that `estimate` made")
        full = np.asarray(function(self), dtype=np.float64)
        left_out = [function(self.replicate(g)) for g in range(len(self.replicates))]
        return jackknife(full, np.stack([np.asarray(value, dtype=np.float64) for value in left_out]))

    def with_provenance(self, provenance: Mapping[str, Any]) -> "GaussianModel":
        """The same numbers with other words on where they came from."""
        model = object.__new__(GaussianModel)
        model.__dict__.update(self.__dict__)
        object.__setattr__(model, "provenance", dict(provenance))
        return model

    # --- files ---

    def save(self, path: str | Path) -> None:
        """Save as one safetensors file with a checksum, atomically."""
        arrays = {name: getattr(self, name) for name in ("Omega", "Phi", "Psi", "mean_x", "mean_c")}
        arrays |= {f"standard_error_{name}": value for name, value in self.standard_errors.items()}
        if self.replicates is not None:
            arrays |= {f"replicate_{name}": value for name, value in self.replicates.changes.items()}
        save_arrays(path, "model", arrays, dict(self.provenance))

    @classmethod
    def load(cls, path: str | Path) -> "GaussianModel":
        """Load what `save` saved; refuses missing, foreign, damaged and newer files in one sentence."""
        arrays, provenance = load_arrays(path, "model")

        def marked(mark: str) -> dict[str, Array]:
            return {name.removeprefix(mark): arrays.pop(name) for name in list(arrays) if name.startswith(mark)}

        errors, changes = marked("standard_error_"), marked("replicate_")
        replicates = Replicates(changes) if changes else None
        return cls(**arrays, standard_errors=errors, replicates=replicates, provenance=provenance)

    def __repr__(self) -> str:
        return f"GaussianModel(N={self.input_dim}, D={self.latent_dim}, source={self.provenance.get('source', 'arrays')!r})"


def _single_layer(cls: type[GaussianModel], F: Array, sigma: Activation) -> GaussianModel:
    S = F @ F.T
    variance = np.diag(S)
    if np.any(variance == 0) and sigma.name != "linear":
        raise InputError(f"row {int(np.argmin(variance))} of F is zero; expected rows of positive norm")
    mean, slope, Omega = layer(sigma, np.zeros(len(F)), S)
    source = {"source": "single_layer", "activation": sigma.name}
    return cls(Omega, slope[:, None] * F, mean_x=mean, provenance=source)


def _deep(cls: type[GaussianModel], matrices: Any, choice: Any) -> GaussianModel:
    if not isinstance(matrices, Sequence | np.ndarray) or len(matrices) == 0 or np.ndim(matrices[0]) != 2:
        raise InputError("deep models take a list of matrices, one a layer, such as [F] or [F_1, F_2]")
    Fs = [_matrix(f"matrix {number}", F) for number, F in enumerate(matrices, start=1)]
    choices = list(choice) if isinstance(choice, list | tuple) else [choice] * len(Fs)
    if len(choices) != len(Fs):
        raise InputError(f"{len(choices)} activations for {len(Fs)} matrices; expected one for each, or one for all")
    D = Fs[0].shape[1]
    mean, Omega, Phi = np.zeros(D), np.eye(D), np.eye(D)
    sigmas = [_activation(one) for one in choices]
    for number, (F, sigma) in enumerate(zip(Fs, sigmas, strict=True), start=1):
        if F.shape[1] != len(mean):
            raise InputError(
                f"matrix {number} has shape {F.shape} behind {len(mean)} units; expected {len(mean)} columns"
            )
        S = F @ Omega @ F.T if number > 1 else F @ F.T
        variance = np.diag(S)
        least = 1e-13 * np.sum(F**2, axis=1) * np.trace(Omega) if number > 1 else np.zeros(len(F))  # rounding
        if np.any(variance <= least) and sigma.name != "linear":
            unit = int(np.argmin(variance - least))
            raise InputError(f"unit {unit} of layer {number} does not vary with the latents; expected rows that do")
        mean, slope, Omega = layer(sigma, F @ mean, S)
        Phi = slope[:, None] * (F @ Phi if number > 1 else F)
    source: dict[str, Any] = {"source": RECURSION, "activations": [sigma.name for sigma in sigmas]}
    source |= {"widths": [D, *(len(F) for F in Fs)]}
    return cls(Omega, Phi, mean_x=mean, provenance=source)


def _require_one_covariance(Omega: Array, Phi: Array, Psi: Array) -> None:
    x, c = (
        np.sqrt(np.abs(np.trace(block)) / max(1, len(block))) or 1.0 for block in (Omega, Psi)
    )  # units do not matter
    joint = np.block([[Omega / x**2, Phi / (x * c)], [Phi.T / (x * c), Psi / c**2]])
    scale = max(float(np.trace(joint)) / len(joint), 0.0)
    try:  # a Cholesky factor of the slightly shifted matrix settles the common case at a tenth of the cost
        scipy.linalg.cholesky(joint + BOUNDARY * scale * np.eye(len(joint)), lower=True, overwrite_a=True)
    except scipy.linalg.LinAlgError:
        eigenvalues = scipy.linalg.eigvalsh(joint)
        smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
        if smallest < -BOUNDARY * max(largest, 0.0):
            raise InputError(
                f"Omega, Phi and Psi are not the covariance of one Gaussian: the joint matrix has the eigenvalue "
                f"{smallest:.2e} (largest {largest:.2e}). Estimate all three from the same samples, or with more of them"
            ) from None


def _root(covariance: Array) -> Array:
    """A symmetric square root; rounding below zero is cut (the constructor has refused anything larger)."""
    values, vectors = scipy.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _matrix(name: str, value: Any, *, empty: bool = False) -> Array:
    array = _array(name, value)
    if array.ndim != 2 or (array.size == 0 and not empty):
        raise InputError(f"{name} has shape {array.shape}; expected a matrix")
    return array


def _array(name: str, value: Any) -> Array:
    try:
        value = detached(value)
        if np.iscomplexobj(value):
            raise InputError(f"{name} is complex; expected real numbers")
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last one of lists of tensors
        raise InputError(f"{name} is not an array of numbers ({error})") from error
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds a NaN or an infinity; expected finite numbers")
    return array


def _frozen(array: Array) -> Array:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


_activation = activation
