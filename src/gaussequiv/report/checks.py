"""The check of an experiment: verdicts for its student as it begins and as it is trained, and for other weights beside."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gaussequiv.errors import InputError
from gaussequiv.generators import Certificate, Generator, certificate, check_families, families
from gaussequiv.generators import norm_bound as norm_bound_of
from gaussequiv.generators.certificate import NormBound, single_layer_of
from gaussequiv.generators.families import Weights, networks
from gaussequiv.generators.verdicts import Verdict, Word
from gaussequiv.maths.averages import Array
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD
from gaussequiv.models.storage import DamagedError, atomic_write_text, load_arrays, save_arrays
from gaussequiv.models.teachers import Perceptron
from gaussequiv.report.batch_runs import BatchRun
from gaussequiv.report.experiments import PROBLEM, Run

LARGEST = 0.1  # share of the largest eigenvalue in the trace beyond which a mode is an outlier
FEW = 30  # latents
STILL = 1e-12  # of the variance of an input, below which a field of other weights is left out
KIND = "weights of a trained score"


@dataclass(frozen=True)
class Checks:
    """Verdicts of an experiment.

    Args:
        run: the experiment in its directory.
        deciding: students by name: as it begins, and as training leaves it.
        beside: families of weights.
        teacher: that they have, or None if it has no fields.
        notes: how the students came about.

    """

    run: Run | BatchRun
    deciding: Mapping[str, Any]
    beside: Mapping[str, Any]
    teacher: Any
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run | BatchRun) -> "Checks":
        """The students of an experiment; trains where that is not done."""
        if isinstance(run, BatchRun):
            return cls._of_batch(run)
        problem, e = run.problem, run.experiment.check
        if not isinstance(problem, OnlineSGD):
            raise InputError("a check is that of one student; give one value where the experiment has a list")
        students: dict[str, Any] = {"student": problem.student}
        for share in e.trained:
            t = share * run.experiment.times.end
            students[f"trained to t = {t:.12g}"] = run.after_training(
                f"student-at-{t:.12g}", run.key_of(*PROBLEM), lambda: problem, run.generator, t, e.seed
            )
        weights = _families(run, problem.student.units, rows=run.experiment.teacher_on("learning") == "latents")
        return cls(run, students, networks(weights, problem.student, problem.teacher), problem.teacher)

    @classmethod
    def _of_batch(cls, run: BatchRun) -> "Checks":
        teacher = run.teacher if isinstance(run.teacher, Perceptron | TwoLayer) else None
        if not run.experiment.check.trained:
            raise InputError(
                "check.trained is empty, and in full batch there is no other student; give values of alpha"
            )
        from gaussequiv.simulation.batch import sample_counts

        sample_counts(sorted(run.experiment.check.trained), run.problem.model.input_dim)
        penalties = {a: _penalty(run, a) for a in run.experiment.check.trained}
        students = {f"trained at alpha = {a:.12g}": _fitted(run, a, penalty) for a, penalty in penalties.items()}
        notes = tuple(f"the penalty at alpha = {a:.12g} is {penalty:.4g}" for a, penalty in penalties.items())
        on_latents = teacher is not None and run.experiment.teacher_on("batch") == "latents"
        beside: dict[str, Any] = {}
        for name, given in _families(run, 1, rows=on_latents).items():
            W, B = given if isinstance(given, tuple) else (given, None)
            beside[name] = W[0]
            match teacher:
                case Perceptron() if B is not None:
                    beside[name] = W[0], Perceptron(B[0], teacher.output, teacher.noise)
                case TwoLayer() if B is not None:
                    beside[name] = W[0], TwoLayer(B, np.ones(1), teacher.activation)
        return cls(run, students, beside, teacher, notes)

    @property
    def _on(self) -> str:
        section: Any = "batch" if isinstance(self.run, BatchRun) else "learning"
        return self.run.experiment.teacher_on(section) if self.teacher is not None else "latents"

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """By name, the deciding ones first; from one pass over the generator."""
        e = self.run.experiment.check
        return check_families(
            self.run.generator,
            self.run.model,
            {**self.deciding, **self.beside},
            self.teacher,
            teacher_on=self._on,
            samples=e.samples,
            seed=e.seed,
            workers=e.workers,
            tolerance=e.tolerance,
            effect=e.effect,
            folder=self.run.folder,
            progress=lambda done, of: self.run.progress("check", done, of),
        )

    @property
    def word(self) -> Word:
        """That of the experiment: violated if it is for one of its own weights, consistent if it is for all."""
        words = {self.verdicts[name].word for name in self.deciding}
        return next(word for word in (Word.VIOLATED, Word.INCONCLUSIVE, Word.CONSISTENT) if word in words)

    @property
    def violated(self) -> bool:
        """Whether the equivalence does not hold for the experiment's own weights."""
        return self.word is Word.VIOLATED

    @property
    def summary(self) -> str:
        """The word of the experiment, and of whom it is."""
        names = [name for name in self.deciding if self.verdicts[name].word is self.word]
        whose = f"{len(names)} of {len(self.deciding)} students: {', '.join(names)}"
        if len(names) == len(self.deciding):
            whose = f"all {len(names)} students" if len(names) > 1 else "one student"
        return f"in all: {self.word.value} ({whose})"

    @cached_property
    def certificate(self) -> Certificate | str:
        """That of the first of the experiment's own students, or the reason why there is none."""
        e = self.run.experiment.check
        if not e.gradients:
            return "no certificate was asked for (check.gradients = 0)"
        if not isinstance(self.run.generator, Generator):
            return "no certificate: the inputs are a data set, which is no map of latents"
        first = next(iter(self.deciding.values()))
        try:
            return certificate(
                self.run.generator,
                first,
                self.teacher,
                teacher_on=self._on,
                draws=e.gradients,
                seed=e.seed,
                progress=lambda done, of: self.run.progress("gradients", done, of),
            )
        except InputError as error:
            return f"no certificate: {error}"

    @cached_property
    def norms(self) -> NormBound | None:
        """The norm-only bound of the first unit of the first student, for a single layer."""
        if not isinstance(self.run.generator, Generator):
            return None
        F, sigma = single_layer_of(self.run.generator)
        if F is None or sigma is None:
            return None
        return norm_bound_of(F, sigma, _rows(next(iter(self.deciding.values())))[0])

    @cached_property
    def structure(self) -> dict[str, float]:
        """Numbers of the generator and of the weights that the equivalence rests on."""
        F = single_layer_of(self.run.generator)[0] if isinstance(self.run.generator, Generator) else None
        return structure(self.run.model, _rows(next(iter(self.deciding.values()))), F)

    @property
    def lines(self) -> list[str]:
        """What is printed."""
        texts = []
        for name in self.deciding:
            texts += str(self.verdicts[name]).splitlines()
        if self.beside:
            texts.append("for comparison, other weights:")
            texts += [f"  {name}: {self.verdicts[name].sentence}" for name in self.beside]
        texts += [*self.bounds, "structure, and for comparison:"]
        width = max(map(len, self.structure))
        texts += [f"  {name:{width}}  {value:<8}  {usual}".rstrip() for name, value, usual in self.structure_rows]
        return [*texts, *self.remarks, self.summary]

    @property
    def bounds(self) -> list[str]:
        """The certificate and the norm-only bound."""
        return [str(self.certificate), *([str(self.norms)] if self.norms is not None else [])]

    @property
    def structure_rows(self) -> list[tuple[str, str, str]]:
        """Name, number, and what is usual."""
        usual = references(self.structure, len(_rows(next(iter(self.deciding.values())))))
        return [(name, f"{value:.3g}", usual.get(name, "")) for name, value in self.structure.items()]

    @property
    def remarks(self) -> list[str]:
        """What is remarkable in the structure, and how the students came about."""
        found, D = list(self.notes), self.run.model.latent_dim
        if 0 < D < FEW:
            found.append(f"there are {D} latents only: fields stay non-Gaussian however large N is")
        if self.structure["largest eigenvalue / trace"] > LARGEST:
            found.append("one mode carries more than a tenth of the variance: its own law shows in every field")
        return [f"note: {line}" for line in found]

    @property
    def values(self) -> dict[str, Any]:
        """All numbers, as plain JSON values."""
        bound = self.certificate
        return {
            "word": self.word.value,
            "verdicts": {
                name: {
                    "word": v.word.value,
                    "sentence": v.sentence,
                    "decides": name in self.deciding,
                    "error": _number(v.error),
                    "findings": [{k: _number(x) for k, x in asdict(finding).items()} for finding in v.findings],
                    **v.provenance,
                }
                for name, v in self.verdicts.items()
            },
            "certificate": bound
            if isinstance(bound, str)
            else {
                "w1": _number(bound.w1),
                "tv": bound.tv,
                "variance": bound.variance,
                "error": bound.error,
                "unseen": bound.unseen,
                "draws": bound.draws,
            },
            "structure": self.structure,
        }

    def write(self) -> list[Path]:
        """Write the numbers, a figure for every verdict that decides, and the page; returns their paths."""
        from gaussequiv.report import figures, page

        folder, suffix = self.run.folder, self.run.suffix
        numbers, html = folder / f"check{suffix}.json", folder / f"check{suffix}.html"
        atomic_write_text(numbers, json.dumps(self.values, indent=1, sort_keys=True) + "\n")
        drawn = {name: figures.verdict(self.verdicts[name]) for name in self.deciding}
        paths = []
        for old in folder.glob(f"check{suffix}-*.png"):
            if re.fullmatch(rf"check{suffix}-\d+\.png", old.name):
                old.unlink()  # of a check of other students
        for number, figure in enumerate(drawn.values()):
            paths.append(folder / f"check{suffix}-{number + 1}.png")
            figures.save(figure, paths[-1])
        page.write_check(html, self, {name: figures.svg(figure) for name, figure in drawn.items()})
        return [numbers, *paths, html]


