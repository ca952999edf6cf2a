r"""Solvers: `integrate`, an adaptive Rosenbrock method for stiff equations whose Jacobian is cheap to invert.

A Rosenbrock step solves eight linear systems with one matrix $I - h\gamma J$ and no nonlinear one. The caller gives that solve
as a function, so a structured Jacobian (here: modes coupled by low rank only) is never formed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from gaussequiv.maths.averages import Array


class Status(StrEnum):
    """How a point of a curve ended."""

    OK = "ok"
    INACCURATE = "inaccurate"
    DIVERGED = "diverged"
    NOT_CONVERGED = "not-converged"
    UNDEFINED = "undefined"

    @property
    def sentence(self) -> str:
        """What it means, and what to do."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.OK: "reached the requested accuracy",
    Status.INACCURATE: "computed, but an error above rtol is left (a plateau or near twins amplify it); ask for a larger rtol",
    Status.DIVERGED: "the solution left every bound; lower the learning rate",
    Status.NOT_CONVERGED: "stopped at max_steps before this time; raise max_steps or ask for a larger rtol",
    Status.UNDEFINED: "has no value at this point",
}


@dataclass(frozen=True)
class Tableau:
    r"""Coefficients of a Rosenbrock method in the form without matrix-vector products (Hairer & Wanner II, IV.7).

    $(I/(h\gamma) - J)\, k_i = f(t + c_i h, y + \sum_{j<i} a_{ij} k_j) + \sum_{j<i} \gamma_{ij} k_j / h
    + h d_i \partial_t f$; the last stage is the error estimate, $y_{new} = y + \sum_j a_{sj} k_j + k_s$. Between, with
    $K_m = \sum_j h_{mj} k_j$,

    $y(t + \theta h) = (1 - \theta) y + \theta (y_{new} + (1 - \theta) (K_0 + \theta (K_1 + \theta K_2)))$, of order 4.
    """

    gamma: float
    a: Array
    couplings: Array
    times: Array
    slopes: Array
    dense: Array
    order: int


def _lower(rows: list[list[float]]) -> Array:
    matrix = np.zeros((len(rows) + 1, len(rows) + 1))
    for i, row in enumerate(rows, start=1):
        matrix[i, : len(row)] = row
    return matrix


_LAST = [-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946]

