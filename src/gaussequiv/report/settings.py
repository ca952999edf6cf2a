"""Settings of an experiment: a TOML file, single values from the command line, and their validation."""

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from gaussequiv.code import is_code
from gaussequiv.errors import InputError
from gaussequiv.maths.activations import activation
from gaussequiv.maths.losses import LOSSES
from gaussequiv.models import schedules
from gaussequiv.models.batch import log_grid
from gaussequiv.models.problems import Schedule
from gaussequiv.models.sweeps import OPTIONS
from gaussequiv.models.teachers import Output
from gaussequiv.report.generator_settings import GeneratorSection, Section, activation_name


def _differentiable(name: str) -> str:
    activation(name).derivative(np.zeros(1))  # raises where there is none
    return name


class EstimateSection(Section):
    """How the Gaussian model is found: by samples, or in closed form for a fully connected random generator.

    With `rtol` samples are doubled until the covariances of the fields of random weights (`of = "fields"`) or the predicted test
    error (`of = "error"`) are that accurate, or there are `samples`. `engine` is "threads", "processes" or the address of a Dask
    scheduler, `workers` the number of blocks that are worked on at a time.
    """

    samples: int = Field(default=100_000, ge=1)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1)
    engine: str = "threads"
    products: Literal["float64", "float32"] = "float64"
    rtol: float | None = Field(default=None, gt=0)
    of: Literal["fields", "error"] = "fields"
    closed_form: bool | None = None

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        if engine not in ("threads", "processes") and "://" not in engine:
            raise ValueError("expected threads, processes, or the address of a Dask scheduler, tcp://HOST:PORT")
        return engine


class FeaturesSection(Section):
    r"""Features $\sigma(W x / \sqrt N)$ of the generator's inputs, which then are what is learned from.

    W is random, or the first layer of the student, trained on the same generator. `width` and `activation` are those of random
    ones; `seed` is that of W, or of the training samples.
    """

    kind: Literal["none", "gaussian", "orthogonal", "trained"] = "none"
    width: int | None = Field(default=None, ge=1)
    activation: Annotated[str, AfterValidator(activation_name)] | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "FeaturesSection":
        given = [name for name in ("width", "activation") if getattr(self, name) is not None]
        if self.kind == "none" and given:
            raise ValueError(f"{' and '.join(given)} of no features; set features.kind to gaussian or orthogonal, too")
        if self.kind == "trained" and given:
            raise ValueError(
                f"{' and '.join(given)} cannot be set for trained features; they are those of the section student"
            )
        return self


class StepSection(Section):
    """A learning rate that jumps: `schedules.Step`."""

    kind: Literal["step"]
    values: tuple[float, ...] = Field(strict=False)
    at: tuple[float, ...] = Field(strict=False)

    @property
    def schedule(self) -> Schedule:
        """The function of t."""
        return schedules.Step(self.values, self.at)


class PowerSection(Section):
    """A learning rate that decays as a power of t: `schedules.Power`."""

    kind: Literal["power"]
    start: float
    exponent: float
    scale: float = 1.0

    @property
    def schedule(self) -> Schedule:
        """The function of t."""
        return schedules.Power(self.start, self.exponent, self.scale)


class ExponentialSection(Section):
    """A learning rate that decays exponentially: `schedules.Exponential`."""

    kind: Literal["exponential"]
    start: float
    rate: float

    @property
    def schedule(self) -> Schedule:
        """The function of t."""
        return schedules.Exponential(self.start, self.rate)


