"""Families of weights: random ones, and those that are aligned with a generator, where fields may not be Gaussian."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import hadamard

from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.streams import Purpose, stream

LANE = 9  # of the streams of weights
FELT = 1e-9  # of the response to the latents, below which an input has none

Weights = Array | tuple[Array, Array]  # of a student, or of a student and its teacher


def families(model: GaussianModel, units: int = 2, seed: int = 0) -> dict[str, Weights]:
    r"""Students' weights that may be aligned with a generator, (units, N) each, of the length of random ones.

    "random"; "ones", all equal, and for more units with signs of Walsh functions; "top", the leading eigenvectors of Omega;
    "columns" of $\Phi = E[x c^T]$, the response to single latents (of F itself for a single layer); "sparse", one to four
    inputs only; "rows", a pair (student, teacher): teachers are rows of Phi, students look at the same inputs with half of their
    variance. Columns and rows are those that are not zero, where there are as many.
    """
    if not isinstance(model, GaussianModel):
        raise InputError(f"the model is {a_kind(model)}; expected a GaussianModel")
    N, D, units = model.input_dim, model.latent_dim, integer("units", units)
    if units > N:
        raise InputError(f"{units} units for {N} inputs; expected at most as many")
    rng = stream(seed, Purpose.WEIGHTS, lane=LANE)
    values, vectors = model.eigenmodes
    order = np.argsort(values)[::-1]
    found = {
        "random": rng.standard_normal((units, N)),
        "ones": hadamard(2 ** int(np.ceil(np.log2(N))), dtype=np.int8)[:units, :N].astype(float),
        "top": vectors[:, order[:units]].T,
    }
    if units <= D:
        columns = model.Phi[:, rng.choice(D, units, replace=False)].T
        if columns.any(axis=1).all():
            found["columns"] = columns
    felt = np.flatnonzero(np.linalg.norm(model.Phi, axis=1) > FELT * np.linalg.norm(model.Phi))
    sparse = np.zeros((units, N))
    for unit in range(units):
        sparse[unit, rng.choice(N, min(1 + unit % 4, N), replace=False)] = 1.0
    found["sparse"] = sparse
    scaled: dict[str, Weights] = {name: _scaled(W) for name, W in found.items()}
    if len(felt) >= units:
        chosen = rng.choice(felt, units, replace=False)
        spikes = np.zeros((units, N))
        spikes[np.arange(units), chosen] = np.sqrt(N)
        scaled["rows"] = _scaled(spikes + rng.standard_normal((units, N))), _scaled(model.Phi[chosen])
    return scaled


def _scaled(rows: Array) -> Array:
    """Rows of the length of random ones."""
    return np.asarray(np.sqrt(rows.shape[1]) * rows / np.linalg.norm(rows, axis=1, keepdims=True))


def networks(weights: Mapping[str, Weights], student: TwoLayer, teacher: TwoLayer) -> dict[str, Any]:
    """The families of weights as networks with the readouts and the activations of others.

    Those of the teacher of a pair are ones.
    """
    found: dict[str, Any] = {}
    for name, given in weights.items():
        W, B = given if isinstance(given, tuple) else (given, None)
        found[name] = TwoLayer(W, student.readout, student.activation)
        if B is not None:
            readout = np.ones((len(B), *teacher.readout.shape[1:]))
            found[name] = found[name], TwoLayer(B, readout, teacher.activation)
    return found
