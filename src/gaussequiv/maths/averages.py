r"""Gaussian averages by quadrature: $E f(x)$ and $E f(x) g(y)$ for centred Gaussian fields, for any functions.

The closed forms of `activations` are checked against these, and every callable without closed forms is served by them. One
field is integrated by Gauss-Legendre panels that are bisected where the function is not resolved, so kinks and jumps are
found wherever they are; two fields by the Hermite series $E f(x) g(y) = \sum_k f_k g_k r^k$, whose remainder is known from
Parseval's identity, and by direct integration over the plane where the series is too slow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from scipy.special import roots_hermitenorm, roots_legendre

from gaussequiv.errors import InputError

Array = np.ndarray[Any, np.dtype[np.float64]]
Function = Callable[[Array], Array]

HALF_WIDTH = 11.0  # in standard deviations; the Gaussian weight beyond is 4e-28
WIDTH = 0.25  # of a panel, in standard deviations
ORDER = 16
DEPTH = 36  # bisections of a panel that holds a kink
RESOLVED = 1e-11  # error of a panel's interpolant, relative to the function's size, that needs no bisection
TERMS = 400
FEW = 8  # nodes on a panel of a `Rule` with kinks
GRADED = 4.0 ** -np.arange(8)  # distances of panel ends from a kink


@cache
def _legendre(order: int = ORDER) -> tuple[Array, Array]:
    nodes, weights = roots_legendre(order)
    return nodes, weights


def _panels(edges: Array, order: int = ORDER) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on consecutive panels, edges (..., panels + 1) -> (..., panels * order)."""
    nodes, weights = _legendre(order)
    middle, half = (edges[..., 1:] + edges[..., :-1]) / 2, np.diff(edges, axis=-1) / 2
    shape = (*edges.shape[:-1], -1)
    return (middle[..., None] + half[..., None] * nodes).reshape(shape), (half[..., None] * weights).reshape(shape)


