r"""Problems: what is learned, from what, and how. Theory and simulation both take one; neither knows the other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from gaussequiv.errors import InputError, a_kind, integer, number
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import OrderParameters, TwoLayer
from gaussequiv.models.operator import OperatorModel, product


class Inputs(Protocol):
    """Where a simulation takes its samples from: a generator, a data set (D = 0), or the Gaussian model itself (its twin)."""

    @property
    def latent_dim(self) -> int: ...

    @property
    def input_dim(self) -> int: ...

    def sample(self, n: int, rng: np.random.Generator | int) -> tuple[Array, Array]:
        """Latents (n, D) and inputs (n, N)."""
        ...


Schedule = Callable[[float], float]


@dataclass(frozen=True, eq=False)
class OnlineSGD:
    r"""One-pass stochastic gradient descent of a two-layer student on labels of a two-layer teacher.

    Each step draws `batch_size` fresh samples, with $\Delta = \hat y - y$, $y = \sum_m a_m \tilde g(\nu_m) + \sigma \zeta$, loss
    $\frac12 \Delta^2$, and moves, averaged over the batch,

    $w_k \leftarrow w_k - \frac{\eta}{\sqrt N} v_k g'(\lambda_k) \Delta\, x - \frac{\eta\kappa}{N} w_k$, $\quad$
    $v_k \leftarrow v_k - \frac{\eta_v}{N} (g(\lambda_k) \Delta + \kappa v_k)$,

    the conventions of the official code of arXiv:2006.14709. Time is t = steps / N. With several outputs the loss is
    $\frac12 |\Delta|^2$, summed over them. Inputs and latents are centred by the model's means, unless `center=False`.

    Args:
        model: the Gaussian model of latents and inputs, or an `OperatorModel` where Omega is too large to be held.
        teacher: on the latents (dim D) or, with `teacher_on="inputs"`, on the inputs (dim N).
        student: its initial weights, (K, N), and readout.
        lr: learning rate eta > 0, or a schedule: a function of t.
        lr_readout: learning rate of the readout, or its schedule; `lr` if left out.
        noise: standard deviation sigma of the label noise.
        batch_size: samples per step.
        weight_decay: kappa.
        train_readout: False keeps v fixed.
        teacher_on: "latents" or "inputs".
        center: False trains on inputs, and labels latents, as they come: the local fields then have means.

    Raises:
        InputError: shapes that do not fit, or a rate, noise or decay that is negative or not finite.

    """

    model: GaussianModel | OperatorModel
    teacher: TwoLayer
    student: TwoLayer
    lr: float | Schedule
    lr_readout: float | Schedule | None = field(default=None, kw_only=True)
    noise: float = field(default=0.0, kw_only=True)
    batch_size: int = field(default=1, kw_only=True)
    weight_decay: float = field(default=0.0, kw_only=True)
    train_readout: bool = field(default=True, kw_only=True)
    teacher_on: Literal["latents", "inputs"] = field(default="latents", kw_only=True)
    center: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        models = (GaussianModel, OperatorModel)
        for name, kinds in (("model", models), ("teacher", (TwoLayer,)), ("student", (TwoLayer,))):
            if not isinstance(getattr(self, name), kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise InputError(f"the {name} is {a_kind(getattr(self, name))}; expected a {expected}")
        N, D = self.model.input_dim, self.model.latent_dim
        if self.teacher_on not in ("latents", "inputs"):
            raise InputError(f"teacher_on={self.teacher_on!r}; expected 'latents' or 'inputs'")
        if self.student.dim != N:
            raise InputError(f"the student has {self.student.dim} weights a unit; the model has N={N} inputs")
        require_latents(self.model, self.teacher_on)
        seen = D if self.teacher_on == "latents" else N
        if self.teacher.dim != seen:
            raise InputError(
                f"the teacher has {self.teacher.dim} weights a unit; expected {seen}, the {self.teacher_on}"
            )
        if self.student.readout.shape[1:] != self.teacher.readout.shape[1:]:
            raise InputError(
                f"the readouts have shapes {self.student.readout.shape} and {self.teacher.readout.shape}; expected the "
                "same number of outputs of student and teacher"
            )
        for name in ("train_readout", "center"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r}; expected True or False")
        if not callable(self.lr):
            number("lr", self.lr, positive=True)
        if self.lr_readout is not None and not callable(self.lr_readout):
            number("lr_readout", self.lr_readout)
        self.rates(0.0)
        number("noise", self.noise)
        number("weight_decay", self.weight_decay)
        integer("batch_size", self.batch_size)

    def rates(self, t: float) -> tuple[float, float]:
        """Learning rates (eta, eta_v) of the first layer and of the readout at time t; eta_v = 0 where v is kept fixed.

        Raises:
            InputError: a schedule fails, or returns something that is no finite number of at least 0.

        """
        eta = _rate("lr", self.lr, t)
        if not self.train_readout:
            return eta, 0.0
        return eta, eta if self.lr_readout is None else _rate("lr_readout", self.lr_readout, t)

    @property
    def scheduled(self) -> bool:
        """Whether a learning rate depends on time."""
        return callable(self.lr) or (self.train_readout and callable(self.lr_readout))

    @property
    def input_mean(self) -> Array:
        """E x as the student sees it, (N,): zero where inputs are centred."""
        return np.zeros(self.model.input_dim) if self.center else self.model.mean_x

    @property
    def teacher_mean(self) -> Array:
        r"""$E\nu$, (M,): zero where inputs and latents are centred."""
        mean = self.model.mean_c if self.teacher_on == "latents" else self.model.mean_x
        return np.zeros(self.teacher.units) if self.center else self.teacher.local_fields(mean)

    @property
    def covariance_with_teacher(self) -> Array:
        r"""$E[x \nu^T]$, (N, M): $\Phi B^T / \sqrt D$ for a teacher on the latents, $\Omega B^T / \sqrt N$ on the inputs."""
        B, source = self.teacher.weights, self.model.Phi if self.teacher_on == "latents" else self.model.Omega
        return product(source, B.T) / np.sqrt(self.teacher.dim)

    @property
    def teacher_overlap(self) -> Array:
        r"""$T = \mathrm{Cov}(\nu, \nu)$, (M, M)."""
        B, covariance = self.teacher.weights, self.model.Psi if self.teacher_on == "latents" else self.model.Omega
        T = B @ product(covariance, B.T) / self.teacher.dim
        return np.asarray(T + T.T) / 2

    def describe(self) -> dict[str, Any]:
        """The problem in plain values, for provenance."""
        return {
            "model": repr(self.model),
            "N": self.model.input_dim,
            "D": self.model.latent_dim,
            "K": self.student.units,
            "M": self.teacher.units,
            "student": str(self.student.activation),
            "teacher": str(self.teacher.activation),
            "lr": _described(self.lr),
            "lr_readout": _described(self.lr if self.lr_readout is None else self.lr_readout)
            if self.train_readout
            else 0.0,
            "noise": self.noise,
            "batch_size": self.batch_size,
            "weight_decay": self.weight_decay,
            "teacher_on": self.teacher_on,
            "center": self.center,
        }

    def order_parameters(self, weights: Array, readout: Array) -> OrderParameters:
        r"""$Q = W \Omega W^T / N$, $R = W E[x \nu^T] / \sqrt N$, T and means, for weights (..., K, N), readouts (..., K)."""
        N = self.model.input_dim
        transposed = np.swapaxes(weights, -1, -2)
        correlated = product(self.model.Omega, weights.reshape(-1, N).T).T  # one product: Omega is read once
        return OrderParameters(
            Q=correlated.reshape(weights.shape) @ transposed / N,
            R=weights @ self.covariance_with_teacher / np.sqrt(N),
            T=self.teacher_overlap,
            v=readout,
            a=self.teacher.readout,
            student_mean=weights @ self.input_mean / np.sqrt(N),
            teacher_mean=self.teacher_mean,
        )


def require_latents(model: GaussianModel | OperatorModel, teacher_on: str) -> None:
    """Refuse a teacher on latents that are unknown."""
    if teacher_on == "latents" and model.latent_dim == 0:
        raise InputError(
            "the latents are unknown (D=0), as those of a data set, so no teacher looks at them; pass teacher_on='inputs' and "
            f"a teacher on the N={model.input_dim} inputs"
        )


def checked_problem(problem: object) -> OnlineSGD:
    """The problem as it is, or an `InputError` for anything else."""
    if not isinstance(problem, OnlineSGD):
        raise InputError(f"a {type(problem).__name__} is no problem; expected an OnlineSGD")
    return problem


def _rate(name: str, rate: "float | Schedule", t: float) -> float:
    if not callable(rate):
        return float(rate)
    try:
        value = float(rate(t))
    except Exception as error:  # whatever a user's schedule may raise
        raise InputError(
            f"the schedule {name} fails at t = {t:g} ({error}); expected a function of one number"
        ) from error
    if not (np.isfinite(value) and value >= 0):
        raise InputError(f"the schedule {name} returned {value} at t = {t:g}; expected a finite number, at least 0")
    return value


def _described(rate: "float | Schedule") -> float | str:
    return getattr(rate, "__name__", "schedule") if callable(rate) else float(rate)


def log_times(end: float, points: int = 60, start: float = 0.1) -> Array:
    """0 and `points` log-spaced times from `start` to `end`, in units of steps / N."""
    points = integer("points", points, least=2)
    if not number("start", start, positive=True) < number("end", end, positive=True):
        raise InputError(f"times from {start} to {end} were asked for; expected 0 < start < end")
    return np.concatenate([[0.0], np.geomspace(start, end, points)])


def checked_times(times: object) -> Array:
    """Times as a one-dimensional array, increasing and not negative, or an `InputError`."""
    try:
        t = np.atleast_1d(np.array(times, dtype=float))
    except (TypeError, ValueError):
        t = np.zeros(0)
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all() or t[0] < 0 or np.any(np.diff(t) <= 0):
        raise InputError("times must be finite, at least 0 and strictly increasing, such as log_times(100)")
    return t
