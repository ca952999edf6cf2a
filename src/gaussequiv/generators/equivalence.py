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
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.linalg import hadamard

from gaussequiv.errors import InputError, a_kind, integer, number
from gaussequiv.generators.conformance import checked_sample
from gaussequiv.generators.datasets import Dataset
from gaussequiv.generators.fields import FieldSums, Pass
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.learners import Learner, learner
from gaussequiv.generators.plan import CHUNK
from gaussequiv.maths import hermite, sliced
from gaussequiv.maths.averages import Array
from gaussequiv.maths.hermite import Powers, Squared
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs
from gaussequiv.models.replicates import jackknife
from gaussequiv.models.streams import Purpose, stream

LEAST = 4_096  # samples
PAIR = ("student", "teacher")
LANE_OF_FAMILIES = 9
FELT = 1e-9  # of the response to the latents, below which an input has none

Weights = Array | tuple[Array, Array]  # of a student, or of a student and its teacher
LEVEL = 0.05
DEPENDENT = 1e-9  # of variances, below which fields depend on each other
EXACT = 1e-7  # of the outputs' own size, below which an error is rounding
DECIDED = 1e9  # samples that nobody draws
MEANS = 16_384  # samples for means, where there is no model


class Word(StrEnum):
    """What a check says."""

    CONSISTENT = "consistent"
    VIOLATED = "violated"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """One statistic of the battery.

    Args:
        name: of the statistic.
        value: its estimate: a distance, or a relative change.
        low: lower end of its 95 % interval.
        high: upper end.
        tolerance: that it is held against; None for those that only inform.
        p: of the hypothesis that the fields are Gaussian, NaN if it is no test.
        p_holm: the same, adjusted for the number of tests (Holm).
        decides: "both", "violated" if it can only say that, or "nothing".

    """

    name: str
    value: float
    low: float
    high: float
    tolerance: float | None
    p: float
    p_holm: float = np.nan
    decides: str = "both"

    @property
    def word(self) -> Word:
        """What it says on its own."""
        if self.tolerance is None:
            return Word.INCONCLUSIVE
        if np.isnan(self.low) or np.isnan(self.high):
            return Word.INCONCLUSIVE
        low, high = (abs(self.low), abs(self.high)) if self.low * self.high > 0 else (0.0, max(-self.low, self.high))
        if max(low, high) < self.tolerance:
            return Word.CONSISTENT
        return Word.VIOLATED if min(low, high) > self.tolerance else Word.INCONCLUSIVE

    @property
    def said(self) -> str:
        """The word of a statistic with a tolerance; "not violated" of one that can say no more."""
        within = self.decides == "violated" and self.word is not Word.VIOLATED
        return "not violated" if within else self.word.value

    @property
    def relative(self) -> bool:
        """Whether it is a change relative to the error, and no distance."""
        return self.name in ("error", "moved", "drift", "kurtosis")

    def __str__(self) -> str:
        scale, unit = (100, " %") if self.relative else (1, "")
        text = f"{self.name:9} {scale * self.value:9.3g}{unit}  [{scale * self.low:.3g}, {scale * self.high:.3g}]{unit}"
        if self.tolerance is not None:
            text += f"  tolerance {scale * self.tolerance:g}{unit}: {self.said}"
        if not np.isnan(self.p):
            text += f"  p = {self.p:.2g}" + (f" ({self.p_holm:.2g} of all)" if not np.isnan(self.p_holm) else "")
        return text


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether the Gaussian equivalence holds, how far it is off, and what that does to the error.

    Args:
        name: of the weights.
        source: of the generator.
        findings: the battery.
        samples: n.
        error_name: of the error, "" if there is none.
        error: of the student, in its own units; NaN if there is none.
        projections: whitened fields in the worst direction, of the first samples, for pictures.
        marginals: standardised fields of the first samples, (n, L).
        needed: samples that would decide, where it is inconclusive.
        provenance: plain JSON values.

    """

    name: str
    source: str
    findings: tuple[Finding, ...]
    samples: int
    error_name: str
    error: float
    projections: Array
    marginals: Array
    needed: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> Word:
        """Consistent, violated or inconclusive."""
        deciding = [finding for finding in self.findings if finding.decides != "nothing"]
        if any(finding.word is Word.VIOLATED for finding in deciding):
            return Word.VIOLATED
        both = [finding for finding in deciding if finding.decides == "both"]
        return Word.CONSISTENT if all(finding.word is Word.CONSISTENT for finding in both) else Word.INCONCLUSIVE

    @property
    def violated(self) -> bool:
        """Whether the equivalence does not hold."""
        return self.word is Word.VIOLATED

    @property
    def measurable(self) -> bool:
        """Whether the fields are measurably not Gaussian (Holm, 5 %)."""
        tests = [f for f in self.findings if f.name in ("shape", "kurtosis", "sliced")]
        return any(finding.p_holm < LEVEL for finding in tests)

    def __getitem__(self, name: str) -> Finding:
        """A statistic of the battery by its name."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise InputError(f"no statistic {name!r}; there are {', '.join(finding.name for finding in self.findings)}")

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        far = max((f for f in self.findings if not f.relative), key=lambda f: f.value)
        distance = f"{far.name} {far.value:.3g} [{far.low:.3g}, {far.high:.3g}] of a field's standard deviation"
        effect = ""
        if self.error_name:
            e = self["error"]
            effect = (
                f"; it moves the {self.error_name} by {100 * e.value:.2g} % [{100 * e.low:.2g}, {100 * e.high:.2g}]"
            )
        match self.word:
            case Word.CONSISTENT:
                harm = (
                    "measurably non-Gaussian, harmless" if self.measurable else "no departure from a Gaussian is seen"
                )
            case Word.VIOLATED:
                bad = [f.name for f in self.findings if f.decides != "nothing" and f.word is Word.VIOLATED]
                harm = f"beyond tolerance: {', '.join(bad)}"
                if self.error_name and self["error"].word is Word.CONSISTENT and not {"error", "moved"} & set(bad):
                    harm += f", which the {self.error_name} does not feel"
            case _:
                more = (
                    f"about {_rounded(self.needed)} samples would decide"
                    if self.needed < DECIDED
                    else "it is at the tolerance, and no number of samples decides"
                )
                harm = f"{', '.join(f.name for f in self._open)} straddles its tolerance; {more}"
        return f"{self.word.value}: {harm} ({distance}{effect}; {self.samples} samples)"

    @property
    def _open(self) -> list[Finding]:
        return [f for f in self.findings if f.decides == "both" and f.word is Word.INCONCLUSIVE]

    def __str__(self) -> str:
        head = f"{self.sentence}\n  {self.source}, weights: {self.name}"
        return "\n".join([head, *(f"  {finding}" for finding in self.findings)])

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw marginals, the worst direction, its quantiles, and distances against tolerances; returns the figure.

        `report` draws, as it does everything: it is looked up when it is asked to.
        """
        return import_module("gaussequiv.report").draw_verdict(self, path)


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
        student: a `TwoLayer`; the weights (N,) of a generalised linear model, with a `Perceptron` as teacher; or any
            weights (K, N), of which no error is known.
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
    students = {"the user's own": student}
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
    )["the user's own"]


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
    if not isinstance(students, Mapping) or not students:
        raise InputError("there is no student; expected at least one, by its name, such as {'mine': student}")
    learners = {}
    for name, given in students.items():
        if isinstance(given, tuple) and len(given) != len(PAIR):
            raise InputError(f"{name}: a tuple of {len(given)}; expected a student, or ({', '.join(PAIR)})")
        own, taught = given if isinstance(given, tuple) else (given, teacher)
        learners[name] = learner(own, taught, N, D, teacher_on)
    means = _first_means(generator) if model is None else (model.mean_x, model.mean_c)
    if not (folder is None or isinstance(folder, str | Path)):
        raise InputError(f"folder={folder!r}; expected a path")
    path = None if folder is None else Path(folder)
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
    rng = stream(0, Purpose.CHECK, lane=8)
    for _ in range(MEANS // CHUNK):
        try:
            latents, inputs = checked_sample(generator, CHUNK, rng)
        except InputError as error:
            raise InputError(f"the first samples of the check: {error}") from error
        sums[0] += inputs.sum(axis=0, dtype=float)
        sums[1] += latents.sum(axis=0, dtype=float)
    known = isinstance(generator, Generator) and generator.prior is None
    return sums[0] / MEANS, np.zeros(generator.latent_dim) if known else sums[1] / MEANS


def families(model: GaussianModel, units: int = 2, seed: int = 0) -> dict[str, Weights]:
    r"""Students' weights that may be aligned with a generator, (units, N) each, of the length of random ones.

    "random"; "ones", all equal, and for more units with signs of Walsh functions; "top", the leading eigenvectors of Omega;
    "columns" of $\Phi = E[x c^T]$, the response to single latents (of F itself for a single layer); "sparse", one to four
    inputs only; "rows", a pair (student, teacher): teachers are rows of Phi, students look at the same inputs with half of their
    variance. Columns and rows are those that are not zero, where there are as many.
    """
    if not isinstance(model, GaussianModel):
        raise InputError(f"the model is {a_kind(model)}; expected a GaussianModel")
    N, D, units = model.input_dim, model.latent_dim, integer("units", units)
    if units > N:
        raise InputError(f"{units} units for {N} inputs; expected at most as many")
    rng = stream(seed, Purpose.WEIGHTS, lane=LANE_OF_FAMILIES)
    values, vectors = model.eigenmodes
    order = np.argsort(values)[::-1]
    found = {
        "random": rng.standard_normal((units, N)),
        "ones": hadamard(2 ** int(np.ceil(np.log2(N))), dtype=np.int8)[:units, :N].astype(float),
        "top": vectors[:, order[:units]].T,
    }
    if units <= D:
        columns = model.Phi[:, rng.choice(D, units, replace=False)].T
        if columns.any(axis=1).all():
            found["columns"] = columns
    felt = np.flatnonzero(np.linalg.norm(model.Phi, axis=1) > FELT * np.linalg.norm(model.Phi))
    sparse = np.zeros((units, N))
    for unit in range(units):
        sparse[unit, rng.choice(N, min(1 + unit % 4, N), replace=False)] = 1.0
    found["sparse"] = sparse
    scaled: dict[str, Weights] = {name: _scaled(W) for name, W in found.items()}
    if len(felt) >= units:
        chosen = rng.choice(felt, units, replace=False)
        spikes = np.zeros((units, N))
        spikes[np.arange(units), chosen] = np.sqrt(N)
        scaled["rows"] = _scaled(spikes + rng.standard_normal((units, N))), _scaled(model.Phi[chosen])
    return scaled


def _scaled(rows: Array) -> Array:
    """Rows of the length of random ones."""
    return np.asarray(np.sqrt(rows.shape[1]) * rows / np.linalg.norm(rows, axis=1, keepdims=True))


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
    worst, direction = sliced.max_sliced(sums.kept_groups(), stream(seed, Purpose.CHECK, lane=10), B)
    rows.append(_distance("sliced", worst, tolerance))
    error = np.nan
    if of.what:
        error = float(sums.functionals.sum(axis=0)[0] / total.count)
        rows += _effects(sums, of, model, effect)
    rows = _holm(rows)
    needed = max((_needed(row, total.count) for row in rows if row.decides == "both"), default=0.0)
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
        needed,
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
    G = len(left)
    return float(stats.t.ppf(0.975, G - 1) * np.sqrt((G - 1) / G * np.sum((left - left.mean()) ** 2)))


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
        spread = float(np.sqrt((G - 1) / G * np.sum((left - left.mean()) ** 2)))
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
    G = len(groups)
    full = full - (G - 1) * (left.mean(axis=0) - full)  # without the bias that errors of the covariance leave
    averages = of.gaussian(sums.covariance(total))
    floor = EXACT * of.scale(sums.covariance(total))
    if of.quadratic:
        yield Finding("error", 0.0, 0.0, 0.0, effect, np.nan)
    else:
        yield _relative("error", full[0], left[:, 0], averages[0], floor, effect, "both")
    if model is not None:
        predicted = float(of.gaussian(model.covariance)[0])
        own = np.array([(everything[0] - part[0]) / (n - count) for part, count in zip(values, counts, strict=True)])
        spread = 0.0
        if len(model.covariances):
            gradient = sums.slope(total, everything, slope)[0] @ sums.pilot.P
            errors = np.array([of.gaussian(C)[0] for C in model.covariances]) + model.shifts @ gradient
            spread = float(jackknife(np.array(predicted), errors).error)
        value = everything[0] / n - predicted
        yield _relative("moved", value, own, predicted, floor, effect, "violated", spread=spread, test=False)
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
    spread: float = 0.0,
    test: bool = True,
) -> Finding:
    """A change of the error relative to it, with Student's interval and p-value."""
    half, G = _half(left), len(left)
    quantile = float(stats.t.ppf(0.975, G - 1))
    half = float(np.hypot(half, quantile * spread))
    nothing = abs(unit) <= floor and abs(value) <= floor  # an error below the rounding of the averages
    exact = half <= 1e-12 * abs(unit) and abs(value) <= 1e-9 * abs(unit)  # one that sees nothing but moments
    if nothing or exact:
        return Finding(name, 0.0, 0.0, 0.0, tolerance, np.nan, decides=decides)
    p = float(2 * stats.t.sf(abs(value) / (half / quantile), G - 1)) if test else np.nan
    low, high = sorted(((value - half) / unit, (value + half) / unit))
    return Finding(name, float(value / unit), float(low), float(high), tolerance, p, decides=decides)


