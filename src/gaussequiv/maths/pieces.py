r"""A convex function of one number, known by its values only, cut into pieces that a polynomial reproduces to rounding.

Where halving an interval does not help there is a joint, at which a derivative jumps. Polynomials on either side are continued
towards it; their difference d has a zero there of the order of the derivative that jumps, which says where it is: the zero of
d at a kink, of d' where the second derivative jumps, of d'' where the third one does.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import factorial
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy.optimize import brentq

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array

Function = Callable[[Array], Array]
Quadratic = tuple[float, float, float]

EPS = float(np.finfo(float).eps)
DEGREE = 24
FARTHEST = 1e6  # arguments that a function is asked for
OVERFLOWS = 300.0  # arguments from which on infinite values are those of an overflow, and no wall
LARGEST = 1e60  # values beyond which a function counts as infinite
RESOLVED = 2e-14  # size of the last coefficients, relative to the values, of a polynomial that reproduces the function
NOTHING = 1e-250  # values that are none: their relative accuracy is lost
CANCELLED = 4 * EPS  # rounding of values that are sums which cancel, relative to x and the usual slope
CHOPPED = 4e-15  # size of coefficients that are rounding
WIDTHS = (1e-3, 1e-5, 1e-7)  # of intervals that hold a joint, tried in turn
MOST = 40  # joints beyond which a function is not taken apart
BLUNT = 1e-12  # distance from its chord, relative to the usual slope, of a piece as narrow as rounding allows, that is a line
ORDERS = (3, 2, 1)  # of the derivative that jumps at a joint
VANISHED = 1e-7  # size of lower derivatives there, relative to the largest, that is none
FAITHFUL = 1e-9  # difference from the function, relative to its size, up to which pieces stand for it
CONVEX = 1e-9  # part of the slopes by which they may fall and a function still be convex to rounding
SMOOTH = 1e-7  # jump of a slope, relative to the slopes, that is no kink
NEAR = 4.0  # arguments whose slopes say what is usual
SAME, ALIKE = 32 * EPS, 1e-11  # relative differences of quadratic functions that are one, and that may be
RANGES = tuple(sign * 4.0**k for sign in (-1, 1) for k in (range(9, -1, -1) if sign < 0 else range(10)))
TO_WALL = 4.0 ** -np.arange(1, 11)  # distances of the pieces that approach a wall
K = np.arange(DEGREE + 1)
SIGNS = (-1.0) ** K  # of the polynomials at -1
NODES = np.cos(np.pi * (K + 0.5) / (DEGREE + 1))
TO_COEFFICIENTS = chebyshev.chebvander(NODES, DEGREE).T * (2 / (DEGREE + 1))
TO_COEFFICIENTS[0] /= 2


@dataclass(frozen=True)
class Piece:
    """A polynomial on an interval, by its Chebyshev coefficients; those that are rounding are 0."""

    start: float
    end: float
    coefficients: Array

    @property
    def degree(self) -> int:
        """Of the polynomial."""
        return int(np.flatnonzero(self.coefficients).max(initial=0))

    @property
    def nodes(self) -> Array:
        """Where the function was asked."""
        return (self.start + self.end) / 2 + (self.end - self.start) / 2 * NODES

    @property
    def polynomial(self) -> "chebyshev.Chebyshev":
        """As a function that can be continued and derived."""
        return chebyshev.Chebyshev(self.coefficients, domain=[self.start, self.end])

    @property
    def quadratic(self) -> Quadratic:
        """c_0, c_1, c_2 of $c_0 + c_1 x + c_2 x^2 / 2$ if the degree is at most 2."""
        middle, half = (self.start + self.end) / 2, (self.end - self.start) / 2
        a, b, c = (float(x) for x in self.coefficients[:3])
        bend = 4 * c / half**2
        slope = b / half - bend * middle
        return a - c - slope * middle - bend * middle**2 / 2, slope, bend


@dataclass(frozen=True)
class Kink:
    """Where it is, the slopes on its left and right (infinite at a wall), and the value there."""

    place: float
    left: float
    right: float
    height: float


@dataclass(frozen=True)
class Pieces:
    """A function in pieces, with its derivatives; linear beyond its ends, or infinite where there is a wall.

    Args:
        found: the pieces, in order, each beginning where the last ended.
        walls: whether the function is infinite below its first, and above its last argument.
        noise: of its values, relative to x, beyond the rounding of their size.

    """

    found: list[Piece]
    walls: tuple[bool, bool]
    noise: float = 0.0
    edges: Array = field(init=False)
    kinks: list[Kink] = field(init=False)
    left: Array = field(init=False)
    right: Array = field(init=False)
    falls: Array = field(init=False)  # edges at which the slope falls by more than rounding: of no convex function
    _tables: tuple[Array, Array, Array] = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "edges", np.array([p.start for p in self.found] + [self.found[-1].end]))
        half = (np.diff(self.edges) / 2)[:, None]
        table = np.array([p.coefficients for p in self.found])
        slopes = chebyshev.chebder(table, axis=1) / half
        right, left = slopes @ SIGNS[:-1], slopes.sum(axis=1)  # at the starts and at the ends of pieces
        inner, outer = left[:-1], right[1:]
        near = np.abs(self.edges[1:-1]) <= NEAR
        usual = np.abs(np.concatenate([inner[near], outer[near]])).max(initial=0.0)
        around = np.abs([right[:-1], inner, outer, left[1:]]).max(axis=0)
        jump, unseen = outer - inner, SMOOTH * np.maximum(around, usual)
        kinked = jump > unseen
        rounding = CHOPPED * np.abs(table).max(axis=1) + self.noise * np.maximum(
            np.abs(self.edges[:-1]), np.abs(self.edges[1:])
        )
        rounding = rounding / half[:, 0] * (K**2).sum()  # of the slopes at the ends of a piece
        put(self, "falls", self.edges[1:-1][jump < -(unseen + rounding[:-1] + rounding[1:])])
        straight = np.array([p.degree < 2 for p in self.found])  # their slopes are exact, and those beside them follow
        one = np.where(straight[:-1] == straight[1:], (inner + outer) / 2, np.where(straight[:-1], inner, outer))
        ends, starts = left.copy(), right.copy()
        ends[:-1], starts[1:] = np.where(kinked, inner, one), np.where(kinked, outer, one)
        slopes[:, 0] += ((ends - left) + (starts - right)) / 2  # slopes are continuous, so that no field is lost
        slopes[:, 1] += ((ends - left) - (starts - right)) / 2
        put(self, "_tables", (table, slopes, chebyshev.chebder(slopes, axis=1) / half))
        below, above = self.walls
        put(self, "left", np.concatenate([[-np.inf if below else starts[0]], ends]))
        put(self, "right", np.concatenate([starts, [np.inf if above else ends[-1]]]))
        at = np.flatnonzero(np.concatenate([[below], kinked, [above]]))
        heights = self(self.edges[at])
        found = zip(self.edges[at], self.left[at], self.right[at], heights, strict=True)
        put(self, "kinks", [Kink(*(float(x) for x in numbers)) for numbers in found])

    def __call__(self, x: Array, order: int = 0, piece: Array | None = None) -> Array:
        """The function, or a derivative, entry by entry; `piece` says which polynomials to take."""
        x = np.asarray(x, dtype=float)
        if piece is None:
            piece = self.piece(x)
        table = self._tables[order]
        inside = np.clip(x, self.edges[0], self.edges[-1])
        low, high = self.edges[piece], self.edges[piece + 1]
        t = (2 * inside - low - high) / (high - low)
        one, two = np.zeros_like(t), np.zeros_like(t)
        for k in range(table.shape[1] - 1, 0, -1):
            one, two = 2 * t * one - two + table[piece, k], one
        found = t * one - two + table[piece, 0]
        beyond = x - inside
        if order == 0 and beyond.any():
            slopes = np.where(beyond > 0, self.right[-1], np.where(beyond < 0, self.left[0], 0.0))
            found = found + np.where(beyond != 0, slopes, 0.0) * np.where(beyond != 0, beyond, 1.0)
        return np.asarray(found)

    def piece(self, x: Array, side: str = "right") -> Array:
        """Which piece each x lies in; at an edge the one on its right, or on its left."""
        at = np.searchsorted(self.edges, x, side=side) - 1  # type: ignore[call-overload]
        return np.asarray(np.clip(at, 0, len(self.found) - 1))

    def quadratics(self) -> tuple[tuple[float, ...], tuple[Quadratic, ...]] | None:
        """Knots and pieces c_0, c_1, c_2 of a function that is quadratic between a few knots; None of any other."""
        if any(self.walls) or any(p.degree > 2 for p in self.found):
            return None
        runs = [[self.found[0]]]
        for piece in self.found[1:]:
            last = runs[-1][-1]
            if min(_apart(last.quadratic, piece, self.noise), _apart(piece.quadratic, last, self.noise)) <= ALIKE:
                runs[-1].append(piece)
            else:
                runs.append([piece])
        best = []
        for run in runs:
            worst, q = min((max(_apart(p.quadratic, other, self.noise) for other in run), p.quadratic) for p in run)
            if worst > SAME:
                return None
            best.append(q)
        knots = [_meeting(a, b, run[-1].end) for a, b, run in zip(best, best[1:], runs, strict=False)]
        return tuple(float(k) for k in knots), tuple(best)


def _apart(q: Quadratic, piece: Piece, noise: float) -> float:
    """How far a quadratic function is from that of a piece, at its nodes, relative to what it is the sum of."""
    x = piece.nodes
    size = abs(q[0]) + np.abs(q[1] * x) + np.abs(q[2] * x**2 / 2) + np.abs(piece.coefficients).max()
    size = size + noise / SAME * np.abs(x)
    wrong = np.abs(q[0] + q[1] * x + q[2] * x**2 / 2 - piece.polynomial(x))
    return float((wrong / np.maximum(size, NOTHING)).max())


def _meeting(a: Quadratic, b: Quadratic, near: float) -> float:
    """Where two quadratic functions cross, or touch, close to a place."""
    c0, c1, c2 = (y - x for x, y in zip(a, b, strict=True))
    d0, d1 = c0 + c1 * near + c2 * near**2 / 2, c1 + c2 * near  # the difference around the place
    inside = d1**2 - 2 * d0 * c2
    if inside <= 1e-12 * (d1**2 + 2 * abs(d0 * c2)) or abs(d1) <= VANISHED * abs(c2) * max(1.0, abs(near)):
        return near - d1 / c2 if c2 else near
    return near - 2 * d0 / (d1 + np.copysign(np.sqrt(inside), d1))


# --- how a function is taken apart ---


def take_apart(function: Function, name: str) -> Pieces:
    """The pieces of a convex function.

    Args:
        function: values at arguments (n,), infinite or NaN where there are none.
        name: what it is called in sentences.

    Raises:
        InputError: a function that is not finite near 0, not convex, constant, or not smooth between a few places.

    """
    domain = _Domain.of(function, name)
    rough = replace(domain, noise=CANCELLED * domain.steepness)  # its values may be sums that cancel
    try:
        pieces = _apart_with(domain)
    except InputError:
        return _apart_with(rough)
    if pieces.quadratics() is None:
        with suppress(InputError):
            simpler = _apart_with(rough)
            return pieces if simpler.quadratics() is None else simpler
    return pieces


def _apart_with(domain: "_Domain") -> Pieces:
    places: list[float] = []
    for width in WIDTHS:
        joints = domain.joints(width)
        if len(joints) > MOST:
            raise domain.refused(joints[0])
        found = [domain.crossing(place, width, joints) for place in joints]
        places = [place if kink is None else kink for place, kink in zip(joints, found, strict=True)]
        if None not in found:
            break
    pieces: list[Piece] = []
    ends = [domain.low, *sorted([*places, *domain.hidden(width, joints)]), domain.high]
    for start, end in zip(ends, ends[1:], strict=False):
        lost: list[float] = []
        pieces += domain.split(start, end, WIDTHS[-1], lost)
        if lost:
            raise domain.refused(lost[0])
    apart = Pieces(pieces, domain.walls, domain.noise)
    domain.require_faithful(apart)
    return apart


@dataclass(frozen=True)
class _Domain:
    """A function on the interval around 0 where it is finite, and whether there are walls at its ends."""

    function: Function
    name: str
    low: float
    high: float
    walls: tuple[bool, bool]
    noise: float = 0.0  # of values, relative to x, beyond the rounding of their size

    @cached_property
    def steepness(self) -> float:
        """The largest slope near 0."""
        x = np.linspace(max(-NEAR, self.low), min(NEAR, self.high), 101)
        return float(np.abs(np.diff(self.function(x)) / np.diff(x)).max())

    @classmethod
    def of(cls, function: Function, name: str) -> "_Domain":
        reach = np.arcsinh(FARTHEST)
        x = np.sinh(np.linspace(-reach, reach, 601))
        values = function(x)
        good = np.isfinite(values) & (np.abs(values) < LARGEST)
        if not good[300]:
            raise InputError(f"the loss {name} is not finite near 0; expected a convex function of one number")
        bad = np.flatnonzero(~good)
        first, last = bad[bad < 300].max(initial=-1) + 1, bad[bad > 300].min(initial=len(x)) - 1
        low, low_wall = (x[0], False) if first == 0 else _wall(function, x[first], x[first - 1])
        high, high_wall = (x[-1], False) if last == len(x) - 1 else _wall(function, x[last], x[last + 1])
        if high - low < 1e-3 or not low < 0 < high:
            raise InputError(f"the loss {name} is not finite near 0; expected a convex function of one number")
        found = cls(function, name, float(low), float(high), (low_wall, high_wall))
        inside = np.unique(np.clip(x, low, high))
        _require_convex(inside, function(inside), CANCELLED * found.steepness, name)
        return replace(
            found, low=found.before(found.low, 1.0, low_wall), high=found.before(found.high, -1.0, high_wall)
        )

    def before(self, end: float, inwards: float, wall: bool) -> float:
        """The end of the pieces: a little before a wall at which the function is singular."""
        shifted = end + inwards * TO_WALL[-1] * min(1.0, abs(end))
        lost: list[float] = []
        if wall:
            self._halved(min(end, shifted), max(end, shifted), 2 * abs(shifted - end), lost)
        return shifted if lost else end

    def refused(self, place: float) -> InputError:
        """That the function cannot be taken apart, and where."""
        return InputError(
            f"the loss {self.name} is not resolved near {place:.4g}: it has too many, or too sharp, kinks; "
            "expected a convex function that is smooth between a few places"
        )

    def joints(self, width: float) -> list[float]:
        """The middles of intervals that halving does not resolve; those that touch are one."""
        found: list[float] = []
        self.split(self.low, self.high, width, found)
        groups: list[list[float]] = []
        for place in found:
            if groups and place - groups[-1][-1] <= 2 * width * max(1.0, abs(place)):
                groups[-1].append(place)
            else:
                groups.append([place])
        return [(group[0] + group[-1]) / 2 for group in groups]

    def hidden(self, width: float, joints: list[float]) -> list[float]:
        """Ends of pieces, away from joints, that may be joints themselves: no polynomial reaches from one side to the other."""
        pieces = self.split(self.low, self.high, width, [])
        found: list[float] = []
        for left, right in zip(pieces, pieces[1:], strict=False):
            place = left.end
            lost: list[float] = []
            if all(abs(place - j) > 2 * width * max(1.0, abs(j)) for j in joints):
                self._halved(left.start, right.end, 2 * (right.end - left.start), lost)
                found += [place] if lost else []
        return found

    def split(self, low: float, high: float, width: float, joints: list[float]) -> list[Piece]:
        """Pieces of an interval, in order; the middles of what is not resolved at a width join `joints`.

        Values differ by orders of magnitude between the ranges of `RANGES`, so that no piece reaches over two of them.
        """
        near = [self.low + TO_WALL[:-1] * min(1.0, -self.low)] if self.walls[0] else []
        near += [self.high - TO_WALL[:-1] * min(1.0, self.high)] if self.walls[1] else []
        ends = np.unique(np.concatenate([RANGES, *near])) if near else np.array(RANGES)
        gap = 1e-12 * max(1.0, abs(low), abs(high))
        bounds = [low, *(x for x in ends.tolist() if low + gap < x < high - gap), high]
        found: list[Piece] = []
        for start, end in zip(bounds, bounds[1:], strict=False):
            found += self._halved(start, end, width, joints)
        return found

    def _halved(self, low: float, high: float, width: float, joints: list[float]) -> list[Piece]:
        middle, half = (low + high) / 2, (high - low) / 2
        values = self.function(middle + half * NODES)
        values = np.where(np.abs(values).max() > NOTHING, values, 0.0)
        steepest = np.abs(np.diff(values) / np.diff(NODES)).max() / half
        size = np.abs(values).max()
        moved = max(EPS * steepest, self.noise) * max(abs(low), abs(high))  # by the rounding of x alone
        coefficients = TO_COEFFICIENTS @ values
        resolved = np.abs(coefficients[-8:]).max() <= RESOLVED * size + moved
        coefficients[np.abs(coefficients) <= CHOPPED * size + moved / 2] = 0.0  # rounding, enlarged by derivatives
        if resolved:  # at all nodes, of which the first and the last are a little inside: is it at the ends, too?
            wrong = np.abs(self.function(np.array([low, high])) - np.array([SIGNS @ coefficients, coefficients.sum()]))
            resolved = not (wrong[np.isfinite(wrong)] > FAITHFUL * size + moved + NOTHING).any()
        if resolved:
            return [Piece(low, high, coefficients)]
        if 2 * half < width * max(1.0, abs(middle)):
            chord = values[-1] + (values[0] - values[-1]) * (NODES - NODES[-1]) / (NODES[0] - NODES[-1])
            if width == WIDTHS[-1] and np.abs(values - chord).max() <= BLUNT * self.steepness:
                return [Piece(low, high, np.append(TO_COEFFICIENTS[:2] @ chord, np.zeros(DEGREE - 1)))]
            joints.append(middle)
            if len(joints) > 2 * MOST:
                raise self.refused(middle)
            return [Piece(low, high, coefficients)]
        return self._halved(low, middle, width, joints) + self._halved(middle, high, width, joints)

    def crossing(self, place: float, width: float, joints: list[float]) -> float | None:
        """Where the polynomials on either side of a joint meet; None if they are not the function up to there."""
        reach = 2 * width * max(1.0, abs(place))
        others = [self.low, self.high, *(j for j in joints if j != place)]
        start = max(place - 0.5 * max(1.0, abs(place)), max(o for o in others if o < place) + reach)
        end = min(place + 0.5 * max(1.0, abs(place)), min(o for o in others if o > place) - reach)
        if start >= place - reach or end <= place + reach:
            return None
        left = self.split(start, place - reach, width, [])[-1]
        right = self.split(place + reach, end, width, [])[0]
        one, other = left.polynomial, right.polynomial
        length = min(left.end - left.start, right.end - right.start)
        derivatives = [_difference(one, other)]
        derivatives += [_difference(one.deriv(k), other.deriv(k)) for k in range(1, max(ORDERS) + 1)]
        sizes = [abs(d(place)) * length**k / factorial(k) for k, d in enumerate(derivatives)]
        for order in ORDERS:
            before = derivatives[order - 1]
            signs = np.sign([before(place - reach), before(place + reach)])
            if signs[0] * signs[1] > 0 or not signs.any():
                continue
            kink = float(brentq(before, place - reach, place + reach, xtol=1e-16))
            lower = [abs(d(kink)) * length**k / factorial(k) for k, d in enumerate(derivatives[:order])]
            if max(lower) <= VANISHED * max(sizes):
                x = np.concatenate([place + reach * np.linspace(-1, 1, 41), [start, end]])
                expected = self.function(x)
                wrong = np.abs(np.where(x < kink, one(x), other(x)) - expected)[:-2]
                if wrong.max() <= 1e-12 * np.abs(expected).max() + self.noise * np.abs(x).max():
                    return kink
        return None

    def require_faithful(self, pieces: Pieces) -> None:
        """Refuse a function that its pieces do not reproduce, or whose slope falls, rather than compute with another one."""
        start, end = float(np.arcsinh(self.low)), float(np.arcsinh(self.high))
        widths = np.maximum(1.0, np.abs(pieces.edges))
        near = np.concatenate([pieces.edges + d * widths for d in (-1e-4, -1e-6, 1e-6, 1e-4)])
        x = np.concatenate([np.sinh(np.linspace(start, end, 2003)), near])
        x = x[(x > self.low) & (x < self.high)]
        expected = self.function(x)
        usual = np.abs(expected[np.abs(x) <= NEAR]).max()
        size = np.abs(expected) + usual + 1e-6 * np.abs(pieces(x, 1) * x)
        largest = np.array([np.abs(p.coefficients).max() for p in pieces.found])[pieces.piece(x)]
        wrong = ~(np.abs(pieces(x) - expected) <= FAITHFUL * size + SAME * largest + self.noise * np.abs(x))
        if wrong.any():
            raise self.refused(float(x[np.argmax(wrong)]))
        for piece in pieces.found:
            bend = piece.polynomial.deriv(2)(piece.nodes)
            largest_bends = K**2 * (K**2 - 1) / 3 * 4 / (piece.end - piece.start) ** 2  # of Chebyshev polynomials
            c = np.abs(piece.coefficients)
            rounding = CHOPPED * c.max() + self.noise * np.abs(piece.nodes).max()
            if bend.min() < -(CONVEX * c + rounding) @ largest_bends:
                raise InputError(
                    f"the loss {self.name} is not convex: its slope falls near {piece.nodes[bend.argmin()]:.4g}"
                )
        if len(pieces.falls):
            raise InputError(f"the loss {self.name} is not convex: its slope falls near {pieces.falls[0]:.4g}")


def _require_convex(x: Array, values: Array, noise: float, name: str) -> None:
    slopes, size = np.diff(values) / np.diff(x), 8 * EPS * np.abs(values) + noise * np.abs(x)
    rounding = np.maximum(size[1:], size[:-1]) / np.diff(x)
    slack = CONVEX * (np.abs(slopes[1:]) + np.abs(slopes[:-1])) + rounding[1:] + rounding[:-1]
    turn = np.diff(slopes) + slack
    if (turn < 0).any():
        i = int(np.argmin(turn))
        raise InputError(
            f"the loss {name} is not convex: between {x[i]:.4g} and {x[i + 2]:.4g} it lies above its chord"
        )
    if np.ptp(values) == 0:
        raise InputError(f"the loss {name} is constant; expected a convex function that prefers some outputs")


def _difference(one: Any, other: Any) -> Callable[[float], float]:
    return lambda x: float(other(x) - one(x))


def _wall(function: Function, good: float, bad: float) -> tuple[float, bool]:
    """The last argument with a finite value between a good and a bad one, and whether the function ends there.

    One that grows beyond all bounds, such as an exponential, does not end: it is left where it is large. Nor does one whose
    exponential overflows, as that of log(1 + exp(-x)) at -710, far from where outputs are.
    """
    while abs(bad - good) > 4e-16 * max(1.0, abs(good)):
        middle = (good + bad) / 2
        value = function(np.array([middle]))[0]
        if np.isfinite(value) and abs(value) < LARGEST:
            good = middle
        else:
            bad = middle
        if middle in (good, bad) and abs(bad - good) <= 4e-16 * max(1.0, abs(good)):
            break
    value = function(np.array([good]))[0]
    return float(good), bool(abs(value) < np.sqrt(LARGEST) and abs(good) < OVERFLOWS)
