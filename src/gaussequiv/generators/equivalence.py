r"""Does the Gaussian equivalence hold for this generator and these weights: consistent, violated or inconclusive, by how much.

`check` looks at the local fields $u = (\lambda, \nu)$ on samples of the generator and measures

    moments     distance of their means and covariances from those of the Gaussian model
    shape       distance of their law from the Gaussian with the same covariance, orders 3 and 4 (`maths.hermite`)
    kurtosis    E |y|^4 of the whitened fields (Mardia), which falls out of it
    sliced      Wasserstein distance in the worst direction (`maths.sliced`)
    error       what the student gets wrong, beside its average over Gaussian fields of the same covariance
    moved       what it gets wrong, beside the Gaussian model's prediction
    drift       the drift of SGD, beside that of Gaussian fields of the same covariance

Distances are in standard deviations of a field, effects relative to the error. The verdict is one of equivalence: *consistent*
if the upper ends of the 95 % intervals of all distances and of the effect are below the tolerances, *violated* if a lower end is
above, else *inconclusive*, with the number of samples that would decide. It is never a p-value alone: at any finite N, enough
samples reject.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gaussequiv.errors import InputError, a_kind, callback, folder_path, integer, number
from gaussequiv.generators.conformance import checked_sample
from gaussequiv.generators.datasets import Dataset
from gaussequiv.generators.fields import FieldSums, Pass
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.learners import Learner, learner
from gaussequiv.generators.plan import CHUNK
from gaussequiv.generators.verdicts import Finding, Verdict, adjusted, enough
from gaussequiv.maths import hermite, sliced
from gaussequiv.maths.averages import Array
from gaussequiv.maths.hermite import Powers, Squared
from gaussequiv.maths.jackknife import jackknife, reach, standard_error
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream

LEAST = 4_096  # samples
MEANS = 16_384  # samples for means, where there is no model
PAIR = ("student", "teacher")
DEPENDENT = 1e-9  # of variances, below which fields depend on each other
EXACT = 1e-7  # of the outputs' own size, below which an error is rounding
RARE = 0.02  # share of the samples below which those with an error are counted, as the groups may have none
LANE_OF_MEANS, LANE_OF_DIRECTIONS = 8, 10  # of the streams of checks


def check(
    generator: Inputs,
    model: GaussianModel | None = None,
    student: Any = None,
    teacher: Any = None,
    *,
    teacher_on: str = "latents",
    samples: int = 100_000,
    seed: int = 0,
    workers: int = 1,
    tolerance: float = 0.05,
    effect: float = 0.01,
    folder: str | Path | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Verdict:
    r"""Whether the Gaussian equivalence holds for this generator and these weights, and what it costs where it does not.

    Args:
        generator: anything with `sample(n, rng)`.
        model: its Gaussian model, whose means and covariances are held against those of the samples; without one the fields
            are only compared with a Gaussian of their own covariance.
        student: a `TwoLayer` with a `TwoLayer` as teacher; the weights (N,) of a generalised linear model, with a
            `Perceptron` or a `TwoLayer`; or any weights (K, N), of which no error is known.
        teacher: a `TwoLayer`, a `Perceptron`, or weights (M, D).
        teacher_on: "latents" or "inputs".
        samples: n, in whole chunks of 1,024. The sums are of all of them, the sliced distance of the first 32,768. Of a
            `Dataset` each sample is taken once, in random order: what is looked at is the law that it came from.
        seed: of the latents; those of estimates, trainings and tests with it are others.
        workers: threads; the result does not depend on their number.
        tolerance: of distances, in standard deviations of a field.
        effect: of the error, relative.
        folder: where sums are kept: the same call goes on, and one for more samples adds them.
        progress: called with (samples done, samples in all).

    Returns:
        A `Verdict`; its text begins with consistent, violated or inconclusive.

    Raises:
        InputError: sizes that do not fit, more than 32 fields, a field that does not vary, too few samples, or a generator that
            fails.

    """
    students = {"student": student}
    return check_families(
        generator,
        model,
        students,
        teacher,
        teacher_on=teacher_on,
        samples=samples,
        seed=seed,
        workers=workers,
        tolerance=tolerance,
        effect=effect,
        folder=folder,
        progress=progress,
    )["student"]


def check_families(
    generator: Inputs,
    model: GaussianModel | None,
    students: Mapping[str, Any],
    teacher: Any = None,
    *,
    teacher_on: str = "latents",
    samples: int = 100_000,
    seed: int = 0,
    workers: int = 1,
    tolerance: float = 0.05,
    effect: float = 0.01,
    folder: str | Path | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Verdict]:
    """The verdicts for several students of one teacher, from one pass over the generator; see `check`.

    A student may also be a pair (student, teacher), such as the rows of F with a teacher that is aligned with them.
    """
    if not callable(getattr(generator, "sample", None)):
        raise InputError(f"the generator is {a_kind(generator)}; expected a Generator, or Generator(it, latent=...)")
    N, D = generator.input_dim, generator.latent_dim
    if not (model is None or isinstance(model, GaussianModel)):
        raise InputError(f"the model is {a_kind(model)}; expected a GaussianModel, or None")
    if model is not None and (model.input_dim, model.latent_dim) != (N, D):
        raise InputError(
            f"the model has {model.input_dim} inputs and {model.latent_dim} latents, and the generator {N} and {D}; "
            "expected that of the generator"
        )
    samples, workers = integer("samples", samples, LEAST), integer("workers", workers)
    if isinstance(generator, Dataset):
        if len(generator) < LEAST:
            raise InputError(f"{generator.name} has {len(generator)} samples; expected {LEAST} at least for a check")
        samples = min(samples, len(generator))
    tolerance, effect = number("tolerance", tolerance, positive=True), number("effect", effect, positive=True)
    if not isinstance(students, Mapping):
        raise InputError(f"the students are {a_kind(students)}; expected them by name, such as {{'mine': student}}")
    if not students:
        raise InputError("there is no student; expected at least one, by its name, such as {'mine': student}")
    learners = {}
    for name, given in students.items():
        if isinstance(given, tuple) and len(given) != len(PAIR):
            raise InputError(f"{name}: a tuple of {len(given)}; expected a student, or ({', '.join(PAIR)})")
        own, taught = given if isinstance(given, tuple) else (given, teacher)
        learners[name] = learner(own, taught, N, D, teacher_on)
    means = _first_means(generator) if model is None else (model.mean_x, model.mean_c)
    callback(progress)
    path = None if folder is None else folder_path(folder)
    found = Pass(generator, learners, means, samples, integer("seed", seed, 0)).run(workers, progress, path)
    source = str(getattr(generator, "name", type(generator).__name__))
    predictions = dict.fromkeys(learners) if model is None else _predictions(model, learners)
    return {
        name: _verdict(name, source, learners[name], sums, predictions[name], (tolerance, effect), seed)
        for name, sums in found.items()
    }


@dataclass(frozen=True)
class Prediction:
    """What a model says of the fields: their covariance (L, L); with its replicates, covariances and shifts of the means."""

    covariance: Array
    covariances: Array
    shifts: Array


def _predictions(model: GaussianModel, learners: Mapping[str, Learner]) -> dict[str, Prediction | None]:
    """For every learner, from one pass over the model's replicates, which are large."""
    covariances: dict[str, list[Array]] = {name: [] for name in learners}
    shifts: dict[str, list[Array]] = {name: [] for name in learners}
    for g in range(model.count_of_replicates):
        replicate = model.replicate(g)
        for name, of in learners.items():
            covariances[name].append(of.covariance(replicate))
            shifts[name].append(of.shift(model, replicate))
    return {
        name: Prediction(of.covariance(model), np.array(covariances[name]), np.array(shifts[name]))
        for name, of in learners.items()
    }


