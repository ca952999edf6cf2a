"""Experiments of full-batch learning: the same stages, over sample complexities and penalties."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, final

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.models.batch import FullBatch
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.models.teachers import MeasuredTeacher, Perceptron
from gaussequiv.report.problems import teacher_of
from gaussequiv.report.stages import MODEL, Stages, digest
from gaussequiv.report.teachers import centred, fingerprint, from_code, load, save
from gaussequiv.theory import predict
from gaussequiv.theory.batch import thresholds
from gaussequiv.theory.bayes import bayes_optimal

PROBLEM = (*MODEL, "batch")  # what the prediction depends on
SIMULATED = (*PROBLEM, "simulation")
MAP = "Points: the penalty of least error at every alpha; grey: no finite value."


@final
@dataclass(frozen=True)
class BatchRun(Stages):
    """An experiment of full-batch learning in its directory; its files end in `-batch`, beside those of online learning."""

    suffix: ClassVar[str] = "-batch"
    sections: ClassVar[tuple[str, ...]] = (*SIMULATED, "check")

    @cached_property
    def problem(self) -> FullBatch:
        """Model, teacher and loss."""
        return self._problem(self.model, self.teacher)

    def _problem(self, model: GaussianModel, teacher: Perceptron | TwoLayer | MeasuredTeacher) -> FullBatch:
        e = self.experiment.batch
        if isinstance(teacher, MeasuredTeacher):
            return FullBatch(model, teacher, e.loss)
        noise = e.noise if isinstance(teacher, TwoLayer) else 0.0
        on = self.experiment.teacher_on("batch")
        return FullBatch(model, teacher, e.loss, noise=noise, teacher_on=on, center=e.center)

    def errors_of(self, model: GaussianModel) -> Array:
        """The predicted test errors of another model of the inputs, where the teacher is known without it."""
        e = self.experiment.batch
        if e.from_code or not e.in_closed_form or self.experiment.measures_inputs_below_features:
            raise InputError(
                'estimate.of = "error" needs a teacher in closed form; use "fields" with one that is measured'
            )
        on = self.experiment.teacher_on("batch")
        problem = self._problem(model, self._drawn(model.latent_dim if on == "latents" else model.input_dim))
        errors = predict(problem, alpha=np.array(e.alphas), penalty=self._penalty, band=False).test_error
        return np.where(np.isfinite(errors), errors, 1.0)

    @cached_property
    def teacher(self) -> Perceptron | TwoLayer | MeasuredTeacher:
        """The teacher: drawn, and measured where its moments have no closed form."""
        e, on = self.experiment.batch, self.experiment.teacher_on("batch")
        if e.from_code:
            return self._measured(self._code, e.measured_on or "inputs", self._fingerprint)
        if e.in_closed_form and not self.experiment.measures_inputs_below_features:
            return self._drawn(self.model.latent_dim if on == "latents" else self.model.input_dim)
        if on == "latents":
            return self._measured(centred(self._drawn(self.source.latent_dim), None), "latents")
        return self._measured(centred(self._drawn(self.source.input_dim), self.inputs_model.mean_x), "inputs")

    def _drawn(self, dim: int) -> Perceptron | TwoLayer:
        """The teacher with random weights, on so many latents or inputs."""
        e = self.experiment.batch
        if e.teacher == "two-layer":
            return teacher_of(self.experiment, dim)
        weights = stream(e.teacher_seed, Purpose.NETWORK, chunk=dim, lane=1).standard_normal(dim)
        return Perceptron(weights, e.labels, e.noise)

    @cached_property
    def _code(self) -> Callable[..., Any]:
        return from_code(self.experiment.batch.teacher, self.allow_code)

    @cached_property
    def _fingerprint(self) -> str:
        """What identifies a teacher of the user's own code; of others all settings are known."""
        e = self.experiment.batch
        return fingerprint(self.source, self._code, e.measured_on or "inputs") if e.from_code else ""

    def _measured(
        self, function: Callable[..., Any], on: Literal["latents", "inputs"], known_by: str = ""
    ) -> MeasuredTeacher:
        """The moments of labels with what is learned from, found again where they are saved."""
        from gaussequiv import generators
        from gaussequiv.generators.datasets import Lookup
        from gaussequiv.generators.features import Labelled

        e, estimate = self.experiment.batch, self.experiment.estimate
        if on == "inputs" and self.experiment.features.kind != "none":
            function, on = self._below_features(function)
        drawn = self.key_of("teacher") if e.teacher == "two-layer" else e.teacher_seed
        path, key = (
            self.folder / "teacher-batch.safetensors",
            digest(self.key_of(*MODEL), e.teacher, drawn, e.teacher_on, e.measured_on, e.labels, known_by),
        )
        found = load(path, key, function if isinstance(function, Lookup) else Labelled(function, on))
        if found is not None:
            return found
        output: Literal["linear", "sign"] = "sign" if e.labels == "sign" else "linear"
        report = lambda done, of: self.progress("teacher", done, of)  # noqa: E731
        teacher = generators.measure_teacher(
            self.generator,
            function,
            output=output,
            on=on,
            samples=estimate.samples,
            seed=estimate.seed,
            progress=report,
        )
        save(path, teacher, key)
        return teacher

    def _below_features(self, function: Callable[..., Any]) -> tuple[Callable[..., Any], Literal["latents", "inputs"]]:
        """A teacher on the inputs as one on what is known of a sample: its latents or, in a data set, its features."""
        from gaussequiv.generators import Dataset, on_inputs_of
        from gaussequiv.generators.datasets import Lookup
        from gaussequiv.generators.features import Labelled

        if isinstance(self.source, Dataset):
            labels = [Labelled(function, "inputs")(*part) for part in self.source.chunks()]
            return Lookup(cast(Dataset, self.generator), np.concatenate(labels)), "inputs"
        return on_inputs_of(self.source, function), "latents"

    def _beside(self, *parts: str) -> tuple[str, ...]:
        """With a two-layer teacher its section."""
        taught = ("teacher",) if self.experiment.batch.teacher == "two-layer" and "batch" in parts else ()
        return (*super()._beside(*parts), *taught)

    def key_of(self, *parts: str) -> str:
        """With a teacher of the user's own code also of its labels."""
        key = super().key_of(*parts)
        return digest(key, self._fingerprint) if "batch" in parts and self.experiment.batch.from_code else key

    @cached_property
    def alpha(self) -> Array:
        """Sample complexities of both curves: whole numbers of samples, so that theory and simulation mean the same."""
        N, alphas = self.model.input_dim, np.array(self.experiment.batch.alphas)
        counts = np.rint(alphas * N)
        if counts.min() < 1:
            raise InputError(
                f"batch.alpha = {alphas.min():.4g} is no sample of N={N} inputs; expected at least {1 / N:.2g}"
            )
        return np.unique(counts) / N

    @cached_property
    def theory(self) -> Curve:
        """The predicted learning curves."""

        def predicted() -> Curve:
            report = lambda part: self.progress("theory", part, 1.0)  # noqa: E731
            return predict(self.problem, alpha=self.alpha, penalty=self._penalty, progress=report)

        return self._curve("theory-batch.nc", PROBLEM, predicted)

    @cached_property
    def practice(self) -> Curve:
        """The simulated learning curves on the generator's samples, at theory's best penalties where those were asked for."""
        return self._curve("simulation-batch.nc", SIMULATED, lambda: self._simulated(self.generator, "simulation"))

    @cached_property
    def twin(self) -> Curve:
        """The simulated learning curves on samples of the Gaussian model."""
        return self._curve("twin-batch.nc", SIMULATED, lambda: self._simulated(self.model, "twin"))

    @cached_property
    def bayes(self) -> Curve | None:
        """The least error of all, on average over teachers, where it was asked for."""
        e = self.experiment.batch
        if not e.bayes:
            return None
        return self._curve("bayes-batch.nc", PROBLEM, lambda: bayes_optimal(self.model, self.alpha, e.labels, e.noise))

    @property
    def remarks(self) -> list[str]:
        """Lines that go with the prediction: thresholds, and the Bayes-optimal errors where they were asked for."""
        found = {name: value for name, value in thresholds(self.problem)._asdict().items() if np.isfinite(value)}
        lines = ["thresholds without a penalty: " + ", ".join(f"{k} at alpha = {v:.4g}" for k, v in found.items())]
        if self.bayes is not None:
            errors = ", ".join(f"{error:.4g}" for error in self.bayes.test_error)
            lines.append(f"Bayes-optimal test errors, on average over teachers: {errors}")
        return lines

    def draw_theory(self) -> list[Path]:
        """Write the figures of the prediction alone; returns their paths."""
        from gaussequiv.report import figures

        return self._saved({"theory": figures.full_batch(self.theory, bayes=self.bayes), **self._maps("theory")})

    def draw_practice(self) -> list[Path]:
        """Write the figures of the simulation alone; returns their paths."""
        from gaussequiv.report import figures

        return self._saved({"simulation": figures.full_batch(None, self.practice), **self._maps("simulation")})

    def draw(self) -> list[Path]:
        """Write the figures and the page of the comparison; returns their paths."""
        from gaussequiv.report import figures, page

        comparison, twin = self.comparisons
        hollow = "; open points: the same on the Gaussian twin" if twin is not None else ""
        dashed = "; dashed: the Bayes-optimal error, on average over teachers" if self.bayes is not None else ""
        caption = (
            f"Theory (lines) and full-batch training (points, standard errors over seeds{hollow}{dashed}). "
            f"{comparison.caption}"
        )
        drawn = {"curve": figures.compared(comparison, twin, self.bayes), **self._maps("theory", "simulation")}
        pictures = {"curve": (figures.svg(drawn["curve"]), caption)}
        for name in ("theory-map", "simulation-map"):
            if name in drawn:
                pictures[name] = (figures.svg(drawn[name]), f"Test error of {name.removesuffix('-map')}. {MAP}")
        html = self.folder / "index-batch.html"
        page.write(html, comparison, {**pictures, **self._pictures()}, self.details, twin, self.checked)
        return [*self._saved(drawn), html]

    @property
    def _penalty(self) -> Any:
        """A number, a list, or "optimal"."""
        given = self.experiment.batch.penalty
        return list(given) if isinstance(given, tuple) else given

    def _maps(self, *names: str) -> dict[str, Any]:
        """Heat maps of theory or simulation, where there are penalties enough."""
        from gaussequiv.report import figures

        curves = {name: self.theory if name == "theory" else self.practice for name in names}
        return {f"{name}-map": figures.heat_map(c) for name, c in curves.items() if figures.has_heat_map(c)}

    def _simulated(self, inputs: Inputs, stage: str) -> Curve:
        from gaussequiv import simulation

        best = self.experiment.batch.penalty == "optimal"
        penalty = self.theory.data["penalty"] if best else self._penalty
        options = self._simulation(stage, SIMULATED)
        problem = self.problem if stage == "simulation" else self.problem.twin
        return simulation.simulate(problem, inputs, alpha=self.alpha, penalty=penalty, **options)
