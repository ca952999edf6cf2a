r"""One-pass SGD of two-layer networks, for real: every seed an independent stream, all seeds at once.

Within a block of consecutive steps the first layer is not touched. The fields of a later sample follow from those at the
start of the block and the Gram matrix of the inputs,
$\lambda_i = W_0 x_i / \sqrt N - \frac{\eta}{N} \sum_{j < i} d_j\, x_j \cdot x_i$ with $d_j = v \circ g'(\lambda_j) \Delta_j$,
and the weights move once at its end. This is the same SGD, step by step, with large matrix products instead of many small
ones; a test compares it with the plain loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gaussequiv.errors import InputError, integer
from gaussequiv.maths.activations import GELU, Activation, Erf, Linear, ReLU, Sigmoid, Sign, Softplus, Tanh
from gaussequiv.maths.solvers import Status
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs, OnlineSGD, checked_times
from gaussequiv.models.streams import Purpose, stream

BLOCK = 64  # samples between updates of the first layer, or one batch if that is more
CHUNK = 512  # samples of one seed drawn at once, or one batch if that is more

Function = Callable[[Tensor], Tensor]


@runtime_checkable
class OnDevice(Protocol):
    """Inputs that are made on a device from standard normal latents, such as a `Generator`: no detour through NumPy."""

    @property
    def latent_dim(self) -> int: ...

    def push(self, latents: Tensor) -> Tensor:
        """Flat latents (n, D) to flat inputs (n, N)."""
        ...


_ROOT_TWO = 2**0.5

# The simulation writes its own torch form of each activation; a test compares them with the theory's.
FUNCTIONS: dict[type[Activation], tuple[Function, Function]] = {
    Erf: (lambda z: torch.erf(z / _ROOT_TWO), lambda z: (2 / torch.pi) ** 0.5 * torch.exp(-(z**2) / 2)),
    Linear: (lambda z: z, torch.ones_like),
    ReLU: (torch.relu, lambda z: torch.heaviside(z, torch.tensor(0.5, dtype=z.dtype, device=z.device))),
    Tanh: (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    Sign: (torch.sign, torch.zeros_like),
    Sigmoid: (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    Softplus: (lambda z: torch.logaddexp(z, torch.zeros_like(z)), torch.sigmoid),
    GELU: (
        torch.nn.functional.gelu,
        lambda z: torch.special.ndtr(z) + z * torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5,
    ),
}


def simulate(
    problem: OnlineSGD,
    inputs: Inputs,
    *,
    times: Any,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], Any] | None = None,
) -> Curve:
    r"""Train the student of `problem` by one-pass SGD on samples of `inputs`, and measure it at `times`.

    Every seed starts from the problem's weights and has its own training stream; its test error is measured on fresh samples
    of its own at every time. Overlaps Q, R are those of the trained weights under the model's covariances. Inputs and
    latents are centred by the model's means.

    Args:
        problem: student, teacher, model and learning rule.
        inputs: a `Generator`, or the model itself (its Gaussian twin).
        times: t = steps / N, increasing; they are rounded to whole steps.
        seeds: number of independent runs.
        seed: of all random streams.
        test_samples: fresh samples of each seed at each time.
        dtype: of the weights and of all products with them.
        device: where the training runs.
        progress: called with (steps done, steps in all).

    Returns:
        A curve with the means over seeds of test_error, Q, R, v, their standard errors `*_se`, and `test_errors`.

    Raises:
        InputError: inputs of another size than the model's, or an activation without a torch form.

    """
    t = checked_times(times)
    seeds, test_samples = integer("seeds", seeds), integer("test_samples", test_samples)
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"dtype={dtype!r}; expected torch.float32 or torch.float64")
    if not callable(getattr(inputs, "sample", None)):
        raise InputError(f"the inputs are a {type(inputs).__name__}; expected a Generator or a GaussianModel")
    N, D = problem.model.input_dim, problem.model.latent_dim
    if (inputs.input_dim, inputs.latent_dim) != (N, D):
        raise InputError(
            f"the inputs have (N, D) = ({inputs.input_dim}, {inputs.latent_dim}); the model has ({N}, {D})"
        )
    steps = np.rint(t * N).astype(int)
    source = _Source(problem, inputs, integer("seed", seed, least=0), dtype, _device(device))
    run = _Run(problem, source, seeds)
    measured = []
    for index, target in enumerate(steps):
        run.advance(int(target), lambda done: progress(done, int(steps[-1])) if progress else None)
        order = problem.order_parameters(*(part.double().cpu().numpy() for part in (run.weights, run.readout)))
        measured.append((run.test_errors(index, test_samples), order.Q, order.R, order.v))
    errors, Q, R, v = (np.stack(parts) for parts in zip(*measured, strict=True))
    variables = {"test_errors": errors, "T": problem.teacher_overlap}
    for name, values in (("test_error", errors), ("Q", Q), ("R", R), ("v", v)):
        variables[name] = values.mean(axis=1)
        variables[f"{name}_se"] = _standard_error(values)
    finite = np.isfinite(errors).all(axis=1)
    status = tuple(Status.OK if ok else Status.DIVERGED for ok in finite)
    drawn = {"seeds": seeds, "seed": seed, "test_samples": test_samples, "inputs": _name(inputs)}
    return Curve.from_arrays(t, variables, status, {"kind": "simulation", **drawn, "problem": problem.describe()})


@dataclass(frozen=True)
class _Source:
    """Centred samples with labels, of any seed and purpose, as a pure function of the chunk's number."""

    problem: OnlineSGD
    inputs: Inputs
    seed: int
    dtype: torch.dtype
    device: torch.device

    def draw(self, n: int, purpose: Purpose, lane: int, chunk: int) -> tuple[Tensor, Tensor]:
        """Inputs (n, N) and noiseless labels (n,)."""
        rng = stream(self.seed, purpose, chunk=chunk, lane=lane)
        model = self.problem.model
        if isinstance(self.inputs, OnDevice):
            c = torch.from_numpy(rng.standard_normal((n, self.inputs.latent_dim)))
            x = self.inputs.push(c)
        else:
            c, x = (torch.from_numpy(sample) for sample in self.inputs.sample(n, rng))
        c, x = (sample.to(device=self.device, dtype=self.dtype) for sample in (c, x))
        c, x = c - self._tensor(model.mean_c), x - self._tensor(model.mean_x)
        seen = c if self.problem.teacher_on == "latents" else x
        teacher = self.problem.teacher
        fields = seen @ self._tensor(teacher.weights).T / teacher.dim**0.5
        return x, _functions(teacher)[0](fields) @ self._tensor(teacher.readout)

    def noise(self, n: int, lane: int, chunk: int) -> Tensor:
        """Label noise of the training samples of a chunk: its own lane, so that the inputs do not depend on it."""
        rng = stream(self.seed, Purpose.TRAIN, chunk=chunk, lane=2**63 + lane)
        return self.problem.noise * self._tensor(rng.standard_normal(n))

    def _tensor(self, array: Any) -> Tensor:
        return torch.tensor(array, dtype=self.dtype, device=self.device)


