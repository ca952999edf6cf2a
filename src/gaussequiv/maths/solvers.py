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
    Status.INACCURATE: "computed, but an error above rtol is left (a plateau amplifies rounding); ask for a larger rtol",
    Status.DIVERGED: "the solution left every bound; lower the learning rate",
    Status.NOT_CONVERGED: "stopped at max_steps before this time; raise max_steps or ask for a larger rtol",
    Status.UNDEFINED: "has no value at this point",
}


@dataclass(frozen=True)
class Tableau:
    r"""Coefficients of a Rosenbrock method in the form without matrix-vector products (Hairer & Wanner II, IV.7).

    $(I/(h\gamma) - J)\, k_i = f(y + \sum_{j<i} a_{ij} k_j) + \sum_{j<i} c_{ij} k_j / h$; the last stage is the error estimate,
    $y_{new} = y + \sum_j a_{sj} k_j + k_s$, and $h_{mj}$ give the continuous extension of order 4.
    """

    gamma: float
    a: Array
    c: Array
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
    c=_lower(
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
)


@dataclass(frozen=True)
class Solution:
    """Values at the requested times, how each ended, and what it cost."""

    values: Array
    status: tuple[Status, ...]
    steps: int
    rejected: int


LinearSolve = Callable[[Array], Array]


def integrate(
    f: Callable[[Array], Array],
    linearise: Callable[[Array], Callable[[float], LinearSolve]],
    y: Array,
    times: Array,
    *,
    error: Callable[[Array, Array, Array], float],
    diverged: Callable[[Array], bool],
    max_steps: int = 20_000,
    tableau: Tableau = RODAS5P,
    progress: Callable[[float], Any] | None = None,
) -> Solution:
    r"""Integrate the autonomous equation $\dot y = f(y)$ from `times[0]` through all `times`.

    Args:
        f: right-hand side.
        linearise: y -> (g -> (b -> solution x of $(I - g J(y))\, x = b$)).
        y: value at `times[0]`.
        times: increasing.
        error: norm (old, new, estimate) of the estimated error of a step, in units of what is allowed.
        diverged: whether a value is beyond every bound.
        max_steps: steps after which the remaining times end as `Status.NOT_CONVERGED`.
        tableau: the method.
        progress: called with the time reached.

    """
    values = np.full((len(times), len(y)), np.nan)
    status = [Status.NOT_CONVERGED] * len(times)
    values[0], status[0] = y, Status.OK
    t, steps, rejected, previous = float(times[0]), 0, 0, 1.0
    h = _first_step(f, linearise, y, float(times[-1]) - t, error) if len(times) > 1 else 0.0
    for index in range(1, len(times)):
        target = float(times[index])
        while t < target:
            if steps + rejected >= max_steps:
                return Solution(values, tuple(status), steps, rejected)
            solver = linearise(y)
            while True:
                last = t + h * (1 + 1e-9) >= target
                step = target - t if last else h
                y_new, estimate = _step(f, solver(step * tableau.gamma), y, step, tableau)
                size = error(y, y_new, estimate) if np.isfinite(y_new).all() else np.inf
                if size <= 1:
                    break
                rejected += 1
                h = step * max(0.2, 0.9 * size ** (-1 / tableau.order)) if np.isfinite(size) else step / 10
                if h < 1e-14 * max(t, 1e-6) or steps + rejected >= max_steps:
                    hopeless = h < 1e-14 * max(t, 1e-6)
                    status[index:] = [Status.DIVERGED if hopeless else Status.NOT_CONVERGED] * (len(times) - index)
                    return Solution(values, tuple(status), steps, rejected)
            # proportional-integral control; a step cut short by an output time does not shrink the next one
            size = max(size, 1e-10)
            proposal = step * min(5.0, 0.9 * size ** (-0.7 / tableau.order) * previous ** (0.3 / tableau.order))
            h = max(proposal, h) if last else proposal
            previous = size
            y, t, steps = y_new, (target if last else t + step), steps + 1
            if progress is not None:
                progress(t)
            if diverged(y):
                status[index:] = [Status.DIVERGED] * (len(times) - index)
                return Solution(values, tuple(status), steps, rejected)
        values[index], status[index] = y, Status.OK
    return Solution(values, tuple(status), steps, rejected)


def _step(f: Callable[[Array], Array], solve: LinearSolve, y: Array, h: float, method: Tableau) -> tuple[Array, Array]:
    """One Rosenbrock step: the new value and the estimate of its error."""
    stages = np.empty((len(method.a), len(y)))
    for i in range(len(stages)):
        argument = y + method.a[i, :i] @ stages[:i] if i else y
        increment = f(argument) + (method.c[i, :i] / h) @ stages[:i] if i else f(argument)
        stages[i] = solve(h * method.gamma * increment)
    return argument + stages[-1], stages[-1]


def _first_step(f: Any, linearise: Any, y: Array, span: float, error: Any) -> float:
    """A step over which an implicit Euler step changes the value by about one hundred times the allowed error, at most."""
    h, slope, solver = min(span, 1e-3), f(y), linearise(y)
    while h > 1e-12:
        change = solver(h)(h * slope)
        size = error(y, y + change, change)
        if np.isfinite(size) and size <= 1e4:
            return h
        h /= 4
    return h
