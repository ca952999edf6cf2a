r"""Full-batch learning for real: the empirical risk of a generalised linear model, minimised to machine precision.

For every seed one stream of samples; a sample complexity takes its first n, so the points of one seed share samples. Where n < N
the minimiser lies in the span of the samples, and the problem is solved there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussequiv.errors import InputError, integer, number
from gaussequiv.maths.losses import Loss
from gaussequiv.maths.solvers import Status
from gaussequiv.models.batch import FullBatch, checked_grid
from gaussequiv.models.curves import Curve
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.operator import OperatorModel
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.models.teachers import MeasuredTeacher, Perceptron
from gaussequiv.simulation.checkpoints import Checkpoint, described
from gaussequiv.simulation.functions import functions
from gaussequiv.simulation.limits import known, limit
from gaussequiv.simulation.minimisers import path, values
from gaussequiv.simulation.samples import OnDevice, device_of, fingerprint, is_twin, name_of

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 1024  # samples drawn at once: a prefix of a stream is the same whatever its length
NOISE = 2**63  # lane of the label noise, beside that of the inputs
CERTIFIED = 1e-8  # certificate up to which a minimum counts as found
MEASURED = ("test_error", "train_loss", "train_error", "q", "m", "norm", "residual")


def simulate(
    problem: FullBatch,
    inputs: Inputs,
    *,
    alpha: Any,
    penalty: Any = None,
    seeds: int = 10,
    seed: int = 0,
    test_samples: int = 10_000,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Curve:
    r"""Minimise $\sum_\mu \ell(y_\mu, w \cdot x_\mu / \sqrt N) + \frac\lambda2 |w|^2$ on samples of `inputs`, and measure w.

    Args:
        problem: a `FullBatch`.
        inputs: a `Generator`, or the model itself (its Gaussian twin).
        alpha: n / N, increasing; rounded to whole numbers n, which have to differ. Those of the curve are n / N, and theory is
            compared at them.
        penalty: a number or increasing numbers, or an `xarray.DataArray` over alpha, one penalty each (the `penalty` of a
            curve of best penalties); that of the problem if left out. 0 is the limit of no penalty, for losses with a name.
        seeds: number of independent sets of samples.
        seed: of all random streams.
        test_samples: fresh samples of each seed.
        device: where products and factors are computed, in double precision.
        checkpoint: a file for what is done; the same call continues from it, with the same result. It is removed at the end.
        checkpoint_every: seconds between two writings of it; it is also written on Ctrl-C.
        progress: called with (fits done, fits in all).

    Returns:
        A curve with the means over seeds of test_error, train_loss, train_error, q, m and norm, their standard errors `*_se`,
        `test_errors` and `train_losses` of all seeds, and `residual`, the worst certificate: the norm of the gradient
        relative to its parts, or the duality gap relative to the minimum. A point without a minimum is NaN, with its reason in
        `curve.reasons`: without a penalty the logistic loss has none where the samples of a seed are linearly separable.

    Raises:
        InputError: inputs of another size than the model's, no penalty, a `MeasuredTeacher` without its function, an
            alpha that is no sample, two that are the same number of samples, or a checkpoint of another simulation.

    """
    if not isinstance(problem, FullBatch):
        raise InputError(
            f"a {type(problem).__name__} cannot be trained; expected a FullBatch (a kernel: through features)"
        )
    N = problem.model.input_dim
    if inputs.input_dim != N or inputs.latent_dim != problem.model.latent_dim:
        raise InputError(
            f"the inputs have N={inputs.input_dim}, D={inputs.latent_dim}; the model has N={N}, D={problem.model.latent_dim}"
        )
    seeds, test_samples = integer("seeds", seeds), integer("test_samples", test_samples)
    every, counts = number("checkpoint_every", checkpoint_every), sample_counts(alpha, N)
    axes, grid = _penalties(problem, penalty, counts / N)
    data = _Data(problem, inputs, integer("seed", seed, least=0), device_of(device))
    results = np.full((seeds, *grid.shape, len(MEASURED)), np.nan)
    done = np.zeros((seeds, len(counts)), dtype=bool)
    saved = None
    if checkpoint is not None:
        settings = {
            "counts": counts.tolist(),
            "grid": grid.tolist(),
            "seeds": seeds,
            "seed": seed,
            "test": test_samples,
            "device": str(data.device),
        }
        saved = Checkpoint(Path(checkpoint), every, _key(data, settings), lambda: {"results": results, "done": done})
        found = saved.load()
        if found:
            results[...], done[...] = found["results"], found["done"]
    try:
        for lane in range(seeds):
            missing = [i for i in range(len(counts)) if not done[lane, i]]
            for i, rows in _seed(data, problem, counts, grid, missing, lane, test_samples):
                results[lane, i] = rows
                done[lane, i] = True
                if saved is not None:
                    saved.save_if_due()
                if progress is not None:
                    progress(int(done.sum()) * grid.shape[1], seeds * grid.size)
    except KeyboardInterrupt:
        if saved is not None:
            saved.save()
        raise
    if saved is not None:
        saved.remove()
    provenance = {
        "kind": "simulation",
        "inputs": name_of(inputs),
        "twin": is_twin(inputs),
        "problem": problem.describe(),
        "seeds": seeds,
        "seed": seed,
        "test_samples": test_samples,
    }
    return _curve(axes, results, provenance, grid, problem.learned)


def fit(
    problem: FullBatch,
    inputs: Inputs,
    *,
    alpha: float,
    penalty: float | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Array:
    r"""The weights w (N,) that minimise $\sum_\mu \ell(y_\mu, w \cdot x_\mu / \sqrt N) + \frac\lambda2 |w|^2$ on alpha N samples.

    The samples are those of no simulation, whatever its seed.

    Args:
        problem: a `FullBatch`.
        inputs: a `Generator`, or the model itself.
        alpha: n / N, rounded to whole numbers n.
        penalty: lambda; that of the problem if left out.
        seed: of the samples.
        device: where products and factors are computed.

    Raises:
        InputError: as `simulate`, or no minimum.

    """
    N = problem.model.input_dim
    (count,) = sample_counts([alpha], N)
    _, grid = _penalties(problem, penalty, np.array([count]) / N)
    x, y = _Data(problem, inputs, integer("seed", seed, least=0), device_of(device)).draw(
        int(count), Purpose.PRETRAIN, 0
    )
    w, (certificate,) = minimised(problem.learned, x, y, [float(grid.ravel()[0])])
    if not certificate <= CERTIFIED:
        raise InputError(f"there is no minimum at alpha = {alpha:g} without a penalty; give one")
    return np.asarray(w[0].cpu().numpy())


def sample_counts(alpha: Any, N: int) -> Array:
    """Numbers of samples n = alpha N, rounded, (alphas,); refuses two that are the same, and none."""
    grid = checked_grid("alpha", alpha, positive=True)
    counts = np.rint(grid * N).astype(int)
    if counts[0] == 0:
        raise InputError(f"alpha={grid[0]:.4g} is no sample at all for N={N}; expected at least 1 / N = {1 / N:.3g}")
    for i in np.flatnonzero(np.diff(counts) == 0)[:1]:
        raise InputError(
            f"alpha={grid[i]:.6g} and {grid[i + 1]:.6g} are both {counts[i]} samples for N={N}; expected different numbers of "
            f"samples, such as np.unique(np.rint(alpha * {N})) / {N}"
        )
    return counts


def _penalties(problem: FullBatch, penalty: Any, alpha: Array) -> tuple[dict[str, Any], Array]:
    """The axes of the curve, and the penalties at every alpha, (alphas, penalties)."""
    wanted: Any = problem.penalty if penalty is None else penalty
    if wanted is None:
        raise InputError("no penalty: pass penalty=0.01, or increasing numbers, to the problem or to simulate")
    if isinstance(wanted, str):
        raise InputError(
            f"penalty={wanted!r}; expected numbers: those of theory are curve.data.penalty of predict(..., penalty='optimal')"
        )
    paired = getattr(wanted, "dims", None) == ("alpha",)
    if paired:
        column = np.asarray(wanted.values, dtype=float)
        if column.shape != alpha.shape:
            raise InputError(f"{column.size} penalties for {len(alpha)} values of alpha; expected one each")
        if not np.isfinite(column).all() or (column < 0).any():
            raise InputError("the penalties hold a negative number or a NaN; expected numbers of at least 0")
        axes: dict[str, Any] = {"alpha": alpha}
        grid = column[:, None]
    else:
        single = np.ndim(wanted) == 0
        row = checked_grid("penalty", [number("penalty", wanted)] if single else wanted, positive=False)
        axes = {"alpha": alpha, "penalty": row[0] if single else row}
        grid = np.tile(row, (len(alpha), 1))
    return (axes | {"best": grid[:, 0]} if paired else axes), grid


class _Data:
    """Samples and labels of any seed: a pure function of seed, purpose, lane and chunk."""

    def __init__(self, problem: FullBatch, inputs: Inputs, seed: int, device: torch.device) -> None:
        teacher = problem.teacher
        if isinstance(teacher, MeasuredTeacher) and teacher.function is None:
            raise InputError(
                "the teacher is known by its moments only; give MeasuredTeacher its function to train on labels"
            )
        self.problem, self.inputs, self.seed, self.device = problem, inputs, seed, device

    def draw(self, n: int, purpose: Purpose, lane: int) -> tuple[Tensor, Tensor]:
        """Centred inputs divided by sqrt(N), (n, N), and noisy labels (n,)."""
        N = self.problem.model.input_dim
        x = torch.empty(n, N, dtype=torch.float64, device=self.device)
        y = torch.empty(n, dtype=torch.float64, device=self.device)
        for chunk, start in enumerate(range(0, n, CHUNK)):
            latents, inputs = self._raw(stream(self.seed, purpose, chunk=chunk, lane=lane))
            rng = stream(self.seed, purpose, chunk=chunk, lane=NOISE + lane)
            labels, size = self._labels(latents, inputs, rng), min(CHUNK, n - start)
            if self.problem.center:
                inputs = inputs - torch.as_tensor(np.array(self.problem.model.mean_x)).to(inputs)
            x[start : start + size] = inputs[:size]
            y[start : start + size] = labels[:size].to(self.device)
        return x / N**0.5, y

    def fingerprint(self) -> bytes:
        """The numbers of the teacher; a function by its values on one chunk of samples."""
        teacher = self.problem.teacher
        if isinstance(teacher, MeasuredTeacher):
            return self._measured(teacher, *self._raw(stream(0, Purpose.CHECK))).tobytes()
        return described(teacher) if isinstance(teacher, TwoLayer) else teacher.weights.tobytes()

    def _raw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A chunk of latents and inputs as they come, in double precision."""
        if isinstance(self.inputs, OnDevice):
            latents, inputs = self.inputs.draw(CHUNK, rng)
            return latents, inputs.to(device=self.device, dtype=torch.float64)
        c, x = (np.asarray(sample, dtype=float) for sample in self.inputs.sample(CHUNK, rng))
        return torch.from_numpy(c), torch.from_numpy(x).to(self.device)

    def _labels(self, latents: Tensor, inputs: Tensor, rng: np.random.Generator) -> Tensor:
        problem, teacher = self.problem, self.problem.teacher
        if isinstance(teacher, MeasuredTeacher):
            found = self._measured(teacher, latents, inputs)
            return torch.from_numpy(found if teacher.output == "linear" else np.where(found > 0, 1.0, -1.0))
        seen, mean = (
            (latents, problem.model.mean_c) if problem.teacher_on == "latents" else (inputs.cpu(), problem.model.mean_x)
        )
        if problem.center:
            seen = seen - torch.from_numpy(np.array(mean))
        fields = seen @ torch.from_numpy(np.array(teacher.weights.T)) / teacher.dim**0.5
        zeta = torch.from_numpy(rng.standard_normal(len(latents)))
        if isinstance(teacher, TwoLayer):
            g = functions(teacher.activation, torch.device("cpu"))[0]  # type: ignore[arg-type]
            return g(fields) @ torch.from_numpy(np.array(teacher.readout)) + problem.noise * zeta
        return _answer(teacher, fields + teacher.noise * zeta, rng)

    @staticmethod
    def _measured(teacher: MeasuredTeacher, latents: Tensor, inputs: Tensor) -> Array:
        """What the function of a teacher says of samples, (n,)."""
        found: Array = np.asarray(teacher.function(latents.numpy(), inputs.cpu().numpy()), dtype=float)  # type: ignore[misc]
        if found.shape != (len(latents),) or not np.isfinite(found).all():
            raise InputError(f"the teacher returned shape {found.shape}; expected ({len(latents)},) finite labels")
        return found