def _first_means(generator: Inputs) -> tuple[Array, Array]:
    """Means of some samples, of a data set of all; what is left of them is taken off later, to first order."""
    if isinstance(generator, Dataset):
        return generator.rows.mean(axis=0, dtype=float), np.zeros(0)
    sums = [np.zeros(generator.input_dim), np.zeros(generator.latent_dim)]
    rng = stream(0, Purpose.CHECK, lane=LANE_OF_MEANS)
    for _ in range(MEANS // CHUNK):
        try:
            latents, inputs = checked_sample(generator, CHUNK, rng)
        except InputError as error:
            raise InputError(f"the first samples of the check: {error}") from error
        sums[0] += inputs.sum(axis=0, dtype=float)
        sums[1] += latents.sum(axis=0, dtype=float)
    known = isinstance(generator, Generator) and generator.prior is None
    return sums[0] / MEANS, np.zeros(generator.latent_dim) if known else sums[1] / MEANS


def _verdict(
    name: str,
    source: str,
    of: Learner,
    sums: FieldSums,
    model: Prediction | None,
    tolerances: tuple[float, float],
    seed: int,
) -> Verdict:
    tolerance, effect = tolerances
    groups, B = sums.groups, sums.pilot.B
    total = sum(groups[1:], groups[0])
    rows: list[Finding] = []
    if model is not None:
        rows.append(_moments(sums, model, tolerance))
    shape = hermite.shape(groups)
    rows.append(_distance("shape", shape, tolerance))
    rows.append(_kurtosis(groups, total))
    worst, direction = sliced.max_sliced(sums.kept_groups(), stream(seed, Purpose.CHECK, lane=LANE_OF_DIRECTIONS), B)
    rows.append(_distance("sliced", worst, tolerance))
    error = np.nan
    if of.what:
        error = float(sums.functionals.sum(axis=0)[0] / total.count)
        rows += _effects(sums, of, model, effect)
    rows = adjusted(rows)
    y = np.concatenate(sums.kept_groups())
    u = y @ B.T
    return Verdict(
        name,
        source,
        tuple(rows),
        total.count,
        of.what,
        error,
        direction.projections,
        (u - u.mean(axis=0)) / u.std(axis=0),
        len(of.student),
        enough(rows, total.count),
        {
            "seed": seed,
            "samples": total.count,
            "fields": of.fields,
            "tolerance": tolerance,
            "effect": effect,
            "shape_squared": shape.value,
        },
    )


def _distance(name: str, found: Squared, tolerance: float) -> Finding:
    return Finding(name, found.distance, *found.interval(), tolerance, found.p)


def _kurtosis(groups: list[Powers], total: Powers) -> Finding:
    values, p = hermite.mardia_kurtosis([total, *(total - group for group in groups)])
    value, half = float(values[0]), _half(values[1:])
    return Finding("kurtosis", value, value - half, value + half, None, float(p[0]), decides="nothing")


def _half(left: Array) -> float:
    """Half of the 95 % interval from values that leave out a group each."""
    return float(reach(standard_error(left), len(left)))


def _moments(sums: FieldSums, model: Prediction, tolerance: float) -> Finding:
    """Means and covariances beside the model's, whose own errors count."""
    P, B = sums.pilot.P, sums.pilot.B
    full = model.covariance
    C = P @ full @ P.T
    values = np.linalg.eigvalsh(C)
    outside = np.eye(len(B)) - B @ P  # what does not vary on the samples
    beyond = np.diagonal(outside @ full @ outside.T) / np.diagonal(B @ B.T)
    if values[0] <= DEPENDENT * values[-1] or beyond.max() > DEPENDENT * len(B):
        # fields that the model takes for dependent and the samples do not, or the other way
        return Finding("moments", np.inf, np.inf, np.inf, tolerance, 0.0)
    noise, spread = 0.0, 0.0
    if len(model.covariances):
        covariances, means = P @ model.covariances @ P.T, model.shifts @ P.T
        G, root = len(covariances), np.linalg.inv(np.linalg.cholesky(C))
        changes, shifts = root @ (covariances - C) @ root.T, means @ root.T
        changes, shifts = changes - changes.mean(axis=0), shifts - shifts.mean(axis=0)
        noise = float((G - 1) / G * (np.sum(changes**2) / 4 + np.sum(shifts**2)))
        pairs = zip(covariances, means, strict=True)
        left = np.array([hermite.moments(sums.groups, R, mean=m).value for R, m in pairs])
        spread = float(standard_error(left))
    found = hermite.moments(sums.groups, C, noise)
    found = Squared(found.value, float(np.hypot(found.error, spread)), found.left_out, found.p)
    return _distance("moments", found, tolerance)


def _effects(sums: FieldSums, of: Learner, model: Prediction | None, effect: float) -> Iterator[Finding]:
    """Errors and drifts of the fields beside those of Gaussian ones."""
    groups = sums.groups
    there = [powers.count > 0 for powers in sums.powers]
    values, slopes = sums.functionals[there], sums.slopes[there]
    counts = np.array([powers.count for powers in groups])
    total, n = sum(groups[1:], groups[0]), counts.sum()
    everything, slope = values.sum(axis=0), slopes.sum(axis=0)

    def difference(powers: Powers, functionals: Array, products: Array) -> Array:
        """Averages over centred fields less those of Gaussian ones."""
        moved = sums.slope(powers, functionals, products) @ powers.mean
        return np.asarray(functionals / powers.count - moved - of.gaussian(sums.covariance(powers)))

    full = difference(total, everything, slope)
    left = np.array(
        [
            difference(total - powers, everything - part, slope - own)
            for powers, part, own in zip(groups, values, slopes, strict=True)
        ]
    )
    full = full - jackknife(full, left).bias  # that errors of the covariance leave
    averages = of.gaussian(sums.covariance(total))
    floor = EXACT * of.scale(sums.covariance(total))

    def by_chance(predicted: float) -> float:
        """The least standard error of an error that few samples have: of as many as are predicted, or seen if these are more."""
        most = max(predicted, float(everything[0] / n))
        return float(np.sqrt(of.step * most / n)) if most < RARE * of.step else 0.0

    if of.quadratic:
        yield Finding("error", 0.0, 0.0, 0.0, effect, np.nan)
    else:
        least = by_chance(averages[0])
        yield _relative("error", full[0], left[:, 0], averages[0], floor, effect, "both", least=least)
    if model is not None:
        predicted = float(of.gaussian(model.covariance)[0])
        own = np.array([(everything[0] - part[0]) / (n - count) for part, count in zip(values, counts, strict=True)])
        spread = 0.0
        if len(model.covariances):
            gradient = sums.slope(total, everything, slope)[0] @ sums.pilot.P
            errors = np.array([of.gaussian(C)[0] for C in model.covariances]) + model.shifts @ gradient
            spread = float(standard_error(errors))
        value = everything[0] / n - predicted
        least = by_chance(predicted)
        yield _relative(
            "moved", value, own, predicted, floor, effect, "violated", least=least, spread=spread, test=False
        )
    if full.size > 1 and averages[0] > floor:
        yield _drift(full[1:], left[:, 1:], averages[1:], of.first_layer)


def _relative(
    name: str,
    value: float,
    left: Array,
    unit: float,
    floor: float,
    tolerance: float,
    decides: str,
    *,
    least: float,
    spread: float = 0.0,
    test: bool = True,
) -> Finding:
    """A change of the error relative to it, with Student's interval and p-value."""
    G = len(left)
    error = float(np.hypot(max(float(standard_error(left)), least), spread))
    half = float(reach(error, G))
    if abs(value) <= floor and (
        abs(unit) <= floor or error == 0
    ):  # below the rounding of the averages, or always the same
        return Finding(name, 0.0, 0.0, 0.0, tolerance, np.nan, decides=decides)
    unit = max(unit, floor)
    p = float(2 * stats.t.sf(abs(value) / error, G - 1)) if test else np.nan
    low, high = sorted(((value - half) / unit, (value + half) / unit))
    return Finding(name, float(value / unit), float(low), float(high), tolerance, p, decides=decides)


def _drift(full: Array, left: Array, gaussian: Array, first: int) -> Finding:
    """The distance of two drifts, without the bias of its noise: those of either layer relative to the Gaussian one."""
    layers = slice(None, first), slice(first, None)
    unit = np.concatenate([np.full(gaussian[part].size, np.linalg.norm(gaussian[part])) for part in layers])
    unit = np.sqrt(len(layers)) * np.maximum(unit, np.finfo(float).tiny)
    full, left = full / unit, left / unit
    squares = np.sum(left**2, axis=1)
    value = float(full @ full - np.sum(standard_error(left) ** 2))
    found = Squared(value, float(standard_error(squares)), squares, 1.0)
    return Finding("drift", found.distance, *found.interval(), None, np.nan, decides="nothing")