# Rodas5P of G. Steinebach, BIT Numer. Math. 63:27 (2023), its published coefficients: order 5, L-stable, stiffly accurate.
RODAS5P = Tableau(
    gamma=0.21193756319429014,
    order=5,
    a=_lower(
        [
            [3.0],
            [2.849394379747939, 0.45842242204463923],
            [-6.954028509809101, 2.489845061869568, -10.358996098473584],
            [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
            _LAST,
            [*_LAST, 1.0],
            [*_LAST, 1.0, 1.0],
        ]
    ),
    couplings=_lower(
        [
            [-14.155112264123755],
            [-17.97296035885952, -2.859693295451294],
            [147.12150275711716, -1.41221402718213, 71.68940251302358],
            [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
            [24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471],
            [
                30.91273214028599,
                -3.1208243349937974,
                77.79954646070892,
                34.28646028294783,
                -19.097331116725623,
                -28.087943162872662,
            ],
            [
                37.80277123390563,
                -3.2571969029072276,
                112.26918849496327,
                66.9347231244047,
                -40.06618937091002,
                -54.66780262877968,
                -9.48861652309627,
            ],
        ]
    ),
    times=np.array(
        [0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0]
    ),
    slopes=np.array(
        [
            0.21193756319429014,
            -0.42387512638858027,
            -0.3384627126235924,
            1.8046452872882734,
            2.325825639765069,
            0.0,
            0.0,
            0.0,
        ]
    ),
    dense=np.array(
        [
            [
                25.948786856663858,
                -2.5579724845846235,
                10.433815404888879,
                -2.3679251022685204,
                0.524948541321073,
                1.1241088310450404,
                0.4272876194431874,
                -0.17202221070155493,
            ],
            [
                -9.91568850695171,
                -0.9689944594115154,
                3.0438037242978453,
                -24.495224566215796,
                20.176138334709044,
                15.98066361424651,
                -6.789040303419874,
                -6.710236069923372,
            ],
            [
                11.419903575922262,
                2.8879645146136994,
                72.92137995996029,
                80.12511834622643,
                -52.072871366152654,
                -59.78993625266729,
                -0.15582684282751913,
                4.883087185713722,
            ],
        ]
    ),
)


@dataclass(frozen=True)
class Solution:
    """What was observed of a solution at every step, with the polynomials between; how it ended, and what it cost.

    Args:
        times: the ends of the steps, (steps + 1,).
        values: what was observed there, (steps + 1, n).
        dense: K_m of every step, (steps, 3, n).
        final: the last value, whole.
        status: how the integration ended.
        rejected: steps that were tried again.

    """

    times: Array
    values: Array
    dense: Array
    final: Array
    status: Status
    rejected: int

    @property
    def steps(self) -> int:
        """Steps that were kept."""
        return len(self.dense)

    def __call__(self, t: Array) -> Array:
        """What is observed at times t (n,), NaN beyond the end: (n, observed)."""
        t = np.asarray(t, dtype=float)
        if not self.steps:
            return np.where((t == self.times[0])[:, None], self.values[0], np.nan)
        i = np.clip(np.searchsorted(self.times, t, side="left") - 1, 0, self.steps - 1)
        h = self.times[i + 1] - self.times[i]
        x = ((t - self.times[i]) / h)[:, None]
        K = self.dense[i]
        between = self.values[i + 1] + (1 - x) * (K[:, 0] + x * (K[:, 1] + x * K[:, 2]))
        inside = (t >= self.times[0]) & (t <= self.times[-1])
        return np.where(inside[:, None], (1 - x) * self.values[i] + x * between, np.nan)


LinearSolve = Callable[[Array], Array]


def integrate(
    f: Callable[[float, Array], Array],
    linearise: Callable[[float, Array], Callable[[float], LinearSolve]],
    y: Array,
    start: float,
    end: float,
    *,
    observe: Callable[[Array], Array],
    error: Callable[[Array, Array, Array], float],
    diverged: Callable[[Array], bool],
    explicit: Callable[[float, Array], Array] | None = None,
    landings: tuple[float, ...] = (),
    max_steps: int = 20_000,
    tableau: Tableau = RODAS5P,
    progress: Callable[[float], Any] | None = None,
) -> Solution:
    r"""Integrate $\dot y = f(t, y)$ from `start` to `end`.

    Args:
        f: right-hand side.
        linearise: (t, y) -> (g -> (b -> solution x of $(I - g J)\, x = b$)) with $J = \partial f / \partial y$.
        y: value at `start`.
        start: first time.
        end: last time.
        observe: a linear map of the value; it is kept with its polynomials between steps, the value itself is not.
        error: norm (old, new, estimate) of the estimated error of a step, in units of what is allowed.
        diverged: whether a value is beyond every bound.
        explicit: the derivative of f with respect to t, where f depends on it.
        landings: times at which f jumps, so that a step must end there.
        max_steps: steps after which the solution ends as `Status.NOT_CONVERGED`.
        tableau: the method.
        progress: called with the time reached.

    """
    t, rejected, previous, status = start, 0, 1.0, Status.OK
    times, values = [t], [observe(y)]
    dense: list[Array] = []
    stops = [x for x in sorted(landings) if start < x < end] + [end]
    h = _first_step(f, linearise, t, y, stops[0] - t, error) if end > start else 0.0
    while t < end and status is Status.OK:
        while stops[0] <= t:
            stops.pop(0)
        solver, slope = linearise(t, y), None if explicit is None else explicit(t, y)
        while status is Status.OK:
            last = t + h * (1 + 1e-9) >= stops[0]
            step = stops[0] - t if last else h
            stages = _stages(f, solver(step * tableau.gamma), t, y, step, slope, tableau)
            y_new = y + tableau.a[-1] @ stages + stages[-1]
            size = error(y, y_new, stages[-1]) if np.isfinite(y_new).all() else np.inf
            if size <= 1:
                break
            rejected += 1
            h = step * max(0.2, 0.9 * size ** (-1 / tableau.order)) if np.isfinite(size) else step / 10
            if h < 1e-14 * max(t, 1e-6):
                status = Status.DIVERGED
            elif len(dense) + rejected >= max_steps:
                status = Status.NOT_CONVERGED
        if status is not Status.OK:
            break
        # proportional-integral control; a step that was cut short does not shrink the next one
        size = max(size, 1e-10)
        proposal = step * min(5.0, 0.9 * size ** (-0.7 / tableau.order) * previous ** (0.3 / tableau.order))
        h = max(proposal, h) if last else proposal
        previous = size
        y, t = y_new, (stops[0] if last else t + step)
        times.append(t)
        values.append(observe(y))
        dense.append(np.stack([observe(K) for K in tableau.dense @ stages]))
        if progress is not None:
            progress(t)
        if diverged(y):
            status = Status.DIVERGED
        elif len(dense) + rejected >= max_steps and t < end:
            status = Status.NOT_CONVERGED
    shape = (len(dense), len(tableau.dense), len(values[0]))
    return Solution(np.array(times), np.stack(values), np.array(dense).reshape(shape), y, status, rejected)


def _stages(f: Any, solve: LinearSolve, t: float, y: Array, h: float, slope: Array | None, method: Tableau) -> Array:
    """The stages k_i of one Rosenbrock step."""
    stages = np.empty((len(method.a), len(y)))
    for i in range(len(stages)):
        increment = f(t + method.times[i] * h, y + method.a[i, :i] @ stages[:i] if i else y)
        if i:
            increment = increment + (method.couplings[i, :i] / h) @ stages[:i]
        if slope is not None and method.slopes[i]:
            increment = increment + h * method.slopes[i] * slope
        stages[i] = solve(h * method.gamma * increment)
    return stages


def _first_step(f: Any, linearise: Any, t: float, y: Array, span: float, error: Any) -> float:
    """A step over which an implicit Euler step changes the value by less than the allowed error: starts may be singular."""
    h, slope, solver = min(span, 1e-3), f(t, y), linearise(t, y)
    while h > 1e-12:
        change = solver(h)(h * slope)
        size = error(y, y + change, change)
        if np.isfinite(size) and size <= 1:
            return h
        h /= 4
    return h
