r"""Full-batch learning: `FullBatch`, on the inputs of a model (or features), and `Kernel`, on the eigenfunctions of one."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gaussequiv.errors import InputError, a_kind, integer, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.lanczos import relaxation_rule
from gaussequiv.maths.losses import Loss, loss
from gaussequiv.maths.resolvents import Resolvents
from gaussequiv.models.gaussian import GaussianModel, _array, _frozen
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.operator import OperatorModel, product
from gaussequiv.models.problems import require_latents
from gaussequiv.models.teachers import MeasuredTeacher, Output, Perceptron, checked_output

TINY = 1e-9  # of margins and of slopes, relative to usual ones
LONGEST = 1e5  # 1 / the smallest kappa that nodes of an operator stand for, in units of 1 / the mean eigenvalue
ACCURACY = 1e-6  # of sums over them
PROBES = 4  # random vectors for the mean eigenvalue of an operator
BOUNDARY = 1e-6  # part of the variance of a teacher's field by which the inputs may seem to explain more than all of it


@dataclass(frozen=True, eq=False)
class FullBatch:
    r"""Empirical risk minimisation of a generalised linear model on n samples, $\alpha = n / N$:

    $\hat w = \mathrm{argmin}_w \sum_{\mu=1}^n \ell(y_\mu, w \cdot x_\mu / \sqrt N) + \frac\lambda2 |w|^2$,

    with inputs and latents centred by the model's means, and no intercept. A penalty 0 is the limit $\lambda \to 0^+$.

    Args:
        model: the Gaussian model of latents and inputs (or features), or an `OperatorModel` where Omega is too large to be
            held.
        teacher: a `Perceptron`, on the latents or, with `teacher_on="inputs"`, on the inputs; a `TwoLayer` for regression
            with the square loss; a `MeasuredTeacher`.
        loss: a name (square, logistic, hinge, squared-hinge, huber, absolute), a `Loss`, or a convex function of the margin
            y z for labels of +1 and -1, of the residual y - z for real ones.
        penalty: lambda; may be left out and given to `predict` and `simulate`.
        noise: standard deviation of the label noise of a `TwoLayer`; other teachers have their own.
        teacher_on: "latents" or "inputs".
        center: False takes inputs and latents as they come; for the square loss on real labels of a `Perceptron`.

    Raises:
        InputError: shapes or losses that do not fit, an unknown loss, one that is not convex, or a negative penalty.

    """

    model: GaussianModel | OperatorModel
    teacher: Perceptron | TwoLayer | MeasuredTeacher
    loss: Loss | str | Callable[[Array], Array] = "square"
    penalty: float | None = None
    noise: float = field(default=0.0, kw_only=True)
    teacher_on: Literal["latents", "inputs"] = field(default="latents", kw_only=True)
    center: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        teacher = self.teacher
        if not isinstance(self.model, GaussianModel | OperatorModel):
            raise InputError(f"the model is {a_kind(self.model)}; expected a GaussianModel or an OperatorModel")
        if not isinstance(teacher, Perceptron | TwoLayer | MeasuredTeacher):
            raise InputError(
                f"the teacher is {a_kind(teacher)}; expected a Perceptron, a TwoLayer or a MeasuredTeacher"
            )
        if not isinstance(self.teacher_on, str) or self.teacher_on not in ("latents", "inputs"):
            raise InputError(f"teacher_on={self.teacher_on!r}; expected 'latents' or 'inputs'")
        if not isinstance(self.center, bool):
            raise InputError(f"center={self.center!r}; expected True or False")
        number("noise", self.noise)
        if self.noise and not isinstance(teacher, TwoLayer):
            raise InputError("noise is that of a TwoLayer teacher; give it to the Perceptron itself")
        self._require_that_the_teacher_fits()
        if isinstance(teacher, TwoLayer) and teacher.readout.ndim > 1:
            raise InputError("the teacher has several outputs; a generalised linear model has one")
        object.__setattr__(self, "loss", _fitting(self.loss, self.output))
        if isinstance(teacher, TwoLayer) and self.learned.name != "square":
            raise InputError(
                f"the {self.learned.name} loss needs the law of labels, and a TwoLayer teacher is known by two moments; "
                "use loss='square'"
            )
        if not self.center and not (isinstance(teacher, Perceptron) and self._linear_square):
            raise InputError("center=False is for the square loss on linear labels of a Perceptron; leave it out")
        if not self.center and isinstance(self.model, OperatorModel):
            raise InputError("center=False needs the matrices of a GaussianModel; leave it out, or pass model.dense")
        if self.penalty is not None:
            number("penalty", self.penalty)

    def _require_that_the_teacher_fits(self) -> None:
        N, D, teacher = self.model.input_dim, self.model.latent_dim, self.teacher
        if isinstance(teacher, MeasuredTeacher):
            if len(teacher.covariance) != N:
                raise InputError(f"the teacher has {len(teacher.covariance)} covariances; the model has N={N} inputs")
            return
        require_latents(self.model, self.teacher_on)
        seen = D if self.teacher_on == "latents" else N
        if teacher.dim != seen:
            raise InputError(f"the teacher has {teacher.dim} weights; expected {seen}, the {self.teacher_on}")

    @property
    def learned(self) -> Loss:
        """The loss as a `Loss`."""
        return self.loss  # type: ignore[return-value]

    @property
    def output(self) -> Output:
        """The kind of labels."""
        return "linear" if isinstance(self.teacher, TwoLayer) else self.teacher.output

    @property
    def axis(self) -> str:
        """What learning curves are drawn against: alpha = n / N."""
        return "alpha"

    @property
    def _linear_square(self) -> bool:
        return self.output == "linear" and self.learned.name == "square"

    @cached_property
    def field_covariance(self) -> Array:
        r"""$E[x \nu]$ of the field whose law gives the labels, (N,); of a `TwoLayer`, $E[x y]$."""
        model, teacher = self.model, self.teacher
        source = model.Phi if self.teacher_on == "latents" else model.Omega
        if isinstance(teacher, MeasuredTeacher):
            return teacher.covariance * (np.sqrt(np.pi / 2) if teacher.output == "sign" else 1.0)
        if isinstance(teacher, TwoLayer):
            slopes = teacher.activation.slope(np.diag(self._overlap))  # type: ignore[union-attr]
            direction = teacher.weights.T @ (teacher.readout * slopes)
        else:
            direction = teacher.weights
        covariance = product(source, direction[:, None])[:, 0] / np.sqrt(teacher.dim)
        return np.asarray(covariance + model.mean_x * self._field_mean)

    @cached_property
    def field_square(self) -> float:
        r"""$\rho = E \nu^2$ of that field; of a `TwoLayer`, $E y^2$ without noise."""
        teacher = self.teacher
        if isinstance(teacher, MeasuredTeacher):
            return teacher.square
        T = self._overlap
        if isinstance(teacher, Perceptron):
            return float(T[0, 0] + self._field_mean**2)
        g, a = teacher.activation, np.diag(T)
        products = g.product(g, a[:, None], a[None, :], T)  # type: ignore[union-attr]
        return float(teacher.readout @ products @ teacher.readout)

    @property
    def field_noise(self) -> float:
        """Variance of the noise inside the labels; a probit counts as noise of variance one."""
        match self.teacher:
            case TwoLayer():
                return self.noise**2
            case Perceptron():
                return self.teacher.noise**2 + (1.0 if self.output == "probit" else 0.0)
        return 0.0

    @property
    def _overlap(self) -> Array:
        r"""Covariance of the teacher's fields, $B \Psi B^T / D$."""
        B = np.atleast_2d(self.teacher.weights)  # type: ignore[union-attr]
        covariance = self.model.Psi if self.teacher_on == "latents" else self.model.Omega
        return np.asarray(B @ product(covariance, B.T) / B.shape[1])

    @property
    def _field_mean(self) -> float:
        if self.center or not isinstance(self.teacher, Perceptron):
            return 0.0
        mean = self.model.mean_c if self.teacher_on == "latents" else self.model.mean_x
        return float(self.teacher.local_fields(mean))

    @cached_property
    def resolvents(self) -> Resolvents:
        r"""Spectrum of Omega, the teacher's part along each mode, $\rho$ and the noise: all that theory needs.

        Eigenvalues below the rounding of the largest count as zero. Without centring, second moments take the place of
        covariances. A measured covariance that explains too much, but no more than its errors may, explains all of the field.

        Raises:
            InputError: the inputs explain more than all of the field's variance.

        """
        sums = self._sums
        if 0 < self.too_much <= self._seen_by_chance:
            return replace(sums, parts=sums.parts / (1 + self.too_much))
        if self.too_much > BOUNDARY:
            found, of = f"{sums.seen:.4g}", f"{self.field_square:.4g}"
            raise InputError(
                f"the inputs explain {found} of the labels' field, which has the variance {of}: "
                + (
                    "no Gaussian field has labels this easy; take them as real ones (output='linear', loss='square')"
                    if isinstance(self.teacher, MeasuredTeacher) and self.output == "sign"
                    else "Omega, Phi and Psi (or the covariance of the teacher) do not belong together"
                )
            )
        return sums

    @cached_property
    def _sums(self) -> Resolvents:
        """The spectrum as it was measured or computed."""
        if isinstance(self.model, OperatorModel):
            return quadrature(self.model, self.field_covariance, self.field_square, self.field_noise)
        omega, tau, _ = self._modes
        return Resolvents.of_directions(omega, tau, self.field_square, self.field_noise)

    @cached_property
    def _modes(self) -> tuple[Array, Array, Array]:
        """Eigenvalues, the teacher's part along each mode, and the modes as columns."""
        model = self.model
        if self.center:
            omega, E = model.eigenmodes
        else:
            omega, E = np.linalg.eigh(model.Omega + np.outer(model.mean_x, model.mean_x))
        N = len(omega)
        omega = np.where(omega > N * np.finfo(float).eps * omega[-1], omega, 0.0)
        return omega, N * (E.T @ self.field_covariance) ** 2, E

    @cached_property
    def too_much(self) -> float:
        """The part of the field's variance by which the inputs explain more than all of it: 0, or an error of sampling."""
        return max(0.0, self._sums.seen / self.field_square - 1)

    @property
    def _seen_by_chance(self) -> float:
        """How much of the field's variance three standard errors of a measured covariance may seem to explain too much."""
        teacher = self.teacher
        if (
            isinstance(self.model, OperatorModel)
            or not isinstance(teacher, MeasuredTeacher)
            or teacher.standard_error is None
        ):
            return 0.0
        omega, _, E = self._modes
        errors = E.T**2 @ teacher.standard_error**2 * (np.pi / 2 if teacher.output == "sign" else 1.0)
        bias = float((errors[omega > 0] / omega[omega > 0]).sum()) / self.field_square
        return bias + 6 * float(np.sqrt(bias / max(1, int(np.count_nonzero(omega)))))

    @property
    def unlearnable(self) -> float:
        """The part of the variance of the labels' field, without noise, that is not linear in the inputs: noise to the theory."""
        return max(0.0, 1 - self.resolvents.seen / self.resolvents.rho)

    @property
    def twin(self) -> "FullBatch":
        r"""The problem to be simulated on the Gaussian twin of the inputs: that of a `MeasuredTeacher` has Gaussian fields, too.

        They are $\nu = \theta \cdot x / \sqrt N + \sigma \zeta$ with $\Omega \theta = \sqrt N E[x \nu]$, and as much noise as
        is not linear in the inputs. Other teachers are their own twin.
        """
        if not isinstance(self.teacher, MeasuredTeacher):
            return self
        omega, _, E = self._modes
        part = E.T @ self.field_covariance
        theta = np.sqrt(len(omega)) * (E @ np.divide(part, omega, out=np.zeros_like(part), where=omega > 0))
        noise = np.sqrt(self.unlearnable * self.field_square)
        teacher = Perceptron(theta, self.teacher.output, float(noise))
        return FullBatch(self.model, teacher, self.loss, self.penalty, teacher_on="inputs")

    def describe(self) -> dict[str, Any]:
        """The problem in plain values, for provenance."""
        sums = self.resolvents
        return {
            "problem": "full batch",
            "model": repr(self.model),
            "N": self.model.input_dim,
            "D": self.model.latent_dim,
            "teacher": type(self.teacher).__name__,
            "output": self.output,
            "loss": self.learned.name,
            "teacher_on": self.teacher_on,
            "center": self.center,
            "field": {"variance": sums.rho, "noise": sums.noise, "linear_in_inputs": sums.seen},
        }