def _drift(full: Array, left: Array, gaussian: Array, first: int) -> Finding:
    """The distance of two drifts, without the bias of its noise: those of either layer relative to the Gaussian one."""
    G, layers = len(left), (slice(None, first), slice(first, None))
    unit = np.concatenate([np.full(gaussian[part].size, np.linalg.norm(gaussian[part])) for part in layers])
    unit = np.sqrt(len(layers)) * np.maximum(unit, np.finfo(float).tiny)
    full, left = full / unit, left / unit
    variance = (G - 1) / G * np.sum((left - left.mean(axis=0)) ** 2)
    squares = np.sum(left**2, axis=1)
    found = Squared(float(full @ full - variance), _half(squares) / stats.t.ppf(0.975, G - 1), squares, 1.0)
    return Finding("drift", found.distance, *found.interval(), None, np.nan, decides="nothing")


def _holm(rows: list[Finding]) -> list[Finding]:
    """The same with p-values adjusted for the number of tests: (m - i) p_(i), not decreasing."""
    tests = sorted((row for row in rows if not np.isnan(row.p)), key=lambda row: row.p)
    adjusted, largest = {}, 0.0
    for i, row in enumerate(tests):
        largest = max(largest, min((len(tests) - i) * row.p, 1.0))
        adjusted[row.name] = largest
    return [
        Finding(
            row.name, row.value, row.low, row.high, row.tolerance, row.p, adjusted.get(row.name, np.nan), row.decides
        )
        for row in rows
    ]