@dataclass(frozen=True, eq=False)
class Rule:
    r"""Nodes z and weights for averages over a standard normal variable, and how panels are broken at kinks.

    For smooth functions the trapezoidal rule, whose error falls exponentially in the inverse spacing; Gauss-Hermite nodes,
    exact, for polynomials. Between kinks, panels of at most `panel` standard deviations.
    """

    z: Array
    weights: Array
    panel: float = 1.5

    @classmethod
    def trapezoidal(cls, spacing: float, tolerance: float, panel: float = 1.5) -> "Rule":
        """The trapezoidal rule with a cut-off beyond which the Gaussian weight is far below `tolerance`."""
        reach = np.sqrt(2 * np.log(1 / tolerance)) + 2.5
        n = int(np.ceil(2 * reach / spacing)) + 1
        z = np.linspace(-reach, reach, n)
        weights = _density(z)
        return cls(z, weights / weights.sum(), panel)

    @classmethod
    def exact(cls, degree: int) -> "Rule":
        """The Gauss-Hermite rule that is exact for polynomials of this degree."""
        z, weights = roots_hermitenorm(degree // 2 + 1)
        return cls(z, weights / weights.sum())

    def broken(self, kinks: Array, *, graded: bool = True) -> tuple[Array, Array]:
        """Nodes and weights (rows, n) with panels that end at `kinks` (rows, kinks); one row for all without kinks.

        Graded panels shrink towards the kinks, for integrands that are steep beside them.
        """
        if kinks.shape[-1] == 0:
            return self.z[None], self.weights[None]
        reach = float(self.z[-1])
        uniform = np.linspace(-reach, reach, int(np.ceil(2 * reach / self.panel)) + 1)
        near = np.concatenate([-GRADED, [0.0], GRADED]) if graded else np.zeros(1)
        edges = (kinks[..., None] + near).reshape(len(kinks), -1)
        edges = np.concatenate([np.broadcast_to(uniform, (len(kinks), len(uniform))), edges], axis=1)
        z, weights = _panels(np.sort(np.clip(edges, -reach, reach), axis=1), FEW)
        return z, weights * _density(z)

    def weighted(self, terms: int) -> Array:
        """The orthonormal Hermite polynomials at the nodes times the weights, (n, terms)."""
        if terms not in self._weighted:
            self._weighted[terms] = np.ascontiguousarray((hermite_polynomials(self.z, terms) * self.weights).T)
        return self._weighted[terms]

    @cached_property
    def _weighted(self) -> dict[int, Array]:
        return {}


def project(weighted: Array, z: Array, terms: int) -> Array:
    """Sums over nodes of weighted values with the orthonormal Hermite polynomials at z, (rows, n) both: (rows, terms)."""
    coefficients = np.empty((len(weighted), terms))
    before, now = np.zeros_like(z), np.ones_like(z)
    for k in range(terms):
        coefficients[:, k] = np.sum(weighted * now, axis=1)
        before, now = now, (z * now - np.sqrt(k) * before) / np.sqrt(k + 1)
    return coefficients


def hermite_polynomials(z: Array, terms: int) -> Array:
    """The orthonormal Hermite polynomials he_0 ... at z (n,): (terms, n)."""
    table = np.ones((terms, len(z)))
    if terms > 1:
        table[1] = z
    for k in range(1, terms - 1):
        table[k + 1] = (z * table[k] - np.sqrt(k) * table[k - 1]) / np.sqrt(k + 1)
    return table


def kinks(f: Function, reach: float = 40.0) -> tuple[float, ...]:
    """Places within `reach` of zero where panels keep being bisected: kinks and jumps of f."""
    offset = 0.1234567  # so that no kink is at an end of the first panels
    edges = breaks(lambda x: f(x + offset), reach)
    width = np.diff(edges)
    fine = np.flatnonzero(width < 1e-6)
    if len(fine) == 0:
        return ()
    clusters = np.split(fine, np.flatnonzero(edges[fine[1:]] - edges[fine[:-1]] > 1e-3) + 1)
    narrowest = [c[np.argmin(width[c])] for c in clusters]
    return tuple(round(float(edges[i] + edges[i + 1]) / 2 + offset, 9) + 0.0 for i in narrowest)


def breaks(f: Function, reach: float) -> Array:
    """Edges that resolve f on [-reach, reach]: zero, and panels that shrink towards every kink, jump or steep place.

    Raises:
        InputError: f returns a NaN, acts not entry by entry, or is resolved by no reasonable number of panels.

    """
    nodes, _ = _legendre()
    probes = np.array([-0.97, -0.43, 0.11, 0.68, 0.93])
    interpolate = np.polynomial.legendre.legvander(probes, ORDER - 1) @ np.linalg.inv(
        np.polynomial.legendre.legvander(nodes, ORDER - 1)
    )
    edges = np.linspace(-reach, reach, 89)  # zero is one of them
    left, right = edges[:-1], edges[1:]
    kept = [np.zeros(1)]
    scale = 0.0
    for _ in range(DEPTH):
        middle, half = ((left + right) / 2)[:, None], ((right - left) / 2)[:, None]
        values, tested = _finite(f, middle + half * nodes), _finite(f, middle + half * probes)
        scale = max(scale, float(np.abs(values).max()))
        local = np.maximum(np.abs(values).max(axis=1), 1e-3 * scale)  # below is rounding
        rough = np.abs(values @ interpolate.T - tested).max(axis=1) > RESOLVED * local
        if not rough.any():
            break
        centre = middle[rough, 0]
        kept += [left[rough], centre, right[rough]]
        left, right = np.concatenate([left[rough], centre]), np.concatenate([centre, right[rough]])
        if len(left) > 4096:
            raise InputError("a function is too rough to be averaged over Gaussian fields; use a smoother function")
    return np.unique(np.concatenate(kept))


def gaussian_rule(f: Function, variance: Array) -> tuple[Array, Array]:
    r"""Nodes z and weights for $E f(\sqrt a z)$, $z \sim N(0, 1)$: one row for every variance a, (variances, nodes).

    A function that is rough nowhere but at zero needs one row for all, (1, nodes).
    """
    deviation = np.sqrt(variance)[:, None]
    uniform = np.arange(-HALF_WIDTH, HALF_WIDTH + WIDTH / 2, WIDTH)
    largest = float(deviation.max(initial=0.0)) * HALF_WIDTH
    special = breaks(f, largest) if largest > 0 else np.zeros(1)
    if len(special) == 1:
        z, weights = _panels(uniform[None])
        return z, weights * _density(z)
    scaled = np.divide(special, deviation, out=np.zeros((len(variance), len(special))), where=deviation > 0)
    edges = np.concatenate([np.broadcast_to(uniform, (len(variance), len(uniform))), scaled], axis=1)
    z, weights = _panels(np.sort(np.clip(edges, -HALF_WIDTH, HALF_WIDTH), axis=1))
    return z, weights * _density(z)


def single(f: Function, variance: Any) -> Array:
    r"""$E f(x)$, $x \sim N(0, a)$, for every entry of `variance`.

    Raises:
        InputError: the function returns a NaN, is too rough, or grows so fast that its average is not in reach.

    """
    a = np.asarray(variance, dtype=float)
    unique, index = np.unique(a, return_inverse=True)
    z, weights = gaussian_rule(f, unique)
    values = _finite(f, np.sqrt(unique)[:, None] * z)
    _require_decay(values, weights, z)
    return np.sum(values * weights, axis=1)[index].reshape(a.shape)


def hermite_coefficients(f: Function, variance: Any, terms: int = TERMS) -> Array:
    r"""$f_k = E f(\sqrt a z) he_k(z)$ with $he_k$ orthonormal, for variances (n,): shape (n, terms)."""
    a = np.atleast_1d(np.asarray(variance, dtype=float))
    z, weights = gaussian_rule(f, a)
    product = _finite(f, np.sqrt(a)[:, None] * z) * weights
    coefficients = np.empty((len(a), terms))
    before, now = np.zeros_like(z), np.ones_like(z)
    for k in range(terms):
        coefficients[:, k] = product @ now[0] if len(now) == 1 else np.sum(product * now, axis=1)
        before, now = now, (z * now - np.sqrt(k) * before) / np.sqrt(k + 1)
    return coefficients


def hermite_coefficients_at(f: Function, mean: Array, variance: Array, terms: int = TERMS) -> tuple[Array, Array]:
    r"""$c_k = E f(\mu + \sqrt a z) he_k(z)$ for means and variances (n,): shape (n, terms); and the variance of f, (n,).

    Raises:
        InputError: as for `single`.

    """
    deviation = np.sqrt(variance)[:, None]
    largest = float((np.abs(mean) + HALF_WIDTH * deviation[:, 0]).max())
    offset = 0.1234567  # so that no kink, one at zero in particular, is at an end of the first panels
    z, weights = _panels(np.arange(-HALF_WIDTH, HALF_WIDTH + WIDTH / 2, WIDTH)[None])
    if len(breaks(lambda x: f(x + offset), largest)) > 1:
        edges = (breaks(f, largest) - mean[:, None]) / deviation
        uniform = np.broadcast_to(np.arange(-HALF_WIDTH, HALF_WIDTH + WIDTH / 2, WIDTH), (len(mean), 89))
        edges = np.sort(np.clip(np.concatenate([uniform, edges], axis=1), -HALF_WIDTH, HALF_WIDTH), axis=1)
        z, weights = _panels(edges)
    weights = weights * _density(z)
    values = _finite(f, mean[:, None] + deviation * z)
    _require_decay(values, weights, z)
    if len(z) == 1:
        coefficients = values @ (hermite_polynomials(z[0], terms) * weights[0]).T
    else:
        coefficients = project(values * weights, z, terms)
    return coefficients, np.sum((values - coefficients[:, :1]) ** 2 * weights, axis=1)


def covariance_on_plane(f: Function, means: Any, variances: Any, r: float) -> float:
    """Cov(f(x), f(y)) of two fields of correlation r, by integration over the plane."""
    first, second = (_shifted(f, float(m), float(a)) for m, a in zip(means, variances, strict=True))
    return _plane(first, second, float(variances[0]), float(variances[1]), float(r))


def _shifted(f: Function, mean: float, variance: float) -> Function:
    average = float(single(lambda x: f(mean + x), variance))
    return lambda x: f(mean + x) - average


def pairwise(f: Function, g: Function, a: Any, b: Any, c: Any, tolerance: float = 1e-9) -> Array:
    r"""$E f(x) g(y)$ for $(x, y) \sim N(0, [[a, c], [c, b]])$, for broadcastable arrays of variances and covariances.

    The series is used where its remainder $\sqrt{\sum_{k > n} f_k^2 \sum_{k > n} g_k^2}\, |r|^{n+1}$ is below `tolerance`
    times the scale of the average; elsewhere the plane is integrated directly, or the line where $|r| = 1$.

    Raises:
        InputError: as for `single`.

    """
    a, b, c = np.broadcast_arrays(*(np.asarray(m, dtype=float) for m in (a, b, c)))
    r = np.clip(_ratio(c, np.sqrt(a * b)), -1.0, 1.0)
    a_values, a_index = np.unique(a, return_inverse=True)
    b_values, b_index = np.unique(b, return_inverse=True)
    fk, gk = hermite_coefficients(f, a_values), hermite_coefficients(g, b_values)
    f2, g2 = single(lambda x: f(x) ** 2, a_values), single(lambda x: g(x) ** 2, b_values)
    f_tail, g_tail = (np.maximum(s - np.sum(k**2, axis=-1), 0.0) for s, k in ((f2, fk), (g2, gk)))
    a_index, b_index = a_index.reshape(a.shape), b_index.reshape(b.shape)
    remainder = np.sqrt(f_tail[a_index] * g_tail[b_index]) * np.abs(r) ** TERMS
    scale = np.sqrt(f2[a_index] * g2[b_index])
    result = _series(fk, gk, a_index, b_index, r)
    for index in np.argwhere(remainder > tolerance * np.maximum(scale, 1e-300)):
        at = tuple(index)
        result[at] = _plane(f, g, float(a[at]), float(b[at]), float(r[at]))
    return result


def _series(fk: Array, gk: Array, a_index: Any, b_index: Any, r: Array) -> Array:
    """Horner's rule in r, term by term, so that no array of (entries, terms) is made."""
    result = np.zeros(r.shape)
    for k in range(fk.shape[-1] - 1, -1, -1):
        result *= r
        result += fk[..., k][a_index] * gk[..., k][b_index]
    return result


def _plane(f: Function, g: Function, a: float, b: float, r: float) -> float:
    r"""One average over the plane, $y = \sqrt b (r z + \sqrt{1 - r^2}\, z')$, both integrals broken where f and g are rough.

    The outer integrand, f(x) times the inner average, is rough where f is and, softened over $\sqrt{1-r^2}$, where g is.
    """
    edges = breaks(g, np.sqrt(b) * HALF_WIDTH) / np.sqrt(b)
    if abs(r) == 1:
        return float(single(lambda x: f(x) * g(r * np.sqrt(b / a) * x), a))
    width = np.sqrt(1 - r * r)
    places = np.unique(np.round(edges, 6))
    soft = (places[:, None] + width * np.linspace(-8, 8, 17)) / r
    uniform = np.arange(-HALF_WIDTH, HALF_WIDTH + WIDTH / 2, WIDTH)
    own = breaks(f, np.sqrt(a) * HALF_WIDTH) / np.sqrt(a)
    outer = np.unique(np.clip(np.concatenate([uniform, own, soft.ravel()]), -HALF_WIDTH, HALF_WIDTH))
    total = 0.0
    for piece in np.array_split(np.arange(len(outer) - 1), max(1, len(outer) // 16)):
        z, weights = _panels(outer[piece[0] : piece[-1] + 2])
        broken = np.concatenate(
            [np.broadcast_to(uniform, (len(z), len(uniform))), (edges - r * z[:, None]) / width], axis=1
        )
        inner, inner_weights = _panels(np.sort(np.clip(broken, -HALF_WIDTH, HALF_WIDTH), axis=1))
        average = np.sum(g(np.sqrt(b) * (r * z[:, None] + width * inner)) * inner_weights * _density(inner), axis=1)
        total += float(np.sum(weights * _density(z) * f(np.sqrt(a) * z) * average))
    return total


def _density(z: Array) -> Array:
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _finite(f: Function, x: Array) -> Array:
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(f(x), dtype=float)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function may raise
        raise InputError(
            f"the function fails on NumPy arrays ({str(error).splitlines()[0]}); a torch function goes through "
            "generators.activation(f)"
        ) from error
    if values.shape != x.shape:
        raise InputError(f"the function returned shape {values.shape} for {x.shape}; it must act entry by entry")
    if not np.isfinite(values).all():
        raise InputError("the function returned a NaN or an infinity on Gaussian fields; expected finite values")
    return values


def _require_decay(values: Array, weights: Array, z: Array) -> None:
    """Refuse what still contributes within one standard deviation of the end of the rule."""
    size = np.abs(values) * weights
    beyond = np.sum(np.where(np.abs(z) > HALF_WIDTH - 1, size, 0.0), axis=1)
    if np.any(beyond > 1e-13 * np.sum(size, axis=1)):
        raise InputError("a function grows too fast for its average over Gaussian fields; use a smaller variance")


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