def quadrature(model: OperatorModel, covariance: Array, rho: float, noise: float) -> Resolvents:
    r"""The resolvent sums of an operator from nodes: a block Krylov space of the teacher's direction, and a density of states.

    $1 / (\kappa + \omega) = \int_0^\infty e^{-\kappa s} e^{-\omega s} ds$: what stands for the modes in relaxation up to a
    time s does so in resolvents down to $\kappa \sim 1 / s$, which is 1e-5 of the mean eigenvalue.
    """
    N = model.input_dim
    guess = np.random.default_rng(0).standard_normal((N, PROBES))
    mean = float((guess * product(model.Omega, guess)).sum() / (guess**2).sum()) or 1.0
    rule = relaxation_rule(
        model.Omega, np.zeros((N, 0)), covariance[:, None], longest=LONGEST / mean, tolerance=ACCURACY
    )
    density = model.states(longest=LONGEST / mean, tolerance=ACCURACY)
    nodes, weights = density.rho, density.omega
    seen = rule.rho > N * np.finfo(float).eps * rule.rho.max()
    parts = np.divide(rule.vectors[0] ** 2, rule.rho, out=np.zeros_like(rule.rho), where=seen)
    nodes = np.where(nodes > N * np.finfo(float).eps * nodes.max(), nodes, 0.0)
    silent = np.zeros(len(nodes))
    return Resolvents(
        omega=np.concatenate([rule.rho, nodes]),
        parts=np.concatenate([parts, silent]),
        rho=rho,
        noise=noise,
        weights=np.concatenate([np.zeros(len(parts)), weights]),
    )


