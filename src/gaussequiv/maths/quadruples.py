r"""Averages of two and of four local fields of a student and a teacher, for any pair of activations.

For fields $u = (\lambda, \nu) \sim N(m, C)$, the first K of them with the activation of the student, g, the others with that of
the teacher, $\tilde g$; h stands for either:

    product    E h_a h_b                  I2, (L, L)
    slopes     E g'_k h'_a                J2, (K, L)
    bend       E g''_k h_a                H2, (K, L)
    level      E g'_k h_a                 (K, L), which means only make necessary
    quadruples E g'_k g'_l h_a h_b        I4, (K, K, L, L)

Three rules compute them. A student whose slope is a Gaussian tilts the covariance (`Tilted`); one that is linear on either
side of zero has orthants (`Orthants`); for all others two fields are integrated and, given these, the other two follow from
their Hermite coefficients (`Conditional`), whose remainder is the error estimate.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, final

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.activations import Activation, GaussianSlope, Homogeneous, Linear, Polynomial
from gaussequiv.maths.averages import Array, Rule
from gaussequiv.maths.orthants import VANISHED, sign_moment

PAIR_TERMS = 160  # of the Hermite series of two fields
TERMS = (16, 24, 40, 64, 120)  # of those of two fields given two others
PAIR_SPACINGS = tuple(0.08 / 2**n for n in range(8))  # the first resolves the highest polynomial of the pairs' series
PAIR_TOLERANCE = 1e-11
SPACINGS = (0.6, 0.5, 0.4, 0.33, 0.27, 0.22, 0.18, 0.14, 0.11, 0.08, 0.06, 0.045, 0.035)


@dataclass(frozen=True)
class Pairs:
    """Averages of two fields; `level` is None where all fields are centred."""

    product: Array
    slopes: Array
    bend: Array
    level: Array | None


class Averages(abc.ABC):
    """Averages of the fields of a student with `units` units and of a teacher."""

    def __init__(self, student: Activation, teacher: Activation, units: int) -> None:
        self.student, self.teacher, self.units = student, teacher, units

    @abc.abstractmethod
    def pairs(self, C: Array, mean: Array | None = None) -> Pairs:
        """Averages of two fields for covariances C (..., L, L) and means (L,), zero if left out."""

    def products(self, C: Array, mean: Array | None = None) -> Array:
        """The averages E h_a h_b alone, (..., L, L)."""
        return self.pairs(C, mean).product

    @abc.abstractmethod
    def quadruples(self, C: Array, mean: Array | None = None) -> Array:
        """Averages of four fields, (..., K, K, L, L)."""

    def both(self, C: Array, mean: Array | None = None) -> tuple[Pairs, Array]:
        """`pairs` and `quadruples` at once."""
        return self.pairs(C, mean), self.quadruples(C, mean)

    def contracted(self, C: Array, S: Array, mean: Array | None = None) -> tuple[Pairs, Array]:
        """`pairs`, and the averages of four fields in the sum over a and b with S_ka S_lb, (..., K, K), for S (K, L)."""
        pairs, quadruples = self.both(C, mean)
        half = (quadruples @ S[:, :, None])[..., 0]
        return pairs, np.sum(half * S[:, None, :], axis=-1)

    @property
    def error(self) -> float:
        """The largest error found so far, relative to the size of the averages; 0 for closed forms."""
        return 0.0


class Closed(Averages):
    """Averages of two centred fields from the closed forms of the activations."""

    def pairs(self, C: Array, mean: Array | None = None) -> Pairs:
        K = self.units
        return Pairs(self.table(_product, C), self.table(_slopes, C, K), self.table(_bend, C, K), None)

    def products(self, C: Array, mean: Array | None = None) -> Array:
        return self.table(_product, C)

    def table(self, average: Callable[..., Array], C: Array, rows: int | None = None) -> Array:
        """An average of two fields for all pairs, (..., rows, L): each field with the activation of its network."""
        return _table(average, self.student, self.teacher, self.units, C, rows)


def _table(
    average: Callable[..., Array], student: Activation, teacher: Activation, K: int, C: Array, rows: int | None = None
) -> Array:
    L = C.shape[-1]
    variance = np.diagonal(C, axis1=-2, axis2=-1)
    if student == teacher:
        return average(student, student, variance[..., :rows, None], variance[..., None, :], C[..., :rows, :])
    spans = [(student, slice(0, K)), (teacher, slice(K, L))]
    chosen = spans if rows is None else [(student, slice(0, rows))]

    def block(x: Activation, i: slice, y: Activation, j: slice) -> Array:
        return average(x, y, variance[..., i, None], variance[..., None, j], C[..., i, j])

    parts = [[block(x, i, y, j) for y, j in spans] for x, i in chosen]
    return np.concatenate([np.concatenate(part, axis=-1) for part in parts], axis=-2)


def _product(x: Activation, y: Activation, a: Array, b: Array, c: Array) -> Array:
    return x.product(y, a, b, c)


def _slopes(x: Activation, y: Activation, a: Array, b: Array, c: Array) -> Array:
    return x.slopes(y, a, b, c)


def _bend(x: Activation, y: Activation, a: Array, b: Array, c: Array) -> Array:
    return x.bend(y, a, b, c)


@final
class Tilted(Closed):
    r"""A student with a Gaussian slope: $E g'_k g'_l F(u) = E g'_k g'_l\, \tilde E F(u)$ under the tilted covariance."""

    student: GaussianSlope

    def __init__(self, student: Activation, teacher: Activation, units: int) -> None:
        super().__init__(student, teacher, units)
        self._indices: dict[int, tuple[Any, ...]] = {}

    def pairs(self, C: Array, mean: Array | None = None) -> Pairs:
        K, beta = self.units, self.student.beta
        slopes, own = self.table(_slopes, C, K), C[..., :K, :]
        bend = -beta * own / (1 + beta * np.diagonal(C, axis1=-2, axis2=-1)[..., :K, None]) * slopes
        return Pairs(self.table(_product, C), slopes, bend, None)

    def quadruples(self, C: Array, mean: Array | None = None) -> Array:
        return self.both(C)[1]

    def both(self, C: Array, mean: Array | None = None) -> tuple[Pairs, Array]:
        K, pairs = self.units, self.pairs(C)
        tilted = self.table(_product, self.student.tilted(C, K))
        return pairs, pairs.slopes[..., :K, None, None] * tilted

    def contracted(self, C: Array, S: Array, mean: Array | None = None) -> tuple[Pairs, Array]:
        """For equal activations on pairs k <= l and a <= b only, written out: this is what the time of a curve goes into."""
        if C.ndim > 2 or self.student != self.teacher:
            return super().contracted(C, S, mean)
        K, beta, pairs = self.units, self.student.beta, self.pairs(C)
        k, other, a, b, diagonal, twice, place = self._upper(len(C))
        variance = 1 + beta * C.ravel()[:: len(C) + 1]
        across = beta * C[k, other][:, None]
        first, second = C[k], C[other]
        in_k, in_other = (
            variance[other][:, None] * first - across * second,
            variance[k][:, None] * second - across * first,
        )
        scale = beta / (variance[k] * variance[other] - across[:, 0] ** 2)[:, None]
        tilted = C[a, b] - scale * (first[:, a] * in_k[:, b] + second[:, a] * in_other[:, b])
        left = tilted[:, diagonal]
        averages = self.student.product(self.student, left[:, a], left[:, b], tilted)
        weight = S[k][:, a] * S[other][:, b] + S[k][:, b] * S[other][:, a]
        squares = np.sum(weight * averages * twice, axis=1)
        return pairs, pairs.slopes[:, :K] * squares[place]

    def _upper(self, L: int) -> tuple[Any, ...]:
        """Indices of the pairs k <= l and a <= b, of the diagonal among these, weights 1 or 1/2, and places of (k, l)."""
        if L not in self._indices:
            K = self.units
            (k, other), (a, b) = np.triu_indices(K), np.triu_indices(L)
            place = np.zeros((K, K), dtype=int)
            place[k, other] = place[other, k] = np.arange(len(k))
            self._indices[L] = k, other, a, b, np.flatnonzero(a == b), np.where(a == b, 0.5, 1.0), place
        return self._indices[L]


@final
class Orthants(Closed):
    r"""Student and teacher linear on either side of zero: products of fields and of their signs, averaged over orthants."""

    def pairs(self, C: Array, mean: Array | None = None) -> Pairs:
        """A field that vanishes has a slope of either sign, and the square of its slope the average of the two squares."""
        pairs, K = super().pairs(C), self.units
        line, fold, _ = parts(self.student)
        vanished = np.diagonal(C, axis1=-2, axis2=-1)[..., :K] <= 0
        own = pairs.slopes[..., range(K), range(K)]
        pairs.slopes[..., range(K), range(K)] = np.where(vanished, line**2 + fold**2, own)
        return pairs

    def quadruples(self, C: Array, mean: Array | None = None) -> Array:
        L, K = C.shape[-1], self.units
        student, teacher = parts(self.student), parts(self.teacher)
        line, fold, jump = (np.where(np.arange(L) < K, s, t) for s, t in zip(student, teacher, strict=True))
        (k, other), (a, b) = np.triu_indices(K), np.triu_indices(L)
        index = np.stack(np.broadcast_arrays(k[:, None], other[:, None], a, b), axis=-1).reshape(-1, 4)
        a, b = index[:, 2], index[:, 3]
        cells = C.reshape(-1, L, L)
        C4 = cells[:, index[:, :, None], index[:, None, :]]
        first, sign = _coinciding(cells)
        first, sign = first[:, index], sign[:, index]
        slope = {False: student[0], True: student[1]}  # g' without and with its sign
        form = {(True, False): line, (True, True): fold, (False, True): jump}  # (with x, with sign): coefficient
        total = np.zeros(C4.shape[:-2])
        for sign_k, sign_l, (x_a, sign_a), (x_b, sign_b) in product((False, True), (False, True), form, form):
            weight = slope[sign_k] * slope[sign_l] * form[x_a, sign_a][a] * form[x_b, sign_b][b]
            factors = tuple(i for i, there in ((2, x_a), (3, x_b)) if there)
            signs = tuple(i for i, there in enumerate((sign_k, sign_l, sign_a, sign_b)) if there)
            if np.any(weight) and (len(factors) + len(signs)) % 2 == 0:
                total += weight * _moment(C4, factors, signs, first, sign)
        result = np.empty((len(cells), K, K, L, L))
        k, other = index[:, 0], index[:, 1]
        for x, y in ((k, other), (other, k)):
            result[:, x, y, a, b] = result[:, x, y, b, a] = total
        return result.reshape(*C.shape[:-2], K, K, L, L)


def _coinciding(C: Array) -> tuple[Array, Array]:
    """For every field the first one that coincides with it up to sign and scale, and that sign: (..., L) each."""
    variance = np.diagonal(C, axis1=-2, axis2=-1)
    scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
    r = np.clip(C * scale[..., None] * scale[..., None, :], -1.0, 1.0)
    same = (1 - r**2 < VANISHED) | np.eye(C.shape[-1], dtype=bool)
    first = np.argmax(same, axis=-1)
    sign = np.where(np.take_along_axis(r, first[..., None], -1)[..., 0] < 0, -1.0, 1.0)
    return first, sign


def _moment(C: Array, factors: tuple[int, ...], signs: tuple[int, ...], first: Array, sign: Array) -> Array:
    """`sign_moment` of cells (..., 4, 4), in which the signs of coinciding fields have been multiplied out before."""
    kept = np.zeros(first.shape, dtype=bool)
    for n, i in enumerate(signs):
        kept[..., i] = True
        for j in signs[:n]:
            pair = kept[..., i] & kept[..., j] & (first[..., i] == first[..., j])
            kept[pair, i] = kept[pair, j] = False
    code = kept @ np.array([1, 2, 4, 8])
    result = np.empty(code.shape)
    for pattern in np.unique(code):
        here = code == pattern
        result[here] = sign_moment(C[here], factors, tuple(i for i in range(4) if pattern >> i & 1))
    return result * np.prod(np.where(kept, 1.0, sign)[..., list(signs)], axis=-1)


def parts(g: Activation) -> tuple[float, float, float]:
    """The coefficients (line, fold, jump) of a function that is linear on either side of zero."""
    match g:
        case Linear():
            return 1.0, 0.0, 0.0
        case Homogeneous():
            return g.line, g.fold, g.jump
        case _:
            raise InputError(f"{g.name} is not linear on either side of zero")


@final
class Conditional(Averages):
    r"""Any activations, and fields with means, by quadrature.

    Two fields: $E h_a h_b = \sum_n r^n h_{a,n} h_{b,n}$. Four: $u_k$ and $u_l$ are integrated over the plane; given them the
    other fields are Gaussian with means that depend on the place and a fixed covariance S, and
    $E[h_a h_b | u_k, u_l] = \sum_n \rho^n h_{a,n} h_{b,n}$ with $\rho$ the correlation of S. Spacing and number of terms follow
    the requested tolerance.
    """

    def __init__(self, student: Activation, teacher: Activation, units: int, tolerance: float = 1e-9) -> None:
        super().__init__(student, teacher, units)
        self.tolerance = min(max(tolerance, 1e-13), 1e-4)
        self._error = 0.0
        self._rules: dict[tuple[int, int], tuple[Rule, float]] = {}
        self._exact: tuple[Rule, Rule, int] | None = None
        if isinstance(student, Polynomial | Linear) and isinstance(teacher, Polynomial | Linear):
            d = [g.degree if isinstance(g, Polynomial) else 1 for g in (student, teacher)]
            self._exact = Rule.exact(2 * (d[0] - 1) + 2 * max(d)), Rule.exact(2 * max(d)), max(d) + 1

    @property
    def error(self) -> float:
        return self._error

    def products(self, C: Array, mean: Array | None = None) -> Array:
        _, r, h, square = self._series_of_values(C, mean)
        result = _series(h, h, r)
        result[range(len(C)), range(len(C))] = square
        if mean is None:
            self._put_closed(C, _product, result)
        return result

    def _series_of_values(self, C: Array, mean: Array | None) -> tuple[Array, Array, Array, Array]:
        """Standard deviations, correlations, Hermite coefficients (L, terms) and mean squares of all fields."""
        K, L = self.units, len(C)
        m = np.zeros(L) if mean is None else mean
        variance = np.maximum(np.diagonal(C), 1e-14 * max(float(np.diagonal(C).max()), 1e-300))
        root = np.sqrt(variance)
        r = np.clip(C / (root[:, None] * root), -1.0, 1.0)
        terms = self._pair_terms
        h, square = np.empty((L, terms)), np.empty(L)
        for i in range(L):
            rule, g = self._pair_rule(variance[i]), self.student if i < K else self.teacher
            coefficients, squares = g.conditional(m[i : i + 1], variance[i], rule, terms)
            h[i], square[i] = coefficients[0], squares[0]
        return root, r, h, square

    @property
    def _pair_terms(self) -> int:
        return PAIR_TERMS if self._exact is None else self._exact[2] + 1

    def _pair_rule(self, variance: float) -> Rule:
        return self._rule(variance, PAIR_TERMS) if self._exact is None else self._exact[0]

    def pairs(self, C: Array, mean: Array | None = None) -> Pairs:
        if C.ndim > 2:
            each = [self.pairs(c, mean) for c in C.reshape(-1, *C.shape[-2:])]
            shape = C.shape[:-2]

            def stacked(name: str) -> Array:
                return np.stack([getattr(p, name) for p in each]).reshape(*shape, *getattr(each[0], name).shape)

            level = None if mean is None else stacked("level")
            return Pairs(stacked("product"), stacked("slopes"), stacked("bend"), level)
        root, r, h, square = self._series_of_values(C, mean)
        K, L, g, terms = self.units, len(C), self.student, self._pair_terms
        m = np.zeros(L) if mean is None else mean
        d, steep, own = np.empty((K, terms)), np.empty(K), np.empty(K)
        for i in range(K):
            rule = self._pair_rule(root[i] ** 2)
            coefficients, squares = _Slope(g).conditional(m[i : i + 1], root[i] ** 2, rule, terms)
            d[i], steep[i] = coefficients[0], squares[0]
            z, w = rule.broken((np.asarray(g.kinks)[None] - m[i]) / root[i], graded=False)
            u = m[i] + root[i] * z
            own[i] = np.sum(w * z * g(u) * g.derivative(u)) / root[i] - squares[0]  # E g'' g, by Stein's lemma
        n = np.sqrt(np.arange(1, terms))
        h_slope = np.pad(h[:, 1:] * n / root[:, None], ((0, 0), (0, 1)))  # coefficients of h', by Stein's lemma
        h_slope[:K] = d
        d_slope = np.pad(d[:, 1:] * n / root[:K, None], ((0, 0), (0, 1)))
        products, slopes, bend = _series(h, h, r), _series(d, h_slope, r[:K]), _series(d_slope, h, r[:K])
        products[range(L), range(L)], slopes[range(K), range(K)], bend[range(K), range(K)] = square, steep, own
        self._note(_remainder(h, h, square, square, r), square.max())
        if mean is not None:
            return Pairs(products, slopes, bend, _series(d, h, r[:K]))
        for average, table in ((_product, products), (_slopes, slopes), (_bend, bend)):
            self._put_closed(C, average, table)
        return Pairs(products, slopes, bend, None)

    def _put_closed(self, C: Array, average: Callable[..., Array], table: Array) -> None:
        """Put closed forms of the student's own fields, and of the teacher's, where there are such, into a table."""
        K, L = self.units, len(C)
        for g, fields in ((self.student, slice(0, K)), (self.teacher, slice(K, L))):
            if isinstance(g, GaussianSlope | Homogeneous | Polynomial) and fields.start < len(table):
                block = C[fields, fields]
                table[fields, fields] = _table(average, g, g, len(block), block)

    def quadruples(self, C: Array, mean: Array | None = None) -> Array:
        if C.ndim > 2:
            return np.stack([self.quadruples(c, mean) for c in C.reshape(-1, *C.shape[-2:])]).reshape(
                *C.shape[:-2], self.units, self.units, *C.shape[-2:]
            )
        K, L = self.units, len(C)
        result = np.full((K, K, L, L), np.nan)
        if not np.isfinite(C).all():
            return result  # a step that went too far, which the solver takes back
        m = np.zeros(L) if mean is None else mean
        for k in range(K):
            for other in range(k, K):
                result[k, other] = self._given(C, m, [k] if k == other else [k, other])
                result[other, k] = result[k, other]
        if mean is None and isinstance(self.student, GaussianSlope | Homogeneous):
            own = averages(self.student, self.student, K, centred=True, tolerance=self.tolerance)
            result[:, :, :K, :K] = own.quadruples(C[:K, :K])
        return result

    def _given(self, C: Array, m: Array, outer: list[int]) -> Array:
        """All averages with two slopes, at the fields `outer`: these integrated, the others conditioned on them."""
        K, L = self.units, len(C)
        g = self.student
        places, weights = self._outer(C, m, outer)
        slopes = np.prod([np.asarray(g.derivative(u)) for u in places], axis=0)
        weights = weights * (slopes**2 if len(outer) == 1 else slopes)
        kept = np.abs(weights) > 1e-3 * self.tolerance * np.abs(weights).max(initial=0.0)
        places, weights = [u[kept] for u in places], weights[kept]
        basis = C[np.ix_(outer, outer)]
        regression = np.linalg.lstsq(basis, C[outer], rcond=1e-13)[0]
        S = C - C[:, outer] @ regression
        variance = np.maximum(np.diagonal(S), 0.0)
        variance[variance < 1e-14 * np.diagonal(C)] = 0.0
        means = m + (np.stack(places, axis=-1) - m[outer]) @ regression
        others = [a for a in range(L) if a not in outer]
        root = np.where(variance > 0, np.sqrt(variance), np.inf)
        r = np.clip(S / (root[:, None] * root), -1.0, 1.0)
        np.fill_diagonal(r, 0.0)
        strongest = float(np.abs(r[np.ix_(others, others)]).max(initial=0.0))
        terms = self._terms(strongest)
        h = {}
        result = np.empty((L, L))
        level = np.empty((L, len(weights)))  # E[h_a | outer]
        for a in others:
            rule = self._rule(variance[a], terms) if self._exact is None else self._exact[1]
            h[a], square = (self.student if a < K else self.teacher).conditional(means[:, a], variance[a], rule, terms)
            level[a] = h[a][:, 0]
            result[a, a] = weights @ square
            tail = np.abs(weights) @ np.maximum(square - np.sum(h[a] ** 2, axis=1), 0.0)
            self._note(tail * strongest**terms, np.abs(weights) @ square)
        for a, u in zip(outer, places, strict=True):
            level[a] = g(u)
            result[a, a] = weights @ level[a] ** 2
        for a in range(L):
            for b in range(a + 1, L):
                if a in h and b in h:
                    powers = r[a, b] ** np.arange(terms)
                    result[a, b] = weights @ ((h[a] * powers) * h[b]).sum(axis=1)
                else:
                    result[a, b] = weights @ (level[a] * level[b])
                result[b, a] = result[a, b]
        return result

    def _outer(self, C: Array, m: Array, outer: list[int]) -> tuple[list[Array], Array]:
        """Places of the outer fields and their Gaussian weights, flat."""
        k = outer[0]
        rule = self._rule(C[k, k]) if self._exact is None else self._exact[0]
        sd = np.sqrt(C[k, k])
        kinks, graded = self._kinks(C, m, k)
        twins = len(outer) == 2 and C[k, outer[-1]] ** 2 > 0.8 * C[k, k] * C[outer[-1], outer[-1]]
        z, w = rule.broken(kinks[None] / (sd or 1.0), graded=graded or twins)
        z, w = z[0], w[0]
        first = m[k] + sd * z
        if len(outer) == 1:
            return [first], w
        other = outer[1]
        slope = C[k, other] / C[k, k] if C[k, k] > 0 else 0.0
        left = np.sqrt(max(C[other, other] - slope * C[k, other], 0.0))
        centre = m[other] + slope * (first - m[k])
        if self._exact is None:
            rule = self._rule(C[other, other])
        kinks, graded = self._kinks(C, m, other)
        kinks = (kinks + m[other] - centre[:, None]) / (left or 1e-150)
        z2, w2 = rule.broken(np.clip(kinks, -1e3, 1e3), graded=graded)
        second = centre[:, None] + left * z2
        weights = w[:, None] * np.broadcast_to(w2, second.shape)
        return [np.broadcast_to(first[:, None], second.shape).ravel(), second.ravel()], weights.ravel()

    def _kinks(self, C: Array, m: Array, k: int) -> tuple[Array, bool]:
        """Where the integrand over field k is rough, relative to its mean: at kinks of g and of aligned teacher fields.

        A teacher field that is not quite aligned makes the integrand steep there, not rough.
        """
        found, steep = [np.asarray(self.student.kinks, dtype=float) - m[k]], False
        for a in range(self.units, len(C)):
            if self.teacher.kinks and C[k, a] ** 2 > 0.5 * C[k, k] * C[a, a] > 0:
                found.append((np.asarray(self.teacher.kinks) - m[a]) * C[k, k] / C[k, a])
                steep = True
        return np.concatenate(found), steep

    def _rule(self, variance: float, terms: int = 1) -> Rule:
        """A rule that resolves the integrands at this variance and the polynomials, found once for every 20 % in it."""
        level = int(np.ceil(np.log(max(variance, 1e-6)) / 0.2))
        if (level, terms) not in self._rules:
            widest = 2 * np.pi / (np.sqrt(terms) + 9)
            if terms == PAIR_TERMS:
                candidates = [Rule.trapezoidal(h, 1e-40, panel=0.4) for h in PAIR_SPACINGS]
            else:
                candidates = [Rule.trapezoidal(min(h, widest), self.tolerance) for h in SPACINGS]
            wanted = PAIR_TOLERANCE if terms == PAIR_TERMS else self.tolerance
            deviation = float(np.exp(0.1 * level))
            self._rules[level, terms] = _resolving(self.student, self.teacher, deviation, candidates, wanted)
        rule, left = self._rules[level, terms]
        self._note(left, 1.0)
        return rule

    def _terms(self, correlation: float) -> int:
        if self._exact is not None:
            return self._exact[2]
        enough = [n for n in TERMS if correlation**n < self.tolerance]
        return enough[0] if enough else TERMS[-1]

    def _note(self, error: Any, size: float) -> None:
        self._error = max(self._error, float(np.max(error)) / (size or 1.0))


@final
class _Slope(Activation):
    """The derivative of an activation as a function of its own."""

    def __init__(self, of: Activation) -> None:
        self.of, self.kinks = of, of.kinks

    def __call__(self, z: Array) -> Array:
        return self.of.derivative(z)

    def derivative(self, z: Array) -> Array:
        raise InputError("a second derivative is never taken")


def _resolving(
    student: Activation, teacher: Activation, sd: float, candidates: list[Rule], tolerance: float
) -> tuple[Rule, float]:
    """The first rule whose averages of a product of four do not see where its nodes lie, and what they see of it.

    Nodes are shifted by eighths of their spacing, so that a steep place between them is found.
    """
    smooth = [g for g in (student, teacher) if not g.kinks]
    if not smooth:
        return candidates[0], 0.0
    for rule in candidates:
        spacing = rule.z[1] - rule.z[0]
        sums = []
        for shift in range(8):
            z = rule.z + spacing * shift / 8
            values = [np.ones_like(z)]
            for g in smooth:
                values += [g(sd * z) ** 2, g(sd * z) * z, g(sd * z + sd) ** 2]
            if student in smooth:
                slope = student.derivative(sd * z) ** 2
                values += [v * slope for v in values]
            table = np.stack(values) * np.exp(-(z**2) / 2)
            sums.append((table.sum(axis=1), np.abs(table).sum(axis=1)))
        totals, sizes = (np.stack(x) for x in zip(*sums, strict=True))
        left = float(np.max(np.ptp(totals, axis=0) / np.maximum(sizes.max(axis=0), 1e-300)))
        if left < tolerance:
            return rule, 0.0
    return rule, left


def _series(f: Array, g: Array, r: Array) -> Array:
    r"""$\sum_n r_{ab}^n f_{an} g_{bn}$ by Horner's rule."""
    result = np.zeros_like(r)
    for n in range(f.shape[1] - 1, -1, -1):
        result = result * r + f[:, n, None] * g[None, :, n]
    return result


def _remainder(f: Array, g: Array, f_square: Array, g_square: Array, r: Array) -> float:
    """The bound of Cauchy and Schwarz on what the series leaves out, off the diagonal."""
    f_tail, g_tail = (np.abs(s - np.sum(x**2, axis=1)) for s, x in ((f_square, f), (g_square, g)))
    bound = np.sqrt(f_tail[:, None] * g_tail) * np.abs(r) ** f.shape[1]
    np.fill_diagonal(bound, 0.0)
    return float(bound.max())


def averages(student: Activation, teacher: Activation, units: int, *, centred: bool, tolerance: float) -> Averages:
    """The best rule for a pair of activations."""
    simple = isinstance(teacher, GaussianSlope | Homogeneous)
    if centred and isinstance(student, GaussianSlope) and simple:
        return Tilted(student, teacher, units)
    if centred and isinstance(student, Homogeneous) and isinstance(teacher, Homogeneous | Linear):
        return Orthants(student, teacher, units)
    return Conditional(student, teacher, units, tolerance)
