r"""SGD steps of many students on the same samples: compiled step by step (`compiled`), or in torch block by block.

In torch the first layer is touched once, at the end of a block. The fields of a later sample follow from those at the start
of the block and the Gram matrix of its inputs,

$\lambda_i = \frac{W_0 x_i}{\sqrt N} - \sum_{j < i} d_j\, x_j \cdot x_i$, $\quad$
$d_j = \frac{\eta}{N b}\, g'(\lambda_j) \odot (v \Delta_j)$, $\quad$ $W = W_0 - \sqrt N \sum_j d_j x_j^T$,

where weight decay shrinks $W_0$ and the earlier $d_j$ at every step. This is the same SGD, step by step, with large matrix
products instead of many small ones. The Gram matrix does not depend on the student.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gaussequiv.maths.activations import Activation
from gaussequiv.maths.compiled import COMPILED
from gaussequiv.simulation.compiled import KINDS, Array, coefficients_of, run_steps
from gaussequiv.simulation.functions import Pair, functions

Rates = tuple[Array, Array, Array]
State = tuple[Tensor, Tensor]  # weights (S, P, K, N) and readouts (S, P, K, outputs) of S seeds and P students


@dataclass(frozen=True)
class Samples:
    """A part of a chunk: inputs (S, n, N), noiseless labels and unit label noise (S, n, outputs), from `first` to `last`."""

    chunk: tuple[Tensor, Tensor, Tensor]
    first: int
    last: int

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and noise of the part."""
        x, y, zeta = (array[:, self.first : self.last] for array in self.chunk)
        return x, y, zeta

    @cached_property
    def gram(self) -> Tensor:
        """The Gram matrix of the inputs, (S, n, n): the same for all students."""
        x = self.parts[0]
        return x @ x.transpose(1, 2)


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
        N = state[0].shape[-1]
        rates = (lr / N, lr_readout / N, self.decay)
        return self._steps(state, samples, rates) if self.compiled else self._block(state, samples, rates)

    def _steps(self, state: State, samples: Samples, rates: Rates) -> State:
        """One step after the other, compiled."""
        g = self.activation
        coefficients = coefficients_of(g)
        weights, readouts = (part.clone() for part in state)
        x, y, zeta = (part.numpy() for part in samples.chunk)
        changed = (weights.numpy(), readouts.numpy())
        run_steps(KINDS[type(g)], coefficients, x, y, zeta, samples.first, *changed, *rates, self.noise, self.batch)
        return weights, readouts

    def _block(self, state: State, samples: Samples, rates: Rates) -> State:
        """All steps at once, in torch."""
        (weights, readouts), x = state, samples.parts[0]
        S, P, K, N = weights.shape
        flat = weights.reshape(S, P * K, N)
        fields = (flat @ x.transpose(1, 2)).mul_(N**-0.5).reshape(S, P, K, -1)
        pair = functions(self.activation, self.device)
        moves, readouts = torch_block(pair, fields, readouts, samples, rates, self.noise, self.batch)
        if self.decay.any():
            shrink = torch.from_numpy(np.prod(1 - rates[0] * self.decay, axis=0)).to(flat)
            flat = (shrink[:, None, None] * weights).reshape(flat.shape)
        moved = torch.baddbmm(flat, moves.reshape(flat.shape[:2] + x.shape[1:2]), x, alpha=-(N**0.5))
        return moved.reshape(weights.shape), readouts


def torch_block(
    pair: Pair,
    fields: Tensor,
    readouts: Tensor,
    samples: Samples,
    rates: Rates,
    noise: Array,
    batch: int,
) -> State:
    r"""The moves $d_j$ (S P, K, n), shrunk to the end of the block, and the readouts after it.

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
    S, P, K, n = fields.shape
    lanes = S * P
    eta, eta_v, decay = (torch.from_numpy(rate).to(fields).repeat(1, S)[..., None, None] for rate in rates)
    shrink, shrink_v = 1 - eta * decay, 1 - eta_v * decay
    eta, eta_v = eta / batch, eta_v / batch
    _, y, zeta = samples.parts
    labels = y[:, None] + torch.from_numpy(noise).to(fields)[:, None, None] * zeta[:, None]
    labels = -labels.transpose(2, 3).reshape(lanes, -1, n)
    v = readouts.reshape(lanes, K, -1)
    decays = bool(decay.any())
    moves = torch.zeros(lanes, K, n, dtype=fields.dtype, device=fields.device)
    fields, shared = fields.reshape(S, P * K, n), moves.view(S, P * K, n)  # the Gram matrix is that of all of a seed
    for step in range(len(eta)):
        first = step * batch
        now = slice(first, first + batch)
        field = fields[..., now]
        if step > 0:
            field = torch.baddbmm(field, shared[..., :first], samples.gram[:, :first, now], alpha=-1)
        field = field.reshape(lanes, K, batch)
        hidden = g(field)
        difference = torch.baddbmm(labels[..., now], v.transpose(1, 2), hidden)
        torch.mul(eta[step] * slope(field), v @ difference, out=moves[..., now])
        gradient = hidden @ difference.transpose(1, 2)
        v = torch.addcmul(shrink_v[step] * v if decays else v, eta_v[step], gradient, value=-1)
        if decays:
            moves[..., :first] *= shrink[step]
            fields.view(lanes, K, n)[..., first + batch :] *= shrink[step]
    return moves, v.reshape(readouts.shape)