@dataclass(frozen=True, eq=False)
class Kernel:
    r"""Learning with a kernel $k(x, x') = \sum_i \eta_i \psi_i(x) \psi_i(x')$ of orthonormal functions:

    $\hat f = \mathrm{argmin}_f \sum_{\mu=1}^n \ell(y_\mu, f(x_\mu)) + \frac\lambda2 |f|_k^2$,

    for a target $\nu = \sum_i \theta_i \psi_i + \text{rest}$. Eigenfunctions are replaced by independent Gaussian variables.

    Args:
        eigenvalues: eta, (levels,), at least 0.
        coefficients: theta, (levels,); of a level with several functions the root of the sum of their squares.
        multiplicities: number of functions of each level, (levels,); 1 if left out.
        loss: as in `FullBatch`.
        penalty: lambda.
        output: linear, sign, logit or probit, as in `Perceptron`, of the target.
        noise: standard deviation of the noise inside the label.
        rest: variance of what is orthogonal to all functions.

    Raises:
        InputError: wrong lengths, negative eigenvalues, or a coefficient where the eigenvalue is zero.

    """

    eigenvalues: Array
    coefficients: Array
    multiplicities: Array = None  # type: ignore[assignment]
    loss: Loss | str | Callable[[Array], Array] = "square"
    penalty: float | None = None
    output: Output = field(default="linear", kw_only=True)
    noise: float = field(default=0.0, kw_only=True)
    rest: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        eigenvalues, coefficients = _array("eigenvalues", self.eigenvalues), _array("coefficients", self.coefficients)
        if eigenvalues.ndim != 1 or not eigenvalues.size or (eigenvalues < 0).any() or not eigenvalues.any():
            raise InputError("the eigenvalues of a kernel are a vector of numbers of at least 0, not all of them 0")
        counts = np.ones(len(eigenvalues)) if self.multiplicities is None else _array("counts", self.multiplicities)
        for name, given in (("coefficients", coefficients), ("multiplicities", counts)):
            if given.shape != eigenvalues.shape:
                raise InputError(
                    f"the {name} have shape {given.shape}; expected {eigenvalues.shape}, one an eigenvalue"
                )
        if (counts <= 0).any():
            raise InputError("a multiplicity is not positive; expected the number of functions of each level")
        if np.any((eigenvalues == 0) & (coefficients != 0)):
            raise InputError("a coefficient belongs to a level of eigenvalue 0; count its square in rest=")
        put = object.__setattr__
        put(self, "eigenvalues", _frozen(eigenvalues))
        put(self, "coefficients", _frozen(coefficients))
        put(self, "multiplicities", _frozen(counts))
        put(self, "output", checked_output(self.output))
        put(self, "loss", _fitting(self.loss, self.output))
        number("noise", self.noise)
        number("rest", self.rest)
        if float((coefficients**2).sum()) + self.rest <= 0:
            raise InputError("the target is zero; expected a coefficient, or rest=, that is not")
        if self.penalty is not None:
            number("penalty", self.penalty)

    @property
    def learned(self) -> Loss:
        """The loss as a `Loss`."""
        return self.loss  # type: ignore[return-value]

    @property
    def axis(self) -> str:
        """What learning curves are drawn against: the number of samples n."""
        return "samples"

    @cached_property
    def resolvents(self) -> Resolvents:
        """Eigenvalues with their multiplicities as weights: sums in the place of means."""
        theta = self.coefficients**2
        noise = self.noise**2 + (1.0 if self.output == "probit" else 0.0)
        return Resolvents(self.eigenvalues, theta, float(theta.sum()) + self.rest, noise, self.multiplicities)

    def describe(self) -> dict[str, Any]:
        """The problem in plain values, for provenance."""
        sums = self.resolvents
        return {
            "problem": "kernel",
            "levels": len(self.eigenvalues),
            "output": self.output,
            "loss": self.learned.name,
            "field": {"variance": sums.rho, "noise": sums.noise, "linear_in_inputs": sums.seen},
        }