def _needed(row: Finding, n: int) -> float:
    """Samples after which the interval, as narrow as 1 / sqrt(n), no longer holds the tolerance."""
    if row.word is not Word.INCONCLUSIVE or row.tolerance is None:
        return 0.0
    end = row.high if abs(row.high) >= abs(row.low) else -row.low
    value = abs(row.value)
    half = end - value if value < row.tolerance else value - min(abs(row.low), abs(row.high))
    room, most = abs(row.tolerance - value), DECIDED
    if row.name == "sliced":
        n, most = min(n, sliced.MOST), sliced.MOST  # it sees no more
    needed = n * (half / room) ** 2 if room > 0 else np.inf
    return needed if needed <= most else np.inf


def _rounded(n: float) -> str:
    """Two digits."""
    digits = 10 ** max(int(np.floor(np.log10(n))) - 1, 0)
    return f"{int(np.ceil(n / digits) * digits):,}"


def networks(weights: Mapping[str, Weights], student: TwoLayer, teacher: TwoLayer) -> dict[str, Any]:
    """The families of weights as networks with the readouts and the activations of others.

    Those of the teacher of a pair are ones.
    """
    found: dict[str, Any] = {}
    for name, given in weights.items():
        W, B = given if isinstance(given, tuple) else (given, None)
        found[name] = TwoLayer(W, student.readout, student.activation)
        if B is not None:
            readout = np.ones((len(B), *teacher.readout.shape[1:]))
            found[name] = found[name], TwoLayer(B, readout, teacher.activation)
    return found