class GridSection(Section):
    """Log-spaced numbers from `start` to `end`."""

    start: float = Field(default=0.1, gt=0)
    end: float = Field(default=10.0, gt=0)
    points: int = Field(default=20, ge=2)

    @model_validator(mode="after")
    def _grows(self) -> "GridSection":
        if not self.start < self.end:
            raise ValueError("expected start < end")
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers, `points` of them."""
        return tuple(log_grid(self.start, self.end, self.points).tolist())


SCHEDULES: dict[str, type[Section]] = {"step": StepSection, "power": PowerSection, "exponential": ExponentialSection}
LEAST_GRADIENTS = 50
TEACHERS = ("perceptron", "two-layer")  # of full-batch learning; others come from code
SHAPES = ("number", "axis", "word", "schedule", "grid")  # what a value may be: a number, a list of them, a word, tables


def _shape(value: object) -> str:
    return "axis" if isinstance(value, list | tuple) else "schedule" if isinstance(value, dict | Section) else "number"


def _grid_shape(value: object) -> str:
    return "grid" if isinstance(value, dict | Section) else _shape(value)


def _penalty_shape(value: object) -> str:
    return "axis" if isinstance(value, list | tuple) else "word" if isinstance(value, str) else "number"


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an empty list; expected one value, or a list of values that a sweep goes through")
    if len(set(values)) < len(values):
        raise ValueError("the list has a value twice; expected different values")
    return values


def _increasing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or any(after <= before for before, after in pairwise(values)):
        raise ValueError("expected increasing numbers")
    return values


def _optimal(word: str) -> str:
    if word != "optimal":
        raise ValueError("expected a number of at least 0, a list of increasing ones, or 'optimal'")
    return word


def _loss(name: str) -> str:
    if name not in LOSSES:
        raise ValueError(f"unknown loss; expected one of {', '.join(LOSSES)}")
    return name


def _teacher(name: str) -> str:
    if name not in TEACHERS and not is_code(name):
        raise ValueError(
            f"expected {', '.join(TEACHERS)}, or package.module:factory, a function of yours that returns a teacher"
        )
    return name


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
Increasing = Annotated[tuple[T, ...], Field(strict=False), AfterValidator(_increasing), Tag("axis")]
Grid = Annotated[
    Annotated[Positive, Tag("number")] | Increasing[Positive] | Annotated[GridSection, Tag("grid")],
    Discriminator(_grid_shape),
]
Penalty = Annotated[
    Annotated[NotNegative, Tag("number")]
    | Increasing[NotNegative]
    | Annotated[str, AfterValidator(_optimal), Tag("word")],
    Discriminator(_penalty_shape),
]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class TeacherSection(Section):
    """A two-layer network with random weights N(0, scale^2)."""

    units: Count = 2
    activation: Annotated[str, AfterValidator(activation_name)] = "erf"
    readout: Literal["ones", "gaussian"] = "ones"
    scale: float = Field(default=1.0, gt=0)
    seed: Seed = 1


class StudentSection(Section):
    """The same for the student; lists of units or seeds are axes of a sweep. `outputs` is that of the teacher, too."""

    units: Values[Count] = 2
    activation: Annotated[str, AfterValidator(_differentiable)] = "erf"
    readout: Literal["ones", "gaussian"] = "gaussian"
    scale: float = Field(default=1.0, gt=0)
    seed: Values[Seed] = 2
    outputs: Count | None = None


class LearningSection(Section):
    """One-pass SGD; lists are axes of a sweep, tables are schedules."""

    lr: Rates[Positive] = 0.2
    lr_readout: Rates[NotNegative] | None = None
    noise: Values[NotNegative] = 0.0
    batch_size: Values[Count] = 1
    weight_decay: Values[NotNegative] = 0.0
    train_readout: bool = True
    teacher_on: Literal["latents", "inputs"] | None = None
    center: bool = True


class TimesSection(Section):
    """0 and log-spaced times from `start` to `end`, in units of steps / N."""

    start: float = Field(default=0.1, gt=0)
    end: float = Field(default=100.0, gt=0)
    points: int = Field(default=20, ge=2)


class BatchSection(Section):
    """Full-batch learning: a generalised linear model trained to the end on n = alpha N samples, labelled by a teacher."""

    loss: Annotated[str, AfterValidator(_loss)] = "square"
    output: Output | None = None
    noise: NotNegative = 0.0
    teacher: Annotated[str, AfterValidator(_teacher)] = "perceptron"
    teacher_seed: Seed = 1
    teacher_on: Literal["latents", "inputs"] | None = None
    measured_on: Literal["latents", "inputs"] | None = None
    center: bool = True
    penalty: Penalty = (0.1, 1.0, 10.0)
    alpha: Grid = GridSection()
    bayes: bool = False

    @model_validator(mode="after")
    def _learnable(self) -> "BatchSection":
        if self.output == "linear" and LOSSES[self.loss].of == "margin":
            raise ValueError(
                f"the {self.loss} loss is one of labels +1 and -1; expected the output sign, logit or probit, "
                "or the loss square, huber or absolute"
            )
        if not self.center and (self.teacher, self.loss, self.labels) != ("perceptron", "square", "linear"):
            raise ValueError("center = false is for the square loss on linear labels of a perceptron; leave it out")
        return self

    @model_validator(mode="after")
    def _taught(self) -> "BatchSection":
        if self.from_code and self.teacher_on == "inputs":
            raise ValueError("teacher_on is where a perceptron or a two-layer teacher looks; set measured_on for yours")
        if not self.from_code and self.measured_on is not None:
            raise ValueError(f"measured_on is where a teacher of your own looks; set teacher_on for {self.teacher}")
        if self.bayes and (self.teacher != "perceptron" or self.teacher_on == "inputs"):
            raise ValueError("bayes is the least error for perceptrons on the latents; leave it out for other teachers")
        if not self.in_closed_form:
            self.refuse_unmeasured(f"a teacher {self.teacher}")
        return self

    def refuse_unmeasured(self, what: str) -> None:
        """Raise where labels that are measured were given noise, or an output that is random by itself."""
        if self.labels not in ("linear", "sign"):
            raise ValueError(f"labels of {what} are measured, as they come or by their sign; expected linear or sign")
        if self.noise:
            raise ValueError(f"labels of {what} are measured, without noise; expected noise = 0")

    @property
    def from_code(self) -> bool:
        """Whether the teacher is what a function of the user's returns."""
        return self.teacher not in TEACHERS

    @property
    def in_closed_form(self) -> bool:
        """Whether the moments of the labels follow from those of latents and inputs; other teachers are measured."""
        square = (self.loss, self.labels) == ("square", "linear")
        return self.teacher == "perceptron" or (self.teacher == "two-layer" and square)

    @property
    def labels(self) -> Output:
        """The output of the teacher: by default sign for losses of labels +1 and -1, linear for others."""
        return self.output or ("sign" if LOSSES[self.loss].of == "margin" else "linear")

    @property
    def alphas(self) -> tuple[float, ...]:
        """The sample complexities n / N."""
        match self.alpha:
            case GridSection():
                return self.alpha.values
            case tuple():
                return self.alpha
        return (self.alpha,)


