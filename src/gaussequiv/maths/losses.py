r"""Convex losses of one number, and the Gaussian averages over their proximal map that full-batch learning needs.

A loss is $\phi(x)$ of the margin $x = y z$ of a label $y = \pm 1$ and an output z, or of the residual $x = y - z$. Its
proximal map at $w$ is the x with $x + V \phi'(x) = w$; with $w = s \xi$, $\xi \sim N(0, 1)$ weighted by $\omega(\xi)$, `averages`
gives

    curvature  E phi'' / (1 + V phi'')    slope of phi'(x) in w
    square     E phi'(x)^2
    pull       -E' phi'(x)                with the weight `tilt` of labels in the place of omega
    value      E phi(x)
    spread     E x^2

The weight is 1 for residuals; for margins it is that of `labels`, twice the probability of a label +1. Kinks of phi hold x
fixed while w passes, so they are ends of panels.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, final

import numpy as np
from scipy.special import expit, ndtr, roots_legendre

from gaussequiv.errors import InputError, a_kind
from gaussequiv.maths.averages import Array

REACH = 11.0  # of the Gaussian variable: the density beyond is below 1e-26
PANEL = 16  # Gauss-Legendre nodes of a panel
WIDTH = 2.2  # widest panel
GRADES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # ends of panels in units of 1 / a, around the place where labels change
TAILS = (16.0, 32.0)  # further ones, of labels whose odds fall exponentially
WIDE = 3.0  # spread of a field from which the noise of a logit is the narrower of the two


@dataclass(frozen=True)
class Averages:
    """Averages over the proximal map, one value a point: see the module."""

    curvature: Array
    square: Array
    pull: Array
    value: Array
    spread: Array


class Labels(abc.ABC):
    r"""Labels of +1 and -1 given $\xi$, through a teacher's field $\nu | \xi \sim N(c \xi, v)$, one pair (c, v) a point.

    Args:
        speed: c, (points,).
        steepness: the inverse of the range of xi over which labels change, (points,).

    """

    speed: Array
    steepness: Array
    grades: tuple[float, ...] = GRADES

    @abc.abstractmethod
    def weight(self, xi: Array) -> Array:
        r"""$2 P(y = 1 | \xi)$ for xi (points, n)."""

    @abc.abstractmethod
    def tilt(self, xi: Array) -> Array:
        r"""Its derivative with respect to the mean of nu."""

    @abc.abstractmethod
    def error(self) -> Array:
        r"""$P(y \xi < 0)$, (points,)."""


@final
class SignLabels(Labels):
    r"""$y = \mathrm{sign}\, \nu$: $P(y = 1 | \xi) = \Phi(a \xi)$ with $a = c / \sqrt v$; noise and a probit are part of v."""

    def __init__(self, speed: Array, steepness: Array) -> None:
        self.speed, self.steepness = speed, steepness

    def weight(self, xi: Array) -> Array:
        return np.asarray(2 * ndtr(self.steepness[:, None] * xi))

    def tilt(self, xi: Array) -> Array:
        a = self.steepness[:, None]
        return 2 * a / self.speed[:, None] * density(a * xi)

    def error(self) -> Array:
        return np.asarray(np.arctan2(1.0, self.steepness) / np.pi)


@final
class LogitLabels(Labels):
    r"""$P(y = 1 | \nu) = 1 / (1 + e^{-\nu})$, averaged over $\nu$ by the trapezoidal rule.

    Where the spread of nu is large, the average is that of $\Phi((c \xi + z) / \sqrt v)$ over the logistic variable z with which
    $y = \mathrm{sign}(\nu + z)$: the rule converges at once in either form, and its cost does not grow with the field.
    """

    grades = GRADES + TAILS

    def __init__(self, speed: Array, spread: Array) -> None:
        self.speed, self.spread = speed, spread
        self.steepness = np.maximum(speed / np.sqrt(1 + spread**2), 1.0)
        self.wide = spread > WIDE
        # errors exp(-2 pi^2 / (spread step)) and exp(-2 pi^2 / step^2); exp(-2 pi^2 / step) of the logistic variable
        least = 0.5 / max(1.0, float(spread[~self.wide].max(initial=0.0)))
        self.field, self.noise = _steps(least, 8.5), _steps(0.5, 38.0)

    def _average(self, xi: Array, narrow: Callable[[Array], Array], wide: Callable[[Array], Array]) -> Array:
        mean, spread = self.speed[:, None] * xi, self.spread[:, None]
        total = np.zeros(mean.shape)
        if not self.wide.all():
            here = ~self.wide
            for node, weight in zip(self.field, (self.field[1] - self.field[0]) * density(self.field), strict=True):
                total[here] += weight * narrow(mean[here] + spread[here] * node)
        if self.wide.any():
            here = self.wide
            odds = (self.noise[1] - self.noise[0]) * expit(self.noise) * expit(-self.noise)
            for node, weight in zip(self.noise, odds, strict=True):
                total[here] += weight * wide((mean[here] + node) / spread[here])
        return total

    def weight(self, xi: Array) -> Array:
        return 2 * self._average(xi, expit, ndtr)

    def tilt(self, xi: Array) -> Array:
        spread = self.spread[self.wide, None]
        return 2 * self._average(xi, lambda nu: expit(nu) * expit(-nu), lambda a: density(a) / spread)

    def error(self) -> Array:
        xi, weights = panels(self, [], 1)
        return np.asarray(np.sum(np.where(xi < 0, weights, 0.0) * self.weight(xi), axis=-1))


class Loss(abc.ABC):
    """A convex function of a margin or of a residual.

    Args:
        name: what it is called.
        of: "margin", x = y z for labels of +1 and -1, or "residual", x = y - z.

    """

    name: str
    of: Literal["margin", "residual"]

    @abc.abstractmethod
    def __call__(self, x: Array) -> Array:
        """phi(x), entry by entry."""

    @abc.abstractmethod
    def slope(self, x: Array) -> Array:
        """phi'(x), entry by entry; the derivative from the left at a kink."""

    @abc.abstractmethod
    def averages(self, V: Array, scale: Array, labels: Labels | None, refined: float = 1) -> Averages:
        """Averages for V > 0 and the scale s > 0 of w, (points,) each.

        Args:
            V: the stiffness of the proximal map.
            scale: standard deviation of w.
            labels: their law given xi; None for residuals, which have weight 1.
            refined: how many times the usual number of nodes to take; a fraction for a first, coarse look.

        """

    @abc.abstractmethod
    def margin(self) -> "Loss":
        """The loss of labels +1 and -1 as a function of the margin; phi(1 - x) for an even phi of the residual."""

    def mistakes(self, V: Array, scale: Array, labels: Labels) -> Array:
        """P(x < 0): the part of the training samples that are on the wrong side, (points,)."""
        end = V * float(self.slope(np.zeros(1))[0]) / scale  # x < 0 where w < V phi'(0)
        xi, weights = panels(labels, [end[:, None]], 2)
        return np.asarray(np.sum(np.where(xi < end[:, None], weights, 0.0) * labels.weight(xi), axis=-1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Quadratics(Loss):
    """A convex function that is quadratic between its knots, c_0 + c_1 x + c_2 x^2 / 2."""

    def __init__(
        self,
        name: str,
        of: Literal["margin", "residual"],
        knots: tuple[float, ...],
        pieces: tuple[tuple[float, float, float], ...],
    ) -> None:
        self.name, self.of, self.knots, self.pieces = name, of, knots, pieces

    def __call__(self, x: Array) -> Array:
        x = np.asarray(x, dtype=float)
        c = np.array(self.pieces)[np.searchsorted(self.knots, x)]
        return np.asarray(c[..., 0] + c[..., 1] * x + c[..., 2] * x**2 / 2)

    def slope(self, x: Array) -> Array:
        x = np.asarray(x, dtype=float)
        c = np.array(self.pieces)[np.searchsorted(self.knots, x)]
        return np.asarray(c[..., 1] + c[..., 2] * x)

    def margin(self) -> "Quadratics":
        if self.of == "margin":
            return self
        pieces = tuple((c0 + c1 + c2 / 2, -c1 - c2, c2) for c0, c1, c2 in self.pieces[::-1])
        return Quadratics(self.name, "margin", tuple(1 - k for k in self.knots[::-1]), pieces)

    def averages(self, V: Array, scale: Array, labels: Labels | None, refined: float = 1) -> Averages:
        V, scale = (np.asarray(x, dtype=float)[:, None] for x in (V, scale))
        ends: list[Array] = []  # in w: each knot is held from one end to the next
        rules: list[tuple[tuple[float, float, float], float | None]] = []
        for knot, left, right in zip(self.knots, self.pieces, self.pieces[1:], strict=False):
            ends += [knot + V * (left[1] + left[2] * knot), knot + V * (right[1] + right[2] * knot)]
        for i, piece in enumerate(self.pieces):
            rules.append((piece, None))
            if i < len(self.knots):
                rules.append((piece, self.knots[i]))
        xi, weights = panels(labels, [e / scale for e in ends], refined)
        w = scale * xi
        index = np.sum([w > e for e in ends], axis=0) if ends else np.zeros(w.shape, dtype=int)
        value, x, slope, curvature = (np.empty(w.shape) for _ in range(4))
        for i, ((c0, c1, c2), held) in enumerate(rules):
            here = index == i
            stiff = np.broadcast_to(V, w.shape)[here]
            if held is None:
                x[here] = at = (w[here] - stiff * c1) / (1 + stiff * c2)
                slope[here], curvature[here] = (c1 + c2 * w[here]) / (1 + stiff * c2), c2 / (1 + stiff * c2)
            else:
                x[here] = at = np.full(stiff.shape, held)
                slope[here], curvature[here] = (w[here] - held) / stiff, 1 / stiff
            value[here] = c0 + (c1 + c2 / 2 * at) * at
        return summed(xi, weights, labels, value, x, slope, curvature)


@final
class Logistic(Loss):
    r"""$\phi(x) = \log(1 + e^{-x})$; integrated in the proximal variable x, where $w = x + V \phi'(x)$ is explicit."""

    name = "logistic"
    of: Literal["margin", "residual"] = "margin"
    nodes = 192

    def __call__(self, x: Array) -> Array:
        return np.logaddexp(0.0, -np.asarray(x, dtype=float))

    def slope(self, x: Array) -> Array:
        return np.asarray(-expit(-np.asarray(x, dtype=float)))

    def margin(self) -> "Logistic":
        return self

    def averages(self, V: Array, scale: Array, labels: Labels | None, refined: float = 1) -> Averages:
        if labels is None:
            raise InputError("the logistic loss is one of labels +1 and -1; expected a teacher with such labels")
        V, scale, steep = (np.asarray(x, dtype=float)[:, None] for x in (V, scale, labels.steepness))
        centre = _root_of_logistic(V)
        unit = np.minimum(1.0, scale / ((1 + steep) * (1 + V * expit(centre) * expit(-centre))))
        end = np.arcsinh(REACH * scale / unit)
        nodes = round(self.nodes * refined)
        u = np.linspace(-1.0, 1.0, nodes) * end
        sinh = np.sinh(u)
        x = centre + unit * sinh
        small = np.exp(-np.abs(x))  # one exponential for phi, its slope and its curvature
        larger = 1 / (1 + small)
        lesser = small * larger
        slope, curvature = -np.where(x > 0, lesser, larger), lesser * larger
        xi = (x + V * slope) / scale
        flat = 1 + V * curvature
        step = unit * np.sqrt(1 + sinh**2) * (2 * end / (nodes - 1)) * flat / scale
        value = np.log1p(small) + np.maximum(-x, 0.0)
        return summed(xi, step * density(xi), labels, value, x, slope, curvature / flat)


def _steps(step: float, reach: float) -> Array:
    """Nodes of the trapezoidal rule to both sides of zero."""
    return step * np.arange(-int(reach / step) - 1, int(reach / step) + 2, dtype=float)


def density(x: Array) -> Array:
    """Of a standard normal variable."""
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def _root_of_logistic(V: Array) -> Array:
    """The x with x = V / (1 + e^x): in log x a convex equation, on which Newton's method from above is monotone."""
    x = np.log1p(V)
    for _ in range(8):
        x = x * np.exp(-(np.log(x) + np.logaddexp(0.0, x) - np.log(V)) / (1 + x * expit(x)))
    return np.asarray(x)


@cache
def legendre(count: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre on [-1, 1]."""
    nodes, weights = roots_legendre(count)
    return np.asarray(nodes), np.asarray(weights)


def sides(labels: Labels | None, ends: list[Array], refined: float) -> Array:
    """Ends of panels of a standard normal variable, (points, sides), with `ends` (points, 1) each among them."""
    regular = np.linspace(-REACH, REACH, round(2 * REACH * max(1, refined) / WIDTH) + 1)
    graded = np.empty((1, 0))
    if labels is not None:
        grades = np.array([*(-x for x in labels.grades), 0.0, *labels.grades])
        graded = np.clip(grades / np.maximum(labels.steepness, 1.0)[:, None], -REACH, REACH)
    edges = [regular[None], graded, *(np.clip(e, -REACH, REACH) for e in ends)]
    count = max(len(e) for e in edges)
    return np.sort(np.concatenate([np.broadcast_to(e, (count, e.shape[1])) for e in edges], axis=1), axis=1)


def panels(labels: Labels | None, ends: list[Array], refined: float) -> tuple[Array, Array]:
    """Nodes and weights of a standard normal variable, (points, nodes), with panels that end at `ends` (points, 1) each."""
    ends_of = sides(labels, ends, refined)
    nodes, weights = legendre(PANEL if refined >= 1 else PANEL // 3)
    half, middle = np.diff(ends_of, axis=1)[..., None] / 2, (ends_of[:, 1:] + ends_of[:, :-1])[..., None] / 2
    xi = (middle + half * nodes).reshape(len(ends_of), -1)
    return xi, (half * weights).reshape(len(ends_of), -1) * density(xi)


def summed(
    xi: Array, weights: Array, labels: Labels | None, value: Array, x: Array, slope: Array, curvature: Array
) -> Averages:
    """Sums over nodes with the weight of labels, and with their tilt."""
    label, tilt = (weights, weights) if labels is None else (weights * labels.weight(xi), weights * labels.tilt(xi))
    return Averages(
        curvature=np.sum(label * curvature, axis=-1),
        square=np.sum(label * slope**2, axis=-1),
        pull=-np.sum(tilt * slope, axis=-1),
        value=np.sum(label * value, axis=-1),
        spread=np.sum(label * x**2, axis=-1),
    )


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Quadratics("square", "residual", (), ((0.0, 0.0, 1.0),)),
        Logistic(),
        Quadratics("hinge", "margin", (1.0,), ((1.0, -1.0, 0.0), (0.0, 0.0, 0.0))),
        Quadratics("squared-hinge", "margin", (1.0,), ((0.5, -1.0, 1.0), (0.0, 0.0, 0.0))),
        Quadratics("huber", "residual", (-1.0, 1.0), ((-0.5, -1.0, 0.0), (0.0, 0.0, 1.0), (-0.5, 1.0, 0.0))),
        Quadratics("absolute", "residual", (0.0,), ((0.0, -1.0, 0.0), (0.0, 1.0, 0.0))),
    )
}


def loss(given: "Loss | str | Callable[[Array], Array]", of: Literal["margin", "residual"]) -> Loss:
    """A loss by name, as it is, or from a convex function of the margin or of the residual.

    Raises:
        InputError: an unknown name, not a function, or a function that is not convex.

    """
    if isinstance(given, Loss):
        return given
    if isinstance(given, str):
        if given not in LOSSES:
            raise InputError(f"unknown loss {given!r}; expected one of {', '.join(LOSSES)}, or a convex function")
        return LOSSES[given]
    if not callable(given):
        raise InputError(f"the loss is {a_kind(given)}; expected a name, a Loss or a convex function")
    from gaussequiv.maths.convex import Convex

    return Convex(given, of)
