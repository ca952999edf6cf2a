r"""Activations: a function, its derivative, and its Gaussian averages.

For centred Gaussian fields x, y with variances a, b and covariance c (arrays that broadcast) an activation g gives

    mean(a)              E g(x)
    slope(a)             E g'(x)
    product(h, a, b, c)  E g(x) h(y)       I2
    slopes(h, a, b, c)   E g'(x) h'(y)     J2
    bend(h, a, b, c)     E g''(x) h(y)     H2

The base class answers by quadrature; a subclass may answer in closed form, and a test asserts that both agree. An
activation whose derivative is a Gaussian, $g'(x) = \alpha e^{-\beta x^2 / 2}$ (erf, linear), turns averages of four fields
into averages of two: the factor $g'(x_k) g'(x_l)$ only *tilts* the covariance (`GaussianSlope`). One that is linear on
either side of zero (`Homogeneous`: ReLU, sign) has averages of four fields by orthants (`quadruples`).

For a field with a mean, or conditioned on others, `conditional` gives the Hermite coefficients and the mean square.
"""

import abc
from collections.abc import Callable
from typing import Any, final

import numpy as np
from scipy.special import erf, expit, ndtr

from gaussequiv.errors import InputError, a_kind, number
from gaussequiv.maths import averages
from gaussequiv.maths.averages import Array, Rule

ROUNDING = 1e-15  # of a correlation


class Activation(abc.ABC):
    """An activation function and its Gaussian averages, by quadrature unless a subclass knows better."""

    name: str
    odd: bool = False  # whether g(-x) = -g(x)
    even: bool = False  # whether g(-x) = g(x)
    kinks: tuple[float, ...] = ()  # where g or g' is not smooth

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

    def conditional(self, mean: Array, variance: float, rule: Rule, terms: int) -> tuple[Array, Array]:
        r"""$E\, g(\mu + \sqrt a z)\, he_n(z)$, n < terms, for means (rows,): (rows, terms); and $E g^2$, (rows,).

        By `rule`, whose panels are broken at the kinks of g.
        """
        if not self.kinks:
            values = self(mean[:, None] + np.sqrt(variance) * rule.z)
            return values @ rule.weighted(terms), values**2 @ rule.weights
        kinks = (np.asarray(self.kinks) - mean[:, None]) / np.sqrt(max(variance, 1e-300))
        z, weights = rule.broken(np.clip(kinks, -1e3, 1e3), graded=False)
        values = self(mean[:, None] + np.sqrt(variance) * z)
        return averages.project(values * weights, z, terms), np.sum(values**2 * weights, axis=-1)

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
    odd = True

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
        beta = self.beta
        if other == self:
            return np.asarray(self.alpha**2 / np.sqrt((1 + beta * a) * (1 + beta * b) - (beta * c) ** 2))
        return self.slope(a) * other.slope(b - beta * c**2 / (1 + beta * a))

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

    def tilted(self, C: Array, units: int) -> Array:
        r"""For pairs (k, l) of the first fields the law under which $E g'_k g'_l F(u) = E g'_k g'_l \cdot \tilde E F(u)$.

        $\tilde C = C - \beta C_{:S} (I + \beta C_{SS})^{-1} C_{S:}$ with $S = (k, l)$, for all k and l below `units`:
        (..., units, units, L, L).
        """
        rows = C[..., :units, :]
        k, other = rows[..., :, None, :], rows[..., None, :, :]
        pull_k, pull_other = self._pulls(C, units, k, other)
        pulled = k[..., None] * pull_k[..., None, :] + other[..., None] * pull_other[..., None, :]
        return np.asarray(C[..., None, None, :, :] - pulled)

    def tilting(self, C: Array, units: int) -> Array:
        r"""The maps W with $\tilde C = W C$ and $d\tilde C = W\, dC\, W^T$, (units, units, L, L)."""
        rows, eye = C[:units], np.eye(len(C))
        pull_k, pull_other = self._pulls(C, units, eye[:units, None], eye[None, :units])
        k, other = rows[:, None, :, None], rows[None, :, :, None]
        return np.asarray(eye - (k * pull_k[..., None, :] + other * pull_other[..., None, :]))

    def _pulls(self, C: Array, units: int, x_k: Array, x_l: Array) -> tuple[Array, Array]:
        r"""$\beta (I + \beta C_{SS})^{-1} (x_k, x_l)$ for all pairs, (units, units, L) each."""
        block = self.beta * C[..., :units, :units]
        a = 1 + np.diagonal(block, axis1=-2, axis2=-1)
        first, second, off = a[..., :, None, None], a[..., None, :, None], block[..., None]
        inverse = self.beta / (first * second - off**2)
        return (second * x_k - off * x_l) * inverse, (first * x_l - off * x_k) * inverse


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
                return 2 / np.pi * np.arcsin(np.minimum(np.maximum(c / np.sqrt((1 + a) * (1 + b)), -1.0), 1.0))
            case Linear():
                return c * self.slope(a)
            case Homogeneous():
                return other.line * c * self.slope(a) + other.jump * arcsine((1 + a) * b, c)
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


