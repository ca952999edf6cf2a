"""The error of a student that is read as a classifier: by the sign of its output, or by the largest of several."""

from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from gaussequiv.errors import InputError, integer
from gaussequiv.maths.averages import Array
from gaussequiv.models.curves import Curve
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD, checked_problem

SCRAMBLINGS = 16  # independent ones, from whose spread the standard error comes


def classification_error(curve: Curve, problem: OnlineSGD, *, samples: int = 2**14, seed: int = 0) -> Curve:
    r"""A curve with the `classification_error` $P(\mathrm{sign}\, \hat y \ne \mathrm{sign}\, y)$ and its standard error.

    y is the noiseless teacher; the sign of zero is neither. Several outputs are compared by the largest of them.
    The fields (lambda, nu) are Gaussian with the curve's Q, R, T: scrambled Sobol points, the same ones at all times, are
    mapped through the root of their covariance, which may be singular.

    Args:
        curve: of the problem, predicted; a simulation measures its own.
        problem: what it is the curve of.
        samples: points at every time, a power of two of at least 32.
        seed: of the scramblings.

    Raises:
        InputError: a curve of another problem, or an argument out of range.

    """
    if integer("samples", samples, least=2 * SCRAMBLINGS) & (samples - 1):
        raise InputError(f"samples={samples}; expected a power of two, such as {2 ** int(np.log2(samples))}")
    _require_same(curve, checked_problem(problem))
    points = _points(problem.student.units + problem.teacher.units, samples, seed)
    Q, R, T, v = (curve.data[name].values for name in ("Q", "R", "T", "v"))
    K = problem.student.units
    means = np.zeros((len(Q), K)) if problem.center else curve.data["means"].values
    rates = np.full((len(Q), SCRAMBLINGS), np.nan)
    finite = (np.isfinite(x.reshape(len(x), -1)).all(axis=1) for x in (Q, R, v))
    for at in np.flatnonzero(np.logical_and.reduce(list(finite))):
        root = _root(np.block([[Q[at], R[at]], [R[at].T, T]]))
        fields = points @ root.T + np.concatenate([means[at], problem.teacher_mean])
        student = _labels(problem.student, fields[..., :K], v[at])
        teacher = _labels(problem.teacher, fields[..., K:], problem.teacher.readout)
        rates[at] = np.mean(student != teacher, axis=-1)
    error = rates.std(axis=1, ddof=1) / np.sqrt(SCRAMBLINGS)
    found = {"classification_error": rates.mean(axis=1), "classification_error_se": error}
    return Curve(curve.data.assign({name: (("time",), values) for name, values in found.items()}))


def _points(dim: int, samples: int, seed: int) -> Array:
    """Standard normal points, (scramblings, samples / scramblings, dim)."""
    streams = np.random.SeedSequence(integer("seed", seed, least=0)).spawn(SCRAMBLINGS)
    count = samples // SCRAMBLINGS
    uniform = [qmc.Sobol(dim, seed=np.random.default_rng(s)).random(count) for s in streams]
    tiny = np.finfo(float).eps
    return np.asarray(ndtri(np.clip(uniform, tiny, 1 - tiny)))


def _root(covariance: Array) -> Array:
    """A root of a positive semi-definite matrix, the largest direction first: there the points are most even."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0))


def _labels(network: TwoLayer, fields: Array, readout: Array) -> np.ndarray[Any, np.dtype[Any]]:
    """Which class a network chooses at local fields (..., units): the sign of one output, the largest of several."""
    outputs = network.activation(fields) @ readout.reshape(network.units, -1)  # type: ignore[operator]
    return np.sign(outputs[..., 0]) if outputs.shape[-1] == 1 else np.argmax(outputs, axis=-1)


def _require_same(curve: Curve, problem: OnlineSGD) -> None:
    """Refuse a curve whose overlaps cannot be those of the problem."""
    K, M = problem.student.units, problem.teacher.units
    if isinstance(curve, Curve) and curve.provenance.get("kind") == "simulation":
        raise InputError(
            "this is the curve of a simulation, which measured its classification error; pass a predicted curve"
        )
    if not isinstance(curve, Curve) or curve.data["R"].shape[1:] != (K, M):
        found = f"(times, {', '.join(map(str, curve.data['R'].shape[1:]))})" if isinstance(curve, Curve) else "no curve"
        raise InputError(
            f"the overlaps R have the shape {found}; expected (times, {K}, {M}), pass a curve of this problem"
        )
    if curve.data["v"].shape[1:] != problem.student.readout.shape or not np.allclose(
        curve.data["T"], problem.teacher_overlap
    ):
        raise InputError("the curve's v or T are not those of the problem; pass the problem that it is the curve of")
    if not problem.center and "means" not in curve.data:
        raise InputError(
            "the curve has no means of the fields, which inputs that are not centred need; predict it anew"
        )