class _Run:
    """The state of all seeds: weights (S, K, N), readouts (S, K), steps done, and what is left of the current chunk."""

    def __init__(self, problem: OnlineSGD, source: _Source, seeds: int) -> None:
        self.problem, self.source, self.seeds = problem, source, seeds
        self.weights = source._tensor(problem.student.weights).repeat(seeds, 1, 1)
        self.readout = source._tensor(problem.student.readout).repeat(seeds, 1)
        self.steps = 0
        self._chunk = -1
        self._per_chunk = max(1, CHUNK // problem.batch_size)  # steps
        self._per_block = max(1, BLOCK // problem.batch_size)
        self._samples: tuple[Tensor, Tensor] | None = None

    def advance(self, target: int, report: Callable[[int], Any]) -> None:
        """Train until `target` steps are done."""
        while self.steps < target:
            offset = self.steps % self._per_chunk
            count = min(self._per_block, target - self.steps, self._per_chunk - offset)
            x, y = self._chunk_samples(self.steps // self._per_chunk)
            b = self.problem.batch_size
            self._block(x[:, offset * b : (offset + count) * b], y[:, offset * b : (offset + count) * b], count)
            self.steps += count
            report(self.steps)

    def test_errors(self, index: int, samples: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Half the mean squared difference of student and noiseless teacher on fresh samples of each seed, (S,)."""
        g, _ = _functions(self.problem.student)
        errors = np.zeros(self.seeds)
        pieces = range(0, samples, CHUNK)
        for lane in range(self.seeds):
            for piece, start in enumerate(pieces):
                n = min(CHUNK, samples - start)
                x, y = self.source.draw(n, Purpose.TEST, lane, index * len(pieces) + piece)
                outputs = g(x @ self.weights[lane].T / self.problem.student.dim**0.5) @ self.readout[lane]
                errors[lane] += float(((outputs - y) ** 2).sum())
        return errors / (2 * samples)

    def _chunk_samples(self, chunk: int) -> tuple[Tensor, Tensor]:
        if self._samples is None or chunk != self._chunk:
            n = self._per_chunk * self.problem.batch_size
            drawn = [self.source.draw(n, Purpose.TRAIN, lane, chunk) for lane in range(self.seeds)]
            x, y = (torch.stack(parts) for parts in zip(*drawn, strict=True))
            if self.problem.noise > 0:
                y = y + torch.stack([self.source.noise(n, lane, chunk) for lane in range(self.seeds)])
            self._chunk, self._samples = chunk, (x, y)
        return self._samples

    def _block(self, x: Tensor, y: Tensor, count: int) -> None:
        """`count` steps of SGD of every seed: x (S, count b, N), y (S, count b)."""
        p = self.problem
        N, b = p.student.dim, p.batch_size
        g, slope = _functions(p.student)
        lr, lr_readout = p.rates(self.steps / N)
        shrink = 1 - lr * p.weight_decay / N
        shrink_readout = 1 - lr_readout * p.weight_decay / N
        fields = torch.einsum("skn,sin->sik", self.weights, x) / N**0.5
        gram = x @ x.transpose(1, 2) * (lr / (N * b)) if count > 1 else x
        moves = torch.zeros_like(fields)  # d_j of every sample, decayed to the present step
        for step in range(count):
            now = slice(step * b, (step + 1) * b)
            field = fields[:, now]
            if step > 0:
                field = field - gram[:, now, : step * b] @ moves[:, : step * b]
            hidden = g(field)
            difference = torch.einsum("sik,sk->si", hidden, self.readout) - y[:, now]
            moves[:, now] = self.readout[:, None] * slope(field) * difference[..., None]
            gradient = torch.einsum("sik,si->sk", hidden, difference) / b
            self.readout = shrink_readout * self.readout - lr_readout / N * gradient
            if p.weight_decay > 0:
                fields *= shrink
                moves[:, : step * b] *= shrink
        self.weights = shrink**count * self.weights - lr / (N**0.5 * b) * torch.einsum("sik,sin->skn", moves, x)


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device {str(device)!r} is not there ({str(error).splitlines()[0]}); use 'cpu'") from error
    return chosen


def _name(inputs: Inputs) -> str:
    if isinstance(inputs, GaussianModel):
        return f"the Gaussian twin of {inputs.provenance.get('source', 'given covariances')}"
    return str(getattr(inputs, "name", type(inputs).__name__))


def _functions(network: TwoLayer) -> tuple[Function, Function]:
    g = network.activation
    for kind, functions in FUNCTIONS.items():
        if isinstance(g, kind):
            return functions
    known = ", ".join(kind.name for kind in FUNCTIONS)
    raise InputError(f"the simulation has no torch form of the activation {g}; expected one of {known}")


def _standard_error(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Standard error of the mean over seeds, axis 1; NaN for a single seed."""
    seeds = values.shape[1]
    if seeds < 2:
        return np.full(values.mean(axis=1).shape, np.nan)
    return np.asarray(values.std(axis=1, ddof=1) / np.sqrt(seeds))


def simulate_many(
    problems: Sequence[OnlineSGD],
    inputs: Inputs,
    *,
    times: Any,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], Any] | None = None,
) -> tuple[Curve, ...]:
    """The curves of several problems that see the same streams, one as `simulate` gives it for each.

    Raises:
        InputError: as `simulate`.

    """

    def report(index: int) -> Callable[[int, int], Any] | None:
        return None if progress is None else lambda done, of: progress(index * of + done, len(problems) * of)

    return tuple(
        simulate(
            problem,
            inputs,
            times=times,
            seeds=seeds,
            seed=seed,
            test_samples=test_samples,
            dtype=dtype,
            device=device,
            progress=report(index),
        )
        for index, problem in enumerate(problems)
    )