def structure(model: GaussianModel, W: Array, F: Array | None = None) -> dict[str, float]:
    r"""Numbers that the equivalence rests on, of a model and the weights W (K, N) of a student.

    Effective rank $(\mathrm{tr}\,\Omega)^2 / \mathrm{tr}\,\Omega^2$; share of the largest eigenvalue, and this eigenvalue over
    N, the variance that weights along it have in a field; the largest correlation of two inputs, and for $x = \sigma(F c)$ the
    coherence of the rows, $\max_{i \ne j} |F_i \cdot F_j| / |F_i| |F_j|$; participation ratio
    $(\sum w^2)^2 / (N \sum w^4)$, 1/3 for Gaussian weights and 1/N for one input; the largest weight in units of $\sqrt N$.
    """
    rho, N = model.spectrum, model.input_dim
    ratios = (W**2).sum(axis=1) ** 2 / (N * (W**4).sum(axis=1))
    return {
        "N": float(N),
        "D": float(model.latent_dim),
        "effective rank": float(rho.sum() ** 2 / (rho**2).sum()),
        "largest eigenvalue / trace": float(rho.max() / rho.sum()),
        "largest eigenvalue / N": float(rho.max() / N),
        "largest correlation of two inputs": _coherence(model.Omega),
        **({} if F is None else {"row coherence of F": _coherence(F @ F.T)}),
        "participation ratio of the weights": float(ratios.min()),
        "largest weight / sqrt(N)": float(np.abs(W).max() / np.sqrt(N)),
    }


