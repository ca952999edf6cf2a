r"""Whose fields are looked at: a student and a teacher, what they get wrong, and what that would be for Gaussian fields.

Fields $u = (\lambda, \nu)$ of K student and M teacher units, all of mean zero, with covariance C (L x L, L = K + M). Each kind of
learner has functionals of the fields, of which the first is its error,

    two layers       1/2 |y_hat - y|^2; then the drift of SGD, (v_k . Delta) g'(lambda_k) u_a for all k, a and g(lambda_k) Delta
    a single score   (y - lambda)^2, or the probability that sign(lambda) is not the label; y of a perceptron or of two layers

and their averages over N(0, C), from the closed forms of `maths` or by quadrature. Nothing here knows how a training goes.
"""

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit, ndtr

from gaussequiv.errors import InputError, a_kind, detached
from gaussequiv.maths import quadruples
from gaussequiv.maths.activations import Linear
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.teachers import Perceptron

MOST = 32  # fields
TOLERANCE = 1e-8  # of averages that are integrated
NODES = 400  # of the average over a teacher's field
TINY, STEEP = 1e-12, 1e-3  # a change of the argument, and of an activation that jumps there


@dataclass(frozen=True)
class Learner(abc.ABC):
    """A student W (K, N) and a teacher B (M, D), or (M, N) if it looks at the inputs; either may be absent, with no rows."""

    student: Array
    teacher: Array
    on_inputs: bool

    @property
    def fields(self) -> int:
        """L = K + M."""
        return len(self.student) + len(self.teacher)

    @property
    def scaled(self) -> tuple[Array, Array]:
        r"""$W / \sqrt N$ and the teacher's $B / \sqrt D$, or $B / \sqrt N$."""
        W, B = (rows / np.sqrt(max(rows.shape[1], 1)) for rows in (self.student, self.teacher))
        return W, B

    def local_fields(self, latents: Array, inputs: Array) -> Array:
        """Fields (n, L) of centred latents (n, D) and inputs (n, N)."""
        W, B = self.scaled
        return np.concatenate([inputs @ W.T, (inputs if self.on_inputs else latents) @ B.T], axis=1)

    def covariance(self, model: GaussianModel) -> Array:
        """C of a Gaussian model, (L, L)."""
        W, B = self.scaled
        cross, own = (model.Omega, model.Omega) if self.on_inputs else (model.Phi, model.Psi)
        Q, R, T = W @ model.Omega @ W.T, W @ cross @ B.T, B @ own @ B.T
        return np.block([[Q, R], [R.T, T]])

    @property
    def first_layer(self) -> int:
        """How many of the drifts are those of the first layer."""
        return len(self.student) * self.fields

    @property
    def quadratic(self) -> bool:
        """Whether the error sees nothing but means and covariances."""
        return False

    def shift(self, model: GaussianModel, other: GaussianModel) -> Array:
        """The means of the fields of another model, where those of this one are zero, (L,)."""
        W, B = self.scaled
        x, c = other.mean_x - model.mean_x, other.mean_c - model.mean_c
        return np.concatenate([W @ x, B @ (x if self.on_inputs else c)])

    def scale(self, C: Array) -> float:
        """The size that the error has if student and teacher have nothing in common."""
        return 1.0

    @property
    def step(self) -> float:
        """The error of a sample on which one label or one unit jumps, which it seldom does where all is learned; 0 if none."""
        return 0.0

    def functionals(self, u: Array) -> Array:
        """Of fields (n, L): (n, p), none if nothing is known of the learner but its weights."""
        return np.zeros((len(u), 0))

    def gaussian(self, C: Array) -> Array:
        """Their averages over N(0, C), (p,)."""
        return np.zeros(0)

    @property
    def what(self) -> str:
        """The name of its error, "" if there is none."""
        return ""


@dataclass(frozen=True)
class Fields(Learner):
    """Weights alone."""


