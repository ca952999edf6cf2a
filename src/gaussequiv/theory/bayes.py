r"""The least error of all: the Bayes-optimal one, for a teacher with standard normal weights."""

from typing import Any

import numpy as np
from scipy.optimize import brentq

from gaussequiv.errors import InputError, a_kind, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.losses import Labels, LogitLabels, SignLabels, panels
from gaussequiv.maths.solvers import Status
from gaussequiv.models.batch import checked_grid
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.teachers import checked_output

NOTHING = 1e-60  # variance that stands for none
ROUNDING = 1e-13  # part of the field that the inputs may seem not to see
FAR = 100.0  # the largest logarithm of q_hat, either way


def bayes_optimal(model: GaussianModel, alpha: Any, output: str = "linear", noise: float = 0.0) -> Curve:
    r"""The error of the posterior mean of $\nu = \theta \cdot c / \sqrt D$, $\theta \sim N(0, I_D)$, given n = alpha N samples.

    With h the eigenvalues of $(N / D)\, \Omega^{-1/2} \Phi \Phi^T \Omega^{-1/2}$,

    $q = \mathrm{mean}\, \hat q h^2 / (1 + \hat q h)$, $\quad \hat q = \alpha / (\sigma^2 + \rho - q)$ for real labels,
    $\hat q = \alpha E_\xi \sum_y (\partial_w Z_0)^2 / Z_0$ for others, $Z_0 = P(y | w = \sqrt q \xi)$ with variance
    $\rho - q$ around w, $\rho = \mathrm{tr}\, \Psi / D$.

    No estimator has a smaller error on average over theta; one teacher may be easier or harder.

    Args:
        model: the Gaussian model; Psi = I.
        alpha: n / N, increasing.
        output: linear, sign, logit or probit, as in `Perceptron`.
        noise: sigma.

    Returns:
        A curve with `test_error` against the noisy label, and q.

    Raises:
        InputError: a grid or an output that is none, or Psi that is not the identity.

    """
    if not isinstance(model, GaussianModel):
        raise InputError(f"the model is {a_kind(model)}; expected a GaussianModel")
    alphas, output = checked_grid("alpha", alpha, positive=True), checked_output(output)
    variance = number("noise", noise) ** 2 + (1.0 if output == "probit" else 0.0)
    if model.latent_dim == 0:
        raise InputError("the Bayes-optimal error is that of a teacher on the latents, and they are unknown (D=0)")
    if not np.allclose(model.Psi, np.eye(model.latent_dim), atol=1e-8):
        raise InputError("the Bayes-optimal error is that of standard normal latents; expected Psi = I")
    h = _seen(model)
    q, rest = np.array([_overlap(h, float(a), output, variance) for a in alphas]).T
    if output == "linear":
        errors = variance + rest
    else:
        errors = np.array([float(_labels(*state, output, variance).error()[0]) for state in zip(q, rest, strict=True)])
    provenance = {
        "kind": "theory",
        "problem": {"problem": "Bayes-optimal", "model": repr(model), "output": output, "noise": float(noise)},
    }
    return Curve.on_grid(
        {"alpha": alphas}, {"test_error": errors, "q": q}, np.full(len(alphas), Status.OK, dtype=object), provenance
    )


def _seen(model: GaussianModel) -> Array:
    """Eigenvalues h, (N,), of what the inputs see of the latents; their mean is at most one."""
    rho, E = model.eigenmodes
    there = rho > len(rho) * np.finfo(float).eps * rho[-1]
    whitened = (E[:, there] / np.sqrt(rho[there])).T @ model.Phi
    h = np.linalg.svd(whitened, compute_uv=False) ** 2 * model.input_dim / model.latent_dim
    return np.concatenate([h, np.zeros(model.input_dim - len(h))])


def _labels(q: float, rest: float, output: str, variance: float) -> Labels:
    speed, spread = np.array([np.sqrt(max(q, NOTHING))]), np.array([np.sqrt(max(variance + rest, NOTHING))])
    return LogitLabels(speed, spread) if output == "logit" else SignLabels(speed, speed / spread)


def _overlap(h: Array, alpha: float, output: str, variance: float) -> tuple[float, float]:
    r"""The overlap q and its rest $\rho - q$ of one alpha, without cancellation: the root of an equation for $\log \hat q$."""
    hidden = max(0.0, 1 - float(h.mean()))
    hidden = hidden if hidden > ROUNDING else 0.0

    def state(log_q_hat: float) -> tuple[float, float]:
        odds = 1 / (1 + np.exp(log_q_hat) * h)
        return float(np.mean((1 - odds) * h)), hidden + float(np.mean(odds * h))

    def excess(log_q_hat: float) -> float:
        q, rest = state(log_q_hat)
        if output == "linear":
            return float(np.log(alpha / max(variance + rest, NOTHING)) - log_q_hat)
        labels = _labels(q, rest, output, variance)
        xi, weights = panels(labels, [], 2)
        up, slope = labels.weight(xi) / 2, labels.tilt(xi) / 2  # of y = 1; y = -1 is its mirror image
        with np.errstate(all="ignore"):
            terms = np.where(up > 1e-300, slope**2 / up, 0.0)
        return float(np.log(2 * alpha * np.sum(weights * terms)) - log_q_hat)

    low, high = -FAR, FAR
    if excess(high) >= 0:  # nothing is left to learn
        return state(high)
    return state(float(brentq(excess, low, high, xtol=1e-14, rtol=8.9e-16)))
