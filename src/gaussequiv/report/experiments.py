"""Experiments: a TOML file, its validation, and the run that carries it out stage by stage in one directory.

Every stage (model, theory, simulation) is saved with a key, the hash of that part of the experiment which it depends on.
The same command again finds it; a changed experiment computes anew what depends on the change.
"""

import hashlib
import json
import platform
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from gaussequiv import __version__
from gaussequiv.errors import FiniteSizeWarning, InputError
from gaussequiv.maths.activations import activation
from gaussequiv.models import schedules
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs, OnlineSGD, Schedule, log_times
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.models.sweeps import OPTIONS, STUDENTS, Curves, Sweep, load
from gaussequiv.report import compare
from gaussequiv.report.comparison import Comparison
from gaussequiv.report.grids import GridComparison
from gaussequiv.theory import predict

if TYPE_CHECKING:
    from gaussequiv.generators import Generator

Progress = Callable[[str, float, float], Any]  # (stage, done, in all)
PROBLEM = ("generator", "estimate", "teacher", "student", "learning", "times")  # what both curves depend on
SIMULATED = (*PROBLEM, "simulation")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _activation(name: str) -> str:
    activation(name)  # raises for an unknown one
    return name


def _differentiable(name: str) -> str:
    activation(name).derivative(np.zeros(1))  # raises where there is none
    return name


class GeneratorSection(_Section):
    """Which generator: a name of the zoo or a .safetensors file; sizes for the random ones only."""

    name: str = "dcgan"
    input_dim: int | None = Field(default=None, ge=1)
    latent_dim: int | None = Field(default=None, ge=1)
    widths: tuple[int, ...] | None = Field(default=None, strict=False)
    activation: Annotated[str, AfterValidator(_activation)] | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "GeneratorSection":
        allowed = {"single-layer": {"input_dim", "latent_dim", "activation"}, "deep-random": {"widths", "activation"}}
        given = {key for key in ("input_dim", "latent_dim", "widths", "activation") if getattr(self, key) is not None}
        foreign = given - allowed.get(self.name, set())
        if foreign:
            raise ValueError(f"{', '.join(sorted(foreign))} cannot be set for {self.name}")
        return self


class EstimateSection(_Section):
    """How the Gaussian model is found: by samples, or in closed form for a single-layer generator."""

    samples: int = Field(default=100_000, ge=1)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1)
    closed_form: bool | None = None


class StepSection(_Section):
    """A learning rate that jumps: `schedules.Step`."""

    kind: Literal["step"]
    values: tuple[float, ...] = Field(strict=False)
    at: tuple[float, ...] = Field(strict=False)

    @property
    def schedule(self) -> Schedule:
        """The function of t."""
        return schedules.Step(self.values, self.at)


class PowerSection(_Section):
    """A learning rate that decays as a power of t: `schedules.Power`."""

    kind: Literal["power"]
    start: float
    exponent: float
    scale: float = 1.0

    @property
    def schedule(self) -> Schedule:
        """The function of t."""
        return schedules.Power(self.start, self.exponent, self.scale)


class ExponentialSection(_Section):
    """A learning rate that decays exponentially: `schedules.Exponential`."""

    kind: Literal["exponential"]
    start: float
    rate: float

    @property
    def schedule(self) -> Schedule:
        """The function of t."""
        return schedules.Exponential(self.start, self.rate)


SCHEDULES: dict[str, type[_Section]] = {"step": StepSection, "power": PowerSection, "exponential": ExponentialSection}
SHAPES = ("number", "axis", "schedule")  # what a value may be: one number, a list that is an axis of a sweep, a table


def _shape(value: object) -> str:
    return "axis" if isinstance(value, list | tuple) else "schedule" if isinstance(value, dict | _Section) else "number"


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an empty list; expected one value, or a list of values that a sweep goes through")
    if len(set(values)) < len(values):
        raise ValueError("the list has a value twice; expected different values")
    return values


def _possible(section: Any) -> Any:
    _ = section.schedule  # raises where its numbers do not fit together
    return section