@dataclass(frozen=True)
class Network(Learner):
    """A two-layer student of a two-layer teacher."""

    networks: tuple[TwoLayer, TwoLayer]

    @cached_property
    def drifts(self) -> bool:
        """Whether the drift has its averages: both activations have a slope."""
        try:
            for network in self.networks:
                network.activation.derivative(np.zeros(1))  # type: ignore[union-attr]
        except InputError:
            return False
        return True

    @cached_property
    def _averages(self) -> quadruples.Averages:
        student, teacher = (network.activation for network in self.networks)
        return quadruples.averages(student, teacher, len(self.student), centred=True, tolerance=TOLERANCE)  # type: ignore[arg-type]

    @property
    def what(self) -> str:
        return "prediction error"

    @property
    def quadratic(self) -> bool:
        return all(isinstance(network.activation, Linear) for network in self.networks)

    @property
    def step(self) -> float:
        jumps = [
            2 * np.abs(network.readout).max()
            for network in self.networks
            if np.ptp(network.activation(np.array([-TINY, TINY]))) > STEEP  # type: ignore[operator]
        ]
        return float(max(jumps, default=0.0) ** 2 / 2)

    @property
    def _readouts(self) -> tuple[Array, Array]:
        """The readouts v (K, outputs), and the signed readout s = (v, -a), (L, outputs)."""
        v, a = (network.readout.reshape(network.units, -1) for network in self.networks)
        return v, np.concatenate([v, -a])

    def scale(self, C: Array) -> float:
        K, (_, s) = len(self.student), self._readouts
        products = self._averages.products(C)
        own, others = (np.einsum("ao,ab,bo->", s[i], products[i, i], s[i]) for i in (slice(0, K), slice(K, None)))
        return float(own + others) / 2

    def functionals(self, u: Array) -> Array:
        K = len(self.student)
        (v, s), (student, teacher) = self._readouts, (network.activation for network in self.networks)
        outputs = np.concatenate([student(u[:, :K]), teacher(u[:, K:])], axis=1)  # type: ignore[operator]
        delta = outputs @ s
        error = (delta**2).sum(axis=1, keepdims=True) / 2
        if not self.drifts:
            return error
        gradient = student.derivative(u[:, :K]) * (delta @ v.T)  # type: ignore[union-attr]
        first = (gradient[:, :, None] * u[:, None, :]).reshape(len(u), -1)
        second = (outputs[:, :K, None] * delta[:, None, :]).reshape(len(u), -1)
        return np.concatenate([error, first, second], axis=1)

    def gaussian(self, C: Array) -> Array:
        K, (v, s) = len(self.student), self._readouts
        if not self.drifts:
            return np.array([np.einsum("ao,ab,bo->", s, self._averages.products(C), s) / 2])
        pairs = self._averages.pairs(C)
        S = v @ s.T  # (K, L)
        first = (S * pairs.slopes) @ C + np.sum(S * pairs.bend, axis=1)[:, None] * C[:K]
        error = np.einsum("ao,ab,bo->", s, pairs.product, s) / 2
        return np.concatenate([[error], first.ravel(), (pairs.product[:K] @ s).ravel()])


@dataclass(frozen=True)
class Regression(Network):
    """A generalised linear student, one field, of a two-layer teacher: the square error, and no drift."""

    drifts = False

    @property
    def what(self) -> str:
        return "square error"

    def scale(self, C: Array) -> float:
        return 2 * super().scale(C)

    @property
    def step(self) -> float:
        return 2 * super().step

    def functionals(self, u: Array) -> Array:
        return 2 * super().functionals(u)

    def gaussian(self, C: Array) -> Array:
        return 2 * super().gaussian(C)


