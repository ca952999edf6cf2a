r"""The steps of a block compiled by numba (the extra `fast`). Without numba it is plain Python, which only tests use."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gaussequiv.maths.activations import GELU, Activation, Erf, Linear, Polynomial, ReLU, Sigmoid, Sign, Softplus, Tanh

try:
    import numba

    COMPILED = True
except ImportError:
    COMPILED = False

Array = np.ndarray[Any, np.dtype[Any]]

ERF, LINEAR, RELU, TANH, SIGN, SIGMOID, SOFTPLUS, GAUSSIAN, POLYNOMIAL = range(9)
KINDS: dict[type[Activation], int] = {
    Erf: ERF,
    Linear: LINEAR,
    ReLU: RELU,
    Tanh: TANH,
    Sign: SIGN,
    Sigmoid: SIGMOID,
    Softplus: SOFTPLUS,
    GELU: GAUSSIAN,
    Polynomial: POLYNOMIAL,
}


def _fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled, sums in any order but NaN and infinity as they are; kept on disk where there is a place for it."""
    if not COMPILED:
        return function
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package nor the home directory can be written
        return numba.njit(**options)(function)


@_fast
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
    h, d = 0.0, 0.0
    for n in range(len(coefficients) - 1, -1, -1):
        d = d * z + h
        h = h * z + coefficients[n]
    return h, d


@_fast
def run_block(
    kind: int,
    coefficients: Array,
    gram: Array,
    fields: Array,
    y: Array,
    zeta: Array,
    readouts: Array,
    lr: Array,
    lr_readout: Array,
    decay: Array,
    noise: Array,
    batch: int,
) -> Array:
    """`blocks.torch_block` in loops; changes `fields` and `readouts`, returns the moves (S, P, K, n)."""
    S, P, K, _ = fields.shape
    outputs = y.shape[2]
    moves = np.zeros_like(fields)
    hidden, slopes = np.empty(K), np.empty(K)
    difference, gradient = np.empty(outputs), np.empty((K, outputs))
    for s in range(S):
        for p in range(P):
            v, field, move = readouts[s, p], fields[s, p], moves[s, p]
            for step in range(len(lr)):
                first = step * batch
                gradient[:] = 0
                for i in range(first, first + batch):
                    for o in range(outputs):
                        difference[o] = -y[s, i, o] - noise[p] * zeta[s, i, o]
                    for k in range(K):
                        z = field[k, i]
                        for j in range(first):
                            z -= move[k, j] * gram[s, i, j]
                        hidden[k], slopes[k] = value_and_slope(kind, coefficients, float(z))
                        for o in range(outputs):
                            difference[o] += v[k, o] * hidden[k]
                    for k in range(K):
                        back = 0.0
                        for o in range(outputs):
                            back += v[k, o] * difference[o]
                            gradient[k, o] += hidden[k] * difference[o]
                        move[k, i] = lr[step, p] / batch * slopes[k] * back
                for k in range(K):
                    for o in range(outputs):
                        v[k, o] -= lr_readout[step, p] * (gradient[k, o] / batch + decay[p] * v[k, o])
                if decay[p] > 0:
                    shrink = 1 - lr[step, p] * decay[p]
                    for k in range(K):
                        for j in range(first):
                            move[k, j] *= shrink
                        for j in range(first + batch, field.shape[1]):
                            field[k, j] *= shrink
    return moves