T = TypeVar("T")
Axis = Annotated[tuple[T, ...], Field(strict=False), AfterValidator(_distinct), Tag("axis")]
Decay = Annotated[
    Annotated[StepSection | PowerSection | ExponentialSection, Field(discriminator="kind")],
    AfterValidator(_possible),
    Tag("schedule"),
]
Values = Annotated[Annotated[T, Tag("number")] | Axis[T], Discriminator(_shape)]
Rates = Annotated[Annotated[T, Tag("number")] | Axis[T] | Decay, Discriminator(_shape)]
Positive = Annotated[float, Field(gt=0, le=1e4)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class TeacherSection(_Section):
    """A two-layer network with random weights N(0, scale^2)."""

    units: Count = 2
    activation: Annotated[str, AfterValidator(_activation)] = "erf"
    readout: Literal["ones", "gaussian"] = "ones"
    scale: float = Field(default=1.0, gt=0)
    seed: Seed = 1


class StudentSection(_Section):
    """The same for the student; lists of units or seeds are axes of a sweep. `outputs` is that of the teacher, too."""

    units: Values[Count] = 2
    activation: Annotated[str, AfterValidator(_differentiable)] = "erf"
    readout: Literal["ones", "gaussian"] = "gaussian"
    scale: float = Field(default=1.0, gt=0)
    seed: Values[Seed] = 2
    outputs: Count | None = None


class LearningSection(_Section):
    """One-pass SGD; lists are axes of a sweep, tables are schedules."""

    lr: Rates[Positive] = 0.2
    lr_readout: Rates[NotNegative] | None = None
    noise: Values[NotNegative] = 0.0
    batch_size: Values[Count] = 1
    weight_decay: Values[NotNegative] = 0.0
    train_readout: bool = True
    teacher_on: Literal["latents", "inputs"] = "latents"
    center: bool = True


class TimesSection(_Section):
    """0 and log-spaced times from `start` to `end`, in units of steps / N."""

    start: float = Field(default=0.1, gt=0)
    end: float = Field(default=100.0, gt=0)
    points: int = Field(default=20, ge=2)


class TheorySection(_Section):
    """The accuracy of the predicted curve, and the processes that share the points of a sweep."""

    rtol: float = Field(default=1e-6, ge=1e-12, le=0.1)
    workers: int = Field(default=1, ge=1)
    finite_size: bool = False
    classification: bool = False


class SimulationSection(_Section):
    """The real training, on the generator's samples and, with `twin`, also on those of its Gaussian model."""

    twin: bool = True
    seeds: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    test_samples: int = Field(default=1_000, ge=1)
    device: str = "cpu"


class Experiment(_Section):
    """A whole experiment; every section and every value has a default: the demo, after the paper's own experiment."""

    generator: GeneratorSection = GeneratorSection()
    estimate: EstimateSection = EstimateSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    learning: LearningSection = LearningSection()
    times: TimesSection = TimesSection()
    theory: TheorySection = TheorySection()
    simulation: SimulationSection = SimulationSection()

    @classmethod
    def read(cls, path: str | Path | None, settings: list[str]) -> "Experiment":
        """Read a TOML file (or take the defaults) and apply settings such as "learning.lr=0.1".

        Raises:
            InputError: no such file, not TOML, an unknown or impossible value: one sentence that names it.

        """
        values = _read_toml(Path(path)) if path is not None else {}
        for setting in settings:
            _apply(values, setting)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(_one_sentence(error)) from error

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The axes of the sweep by their names in `Sweep`; empty where every setting has one value."""
        found = {name: getattr(self.learning, name) for name in OPTIONS}
        found |= {"units": self.student.units, "student_seed": self.student.seed}
        return {name: values for name, values in found.items() if isinstance(values, tuple)}

    @property
    def uses_closed_form(self) -> bool:
        """Whether the model comes from exact moments: by default wherever there are any (single-layer)."""
        exact = self.generator.name == "single-layer"
        if self.estimate.closed_form and not exact:
            raise InputError(f"{self.generator.name} has no closed-form moments; leave estimate.closed_form out")
        return exact if self.estimate.closed_form is None else self.estimate.closed_form


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
            drawn = {"units": _first(e.student.units), "student_seed": _first(e.student.seed)}
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

        options = {name: _first(getattr(e.learning, name)) for name in type(e.learning).model_fields}
        first = [_first(values) for name, values in axes.items() if name in STUDENTS]
        base = OnlineSGD(model, teacher, student(*first), **options)
        return Sweep(base, student=student if first else None, **axes) if axes else base

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


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"there is no experiment file {path}; expected a TOML file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _apply(values: dict[str, Any], setting: str) -> None:
    """Put one "a.b=c" into nested values; c is read as TOML, or as a string if it is none."""
    path, equals, text = setting.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise InputError(f"--set {setting!r}: expected section.key=value, such as learning.lr=0.1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {setting!r}: {key} is a value, not a section")
    values[keys[-1]] = value


def _first(value: Any) -> Any:
    """A setting as an argument: of an axis its first value, of a schedule the function."""
    if isinstance(value, StepSection | PowerSection | ExponentialSection):
        return value.schedule
    return value[0] if isinstance(value, tuple) else value


def _one_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    kinds = [SCHEDULES[str(part)] for part in first["loc"][2:] if part in SCHEDULES]
    where = ".".join(str(part) for part in first["loc"] if part not in (*SHAPES, *SCHEDULES)) or "the experiment"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        section = Experiment.model_fields.get(str(first["loc"][0]))
        inner = (
            getattr(section.annotation, "model_fields", None) if section is not None and len(first["loc"]) > 1 else None
        )
        inner = kinds[0].model_fields if kinds else inner
        return f"{where} is not a setting; expected one of {', '.join(inner or Experiment.model_fields)}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"].startswith("union_tag"):
        message = f"expected a kind of schedule, one of {', '.join(SCHEDULES)}"
    return (
        f"{where} = {first['input']!r}: {message[0].lower()}{message[1:]}{more}"
        if len(first["loc"]) > 1
        else f"{where}: {message}{more}"
    )
