"""Experiments: the run that carries one out stage by stage in one directory.

Every stage (model, theory, simulation) is saved with a key, the hash of that part of the experiment which it depends on.
The same command again finds it; a changed experiment computes anew what depends on the change.
"""

import hashlib
import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv import __version__
from gaussequiv.errors import FiniteSizeWarning, InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs, OnlineSGD, log_times
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.models.sweeps import STUDENTS, Curves, Sweep, load
from gaussequiv.report import compare
from gaussequiv.report.comparison import Comparison
from gaussequiv.report.grids import GridComparison
from gaussequiv.report.settings import Experiment, first
from gaussequiv.theory import predict

if TYPE_CHECKING:
    from gaussequiv.generators import Generator

Progress = Callable[[str, float, float], Any]  # (stage, done, in all)
PROBLEM = ("generator", "estimate", "teacher", "student", "learning", "times")  # what both curves depend on
SIMULATED = (*PROBLEM, "simulation")


@dataclass(frozen=True)
class Run:
    """An experiment in its directory: each stage is loaded if it is there and computed and saved if not."""

    experiment: Experiment
    folder: Path
    progress: Progress

    @cached_property
    def generator(self) -> "Generator":
        """The generator of the experiment, on its device."""
        from gaussequiv import generators

        section = self.experiment.generator
        match section.name:
            case "single-layer":
                matrix, activation = self._single_layer
                generator = generators.single_layer(matrix, activation)
            case "deep-random" if section.widths is not None or section.activation is not None:
                widths = section.widths or (500, 500, 500, 1000)
                generator = generators.deep_random(widths, section.activation or "sign", section.seed)
            case "deep-random":
                generator = generators.deep_random((500, 500, 500, 1000), "sign", section.seed)
            case _:
                generator = generators.load(section.name)
        return generator.to(device=self.experiment.simulation.device)

    @cached_property
    def model(self) -> GaussianModel:
        """The equivalent Gaussian model."""
        path, key = self.folder / "model.safetensors", self._key("generator", "estimate")
        if path.is_file():
            model = GaussianModel.load(path)
            if model.provenance.get("key") == key:
                return model
        model = self._computed_model()
        provenance = {**model.provenance, "key": key}
        fields = {name: getattr(model, name) for name in ("Omega", "Phi", "Psi", "mean_x", "mean_c", "standard_errors")}
        model = GaussianModel(**fields, provenance=provenance)
        self.save_experiment()
        model.save(path)
        return model

    @cached_property
    def problem(self) -> OnlineSGD | Sweep:
        """Student, teacher, model and learning rule; a sweep of them where a setting is a list."""
        e, model, axes = self.experiment, self.model, self.experiment.axes
        N, outputs = model.input_dim, e.student.outputs
        teacher = TwoLayer.random(
            e.teacher.units,
            model.latent_dim if e.learning.teacher_on == "latents" else N,
            e.teacher.activation,
            e.teacher.seed,
            readout=e.teacher.readout,
            scale=e.teacher.scale,
            outputs=outputs,
        )

        def student(*values: int) -> TwoLayer:
            """The student, with those of its units and seed that are axes."""
            drawn = {"units": first(e.student.units), "student_seed": first(e.student.seed)}
            drawn |= dict(zip([name for name in drawn if name in axes], values, strict=True))
            s = e.student
            return TwoLayer.random(
                drawn["units"],
                N,
                s.activation,
                drawn["student_seed"],
                readout=s.readout,
                scale=s.scale,
                outputs=outputs,
            )

        options = {name: first(getattr(e.learning, name)) for name in type(e.learning).model_fields}
        chosen = [first(values) for name, values in axes.items() if name in STUDENTS]
        base = OnlineSGD(model, teacher, student(*chosen), **options)
        return Sweep(base, student=student if chosen else None, **axes) if axes else base

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

    @cached_property
    def comparisons(self) -> tuple[Comparison | GridComparison, Comparison | GridComparison | None]:
        """Theory beside the simulation and, if wanted, beside that on the Gaussian twin; both saved as JSON."""
        if self.experiment.simulation.seeds < 2:
            raise InputError("simulation.seeds = 1 has no standard error; simulate at least two seeds to compare")
        comparison = compare(self.theory, self.practice)
        comparison.save(self.folder / "comparison.json")
        if not self.experiment.simulation.twin:
            return comparison, None
        twin = compare(self.theory, self.twin)
        twin.save(self.folder / "comparison-twin.json")
        return comparison, twin

    def save_experiment(self) -> None:
        """Write the experiment and the versions that ran it."""
        import tomli_w

        values = self.experiment.model_dump(exclude_none=True)
        atomic_write_text(self.folder / "experiment.toml", tomli_w.dumps(values))
        atomic_write_text(self.folder / "provenance.json", json.dumps(versions(), indent=1) + "\n")

    def draw(self) -> list[Path]:
        """Write the figure and the page of the comparison; returns their paths."""
        from gaussequiv.report import figures, page

        curve, html = self.folder / "curve.png", self.folder / "index.html"
        comparison, twin = self.comparisons
        figures.save(figures.compared(comparison, twin), curve)
        hollow = "; open points: the same training on the Gaussian twin" if twin is not None else ""
        caption = f"Theory (lines) and one-pass SGD (points, standard errors over seeds{hollow}). {comparison.caption}"
        pictures = {
            "curve": (figures.svg(figures.compared(comparison, twin)), caption),
            "spectrum": (figures.svg(figures.spectrum(self.model)), "Spectrum of the covariance of the inputs."),
        }
        images = self._images()
        if images is not None:
            pictures["samples"] = (figures.svg(figures.samples(images)), f"Samples of {self.generator.name}.")
        details = {"experiment": self.experiment.model_dump(exclude_none=True), "model": dict(self.model.provenance)}
        page.write(html, comparison, pictures, {**details, "versions": versions()}, twin)
        return [curve, html]

    # --- stages ---

    @cached_property
    def _single_layer(self) -> tuple[Any, str]:
        from gaussequiv.generators import gaussian_matrix

        section = self.experiment.generator
        matrix = gaussian_matrix(section.input_dim or 1000, section.latent_dim or 500, section.seed)
        return matrix, section.activation or "sign"

    def _computed_model(self) -> GaussianModel:
        from gaussequiv import generators

        if self.experiment.uses_closed_form:
            return GaussianModel.single_layer(*self._single_layer)
        e = self.experiment.estimate
        report = lambda done, of: self.progress("estimate", done, of)  # noqa: E731
        return generators.estimate(self.generator, e.samples, e.seed, e.workers, report)

    def _simulated(self, inputs: Inputs, stage: str) -> Curve | Curves:
        from gaussequiv import simulation

        e = self.experiment.simulation
        return simulation.simulate(
            self.problem,
            inputs,
            times=self.times,
            seeds=e.seeds,
            seed=e.seed,
            test_samples=e.test_samples,
            device=e.device,
            checkpoint=self.folder / f"{stage}-{self._key(*SIMULATED)[:12]}.partial",
            progress=lambda done, of: self.progress(stage, done, of),
        )

    def _curve(self, name: str, parts: tuple[str, ...], compute: Callable[[], Curve | Curves]) -> Curve | Curves:
        path, key = self.folder / name, self._key(*parts)
        if path.is_file():
            curve = load(path)
            if curve.data.attrs.get("key") == key:
                return curve
        curve = compute()
        curve = type(curve)(curve.data.assign_attrs(key=key))
        curve.save(path)
        return curve

    def _images(self) -> Any:
        """Up to 36 samples as images, where the generator makes any."""
        from gaussequiv import generators

        if not isinstance(self.generator.module, generators.DCGAN):
            return None
        shape = self.generator.module.shape
        return self.generator.sample(36, 0)[1].reshape(36, shape.channels, shape.size, shape.size)

    def _key(self, *parts: str) -> str:
        """Hash of the sections that a stage depends on, of the weights file, and of the version."""
        values = self.experiment.model_dump(mode="json", include=set(parts))
        name = self.experiment.generator.name
        weights = hashlib.sha256(Path(name).read_bytes()).hexdigest() if Path(name).is_file() else ""
        for section in ("estimate", "theory"):
            values.get(section, {}).pop("workers", None)  # no result depends on it
        values.get("simulation", {}).pop("twin", None)  # nor the simulation on whether there is a second one
        return hashlib.sha256(json.dumps([values, weights, __version__], sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that the numbers come from."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"gaussequiv": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