class TheorySection(Section):
    """The accuracy of the predicted curve, and the processes that share the points of a sweep."""

    rtol: float = Field(default=1e-6, ge=1e-12, le=0.1)
    workers: int = Field(default=1, ge=1)
    finite_size: bool = False
    classification: bool = False


class SimulationSection(Section):
    """The real training, on the generator's samples and, with `twin`, also on those of its Gaussian model."""

    twin: bool = True
    seeds: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    test_samples: int = Field(default=1_000, ge=1)
    device: str = "cpu"


class CheckSection(Section):
    """Whether the Gaussian equivalence holds: for the student as it begins, as training leaves it, and for others beside.

    `trained` are shares of the training (online) or sample complexities (full batch) at which the trained student is looked at.
    `beside` are families of weights that are shown for comparison; what they say does not decide. `gradients` is their number
    for the certificate, 0 for none.
    """

    samples: int = Field(default=100_000, ge=4_096)
    seed: Seed = 0
    workers: int = Field(default=1, ge=1)
    tolerance: float = Field(default=0.05, gt=0)
    effect: float = Field(default=0.01, gt=0)
    trained: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.01, 0.1, 1.0), strict=False)
    beside: tuple[Literal["random", "ones", "top", "rows", "columns", "sparse"], ...] = Field(
        default=("ones", "top", "rows", "columns", "sparse"), strict=False
    )
    gradients: int = Field(default=400, ge=0)

    @field_validator("gradients")
    @classmethod
    def _enough(cls, gradients: int) -> int:
        if 0 < gradients < LEAST_GRADIENTS:
            raise ValueError(f"expected at least {LEAST_GRADIENTS} gradients, or 0 for no certificate")
        return gradients


