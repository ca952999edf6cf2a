r"""The least error of all: the Bayes-optimal one, for a teacher with standard normal weights."""

from typing import Any

import numpy as np
from scipy.optimize import brentq

from gaussequiv.errors import InputError, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.losses import Labels, LogitLabels, SignLabels, panels
from gaussequiv.maths.solvers import Status
from gaussequiv.models.batch import checked_grid
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.teachers import checked_output

TOLERANCE = 1e-14


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
        raise InputError(f"the model is a {type(model).__name__}; expected a GaussianModel")
    alphas, output = checked_grid("alpha", alpha, positive=True), checked_output(output)
    variance = number("noise", noise) ** 2 + (1.0 if output == "probit" else 0.0)
    if not np.allclose(model.Psi, np.eye(model.latent_dim), atol=1e-8):
        raise InputError("the Bayes-optimal error is that of standard normal latents; expected Psi = I")
    h = _seen(model)
    q = np.array([_overlap(h, float(a), output, variance) for a in alphas])
    if output == "linear":
        errors = variance + 1 - q
    else:
        errors = np.array([float(_labels(value, output, variance).error()[0]) for value in q])
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


def _labels(q: float, output: str, variance: float) -> Labels:
    spread = np.array([np.sqrt(max(1 + variance - q, TOLERANCE))])
    speed = np.array([np.sqrt(q)])
    return LogitLabels(speed, spread) if output == "logit" else SignLabels(speed, speed / spread)


def _overlap(h: Array, alpha: float, output: str, variance: float) -> float:
    """The q of one alpha: the root of its equation between 0 and mean h."""

    def excess(q: float) -> float:
        if output == "linear":
            q_hat = alpha / (variance + 1 - q)
        else:
            labels = _labels(max(q, TOLERANCE), output, variance)
            xi, weights = panels(labels, [], 2)
            up, slope = labels.weight(xi) / 2, labels.tilt(xi) / 2  # of y = 1; y = -1 is its mirror image
            with np.errstate(all="ignore"):
                terms = np.where(up > 1e-300, slope**2 / up, 0.0)
            q_hat = 2 * alpha * float(np.sum(weights * terms))
        return float(np.mean(q_hat * h**2 / (1 + q_hat * h)) - q)

    top = float(h.mean())
    if excess(top * (1 - 1e-12)) >= 0:  # nothing is left to learn
        return top * (1 - 1e-12)
    return float(brentq(excess, 0.0, top * (1 - 1e-12), xtol=1e-15, rtol=8.9e-16))
