r"""Two-layer networks and the order parameters of a student that learns from a teacher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gaussequiv.errors import InputError, integer, number
from gaussequiv.maths.activations import Activation, activation
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import _array, _frozen, _matrix
from gaussequiv.models.storage import load_arrays, save_arrays
from gaussequiv.models.streams import Purpose, stream

KIND = "two-layer network"  # of its files


@dataclass(frozen=True, eq=False)
class TwoLayer:
    r"""The network $\sum_k v_k\, g(\lambda_k)$ with local fields $\lambda_k = w_k \cdot x / \sqrt{\dim}$.

    There is no factor 1/K or 1/sqrt(K) anywhere. `erf` means $\mathrm{erf}(\lambda / \sqrt 2)$.

    Args:
        weights: first layer, (units, dim).
        readout: second layer v, (units,), or (units, outputs) for several outputs.
        activation: a name, an `Activation`, or a callable.

    Raises:
        InputError: wrong shapes, NaN, or an unknown activation.

    """

    weights: Array
    readout: Array
    activation: Activation | str | Callable[[Array], Array] = "erf"

    def __post_init__(self) -> None:
        weights, readout = _matrix("weights", self.weights), _array("readout", self.readout)
        if readout.ndim not in (1, 2) or readout.shape[0] != len(weights) or readout.size == 0:
            raise InputError(
                f"the readout has shape {readout.shape}; expected ({len(weights)},), one value a unit, "
                f"or ({len(weights)}, outputs)"
            )
        put = object.__setattr__
        put(self, "weights", _frozen(weights))
        put(self, "readout", _frozen(readout))
        put(self, "activation", activation(self.activation))

    @classmethod
    def random(
        cls,
        units: int,
        dim: int,
        activation: Activation | str | Callable[[Array], Array] = "erf",
        seed: int = 0,
        *,
        readout: str = "ones",
        scale: float = 1.0,
        outputs: int | None = None,
    ) -> "TwoLayer":
        """Weights N(0, scale^2), and a readout of "ones" or "gaussian" (standard normal) numbers.

        Networks of another size, and generators, have other random numbers at the same seed. With `outputs` the readout
        is a matrix (units, outputs).
        """
        units, dim, scale = integer("units", units), integer("dim", dim), number("scale", scale)
        shape = (units,) if outputs is None else (units, integer("outputs", outputs))
        if readout not in ("ones", "gaussian"):
            raise InputError(f"readout={readout!r}; expected 'ones' or 'gaussian'")
        rng = stream(seed, Purpose.NETWORK, chunk=dim, lane=units)
        weights = scale * rng.standard_normal((units, dim))
        return cls(weights, np.ones(shape) if readout == "ones" else rng.standard_normal(shape), activation)

    def save(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Save weights, readout and the name of the activation as safetensors, atomically, with plain values beside them.

        Raises:
            InputError: an activation that its name does not give back.

        """
        name = self.activation.name  # type: ignore[union-attr]
        try:
            known = activation(name) == self.activation
        except InputError:
            known = False
        if not known:
            raise InputError(
                f"the activation {name} has no name to be saved by; save the weights and the readout yourself"
            )
        arrays = {"weights": self.weights, "readout": self.readout}
        save_arrays(path, KIND, arrays, {"activation": name, "provenance": dict(provenance or {})})

    @classmethod
    def load(cls, path: str | Path) -> "TwoLayer":
        """Load what `save` saved; refuses missing, foreign, damaged and newer files in one sentence."""
        return cls.load_with_provenance(path)[0]

    @classmethod
    def load_with_provenance(cls, path: str | Path) -> tuple["TwoLayer", dict[str, Any]]:
        """The network of a file, and the plain values that were saved beside it."""
        arrays, metadata = load_arrays(path, KIND)
        return cls(arrays["weights"], arrays["readout"], metadata["activation"]), metadata["provenance"]

    @property
    def units(self) -> int:
        """Number of hidden units: K of a student, M of a teacher."""
        return int(self.weights.shape[0])

    @property
    def dim(self) -> int:
        """Number of its inputs: N for a student, D for a teacher on the latents."""
        return int(self.weights.shape[1])

    @property
    def outputs(self) -> int:
        """Number of outputs: 1 for a readout (units,)."""
        return 1 if self.readout.ndim == 1 else int(self.readout.shape[1])

    def local_fields(self, inputs: Any) -> Array:
        r"""$x W^T / \sqrt{\dim}$ for inputs (n, dim): shape (n, units)."""
        return np.asarray(inputs) @ self.weights.T / np.sqrt(self.dim)

    def __call__(self, inputs: Any) -> Array:
        """Outputs (n,), or (n, outputs), for inputs (n, dim)."""
        return np.asarray(self.activation(self.local_fields(inputs)) @ self.readout)  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class OrderParameters:
    r"""Means and covariances of the local fields $(\lambda, \nu)$, and both second layers: all that errors depend on.

    `Q` (K, K) student-student, `R` (K, M) student-teacher, `T` (M, M) teacher-teacher; readouts `v` (K,) and `a` (M,), or
    (K, outputs) and (M, outputs); the fields' means (K,) and (M,), zero where inputs are centred. Leading axes (times,
    seeds) are allowed for Q, R, v and the student's means.
    """

    Q: Array
    R: Array
    T: Array
    v: Array
    a: Array
    student_mean: Array
    teacher_mean: Array

    @property
    def covariance(self) -> Array:
        """Joint covariance C of all local fields, (..., K + M, K + M)."""
        T = np.broadcast_to(self.T, (*self.Q.shape[:-2], *self.T.shape[-2:]))
        top = np.concatenate([self.Q, self.R], axis=-1)
        bottom = np.concatenate([np.swapaxes(self.R, -1, -2), T], axis=-1)
        return np.concatenate([top, bottom], axis=-2)
