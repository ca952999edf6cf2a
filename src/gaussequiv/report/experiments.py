"""Experiments of online learning: the run that carries one out stage by stage in one directory."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from gaussequiv.errors import FiniteSizeWarning, InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.problems import Inputs, OnlineSGD, log_times
from gaussequiv.models.sweeps import Curves, Sweep
from gaussequiv.report.problems import online_problem
from gaussequiv.report.stages import MODEL, Stages, versions
from gaussequiv.theory import predict

__all__ = ["PROBLEM", "SIMULATED", "Run", "versions"]
PROBLEM = (*MODEL, "teacher", "student", "learning", "times")  # what both curves depend on
SIMULATED = (*PROBLEM, "simulation")


@final
@dataclass(frozen=True)
class Run(Stages):
    """An experiment of online learning in its directory."""

    suffix: ClassVar[str] = ""
    sections: ClassVar[tuple[str, ...]] = (*PROBLEM, "theory", "check", "simulation")

    def __post_init__(self) -> None:
        if self.experiment.features.kind == "trained":
            raise InputError(
                "features.kind = 'trained' is for full-batch learning, as student and learning say how they are trained; "
                "use it with batch"
            )

    @cached_property
    def problem(self) -> OnlineSGD | Sweep:
        """Student, teacher, model and learning rule; a sweep of them where a setting is a list."""
        return online_problem(self.experiment, self.model)

    @cached_property
    def times(self) -> Any:
        """The times of both curves: whole numbers of steps, so that theory and simulation mean the same."""
        t, N = self.experiment.times, self.model.input_dim
        return np.unique(np.rint(log_times(t.end, t.points, t.start) * N)) / N

    @cached_property
    def theory(self) -> Curve | Curves:
        """The predicted learning curve, or those of the sweep."""
        e = self.experiment.theory
        report = lambda t: self.progress("theory", t, self.times[-1])  # noqa: E731
        return self._curve(
            "theory.nc",
            (*PROBLEM, "theory"),
            lambda: self._predicted(
                times=self.times,
                rtol=e.rtol,
                finite_size=e.finite_size,
                classification=e.classification,
                workers=e.workers,
                progress=report,
            ),
        )

    def _predicted(self, **options: Any) -> Curve | Curves:
        """The prediction; what it warns of is kept in the curve, and shown with it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FiniteSizeWarning)
            return predict(self.problem, **options)

    @cached_property
    def practice(self) -> Curve | Curves:
        """The simulated learning curve on the generator's samples."""
        return self._curve("simulation.nc", SIMULATED, lambda: self._simulated(self.generator, "simulation"))

    @cached_property
    def twin(self) -> Curve | Curves:
        """The simulated learning curve on samples of the Gaussian model."""
        return self._curve("twin.nc", SIMULATED, lambda: self._simulated(self.model, "twin"))

    def errors_of(self, model: GaussianModel) -> Any:
        """The predicted test errors of another model of the inputs."""
        problem, t = online_problem(self.experiment, model), self.experiment.times
        if not isinstance(problem, OnlineSGD):
            raise InputError(
                'estimate.of = "error" is that of one curve; give one value where the experiment has a list'
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FiniteSizeWarning)
            return predict(problem, times=log_times(t.end, t.points, t.start), rtol=1e-5, band=False).test_error

    def draw_theory(self) -> list[Path]:
        """Write the figure of the prediction alone; returns its path."""
        from gaussequiv.report import figures

        figure = figures.theory_curve(self.theory) if isinstance(self.theory, Curve) else figures.sweep(self.theory)
        return self._saved({"theory": figure})

    def draw_practice(self) -> list[Path]:
        """Write the figure of the simulation of a sweep; returns its path."""
        from gaussequiv.report import figures

        practice = self.practice
        return [] if isinstance(practice, Curve) else self._saved({"simulation": figures.sweep(None, practice)})

    def draw(self) -> list[Path]:
        """Write the figure and the page of the comparison; returns their paths."""
        from gaussequiv.report import figures, page

        comparison, twin = self.comparisons
        written, html = self._saved({"curve": figures.compared(comparison, twin)}), self.folder / "index.html"
        hollow = "; open points: the same training on the Gaussian twin" if twin is not None else ""
        caption = f"Theory (lines) and one-pass SGD (points, standard errors over seeds{hollow}). {comparison.caption}"
        pictures = {"curve": (figures.svg(figures.compared(comparison, twin)), caption), **self._pictures()}
        page.write(html, comparison, pictures, self.details, twin, self.checked)
        return [*written, html]

    def _simulated(self, inputs: Inputs, stage: str) -> Curve | Curves:
        from gaussequiv import simulation

        return simulation.simulate(self.problem, inputs, times=self.times, **self._simulation(stage, SIMULATED))