@dataclass(frozen=True)
class Score(Learner):
    """A generalised linear student, one field, of a `Perceptron`."""

    perceptron: Perceptron

    @property
    def what(self) -> str:
        return "square error" if self.perceptron.output == "linear" else "classification error"

    @property
    def quadratic(self) -> bool:
        return self.perceptron.output == "linear"

    @property
    def step(self) -> float:
        return 1.0

    def _positive(self, nu: Array) -> Array:
        """P(y = 1 | nu)."""
        noise, output = self.perceptron.noise, self.perceptron.output
        if output == "probit" or (output == "sign" and noise):
            return np.asarray(ndtr(nu / np.sqrt(noise**2 + (output == "probit"))))
        if output == "sign":
            return np.asarray(np.heaviside(nu, 0.5))
        if not noise:
            return np.asarray(expit(nu))
        z, w = np.polynomial.hermite_e.hermegauss(64)
        return np.asarray(expit(nu[..., None] + noise * z) @ w / np.sqrt(2 * np.pi))

    def functionals(self, u: Array) -> Array:
        score, nu = u[:, 0], u[:, 1]
        if self.perceptron.output == "linear":
            return ((nu - score) ** 2 + self.perceptron.noise**2)[:, None]
        positive = self._positive(nu)
        return np.where(score > 0, 1 - positive, positive)[:, None]

    def gaussian(self, C: Array) -> Array:
        noise, output = self.perceptron.noise, self.perceptron.output
        if output == "linear":
            return np.array([C[0, 0] + C[1, 1] - 2 * C[0, 1] + noise**2])
        if output != "logit":
            variance = C[1, 1] + noise**2 + (output == "probit")
            return np.array([np.arccos(np.clip(C[0, 1] / np.sqrt(C[0, 0] * variance), -1, 1)) / np.pi])
        r = C[0, 1] / np.sqrt(C[0, 0] * C[1, 1])
        rest = np.sqrt(max(1 - r**2, 1e-12))
        finest = min(1.0, 1 / np.sqrt(C[1, 1] + noise**2), rest)  # how fast label and score change around zero
        end = np.arcsinh(10 / finest)
        t = np.linspace(-end, end, NODES)
        z = finest * np.sinh(t)  # a trapezoid rule, finer there
        w = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * finest * np.cosh(t) * (t[1] - t[0])
        above = ndtr(r * z / rest)
        positive = self._positive(np.sqrt(C[1, 1]) * z)
        return np.array([w @ (above * (1 - positive) + (1 - above) * positive)])


def learner(student: Any, teacher: Any, input_dim: int, latent_dim: int, teacher_on: str) -> Learner:
    """Of what a user passes: a `TwoLayer` with a `TwoLayer`, weights (N,) with a `Perceptron` or a `TwoLayer`, or weights.

    Raises:
        InputError: other kinds, sizes that do not fit, no field at all, or more than 32.

    """
    if teacher_on not in ("latents", "inputs"):
        raise InputError(f"teacher_on={teacher_on!r}; expected 'latents' or 'inputs'")
    seen = input_dim if teacher_on == "inputs" else latent_dim
    W = _weights("student", student, input_dim, "inputs")
    B = _weights("teacher", teacher, seen, teacher_on)
    if not 1 <= len(W) + len(B) <= MOST:
        raise InputError(f"{len(W)} student and {len(B)} teacher fields; expected 1 to {MOST} in all")
    on_inputs = teacher_on == "inputs"
    match student, teacher:
        case TwoLayer(), TwoLayer():
            if student.outputs != teacher.outputs:
                raise InputError(
                    f"the student has {student.outputs} outputs and the teacher {teacher.outputs}; expected as many"
                )
            return Network(W, B, on_inputs, (student, teacher))
        case TwoLayer(), Perceptron():
            raise InputError(
                "the student is a TwoLayer and the teacher a Perceptron; expected two networks, or for distances alone "
                "the student's weights"
            )
        case _, Perceptron() if len(W) == 1:
            return Score(W, B, on_inputs, teacher)
        case _, TwoLayer() if len(W) == 1:
            if teacher.readout.ndim > 1:
                raise InputError(f"the teacher has {teacher.outputs} outputs, and a score (weights (N,)) is one number")
            return Regression(W, B, on_inputs, (TwoLayer(W, np.ones(1), "linear"), teacher))
        case _:
            return Fields(W, B, on_inputs)


def _weights(name: str, given: Any, dim: int, of: str) -> Array:
    """Rows (units, dim)."""
    if given is None:
        return np.zeros((0, dim))
    try:
        array = np.asarray(detached(getattr(given, "weights", given)))
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        rows = np.atleast_2d(array.astype(float))
    except (TypeError, ValueError, RuntimeError) as error:  # the last one of lists of tensors
        raise InputError(
            f"the {name} is {a_kind(given)} that gives no array ({error}); expected a network, a perceptron, or an array of "
            "weights"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise InputError(
            f"the {name}'s weights have shape {rows.shape}; expected (units, {dim}), one a number of the {of}"
        )
    if not len(rows):
        raise InputError(f"the {name} has no units; expected one at least, or None where there is no {name}")
    if not np.isfinite(rows).all():
        raise InputError(f"the {name}'s weights hold a NaN or an infinity")
    if not rows.any(axis=1).all():
        raise InputError(f"a unit of the {name} has zero weights only, so its field does not vary; leave it out")
    return rows