def _answer(teacher: Perceptron, nu: Tensor, rng: np.random.Generator) -> Tensor:
    """Labels of a noisy field."""
    match teacher.output:
        case "linear":
            return nu
        case "logit":
            nu = torch.sigmoid(nu) - torch.from_numpy(rng.random(len(nu)))
        case "probit":
            nu = nu + torch.from_numpy(rng.standard_normal(len(nu)))
    return torch.where(nu > 0, 1.0, -1.0).double()


def _seed(
    data: _Data, problem: FullBatch, counts: Array, grid: Array, wanted_at: list[int], lane: int, test_samples: int
) -> Iterator[tuple[int, Array]]:
    """What is measured of one seed, (penalties, values), at some of the numbers of samples in turn, each with its index."""
    if not wanted_at:
        return
    x, y = data.draw(int(counts[-1]), Purpose.TRAIN, lane)
    test, wanted = data.draw(test_samples, Purpose.TEST, lane)
    model = problem.model
    Omega = model.Omega if problem.center else model.Omega + np.outer(model.mean_x, model.mean_x)
    real = problem.output == "linear"
    for i in wanted_at:
        n, penalties = counts[i], grid[i]
        rows = np.full((len(penalties), len(MEASURED)), np.nan)
        w, certificates = minimised(problem.learned, x[:n], y[:n], [float(p) for p in penalties])
        h, h_test = x[:n] @ w.T, test @ w.T
        argument = y[:n, None] * h if problem.learned.of == "margin" else y[:n, None] - h
        if real:
            errors = (((wanted[:, None] - h_test) ** 2).mean(0), ((y[:n, None] - h) ** 2).mean(0))
        else:
            errors = tuple(((a * b[:, None]) <= 0).double().mean(0) for a, b in ((h_test, wanted), (h, y[:n])))  # type: ignore[assignment]
        W = w.cpu().numpy()
        rows[:, 0], rows[:, 2] = (e.cpu().numpy() for e in errors)
        phi = values(problem.learned)
        rows[:, 1] = [float(phi(column.contiguous()).mean()) for column in argument.T]
        N = model.input_dim
        rows[:, 3] = np.einsum("pi,pi->p", W @ Omega, W) / N
        rows[:, 4] = W @ problem.field_covariance / N**0.5
        rows[:, 5] = (W**2).sum(1) / N
        rows[:, 6] = certificates
        yield i, rows


