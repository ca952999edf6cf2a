r"""Activations: a function, its derivative, and its Gaussian averages.

For centred Gaussian fields x, y with variances a, b and covariance c (arrays that broadcast) an activation g gives

    mean(a)              E g(x)
    slope(a)             E g'(x)
    product(h, a, b, c)  E g(x) h(y)       I2
    slopes(h, a, b, c)   E g'(x) h'(y)     J2
    bend(h, a, b, c)     E g''(x) h(y)     H2

The base class answers by quadrature; a subclass may answer in closed form, and a test asserts that both agree. An
activation whose derivative is a Gaussian, $g'(x) = \alpha e^{-\beta x^2 / 2}$ (erf, linear), turns averages of four fields
into averages of two: the factor $g'(x_k) g'(x_l)$ only *tilts* the covariance (`GaussianSlope`).
"""

import abc
from collections.abc import Callable
from typing import Any, final

import numpy as np
from scipy.special import erf, expit, ndtr

from gaussequiv.errors import InputError, number
from gaussequiv.maths import averages
from gaussequiv.maths.averages import Array


class Activation(abc.ABC):
    """An activation function and its Gaussian averages, by quadrature unless a subclass knows better."""

    name: str

    @abc.abstractmethod
    def __call__(self, z: Array) -> Array:
        """g(z), entry by entry."""

    @abc.abstractmethod
    def derivative(self, z: Array) -> Array:
        """g'(z), entry by entry; on a jump or a kink any finite value."""

    def mean(self, a: Any) -> Array:
        """E g(x), x ~ N(0, a)."""
        return averages.single(self, a)

    def slope(self, a: Any) -> Array:
        """E g'(x), x ~ N(0, a)."""
        return averages.single(self.derivative, a)

    def product(self, other: "Activation", a: Any, b: Any, c: Any) -> Array:
        """E g(x) h(y) = I2."""
        return averages.pairwise(self, other, a, b, c)

    def slopes(self, other: "Activation", a: Any, b: Any, c: Any) -> Array:
        """E g'(x) h'(y) = J2."""
        return averages.pairwise(self.derivative, other.derivative, a, b, c)

    def bend(self, other: "Activation", a: Any, b: Any, c: Any) -> Array:
        r"""E g''(x) h(y) = H2, from Stein's lemma: $a\, E g'' h = E x g' h - c\, E g' h'$, for a > 0."""
        a, b, c = (np.asarray(m, dtype=float) for m in (a, b, c))
        moment = averages.pairwise(lambda x: x * self.derivative(x), other, a, b, c)
        return (moment - c * self.slopes(other, a, b, c)) / a

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class GaussianSlope(Activation):
    r"""An activation with $g'(x) = \alpha e^{-\beta x^2/2}$, whose averages all follow from one tilted covariance.

    $E g'(x) F(y) = \text{slope}(a)\, E F(\tilde y)$, where $\tilde y$ has variance $\tilde b = b - \beta c^2 / (1 + \beta a)$.
    """

    alpha: float
    beta: float

    def derivative(self, z: Array) -> Array:
        return self.alpha * np.exp(-self.beta * np.asarray(z) ** 2 / 2)

    def mean(self, a: Any) -> Array:
        return np.zeros(np.shape(a))

    def slope(self, a: Any) -> Array:
        return self.alpha / np.sqrt(1 + self.beta * np.asarray(a, dtype=float))

    def slope_rate(self, a: Any) -> Array:
        r"""$d/da\, E g'(x) = \frac12 E g'''(x)$."""
        return -self.beta * self.slope(a) / (2 * (1 + self.beta * np.asarray(a, dtype=float)))

    def slopes(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        return self.slope(a) * other.slope(b - self.beta * c**2 / (1 + self.beta * a))

    def bend(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        return -self.beta * c / (1 + self.beta * a) * self.slopes(other, a, b, c)

    def slopes_gradient(self, other: "GaussianSlope", a: Any, b: Any, c: Any) -> tuple[Array, Array, Array]:
        """Partial derivatives of `slopes` with respect to a, b and c."""
        tilt = self.beta * c / (1 + self.beta * a)
        tilted = b - tilt * c
        own, others, rate = self.slope(a), other.slope(tilted), other.slope_rate(tilted)
        return self.slope_rate(a) * others + own * rate * tilt**2, own * rate, -2 * tilt * own * rate

    def bend_gradient(self, other: "GaussianSlope", a: Any, b: Any, c: Any) -> tuple[Array, Array, Array]:
        """Partial derivatives of `bend` with respect to a, b and c."""
        J, (Ja, Jb, Jc) = self.slopes(other, a, b, c), self.slopes_gradient(other, a, b, c)
        width = self.beta / (1 + self.beta * a)
        return width * c * (width * J - Ja), -width * c * Jb, -width * (J + c * Jc)

    def tilt(self, C: Array, units: int) -> tuple[Array, Array]:
        r"""For pairs (k, l) of the first fields the law under which $E g'_k g'_l F(u) = E g'_k g'_l \cdot \tilde E F(u)$.

        $\tilde C = C - \beta C_{:S} (I + \beta C_{SS})^{-1} C_{S:} = W C$ with $S = (k, l)$; also $d\tilde C = W\, dC\, W^T$.

        Args:
            C: covariance of the fields, (L, L).
            units: k and l run over the first `units` fields.

        Returns:
            W and the tilted covariances, both (units, units, L, L).

        """
        columns = self.beta * C[:, :units].T  # beta C e_k, one row a field
        a = 1 + np.diagonal(columns)[:, None, None, None]
        d = a.swapaxes(0, 1)
        off = columns[:, :units, None, None]
        eye = np.eye(len(C))
        first, second = columns[:, None, :, None], columns[None, :, :, None]
        e_k, e_l = eye[:units, None, None, :], eye[None, :units, None, :]
        W = eye - (first * (d * e_k - off * e_l) + second * (a * e_l - off * e_k)) / (a * d - off**2)
        return W, W @ C


@final
class Erf(GaussianSlope):
    r"""$g(x) = \mathrm{erf}(x / \sqrt 2)$, the error function of the paper and of its code."""

    name = "erf"
    alpha = np.sqrt(2 / np.pi)
    beta = 1.0

    def __call__(self, z: Array) -> Array:
        return np.asarray(erf(np.asarray(z) / np.sqrt(2)))

    def product(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        match other:
            case Erf():
                return arcsine((1 + a) * (1 + b), c)
            case Linear():
                return c * self.slope(a)
            case _:
                return super().product(other, a, b, c)


@final
class Linear(GaussianSlope):
    """g(x) = x."""

    name = "linear"
    alpha = 1.0
    beta = 0.0

    def __call__(self, z: Array) -> Array:
        return np.array(z, dtype=float)

    def product(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        return c * other.slope(b)


@final
class Sign(Activation):
    """g(x) = sign(x); its slope is that of the jump, 2 delta(x)."""

    name = "sign"

    def __call__(self, z: Array) -> Array:
        return np.sign(z)

    def derivative(self, z: Array) -> Array:
        raise InputError("sign has no derivative; use it in a generator or a teacher, and erf in a student")

    def mean(self, a: Any) -> Array:
        return np.zeros(np.shape(a))

    def slope(self, a: Any) -> Array:
        return np.sqrt(2 / (np.pi * np.asarray(a, dtype=float)))

    def product(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        match other:
            case Sign():
                return arcsine(a * b, c)
            case Linear():
                return c * self.slope(a)
            case _:
                return super().product(other, a, b, c)


@final
class ReLU(Activation):
    """g(x) = max(0, x)."""

    name = "relu"

    def __call__(self, z: Array) -> Array:
        return np.maximum(z, 0.0)

    def derivative(self, z: Array) -> Array:
        return np.heaviside(z, 0.5)

    def mean(self, a: Any) -> Array:
        return np.sqrt(np.asarray(a, dtype=float) / (2 * np.pi))

    def slope(self, a: Any) -> Array:
        return np.full(np.shape(a), 0.5)

    def product(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        match other:
            case ReLU():
                area = np.sqrt(np.maximum(a * b - c**2, 0.0))
                return (area + c * (np.pi / 2 + arcsine(a * b, c) * np.pi / 2)) / (2 * np.pi)
            case Linear():
                return c * self.slope(a)
            case _:
                return super().product(other, a, b, c)


@final
class Tanh(Activation):
    """g(x) = tanh(x)."""

    name = "tanh"

    def __call__(self, z: Array) -> Array:
        return np.tanh(z)

    def derivative(self, z: Array) -> Array:
        return 1 - np.tanh(z) ** 2


@final
class Sigmoid(Activation):
    """g(x) = 1 / (1 + exp(-x))."""

    name = "sigmoid"

    def __call__(self, z: Array) -> Array:
        return np.asarray(expit(z))

    def derivative(self, z: Array) -> Array:
        return np.asarray(expit(z) * expit(-np.asarray(z)))


@final
class Softplus(Activation):
    """g(x) = log(1 + exp(x))."""

    name = "softplus"

    def __call__(self, z: Array) -> Array:
        return np.logaddexp(0.0, z)

    def derivative(self, z: Array) -> Array:
        return np.asarray(expit(z))


@final
class GELU(Activation):
    r"""$g(x) = x\, \mathrm{P}(z < x)$ with z standard normal."""

    name = "gelu"

    def __call__(self, z: Array) -> Array:
        return np.asarray(z * ndtr(z))

    def derivative(self, z: Array) -> Array:
        z = np.asarray(z, dtype=float)
        return np.asarray(ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))


@final
class Polynomial(Activation):
    """G(x) = c_0 + c_1 x + c_2 x^2 + ..., by its coefficients."""

    def __init__(self, *coefficients: float, name: str = "") -> None:
        c = [number("a coefficient", c, negative=True) for c in coefficients]
        while c and c[-1] == 0:
            c.pop()
        if not c:
            raise InputError("a polynomial needs a coefficient that is not zero, such as Polynomial(0, 0, 1) for x^2")
        self.coefficients = tuple(c)
        self.name = name or f"polynomial({', '.join(f'{x:g}' for x in c)})"

    @property
    def degree(self) -> int:
        """The highest power."""
        return len(self.coefficients) - 1

    def __call__(self, z: Array) -> Array:
        return np.asarray(np.polynomial.polynomial.polyval(z, self.coefficients))

    def derivative(self, z: Array) -> Array:
        return np.asarray(np.polynomial.polynomial.polyval(z, np.polynomial.polynomial.polyder(self.coefficients)))

    def __repr__(self) -> str:
        return f"Polynomial{self.coefficients}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.coefficients == other.coefficients

    def __hash__(self) -> int:
        return hash(self.coefficients)


@final
class Custom(Activation):
    """Any function that acts entry by entry on arrays, by quadrature; its slope comes from Stein's lemma.

    A function object may carry its form on tensors as its attribute `torch`, which simulations then use on their device.
    """

    def __init__(self, function: Callable[[Array], Array], derivative: Callable[[Array], Array] | None = None) -> None:
        self.function = function
        self._derivative = derivative
        self.name = getattr(function, "__name__", "custom")

    def __call__(self, z: Array) -> Array:
        return np.asarray(self.function(z), dtype=float)

    def derivative(self, z: Array) -> Array:
        if self._derivative is None:
            raise InputError(f"the derivative of {self.name} is needed here; pass it: Custom(function, derivative)")
        return np.asarray(self._derivative(z), dtype=float)

    def slope(self, a: Any) -> Array:
        a = np.asarray(a, dtype=float)
        return averages.single(lambda x: x * self(x), a) / a

    def __repr__(self) -> str:
        return f"Custom({self.name})"

    def __eq__(self, other: object) -> bool:
        mine = (self.function, self._derivative)
        return isinstance(other, Custom) and mine == (other.function, other._derivative)

    def __hash__(self) -> int:
        return hash((self.function, self._derivative))


def arcsine(product: Any, c: Any) -> Array:
    r"""$\frac2\pi \arcsin(c / \sqrt{\text{product}})$, with 0 where a variance is 0; rounding beyond +-1 is cut."""
    ratio = averages._ratio(*np.broadcast_arrays(c, np.sqrt(product)))
    return 2 / np.pi * np.arcsin(np.clip(ratio, -1.0, 1.0))


NAMED: dict[str, Activation] = {
    g.name: g
    for g in (
        Erf(),
        Linear(),
        Sign(),
        ReLU(),
        Tanh(),
        Sigmoid(),
        Softplus(),
        GELU(),
        Polynomial(0, 0, 1, name="quadratic"),
    )
}


def activation(choice: "str | Activation | Callable[[Array], Array]") -> Activation:
    """An activation by name, as it is, or around a callable.

    Raises:
        InputError: an unknown name, or something that is none of the three.

    """
    match choice:
        case Activation():
            return choice
        case str() if choice in NAMED:
            return NAMED[choice]
        case str():
            raise InputError(f"unknown activation {choice!r}; expected one of {', '.join(NAMED)}, or a callable")
        case _ if callable(choice):
            return Custom(choice)
        case _:
            raise InputError(
                f"the activation is a {type(choice).__name__}; expected a name, an Activation or a callable"
            )