class Homogeneous(Activation):
    r"""A function that is linear on either side of zero, $g(x) = \alpha x + \beta |x| + \gamma\, \mathrm{sign}(x)$.

    `line` is alpha, `fold` beta and `jump` gamma. Among themselves all averages of such functions are closed: with
    $r = c / \sqrt{ab}$ they are arcsines and square roots.
    """

    line: float = 0.0
    fold: float = 0.0
    jump: float = 0.0
    kinks = (0.0,)

    def __call__(self, z: Array) -> Array:
        return self.line * np.asarray(z) + self.fold * np.abs(z) + self.jump * np.sign(z)

    def derivative(self, z: Array) -> Array:
        if self.jump:
            raise InputError(f"{self.name} has no derivative; use it in a generator or a teacher, and erf in a student")
        return self.line + self.fold * np.sign(z)

    def mean(self, a: Any) -> Array:
        return self.fold * np.sqrt(2 / np.pi * np.asarray(a, dtype=float))

    def slope(self, a: Any) -> Array:
        a = np.asarray(a, dtype=float)
        return np.asarray(self.line + (self.jump * np.sqrt(2 / (np.pi * a)) if self.jump else 0 * a))

    def product(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        match other:
            case GaussianSlope():
                return other.product(self, b, a, c)
            case Homogeneous():
                gap = np.asarray(a * b - c**2)
                area = np.sqrt(np.where(gap > 2 * ROUNDING * a * b, gap, 0.0))
                folded = self.fold * other.fold * (2 / np.pi * area + c * arcsine(a * b, c))
                lines = self.line * other.line * c + self.jump * other.jump * arcsine(a * b, c)
                steps = (
                    c
                    * np.sqrt(2 / np.pi)
                    * (
                        self.line * other.jump / _root(b) * (other.jump != 0)
                        + self.jump * other.line / _root(a) * (self.jump != 0)
                    )
                )
                return folded + lines + steps
            case _:
                return super().product(other, a, b, c)

    def slopes(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        match other:
            case GaussianSlope():
                return other.slopes(self, b, a, c)
            case Homogeneous():
                constant = self.line * (other.line + other.jump * _peak(b)) + self.jump * _peak(a) * other.line
                result = constant + self.fold * other.fold * arcsine(a * b, c)
                if self.jump and other.jump:
                    area = np.sqrt(np.maximum(a * b - c**2, 0.0))
                    result = result + self.jump * other.jump * 2 / np.pi * averages._ratio(
                        *np.broadcast_arrays(1.0, area)
                    )
                return result
            case _:
                return super().slopes(other, a, b, c)

    def bend(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        r"""$E g'' h = 2 \beta\, E \delta(x) h(y)$, h seen with the variance that is left at x = 0; 0 for a vanished field."""
        if self.jump:
            raise InputError(f"{self.name} has no derivative; use it in a generator or a teacher, and erf in a student")
        left = np.maximum(b - c * averages._ratio(*np.broadcast_arrays(c, a)), 0.0)
        return self.fold * _peak(a) * other.mean(left)

    def conditional(self, mean: Array, variance: float, rule: Rule, terms: int) -> tuple[Array, Array]:
        sd = np.sqrt(variance)
        if sd == 0:
            values = self(mean)
            return np.pad(values[:, None], ((0, 0), (0, terms - 1))), values**2
        t = mean / sd
        density, sign = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi), erf(t / np.sqrt(2))
        absolute = sd * (t * sign + 2 * density)  # E |x|
        coefficients = np.empty((len(mean), max(terms, 2)))
        coefficients[:, 0] = self.line * mean + self.fold * absolute + self.jump * sign
        coefficients[:, 1] = self.line * sd + self.fold * sd * sign + 2 * self.jump * density
        before, now = density, -t * density  # he_{n-2}(-t) and he_{n-1}(-t), orthonormal, times the density
        for n in range(2, terms):
            root = np.sqrt(n * (n - 1.0))
            coefficients[:, n] = 2 * self.fold * sd * before / root + 2 * self.jump * now / np.sqrt(n)
            before, now = now, (-t * now - np.sqrt(n - 1) * before) / np.sqrt(n)
        folded = (mean**2 + variance) * sign + 2 * mean * sd * density  # E x |x|
        square = (self.line**2 + self.fold**2) * (mean**2 + variance) + self.jump**2
        square = square + 2 * (
            self.line * self.fold * folded + self.line * self.jump * absolute + self.fold * self.jump * mean
        )
        return coefficients[:, :terms], square


@final
class Sign(Homogeneous):
    """g(x) = sign(x); its slope is that of the jump, 2 delta(x)."""

    name = "sign"
    jump = 1.0
    odd = True


@final
class ReLU(Homogeneous):
    """g(x) = max(0, x)."""

    name = "relu"
    line = 0.5
    fold = 0.5


@final
class Absolute(Homogeneous):
    """g(x) = |x|."""

    name = "abs"
    fold = 1.0
    even = True


@final
class LeakyReLU(Homogeneous):
    """g(x) = max(s x, x) with a slope 0 <= s < 1 on the negative side."""

    def __init__(self, slope: float = 0.01) -> None:
        if not number("slope", slope) < 1:
            raise InputError(f"slope={slope}; expected a number from 0 to below 1")
        self.line, self.fold = (1 + slope) / 2, (1 - slope) / 2
        self.name = f"leaky-relu({slope:g})"

    def __repr__(self) -> str:
        return f"LeakyReLU({self.line - self.fold:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeakyReLU) and self.line == other.line

    def __hash__(self) -> int:
        return hash((LeakyReLU, self.line))


@final
class Tanh(Activation):
    """g(x) = tanh(x)."""

    name = "tanh"
    odd = True

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

        self.odd, self.even = not any(c[0::2]), not any(c[1::2])

    @property
    def degree(self) -> int:
        """The highest power."""
        return len(self.coefficients) - 1

    def mean(self, a: Any) -> Array:
        return self._moments(self.coefficients, np.asarray(a, dtype=float))[0]

    def slope(self, a: Any) -> Array:
        return self._moments(self._derived(1), np.asarray(a, dtype=float))[0]

    def product(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        return (
            self._pair(other, self.coefficients, 0, a, b, c)
            if isinstance(other, Polynomial)
            else super().product(other, a, b, c)
        )

    def slopes(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        return (
            self._pair(other, self._derived(1), 1, a, b, c)
            if isinstance(other, Polynomial)
            else super().slopes(other, a, b, c)
        )

    def bend(self, other: Activation, a: Any, b: Any, c: Any) -> Array:
        return (
            self._pair(other, self._derived(2), 0, a, b, c)
            if isinstance(other, Polynomial)
            else super().bend(other, a, b, c)
        )

    def _derived(self, order: int) -> tuple[float, ...]:
        derived = np.polynomial.polynomial.polyder(self.coefficients, order)
        return tuple(float(x) for x in derived)

    @staticmethod
    def _moments(coefficients: tuple[float, ...], a: Array) -> Array:
        r"""$E p^{(k)}(x) / \sqrt{k!}$ for all k, from $E x^{2j} = a^j (2j - 1)!!$: shape (degree + 1, ...)."""
        result = []
        p = np.asarray(coefficients, dtype=float)
        for k in range(len(coefficients)):
            total = np.zeros(a.shape)
            for j, even in enumerate(p[0::2]):
                total = total + even * a**j * np.prod(np.arange(1, 2 * j, 2.0))
            result.append(total)
            p = np.polynomial.polynomial.polyder(p) / np.sqrt(k + 1) if len(p) > 1 else np.zeros(1)
        return np.stack(result)

    def _pair(self, other: "Polynomial", own: tuple[float, ...], order: int, a: Any, b: Any, c: Any) -> Array:
        r"""$E p(x) q(y) = \sum_k \frac{c^k}{k!} E p^{(k)} E q^{(k)}$, a finite sum."""
        a, b, c = np.broadcast_arrays(*(np.asarray(m, dtype=float) for m in (a, b, c)))
        p, q = self._moments(own, a), self._moments(other._derived(order) if order else other.coefficients, b)
        return np.asarray(sum(c**k * p[k] * q[k] for k in range(min(len(p), len(q)))))

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
        rough = {*averages.kinks(self), *(averages.kinks(self.derivative) if derivative is not None else ())}
        self.kinks = tuple(sorted(rough))
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


def _root(a: Any) -> Array:
    """Sqrt(a), and infinity for 0, so that a vanished field adds nothing."""
    return np.where(np.asarray(a) > 0, np.sqrt(np.maximum(a, 0.0)), np.inf)


def _peak(a: Any) -> Array:
    r"""$2\, E \delta(x) = \sqrt{2 / (\pi a)}$, and 0 for a field that has vanished."""
    return np.sqrt(2 / np.pi) / _root(a)


def arcsine(product: Any, c: Any) -> Array:
    r"""$\frac2\pi \arcsin(c / \sqrt{\text{product}})$, with 0 where a variance is 0; what is within rounding of +-1 is that.

    Of 1 - 1e-16 the arcsine would be off by 1e-8, and fields that are equal would seem to differ.
    """
    ratio = averages._ratio(*np.broadcast_arrays(c, np.sqrt(np.maximum(product, 0.0))))
    ratio = np.where(np.abs(ratio) > 1 - ROUNDING, np.sign(ratio), ratio)
    return np.asarray(2 / np.pi * np.arcsin(ratio))


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
        Absolute(),
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
            raise InputError(f"the activation is {a_kind(choice)}; expected a name, an Activation or a callable")