class Experiment(Section):
    """A whole experiment; every section and every value has a default: the demo, after the paper's own experiment."""

    generator: GeneratorSection = GeneratorSection()
    estimate: EstimateSection = EstimateSection()
    features: FeaturesSection = FeaturesSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    learning: LearningSection = LearningSection()
    times: TimesSection = TimesSection()
    theory: TheorySection = TheorySection()
    batch: BatchSection = BatchSection()
    check: CheckSection = CheckSection()
    simulation: SimulationSection = SimulationSection()

    @model_validator(mode="after")
    def _fits(self) -> "Experiment":
        if self.features.kind == "trained" and self.axes:
            raise ValueError(f"trained features are those of one student; expected one value of {', '.join(self.axes)}")
        if self.generator.is_data:
            self._refuse_latents()
        if self.measures_inputs_below_features:
            if not self.batch.center:
                raise ValueError(
                    "center = false is for a teacher on the latents where there are features; leave it out"
                )
            self.batch.refuse_unmeasured("a teacher on the inputs below features")
        return self

    def _refuse_latents(self) -> None:
        """Raise where a teacher was told to look at the latents of a data set."""
        places = (("learning", "teacher_on"), ("batch", "teacher_on"), ("batch", "measured_on"))
        for section, name in places:
            if getattr(getattr(self, section), name) == "latents":
                raise ValueError(
                    f"the latents of the data set {self.generator.name} are unknown, so no teacher looks at them; leave "
                    f'{section}.{name} out, or set it to "inputs"'
                )
        if self.batch.bayes:
            raise ValueError(
                "bayes is the least error for teachers on the latents, and those of a data set are unknown"
            )

    def teacher_on(self, section: Literal["learning", "batch"]) -> Literal["latents", "inputs"]:
        """Where the teacher looks: what the section says; by default the latents, of a data set the inputs."""
        found: Literal["latents", "inputs"] | None = getattr(self, section).teacher_on
        return found or ("inputs" if self.generator.is_data else "latents")

    @property
    def measures_inputs_below_features(self) -> bool:
        """Whether the teacher of full-batch learning is on inputs of which the student sees features only."""
        return self.teacher_on("batch") == "inputs" and self.features.kind != "none" and not self.batch.from_code

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
    def is_batch(self) -> bool:
        """Whether it is one of full-batch learning unless told otherwise: it says how, or learns from trained features."""
        return "batch" in self.model_fields_set or self.features.kind == "trained"

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The axes of the sweep by their names in `Sweep`; empty where every setting has one value."""
        found = {name: getattr(self.learning, name) for name in OPTIONS}
        found |= {"units": self.student.units, "student_seed": self.student.seed}
        return {name: values for name, values in found.items() if isinstance(values, tuple)}

    @property
    def uses_closed_form(self) -> bool:
        """Whether the model comes in closed form: by default wherever that is the more accurate one.

        Those of random features are known where the inputs have no means, as with an odd activation.
        """
        g, trained = self.generator, self.features.kind == "trained"
        centred = self.features.kind == "none" or activation(g.units).odd
        known = g.name in ("single-layer", "deep-random") and centred and not trained
        if self.estimate.closed_form and not known:
            what = f"{g.name} has" if centred else f"features of a {g.name} generator with means have"
            what = "trained features have" if trained else what
            raise InputError(f"{what} no closed-form moments; leave estimate.closed_form out")
        return known and self.inputs_in_closed_form

    @property
    def inputs_in_closed_form(self) -> bool:
        """The same of the generator's inputs, whatever the features of them."""
        g, wanted = self.generator, self.estimate.closed_form
        if g.name not in ("single-layer", "deep-random"):
            return False
        return g.has_exact_moments or g.closed_form_error_is_below(self.estimate.samples) if wanted is None else wanted


def _read_toml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a TOML file")
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


def first(value: Any) -> Any:
    """A setting as an argument: of an axis its first value, of a schedule the function."""
    if isinstance(value, StepSection | PowerSection | ExponentialSection):
        return value.schedule
    return value[0] if isinstance(value, tuple) else value


def _one_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    shape, table = ([str(part) for part in first["loc"][2:4]] + ["", ""])[:2]  # tags of pydantic among the keys
    tags = (shape in SHAPES) + (shape == "schedule" and table in SCHEDULES)
    kind = GridSection if shape == "grid" else SCHEDULES.get(table) if shape == "schedule" else None
    where = ".".join(map(str, (*first["loc"][:2], *first["loc"][2 + tags :]))) or "the experiment"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        section = Experiment.model_fields.get(str(first["loc"][0]))
        inner = (
            getattr(section.annotation, "model_fields", None) if section is not None and len(first["loc"]) > 1 else None
        )
        inner = kind.model_fields if kind is not None else inner
        return f"{where} is not a setting; expected one of {', '.join(inner or Experiment.model_fields)}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "model_type":
        return f"{where} = {first['input']!r}: expected a section of settings, such as {where}.key=value{more}"
    if first["type"].startswith("union_tag"):
        message = f"expected a kind of schedule, one of {', '.join(SCHEDULES)}"
    return (
        f"{where} = {first['input']!r}: {message[0].lower()}{message[1:]}{more}"
        if len(first["loc"]) > 1
        else f"{where}: {message}{more}"
    )
