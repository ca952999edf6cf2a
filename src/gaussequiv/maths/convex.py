r"""Any convex function as a loss: its values are all that is asked for.

The function is cut into pieces on each of which a Chebyshev polynomial of degree 24 reproduces it to rounding. Where halving
does not help there is a joint: a kink, found as the crossing of the polynomials on either side, or a jump of the second
derivative, the crossing of their derivatives. Averages are integrals over the proximal variable x, for which
$w = x + V \phi'(x)$ is explicit, on panels that end at the pieces and at places chosen in w; a kink holds x fixed while w
passes.
"""

from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
from numpy.polynomial import chebyshev
from scipy.optimize import brentq

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.maths.losses import PANEL, Averages, Labels, Loss, density, legendre, sides, summed

DEGREE = 24
FARTHEST = 1e6  # arguments that a loss is asked for
LARGEST = 1e60  # values beyond which a function counts as infinite
RESOLVED = 2e-14  # size of the last coefficients, relative to the values, of a polynomial that reproduces the function
CHOPPED = 1e-15  # size of coefficients that are rounding
WIDTHS = (1e-3, 1e-5, 1e-7)  # of intervals that hold a joint, tried in turn
SMOOTH = 1e-7  # jump of a slope, relative to the slopes, that is no kink
FAITHFUL = 1e-9  # difference from the function, relative to the larger of it and one, up to which pieces stand for it
NEAR = 4.0  # arguments whose slopes say what is small
BEND = 1e-9  # part of the slopes by which they may fall and a function still be convex to rounding
TRIES = 12  # steps of a proximal map that only places the ends of panels
RANGES = tuple(sign * 4.0**k for sign in (-1, 1) for k in (range(9, -1, -1) if sign < 0 else range(10)))
NODES = np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
TO_COEFFICIENTS = chebyshev.chebvander(NODES, DEGREE).T * (2 / (DEGREE + 1))
TO_COEFFICIENTS[0] /= 2