def minimised(loss: Loss, x: Tensor, y: Tensor, penalties: list[float]) -> tuple[Tensor, list[float]]:
    """Minimisers (penalties, N) and their certificates; solved in the span of the samples, largest penalty first.

    Where there is no minimum the certificate is infinite, and NaN where the limit of no penalty is not known.
    """
    n, N = x.shape
    penalties, basis = [float(penalty) for penalty in penalties], None
    if n < N:
        basis = torch.linalg.qr(x.T)[0]
        x = x @ basis
    c, A = (torch.zeros_like(y), y[:, None] * x) if loss.of == "margin" else (y, -x)
    order = sorted((i for i in range(len(penalties)) if penalties[i] > 0), key=lambda i: -penalties[i])
    found = dict(zip(order, path(loss, c, A, [penalties[i] for i in order]), strict=True))
    for i in set(range(len(penalties))) - set(order):
        found[i] = limit(loss, c, A) if known(loss) else (x.new_full((x.shape[1],), torch.nan), torch.nan)
    ws, certificates = zip(*(found[i] for i in range(len(penalties))), strict=True)
    return torch.stack([w if basis is None else basis @ w for w in ws]), list(certificates)


def _curve(axes: dict[str, Any], results: Array, provenance: dict[str, Any], grid: Array, loss: Loss) -> Curve:
    """Means, standard errors and statuses over seeds, from (seeds, alphas, penalties, values)."""
    best = axes.pop("best", None)
    shape = tuple(np.size(values) for values in axes.values() if np.ndim(values))
    results = results.reshape(len(results), *shape, len(MEASURED))
    residual = results[..., -1].max(axis=0)
    lost = ~(residual <= CERTIFIED)
    status, reasons = np.full(shape, Status.OK, dtype=object), {}
    for index in map(tuple, np.argwhere(lost)):
        found = results[(slice(None), *index, -1)]
        status[index], reasons[",".join(map(str, index))] = _loss_of(found, float(grid.reshape(shape)[index]), loss)
    variables: dict[str, Array] = {"residual": residual}
    with np.errstate(invalid="ignore", divide="ignore"):
        for k, name in enumerate(MEASURED[:-1]):
            values = np.where(lost, np.nan, results[..., k])
            variables[name] = values.mean(axis=0)
            spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(shape, np.nan)
            variables[f"{name}_se"] = spread / np.sqrt(len(values))
            if name in ("test_error", "train_loss"):
                plural = "test_errors" if name == "test_error" else "train_losses"
                variables[plural] = np.moveaxis(values, 0, -1)
    if best is not None:
        variables["penalty"] = best
    return Curve.on_grid(axes, variables, status, provenance | {"reasons": reasons})


