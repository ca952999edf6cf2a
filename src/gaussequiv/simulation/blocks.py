r"""A block of SGD steps of many students on the same samples, the first layer being touched once, at its end.

The fields of a later sample follow from those at the start of the block and the Gram matrix of its inputs,

$\lambda_i = \frac{W_0 x_i}{\sqrt N} - \sum_{j < i} d_j\, x_j \cdot x_i$, $\quad$
$d_j = \frac{\eta}{N b}\, g'(\lambda_j) \odot (v \Delta_j)$, $\quad$ $W = W_0 - \sqrt N \sum_j d_j x_j^T$,

where weight decay shrinks $W_0$ and the earlier $d_j$ at every step. This is the same SGD, step by step, with large matrix
products instead of many small ones. The Gram matrix does not depend on the student.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaussequiv.maths.activations import Activation, Polynomial
from gaussequiv.simulation.compiled import COMPILED, KINDS, Array, run_block
from gaussequiv.simulation.functions import Pair, functions

Rates = tuple[Array, Array, Array]
State = tuple[Tensor, Tensor]  # weights (S, P, K, N) and readouts (S, P, K, outputs) of S seeds and P students


@dataclass(frozen=True)
class Samples:
    """Inputs (S, n, N), noiseless labels and unit label noise (S, n, outputs), and the Gram matrix (S, n, n)."""

    x: Tensor
    y: Tensor
    zeta: Tensor
    gram: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, zeta: Tensor) -> "Samples":
        """The block of these samples, with its Gram matrix."""
        return cls(x, y, zeta, x @ x.transpose(1, 2))


@dataclass(frozen=True)
class Rule:
    """How P students of one activation learn: rates and noise of each, the batch, and the way to compute.

    Args:
        activation: of all students.
        noise: standard deviation of the label noise of each, (P,).
        decay: weight decay of each, (P,).
        batch: samples a step.
        device: where it runs.
        compiled: by the numba kernel; False: in torch.

    """

    activation: Activation
    noise: Array
    decay: Array
    batch: int
    device: torch.device
    compiled: bool

    @classmethod
    def fastest(cls, activation: Activation, noise: Array, decay: Array, batch: int, device: torch.device) -> "Rule":
        """Compiled where numba, the CPU and the activation allow it."""
        compiled = COMPILED and device.type == "cpu" and type(activation) in KINDS
        return cls(activation, noise, decay, batch, device, compiled)

    def advance(self, state: State, samples: Samples, lr: Array, lr_readout: Array) -> State:
        """Weights and readouts after as many steps as the rates (steps, P) have rows."""
        weights, readouts = state
        S, P, K, N = weights.shape
        flat = weights.reshape(S, P * K, N)
        fields = (flat @ samples.x.transpose(1, 2)).mul_(N**-0.5).reshape(S, P, K, -1)
        rates = (lr / N, lr_readout / N, self.decay)
        moves, readouts = (self._compiled if self.compiled else self._torch)(fields, readouts, samples, rates)
        if self.decay.any():
            shrink = torch.from_numpy(np.prod(1 - lr / N * self.decay, axis=0)).to(flat)
            flat = (shrink[:, None, None] * weights).reshape(flat.shape)
        moved = torch.baddbmm(flat, moves.reshape(S, P * K, -1), samples.x, alpha=-(N**0.5))
        return moved.reshape(weights.shape), readouts

    def _compiled(self, fields: Tensor, readouts: Tensor, samples: Samples, rates: Rates) -> State:
        g = self.activation
        coefficients = np.array(g.coefficients if isinstance(g, Polynomial) else (), dtype=float)
        readouts = readouts.clone()
        arrays = (part.numpy() for part in (samples.gram, fields, samples.y, samples.zeta, readouts))
        moves = run_block(KINDS[type(g)], coefficients, *arrays, *rates, self.noise, self.batch)
        return torch.from_numpy(moves), readouts

    def _torch(self, fields: Tensor, readouts: Tensor, samples: Samples, rates: Rates) -> State:
        pair = functions(self.activation, self.device)
        return torch_block(pair, fields, readouts, samples, rates, self.noise, self.batch)


def torch_block(
    pair: Pair,
    fields: Tensor,
    readouts: Tensor,
    samples: Samples,
    rates: Rates,
    noise: Array,
    batch: int,
) -> State:
    r"""The moves $d_j$ (S, P, K, n), shrunk to the end of the block, and the readouts after it.

    Args:
        pair: the activation and its slope.
        fields: at the start of the block, (S, P, K, n); changed.
        readouts: (S, P, K, outputs).
        samples: of the block.
        rates: eta / N and eta_v / N, (steps, P), and kappa, (P,).
        noise: standard deviation of the label noise, (P,).
        batch: samples a step.

    """
    g, slope = pair
    S, P, K, _ = fields.shape
    eta, eta_v, decay = (torch.from_numpy(rate).to(fields) for rate in rates)
    shrink, shrink_v = 1 - eta * decay, 1 - eta_v * decay
    eta, eta_v = eta[:, :, None, None] / batch, eta_v[:, :, None, None] / batch
    shrink, shrink_v = shrink[:, :, None, None], shrink_v[:, :, None, None]
    labels = samples.y[:, None] + torch.from_numpy(noise).to(fields)[:, None, None] * samples.zeta[:, None]
    labels = labels.transpose(2, 3)  # (S, P, outputs, n)
    decays = bool(decay.any())
    moves = torch.zeros_like(fields)
    flat = moves.view(S, P * K, -1)
    for step in range(len(eta)):
        first = step * batch
        now = slice(first, first + batch)
        field = fields[..., now]
        if step > 0:
            field = field - (flat[:, :, :first] @ samples.gram[:, :first, now]).view(S, P, K, batch)
        hidden = g(field)
        difference = readouts.transpose(2, 3) @ hidden - labels[..., now]
        moves[..., now] = eta[step] * slope(field) * (readouts @ difference)
        readouts = shrink_v[step] * readouts - eta_v[step] * (hidden @ difference.transpose(2, 3))
        if decays:
            moves[..., :first] *= shrink[step]
            fields[..., first + batch :] *= shrink[step]
    return moves, readouts