@final
class Convex(Loss):
    """A loss from a convex function of the margin (labels +1 and -1) or of the residual (real labels).

    Args:
        function: phi, of one number or of an array, entry by entry.
        of: "margin", x = y z, or "residual", x = y - z.
        name: what to call it; the function's own name if left out.

    Raises:
        InputError: a function that fails, returns other shapes or no finite numbers near 0, is constant, or is not convex.

    """

    def __init__(
        self, function: Callable[[Any], Any], of: Literal["margin", "residual"] = "margin", name: str | None = None
    ) -> None:
        if not callable(function):
            raise InputError(f"the loss is a {type(function).__name__}; expected a convex function of one number")
        self.function, self.of = function, of
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self._vectorised = True
        low, high = self._domain()
        joints = self._joints(low, high)
        self._assemble(low, high, joints)
        self._require_faithful(low, high)

    def _require_faithful(self, low: float, high: float) -> None:
        """Refuse a function that the pieces do not reproduce, rather than compute with another one."""
        start, end = float(np.arcsinh(low)), float(np.arcsinh(high))
        near = np.concatenate(
            [self.edges + d * np.maximum(1.0, np.abs(self.edges)) for d in (-1e-4, -1e-6, 1e-6, 1e-4)]
        )
        x = np.clip(np.concatenate([np.sinh(np.linspace(start, end, 2003)), near]), low, high)
        expected = self._values(x)
        wrong = np.abs(self(x) - expected) > FAITHFUL * np.maximum(1.0, np.abs(expected))
        if wrong.any() or not all(np.isfinite(kink).all() for kink in self.kinks):
            raise InputError(
                f"the loss {self.name} is not resolved near {x[np.argmax(wrong)]:.4g}: it has too many, or too sharp, kinks; "
                "expected a convex function that is smooth between a few places"
            )

    def __call__(self, x: Array) -> Array:
        return self._evaluate(np.asarray(x, dtype=float), 0)

    def slope(self, x: Array) -> Array:
        x = np.asarray(x, dtype=float)
        return self._evaluate(
            x, 1, np.clip(np.searchsorted(self.edges, x, side="left") - 1, 0, len(self._tables[0]) - 1)
        )

    def margin(self) -> "Loss":
        return self if self.of == "margin" else Convex(lambda x: self.function(1 - x), "margin", self.name)

    # --- averages ---

    def averages(self, V: Array, scale: Array, labels: Labels | None, refined: float = 1) -> Averages:
        V, scale = (np.asarray(a, dtype=float)[:, None] for a in (V, scale))
        nodes, weights = legendre(PANEL if refined >= 1 else PANEL // 2)
        places = sides(labels, [], refined)  # in xi, (points or 1, places)
        ends = self._proximal(V, scale * places)
        inner = np.clip(np.broadcast_to(self.edges, (len(V), len(self.edges))), ends[:, :1], ends[:, -1:])
        bounds = np.sort(np.concatenate([ends, inner], axis=1), axis=1)
        half, middle = np.diff(bounds, axis=1) / 2, (bounds[:, 1:] + bounds[:, :-1]) / 2
        piece = np.clip(np.searchsorted(self.edges, middle, side="right") - 1, 0, len(self._tables[0]) - 1)
        x = (middle[..., None] + half[..., None] * nodes).reshape(len(V), -1)
        piece = np.repeat(piece, len(nodes), axis=1)
        value, slope, bend = (self._evaluate(x, order, piece) for order in range(3))
        bend = np.maximum(bend, 0.0)
        xi = (x + V * slope) / scale
        measure = (half[..., None] * weights).reshape(len(V), -1) * (1 + V * bend) / scale * density(xi)
        parts = [(xi, measure, value, x, slope, bend / (1 + V * bend))]
        for kink, left, right, height in self.kinks:  # x is held there
            low, high = ((kink + V * s) / scale for s in (left, right))
            held = np.sort(
                np.clip(np.concatenate([np.broadcast_to(places, (len(V), places.shape[1])), low, high], 1), low, high)
            )
            half, middle = np.diff(held, axis=1)[..., None] / 2, (held[:, 1:] + held[:, :-1])[..., None] / 2
            xi = (middle + half * nodes).reshape(len(V), -1)
            measure = (half * weights).reshape(len(V), -1) * density(xi)
            fixed = [np.broadcast_to(a, xi.shape) for a in (height, kink)]
            parts.append((xi, measure, *fixed, (scale * xi - kink) / V, np.broadcast_to(1 / V, xi.shape)))
        xi, measure, value, x, slope, curvature = (
            np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)
        )
        return summed(xi, measure, labels, value, x, slope, curvature)

    def _proximal(self, V: Array, w: Array) -> Array:
        """Roughly the x with x + V phi'(x) = w, for w (points, n)."""
        x_left = self.edges + V * self._slopes[0]  # w at the edges, from the left and from the right: (points, edges)
        x_right = self.edges + V * self._slopes[1]
        w = np.broadcast_to(w, (len(V), w.shape[1]))
        after = np.stack([np.searchsorted(row, values) for row, values in zip(x_left, w, strict=True)])
        before = np.stack([np.searchsorted(row, values, side="right") for row, values in zip(x_right, w, strict=True)])
        last = len(self.edges) - 1
        low = self.edges[np.clip(before - 1, 0, last)]
        high = self.edges[np.clip(after, 0, last)]
        low, high = np.minimum(low, high), np.maximum(low, high)
        x = (low + high) / 2
        for _ in range(TRIES):
            excess = x + V * self._evaluate(x, 1) - w
            low, high = np.where(excess > 0, low, x), np.where(excess > 0, x, high)
            new = x - excess / (1 + V * np.maximum(self._evaluate(x, 2), 0.0))
            x = np.where((new > low) & (new < high), new, (low + high) / 2)
        return np.asarray(x)

    def _evaluate(self, x: Array, order: int, piece: Any = None) -> Array:
        """The derivative of an order at x; linear beyond the ends."""
        if piece is None:
            piece = np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, len(self._tables[0]) - 1)
        table = self._tables[order]
        inside = np.clip(x, self.edges[0], self.edges[-1])
        low, high = self._ends[0][piece], self._ends[1][piece]
        t = (2 * inside - low - high) / (high - low)
        one, two = np.zeros_like(t), np.zeros_like(t)
        for k in range(table.shape[1] - 1, 0, -1):
            one, two = 2 * t * one - two + table[piece, k], one
        found = t * one - two + table[piece, 0]
        if order == 0:
            beyond = x - inside
            found = found + np.where(beyond > 0, self._slopes[0][-1], self._slopes[1][0]) * beyond
        return np.asarray(found)

    # --- how a function is taken apart ---

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

    def _domain(self) -> tuple[float, float]:
        """The interval around 0 on which the function is finite, and whether it is convex there."""
        reach = np.arcsinh(FARTHEST)
        x = np.sinh(np.linspace(-reach, reach, 601))
        values = self._values(x)
        good = np.isfinite(values) & (np.abs(values) < LARGEST)
        if not good[np.abs(x) < 1].all():
            raise InputError(f"the loss {self.name} is not finite near 0; expected a convex function of one number")
        bad = np.flatnonzero(~good)
        first = bad[bad < 300].max(initial=-1) + 1
        last = bad[bad > 300].min(initial=len(x)) - 1
        x, values = x[first : last + 1], values[first : last + 1]
        slopes = np.diff(values) / np.diff(x)
        rounding = 8 * np.finfo(float).eps * np.maximum(np.abs(values[1:]), np.abs(values[:-1])) / np.diff(x)
        slack = BEND * (np.abs(slopes[1:]) + np.abs(slopes[:-1])) + rounding[1:] + rounding[:-1]
        turn = np.diff(slopes) + slack
        if (turn < 0).any():
            i = int(np.argmin(turn))
            raise InputError(
                f"the loss {self.name} is not convex: between {x[i]:.4g} and {x[i + 2]:.4g} it lies above its chord"
            )
        if np.ptp(values) == 0:
            raise InputError(f"the loss {self.name} is constant; expected a convex function that prefers some outputs")
        return float(x[0]), float(x[-1])

    def _joints(self, low: float, high: float) -> list[float]:
        """Intervals that halving does not resolve, by their middles."""
        for width in WIDTHS:
            found: list[float] = []
            self._split(low, high, width, found)
            merged: list[float] = []
            for place in found:
                if not merged or place - merged[-1] > 4 * width * max(1.0, abs(place)):
                    merged.append(place)
            if all(self._is_simple(place, width * max(1.0, abs(place)), merged, low, high) for place in merged):
                break
        self._width = width
        return merged

    def _split(self, low: float, high: float, width: float, joints: list[float]) -> list[tuple[float, float, Array]]:
        """Pieces (start, end, coefficients) of an interval, in order; what is not resolved at a width is a joint.

        Values differ by orders of magnitude between the ranges of `RANGES`, so that no piece reaches over two of them.
        """
        ends = [low, *(x for x in RANGES if low < x < high), high]
        found = []
        for start, end in zip(ends, ends[1:], strict=False):
            found += self._halved(start, end, width, joints)
        return found

    def _halved(self, low: float, high: float, width: float, joints: list[float]) -> list[tuple[float, float, Array]]:
        middle, half = (low + high) / 2, (high - low) / 2
        values = self._values(middle + half * NODES)
        coefficients = TO_COEFFICIENTS @ values
        if np.abs(coefficients[-4:]).max() <= RESOLVED * np.abs(values).max():
            kept = np.flatnonzero(np.abs(coefficients) > CHOPPED * np.abs(values).max())
            coefficients[kept.max(initial=0) + 1 :] = 0.0  # rounding, which derivatives would enlarge
            return [(low, high, coefficients)]
        if 2 * half < width * max(1.0, abs(middle)):
            joints.append(middle)
            return [(low, high, coefficients)]
        return self._halved(low, middle, width, joints) + self._halved(middle, high, width, joints)

    def _is_simple(self, place: float, reach: float, joints: list[float], low: float, high: float) -> bool:
        """Whether the polynomials on either side of a joint meet, and are the function up to where they do."""
        try:
            kink, left, right = self._crossing(place, reach, joints, low, high)
        except ValueError:
            return False
        x = place + reach * np.linspace(-2, 2, 41)
        expected = self._values(x)
        found = np.where(x < kink, left(x), right(x))
        return bool(np.abs(found - expected).max() <= 1e-12 * max(1.0, float(np.abs(expected).max())))

    def _crossing(
        self, place: float, reach: float, joints: list[float], low: float, high: float
    ) -> tuple[float, "chebyshev.Chebyshev", "chebyshev.Chebyshev"]:
        others = [low, high, *(j for j in joints if j != place)]
        start = max(place - 0.5 * max(1.0, abs(place)), max(o for o in others if o < place) + 2 * reach)
        end = min(place + 0.5 * max(1.0, abs(place)), min(o for o in others if o > place) - 2 * reach)
        left = self._split(start, place - 2 * reach, reach, [])[-1]
        right = self._split(place + 2 * reach, end, reach, [])[0]
        one, other = (chebyshev.Chebyshev(c, domain=[a, b]) for a, b, c in (left, right))
        slope, slope_ = one.deriv(), other.deriv()
        jump = slope_(place) - slope(place)
        kinked = abs(jump) > SMOOTH * max(abs(slope(place)), abs(slope_(place)))
        before, after = (one, other) if kinked else (slope, slope_)
        try:
            kink = brentq(lambda x: before(x) - after(x), place - 2 * reach, place + 2 * reach, xtol=1e-15)
        except ValueError:
            kink = place
        return float(kink), one, other

    def _assemble(self, low: float, high: float, joints: list[float]) -> None:
        """Pieces between joints, their tables of coefficients, slopes at their edges, and the kinks among the joints."""
        places = [
            self._crossing(j, self._width * max(1.0, abs(j)), joints, low, high)[0] if len(joints) < 50 else j
            for j in joints
        ]
        ends = [low, *places, high]
        pieces: list[
            tuple[float, float, float, float, Array]
        ] = []  # start, end, domain of the polynomial, coefficients
        for a, b in zip(ends, ends[1:], strict=False):
            inner_a = a if a == low else a + 2 * self._width * max(1.0, abs(a))
            inner_b = b if b == high else b - 2 * self._width * max(1.0, abs(b))
            found = self._split(inner_a, inner_b, self._width, [])
            bounds = [a, *(piece[1] for piece in found[:-1]), b]
            pieces += [(start, end, p[0], p[1], p[2]) for start, end, p in zip(bounds, bounds[1:], found, strict=False)]
        self.edges: Array = np.array([piece[0] for piece in pieces] + [pieces[-1][1]])
        self._ends = np.array([p[2] for p in pieces]), np.array([p[3] for p in pieces])
        width = (self._ends[1] - self._ends[0])[:, None]
        table = np.array([p[4] for p in pieces])
        first = chebyshev.chebder(table, axis=1) * (2 / width)
        self._tables = (table, first, chebyshev.chebder(first, axis=1) * (2 / width))
        count = len(pieces)
        at = np.arange(count)
        from_right = self._evaluate(self.edges[:-1], 1, at)
        from_left = self._evaluate(self.edges[1:], 1, at)
        left, right = np.append(from_right[0], from_left), np.append(from_right, from_left[-1])
        jump = right - left
        near = np.abs(self.edges) <= NEAR
        usual = max(float(np.abs(left[near]).max(initial=0.0)), float(np.abs(right[near]).max(initial=0.0)))
        big = jump > SMOOTH * np.maximum(np.maximum(np.abs(left), np.abs(right)), usual)
        middle = (left + right) / 2
        self._slopes = np.where(big, left, middle), np.where(big, right, middle)
        heights = self._evaluate(self.edges[big], 0)
        self.kinks = list(zip(self.edges[big], left[big], right[big], heights, strict=True))


def _or_infinity(function: Callable[[Any], Any], x: float) -> float:
    try:
        return float(function(x))
    except OverflowError:
        return np.inf
