r"""Teachers of one field: a perceptron on the latents, and teachers that are known by their moments only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from gaussequiv.errors import InputError, number
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import _array, _frozen

Output = Literal["linear", "sign", "logit", "probit"]
OUTPUTS: tuple[str, ...] = get_args(Output)


@dataclass(frozen=True, eq=False)
class Perceptron:
    r"""A teacher of one field, $\nu = \theta \cdot c / \sqrt D$ for centred latents c.

    With standard normal $\zeta$ and noise $\sigma$ its labels are

        linear   y = nu + sigma zeta
        sign     y = sign(nu + sigma zeta)
        logit    P(y = 1) = 1 / (1 + exp(-(nu + sigma zeta)))
        probit   P(y = 1) = Phi(nu + sigma zeta), Phi the normal distribution function

    Args:
        weights: theta, (D,); for a teacher on the inputs (N,).
        output: one of linear, sign, logit, probit.
        noise: sigma, a standard deviation.

    Raises:
        InputError: weights that are no vector, all zero or not finite, an unknown output, a negative noise.

    """

    weights: Array
    output: Output = "linear"
    noise: float = 0.0

    def __post_init__(self) -> None:
        weights = _array("weights", self.weights)
        if weights.ndim != 1 or weights.size == 0:
            raise InputError(f"the weights of a perceptron have shape {weights.shape}; expected (D,), one a latent")
        if not weights.any():
            raise InputError("the weights of a perceptron are all zero; expected a direction")
        put = object.__setattr__
        put(self, "weights", _frozen(weights))
        put(self, "output", checked_output(self.output))
        put(self, "noise", number("noise", self.noise))

    @property
    def dim(self) -> int:
        """Number of its inputs: D on the latents."""
        return len(self.weights)

    def local_fields(self, inputs: Any) -> Array:
        r"""$\theta \cdot c / \sqrt{\dim}$ for inputs (n, dim): shape (n,)."""
        return np.asarray(inputs) @ self.weights / np.sqrt(self.dim)


@dataclass(frozen=True, eq=False)
class MeasuredTeacher:
    r"""A teacher of whom only moments with the inputs are known: any function, any labels of data.

    Real labels (output "linear") are split into what is linear in the inputs and the rest, which the theory takes for noise:
    exact for the square loss. Labels of +1 and -1 (output "sign") are those of the sign of a Gaussian field of variance one
    that has the same correlation with the inputs, $E[x \nu] = \sqrt{\pi / 2}\, E[x y]$: exact for the square loss, too.

    Args:
        covariance: $E[x y]$ for centred inputs, (N,).
        square: $E y^2$; 1 for labels of +1 and -1.
        output: "linear" or "sign".
        function: the teacher itself, for simulations: latents (n, D) and inputs (n, N) to labels (n,).
        standard_error: of the covariance, (N,), where it was estimated.
        provenance: where the numbers came from, plain JSON values.

    Raises:
        InputError: wrong shapes, a NaN, a square that is not positive, or another output.

    """

    covariance: Array
    square: float
    output: Output = "linear"
    function: Callable[[Array, Array], Array] | None = None
    standard_error: Array | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        covariance = _array("covariance", self.covariance)
        if covariance.ndim != 1 or covariance.size == 0:
            raise InputError(f"the covariance of a teacher has shape {covariance.shape}; expected (N,), one an input")
        if self.output not in ("linear", "sign"):
            raise InputError(f"output={self.output!r}; labels that were measured are 'linear' or 'sign'")
        square = number("square", self.square, positive=True)
        if self.output == "sign" and square != 1.0:
            raise InputError(f"square={square:g}; labels of +1 and -1 have the square 1")
        put = object.__setattr__
        put(self, "covariance", _frozen(covariance))
        put(self, "square", square)


def checked_output(output: object) -> str:
    """One of the outputs of a teacher."""
    if not isinstance(output, str) or output not in OUTPUTS:
        raise InputError(f"output={output!r}; expected one of {', '.join(OUTPUTS)}")
    return str(output)