def log_grid(start: float, end: float, points: int = 50) -> Array:
    """Log-spaced numbers from `start` to `end`, both included: sample complexities, penalties."""
    points = integer("points", points, least=2)
    if not number("start", start, positive=True) < number("end", end, positive=True):
        raise InputError(f"a grid from {start} to {end} was asked for; expected 0 < start < end")
    return np.geomspace(start, end, points)


def checked_grid(name: str, values: Any, *, positive: bool) -> Array:
    """A grid of finite numbers, increasing, each above 0 (or at least 0), as a vector."""
    try:
        given = np.asarray(values)
        usual = given.dtype.kind in "iufO" and not np.ma.is_masked(values)
        grid = np.atleast_1d(np.array(given, dtype=float)) if usual else np.zeros(0)
    except (TypeError, ValueError, OverflowError):
        grid = np.zeros(0)
    bad = grid.ndim != 1 or grid.size == 0 or not np.isfinite(grid).all() or np.any(np.diff(grid) <= 0)
    if bad or np.any(grid <= 0 if positive else grid < 0):
        least = "positive" if positive else "at least 0"
        shown = reprlib.repr(values)
        if grid.size:
            shown = " ".join(np.array2string(np.asarray(values), threshold=6).split())
        raise InputError(f"{name}={shown}; expected finite numbers, {least} and increasing, such as log_grid(0.1, 10)")
    return grid


def _fitting(given: Any, output: str) -> Loss:
    """The loss of a name or a function, for labels of this kind."""
    real = output == "linear"
    found = loss(given, "residual" if real else "margin")
    if real and found.of == "margin":
        raise InputError(
            f"the {found.name} loss is one of labels +1 and -1, and the teacher's are real; "
            "expected the output sign, logit or probit, or loss='square'"
        )
    if not real:
        low, high, *around = found.margin().slope(np.array([-TINY, TINY, -1.0, 1.0]))
        if max(low, -high) <= TINY * max(abs(a) for a in around):
            raise InputError(
                f"the {found.name} loss is least at the margin 0, where no weights are needed: it does not prefer right labels "
                "to wrong ones; expected a function that falls at 0, or one of the residual: Convex(function, 'residual')"
            )
        if low > 0:
            raise InputError(
                f"the {found.name} loss rises with the margin at 0: it prefers wrong labels; expected a function that falls, "
                "such as log(1 + exp(-x))"
            )
    return found
