r"""Any convex function as a loss: its values are all that is asked for.

`maths.pieces` takes it apart. One that is quadratic between a few knots, as most are, has the averages of `Quadratics`. Those of
any other are integrals over the proximal variable x, for which $w = x + V \phi'(x)$ is explicit, on panels that end at the
pieces and at places chosen in w; a kink holds x fixed while w passes.
"""

from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np

from gaussequiv.errors import InputError, a_kind
from gaussequiv.maths.averages import Array
from gaussequiv.maths.losses import PANEL, REACH, Averages, Labels, Loss, Quadratics, density, legendre, sides, summed
from gaussequiv.maths.pieces import FARTHEST, Kink, take_apart

TRIES = 60  # steps of a proximal map that places the ends of panels,
PLACED = 0.1  # this close in xi


@final
class Convex(Loss):
    """A loss from a convex function of the margin (labels +1 and -1) or of the residual (real labels).

    Args:
        function: phi, of one number or of an array, entry by entry; infinite where an output is not allowed.
        of: "margin", x = y z, or "residual", x = y - z.
        name: what to call it; the function's own name if left out.

    Raises:
        InputError: a function that fails, returns other shapes or no finite numbers near 0, is constant, is not convex, or is
            not smooth between a few places.

    """

    def __init__(
        self, function: Callable[[Any], Any], of: Literal["margin", "residual"] = "margin", name: str | None = None
    ) -> None:
        if not callable(function):
            raise InputError(f"the loss is {a_kind(function)}; expected a convex function of one number")
        self.function, self.of = function, of
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self._vectorised = True
        self.pieces = take_apart(self._values, self.name)
        found = self.pieces.quadratics()
        self.quadratics = None if found is None else Quadratics(self.name, of, *found)

    def __call__(self, x: Array) -> Array:
        return self.pieces(x) if self.quadratics is None else self.quadratics(x)

    def slope(self, x: Array) -> Array:
        if self.quadratics is not None:
            return self.quadratics.slope(x)
        x = np.asarray(x, dtype=float)
        return self.pieces(x, 1, self.pieces.piece(x, "left"))

    def margin(self) -> "Loss":
        return self if self.of == "margin" else Convex(lambda x: self.function(1 - x), "margin", self.name)

    @property
    def kinks(self) -> list[Kink]:
        """Where the slope jumps."""
        return self.pieces.kinks

    def averages(self, V: Array, scale: Array, labels: Labels | None, refined: float = 1) -> Averages:
        if self.quadratics is not None:
            return self.quadratics.averages(V, scale, labels, refined)
        V, scale = (np.asarray(a, dtype=float)[:, None] for a in (V, scale))
        nodes, weights = legendre(PANEL if refined >= 1 else PANEL // 2)
        places = sides(labels, [], refined)  # in xi, (points or 1, places)
        x, piece, half = self._panels(V, scale, places, nodes)
        value, slope, bend = (self.pieces(x, order, piece) for order in range(3))
        bend = np.maximum(bend, 0.0)
        xi = (x + V * slope) / scale
        measure = (half[..., None] * weights).reshape(len(V), -1) * (1 + V * bend) / scale * density(xi)
        parts = [(xi, measure, value, x, slope, bend / (1 + V * bend))]
        for kink in self.kinks:  # x is held there
            low, high = (np.clip((kink.place + V * s) / scale, -REACH, REACH) for s in (kink.left, kink.right))
            held = np.concatenate([np.broadcast_to(places, (len(V), places.shape[1])), low, high], axis=1)
            held = np.sort(np.clip(held, low, high), axis=1)
            half, middle = np.diff(held, axis=1)[..., None] / 2, (held[:, 1:] + held[:, :-1])[..., None] / 2
            xi = (middle + half * nodes).reshape(len(V), -1)
            measure = (half * weights).reshape(len(V), -1) * density(xi)
            fixed = [np.broadcast_to(a, xi.shape) for a in (kink.height, kink.place)]
            parts.append((xi, measure, *fixed, (scale * xi - kink.place) / V, np.broadcast_to(1 / V, xi.shape)))
        xi, measure, value, x, slope, curvature = (
            np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)
        )
        return summed(xi, measure, labels, value, x, slope, curvature)

    def _panels(self, V: Array, scale: Array, places: Array, nodes: Array) -> tuple[Array, Array, Array]:
        """Nodes x (points, panels * nodes), their pieces, half the widths of panels (points, panels); NaN beyond all reach."""
        edges, count = self.pieces.edges, len(V)
        ends = self._proximal(V, scale, places)
        inner = np.clip(np.broadcast_to(edges, (count, len(edges))), ends[:, :1], ends[:, -1:])
        bounds = np.sort(np.concatenate([ends, inner], axis=1), axis=1)
        empty = np.diff(bounds, axis=1) <= 0
        order = np.argsort(empty, axis=1, kind="stable")[:, : max(1, int((~empty).sum(axis=1).max()))]
        low, high = (np.take_along_axis(b, order, axis=1) for b in (bounds[:, :-1], bounds[:, 1:]))
        half, middle = (high - low) / 2, (high + low) / 2
        far = (ends[:, 0] < -FARTHEST) | (ends[:, -1] > FARTHEST)
        half = np.where(far[:, None], np.nan, half)  # the function was never asked there
        x = (middle[..., None] + (high - low)[..., None] / 2 * nodes).reshape(count, -1)
        return x, np.repeat(self.pieces.piece(middle), len(nodes), axis=1), half

    def _proximal(self, V: Array, scale: Array, xi: Array) -> Array:
        """The x with x + V phi'(x) = scale xi, (points, n): exact where a kink holds it, else good enough to end a panel."""
        pieces, last = self.pieces, len(self.pieces.edges) - 1
        edges, w = pieces.edges, np.broadcast_to(scale * xi, (len(V), xi.shape[1]))
        from_left, from_right = edges + V * pieces.left, edges + V * pieces.right  # w at edges, (points, edges)
        after = np.stack([np.searchsorted(row, values) for row, values in zip(from_left, w, strict=True)])
        before = np.stack(
            [np.searchsorted(row, values, side="right") for row, values in zip(from_right, w, strict=True)]
        )
        start, end = np.clip(np.minimum(before - 1, after), 0, last), np.clip(np.maximum(before - 1, after), 0, last)
        x = edges[start]
        for beyond, slope in ((w < from_left[:, :1], pieces.left[0]), (w > from_right[:, -1:], pieces.right[-1])):
            if np.isfinite(slope):  # linear beyond the ends
                x = np.where(beyond, w - V * slope, x)
        row, column = np.nonzero(end > start)  # inside a piece
        piece, stiff, there = start[row, column], V[row, 0], w[row, column]
        low, high = edges[piece], edges[piece + 1]
        width = from_left[row, piece + 1] - from_right[row, piece]
        new = low + (high - low) * np.clip((there - from_right[row, piece]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        for _ in range(TRIES):
            excess = new + stiff * pieces(new, 1, piece) - there
            if (np.abs(excess) <= PLACED * scale[row, 0]).all():
                break
            low, high = np.where(excess > 0, low, new), np.where(excess > 0, new, high)
            newton = new - excess / (1 + stiff * np.maximum(pieces(new, 2, piece), 0.0))
            new = np.where((newton > low) & (newton < high), newton, (low + high) / 2)
        x[row, column] = new
        return np.asarray(x)

    def _values(self, x: Array) -> Array:
        x = np.asarray(x, dtype=float)
        with np.errstate(all="ignore"):
            if self._vectorised:
                try:
                    values = np.asarray(self.function(x.copy()), dtype=float)
                    if values.shape == x.shape:
                        return values
                except Exception:  # a function of one number: it is asked one by one
                    self._vectorised = False
            try:
                return np.array([float(self.function(float(a))) for a in x])
            except OverflowError:
                return np.array([_or_infinity(self.function, float(a)) for a in x])
            except Exception as error:  # whatever a user's function may raise
                raise InputError(
                    f"the loss {self.name} fails ({type(error).__name__}: {error}); expected a function of one number"
                ) from error


def _or_infinity(function: Callable[[Any], Any], x: float) -> float:
    try:
        return float(function(x))
    except OverflowError:
        return np.inf
