r"""SGD step by step, compiled by numba (the extra `fast`). Without numba it is plain Python, which only tests use.

For a few small students this beats the large matrix products of `blocks` on a CPU: the weights stay in the first cache.
"""

import math
from typing import Any

import numpy as np

from gaussequiv.maths.activations import (
    GELU,
    Absolute,
    Activation,
    Erf,
    LeakyReLU,
    Linear,
    Polynomial,
    ReLU,
    Sigmoid,
    Sign,
    Softplus,
    Tanh,
)
from gaussequiv.maths.compiled import compiled

Array = np.ndarray[Any, np.dtype[Any]]
CACHED = 32  # samples that all students of a seed see in turn while they are in the cache

ERF, LINEAR, RELU, TANH, SIGN, SIGMOID, SOFTPLUS, GAUSSIAN, LINES, POLYNOMIAL = range(10)
KINDS: dict[type[Activation], int] = {
    Erf: ERF,
    Linear: LINEAR,
    ReLU: RELU,
    Tanh: TANH,
    Sign: SIGN,
    Sigmoid: SIGMOID,
    Softplus: SOFTPLUS,
    GELU: GAUSSIAN,
    Absolute: LINES,
    LeakyReLU: LINES,
    Polynomial: POLYNOMIAL,
}


def coefficients_of(g: Activation) -> Array:
    """Those of a polynomial, or the slopes below and above zero of two lines; none for the others."""
    match g:
        case Polynomial():
            return np.array(g.coefficients)
        case Absolute():
            return np.array([-1.0, 1.0])
        case LeakyReLU():
            return np.array([g.line - g.fold, 1.0])
        case _:
            return np.zeros(0)


@compiled(reordered=True)
def value_and_slope(kind: int, coefficients: Array, z: float) -> tuple[float, float]:
    """g(z) and g'(z)."""
    if kind == ERF:
        return math.erf(z * math.sqrt(0.5)), math.sqrt(2 / math.pi) * math.exp(-0.5 * z * z)
    if kind == LINEAR:
        return z, 1.0
    if kind == RELU:
        return max(z, 0.0), 1.0 if z > 0 else 0.5 if z == 0 else 0.0
    if kind == TANH:
        h = math.tanh(z)
        return h, 1 - h * h
    if kind == SIGN:
        return 1.0 if z > 0 else -1.0 if z < 0 else z, 0.0
    if kind in {SIGMOID, SOFTPLUS}:
        small = math.exp(-abs(z))
        h = 1 / (1 + small) if z >= 0 else small / (1 + small)
        return (h, h * (1 - h)) if kind == SIGMOID else (max(z, 0.0) + math.log1p(small), h)
    if kind == GAUSSIAN:
        below = 0.5 * math.erfc(-z * math.sqrt(0.5))
        return z * below, below + z * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    if kind == LINES:
        slope = coefficients[1] if z > 0 else coefficients[0] if z < 0 else (coefficients[0] + coefficients[1]) / 2
        return slope * z, slope
    h, d = 0.0, 0.0
    for n in range(len(coefficients) - 1, -1, -1):
        d = d * z + h
        h = h * z + coefficients[n]
    return h, d


@compiled(reordered=True)
def dot(w: Array, x: Array) -> float:
    """The product w . x."""
    total = w[0] * x[0]
    for n in range(1, len(x)):
        total += w[n] * x[n]
    return total


@compiled(reordered=True)
def subtract(w: Array, x: Array, c: float) -> None:
    """Replace w by w - c x."""
    for n in range(len(x)):
        w[n] -= c * x[n]


@compiled(reordered=True)
def run_steps(
    kind: int,
    coefficients: Array,
    x: Array,
    y: Array,
    zeta: Array,
    first: int,
    weights: Array,
    readouts: Array,
    lr: Array,
    lr_readout: Array,
    decay: Array,
    noise: Array,
    batch: int,
) -> None:
    """SGD of the students (S, P) on the samples from `first` on; changes `weights` and `readouts`.

    The arguments are those of `blocks.Rule.advance`, the rates (steps, P) being divided by N.
    """
    S, P = weights.shape[:2]
    steps = len(lr)
    for s in range(S):
        for start in range(0, steps, CACHED):
            now = slice(start, min(start + CACHED, steps))
            for p in range(P):
                samples = (
                    x[s, first + start * batch :],
                    y[s, first + start * batch :],
                    zeta[s, first + start * batch :],
                )
                rates = (lr[now, p], lr_readout[now, p], decay[p], noise[p])
                train(kind, coefficients, samples, weights[s, p], readouts[s, p], rates, batch)


@compiled(reordered=True)
def train(
    kind: int,
    coefficients: Array,
    samples: tuple[Array, Array, Array],
    w: Array,
    v: Array,
    rates: tuple[Array, Array, float, float],
    b: int,
) -> None:
    """As many steps as there are rates of one student, w (K, N) and v (K, outputs), on batches of b samples."""
    (x, y, zeta), (lr, lr_readout, decay, noise) = samples, rates
    N, (K, outputs) = x.shape[1], v.shape
    root = math.sqrt(N)
    moves, gradient = np.empty((b, K)), np.empty((K, outputs))
    hidden, slopes, difference = np.empty(K), np.empty(K), np.empty(outputs)
    for step in range(len(lr)):
        gradient[:] = 0
        for i in range(b):
            sample = step * b + i
            for o in range(outputs):
                difference[o] = -y[sample, o] - noise * zeta[sample, o]
            for k in range(K):
                hidden[k], slopes[k] = value_and_slope(kind, coefficients, dot(w[k], x[sample]) / root)
                for o in range(outputs):
                    difference[o] += v[k, o] * hidden[k]
            for k in range(K):
                back = 0.0
                for o in range(outputs):
                    back += v[k, o] * difference[o]
                    gradient[k, o] += hidden[k] * difference[o]
                moves[i, k] = root * lr[step] / b * slopes[k] * back
        for k in range(K):
            if decay > 0:
                subtract(w[k], w[k], w.dtype.type(lr[step] * decay))
            for i in range(b):
                subtract(w[k], x[step * b + i], w.dtype.type(moves[i, k]))
            for o in range(outputs):
                v[k, o] -= lr_readout[step] * (gradient[k, o] / b + decay * v[k, o])