def _loss_of(certificates: Array, penalty: float, loss: Loss) -> tuple[Status, str]:
    """Why a point has no value, from the certificates of its seeds."""
    if penalty == 0 and not known(loss):
        return (
            Status.UNDEFINED,
            "the limit of no penalty is known for the losses with a name only; ask for a small one",
        )
    if np.isinf(certificates).any():
        return Status.DIVERGED, (
            f"the samples of {np.isinf(certificates).sum()} of {len(certificates)} seeds are linearly separable: the "
            f"{loss.name} loss has no minimum and its norm diverges as the penalty vanishes; ask for a positive penalty"
        )
    return (
        Status.NOT_CONVERGED,
        f"the minimum is certified to {certificates.max():.1e} only; ask for a larger penalty",
    )


def _key(data: _Data, settings: dict[str, Any]) -> str:
    """Hash of all that a simulation depends on; functions enter by their values."""
    problem = data.problem
    digest = hashlib.sha256(json.dumps([problem.describe(), settings], sort_keys=True).encode())
    digest.update(fingerprint(data.inputs))
    digest.update(data.fingerprint())
    model = problem.model.dense if isinstance(problem.model, OperatorModel) else problem.model
    for array in (model.Omega, model.Phi, model.Psi, model.mean_x, model.mean_c, problem.field_covariance):
        digest.update(np.ascontiguousarray(array).tobytes())
    with np.errstate(all="ignore"):  # a loss may overflow there
        digest.update(np.asarray(problem.learned(np.sinh(np.linspace(-8, 8, 2001)))).tobytes())
    return digest.hexdigest()
