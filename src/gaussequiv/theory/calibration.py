r"""Calibration: how sure a classifier is, against how often it is right."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.maths.losses import REACH, Labels, LogitLabels, SignLabels, panels
from gaussequiv.models.batch import checked_grid
from gaussequiv.theory import batch

if TYPE_CHECKING:
    import xarray as xr

LEVELS = np.concatenate([np.arange(0.5, 0.95, 0.05)[1:], [0.95, 0.99]])
NEAR = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])  # ends of panels in units of the output


def calibration(problem: batch.Problem, grid: Any, penalty: Any = None, levels: Any = None) -> "xr.Dataset":
    r"""Accuracy at given confidence, of a classifier that reads $p = 1 / (1 + e^{-\hat y})$ as the probability of y = 1.

    $P(y = 1 | \hat y)$ with $\nu | \hat y \sim N(m \hat y / q, \rho - m^2 / q)$ at $\hat y = \log p / (1 - p)$.

    Args:
        problem: a `FullBatch` or `Kernel` with labels +1 and -1.
        grid: alpha, or n for a kernel, as in `predict`.
        penalty: as in `predict`.
        levels: confidences between 1/2 and 1, increasing.

    Returns:
        An `xarray.Dataset` over the axes of the curve: `accuracy` with the further axis `confidence`; `mean_confidence`
        $E \max(p, 1 - p)$, `test_error`, and `overconfidence` = mean confidence - (1 - test error), which is 0 where the
        classifier is as right as it is sure.

    Raises:
        InputError: real labels, or levels that are none.

    """
    import xarray as xr

    if problem.output == "linear":
        raise InputError("calibration is that of labels +1 and -1; expected the output sign, logit or probit")
    p = checked_grid("levels", LEVELS if levels is None else levels, positive=True)
    if p[0] < 0.5 or p[-1] >= 1:
        raise InputError(f"levels from {p[0]:g} to {p[-1]:g}; confidences lie between 0.5 and 1")
    curve = batch.predict(problem, grid, penalty)
    q, m = (curve.data[name].values for name in "qm")
    speed, spread = _speed(problem, q.ravel(), m.ravel())
    labels: Labels = LogitLabels(speed, spread) if problem.output == "logit" else SignLabels(speed, speed / spread)
    xi = np.log(p / (1 - p)) / np.sqrt(q.ravel())[:, None]
    accuracy = labels.weight(xi).reshape(*q.shape, len(p)) / 2
    sure = _sureness(np.sqrt(q.ravel())).reshape(q.shape)
    dims = curve.axes
    variables = {
        "accuracy": ((*dims, "confidence"), accuracy),
        "mean_confidence": (dims, sure),
        "test_error": (dims, curve.test_error),
        "overconfidence": (dims, sure - 1 + curve.test_error),
    }
    coordinates = {name: curve.data[name] for name in curve.data.coords}
    return xr.Dataset(variables, coords={**coordinates, "confidence": p})


def _sureness(scale: Array) -> Array:
    r"""$E\, 1 / (1 + e^{-|s \xi|})$ for scales s (points,), NaN where they are."""
    known = np.isfinite(scale)
    s = np.where(known, scale, 1.0)[:, None]
    ends = [np.clip(sign * x / s, -REACH, REACH) for x in NEAR for sign in (-1, 1)]
    xi, weights = panels(None, [np.zeros_like(s), *ends], 1)
    return np.where(known, np.sum(weights * expit(s * np.abs(xi)), axis=-1), np.nan)


def _speed(problem: batch.Problem, q: Array, m: Array) -> tuple[Array, Array]:
    """Slope and spread of the teacher's field given the student's standardised one."""
    total = problem.resolvents.total
    with np.errstate(invalid="ignore"):
        speed = m / np.sqrt(q)
        return speed, np.sqrt(np.maximum(total - speed**2, 1e-14 * total))