def references(found: Mapping[str, float], units: int) -> dict[str, str]:
    """What the numbers of `structure` would be without any structure, of Gaussian weights and of a Gaussian F (medians)."""
    N, D = int(found["N"]), int(found["D"])
    tail = _tail_of_largest(units * N)
    texts = {
        "effective rank": f"at most {N}",
        "largest eigenvalue / trace": f"at least {1 / N:.2g}",
        "largest eigenvalue / N": "goes to 0 as N grows, or one mode shows in every field",
        "participation ratio of the weights": f"Gaussian weights .33, one input {1 / N:.2g}",
        "largest weight / sqrt(N)": f"Gaussian weights {stats.norm.isf(tail / 2) / np.sqrt(N):.2g}",
    }
    if D > 1 and N > 1:
        tail = _tail_of_largest(N * (N - 1) // 2)  # of pairs, whose squared cosines have a beta law
        texts["row coherence of F"] = f"random rows {np.sqrt(stats.beta.isf(tail, 0.5, (D - 1) / 2)):.2g}"
    return texts


def _tail_of_largest(count: int) -> float:
    """The probability of more than the median of the largest of so many independent numbers."""
    return float(-np.expm1(np.log(0.5) / count))


def _coherence(products: Array) -> float:
    """The largest cosine of the angle between two of several vectors, from their products."""
    size = np.sqrt(np.maximum(np.diag(products), 1e-300))
    cosines = products / np.outer(size, size)
    np.fill_diagonal(cosines, 0.0)
    return float(np.abs(cosines).max())


def _number(value: Any) -> Any:
    """A value as JSON has it: no NaN, and no infinity."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _rows(student: Any) -> Array:
    return np.atleast_2d(np.asarray(getattr(student, "weights", student), dtype=float))


def _families(run: Run | BatchRun, units: int, *, rows: bool) -> dict[str, Weights]:
    e = run.experiment.check
    found = families(run.model, units, e.seed)
    if not rows:
        found.pop("rows", None)
    least = STILL * np.trace(run.model.Omega) / run.model.input_dim
    for name, given in tuple(found.items()):
        W = given[0] if isinstance(given, tuple) else given
        if (np.einsum("ki,ij,kj->k", W, run.model.Omega, W) / W.shape[1]).min() <= least:
            del found[name]  # such as single pixels that are always black
    missing = [name for name in e.beside if name not in found]
    if missing and "beside" in e.model_fields_set:
        raise InputError(f"check.beside: there are no weights {', '.join(missing)} for this generator; leave them out")
    return {name: found[name] for name in e.beside if name in found}


def _penalty(run: BatchRun, alpha: float) -> float:
    """That of the experiment, the middle one of several, or the best one in theory."""
    given = run.experiment.batch.penalty
    if isinstance(given, str):  # "optimal"
        from gaussequiv.theory import predict

        return float(predict(run.problem, alpha=[alpha], penalty="optimal", band=False).data["penalty"][0])
    return given[len(given) // 2] if isinstance(given, tuple) else given


def _fitted(run: BatchRun, alpha: float, penalty: float) -> Array:
    """The weights of the minimum at a sample complexity and a penalty."""
    from gaussequiv import simulation

    seed = run.experiment.check.seed
    key = run.key_of("generator", "estimate", "features", "batch")
    path = run.folder / f"score-at-{alpha:.12g}.safetensors"
    with suppress(DamagedError):
        if path.is_file():
            arrays, plain = load_arrays(path, KIND)
            if (plain["key"], plain["seed"], plain["penalty"]) == (key, seed, penalty):
                return arrays["weights"]
    weights = simulation.fit(
        run.problem, run.generator, alpha=alpha, penalty=penalty, seed=seed, device=run.experiment.simulation.device
    )
    save_arrays(path, KIND, {"weights": weights}, {"key": key, "seed": seed, "penalty": penalty})
    return weights
