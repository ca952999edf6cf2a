"""What every run has: an experiment, a directory, the generator, its Gaussian model, and results that are found again.

Every stage (model, theory, simulation) is saved with a key, the hash of that part of the experiment which it depends on.
The same command again finds it; a changed experiment computes anew what depends on the change.
"""

import abc
import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from gaussequiv import __version__
from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs, OnlineSGD
from gaussequiv.models.storage import DamagedError, atomic_write_text, sha256_of_file, sha256_of_folder
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.models.sweeps import Curves, load
from gaussequiv.report import compare
from gaussequiv.report.adapted import made
from gaussequiv.report.grids import Compared
from gaussequiv.report.problems import online_problem
from gaussequiv.report.settings import Experiment

if TYPE_CHECKING:
    from gaussequiv.generators import Dataset, Generator
    from gaussequiv.generators.estimation import Shard
    from gaussequiv.generators.features import Features

Progress = Callable[[str, float, float], Any]  # (stage, done, in all)
INPUTS = ("generator", "estimate")  # what the Gaussian model of the generator's inputs depends on
MODEL = (*INPUTS, "features")  # the same of what is learned from
TRAINED = ("teacher", "student", "learning", "times")  # what trained features depend on besides
FINGERPRINT = 16  # samples that stand for a generator of unknown code
WIDTH = 500  # number of random features

T = TypeVar("T", bound=Curve | Curves)


@dataclass(frozen=True)
class Stages(abc.ABC):
    """An experiment in its directory: each stage is loaded if it is there and computed and saved if not."""

    experiment: Experiment
    folder: Path
    progress: Progress
    allow_code: bool = False  # whether a generator, its prior or a teacher may come from the user's own code

    suffix: ClassVar[str]  # of the names of its files
    sections: ClassVar[tuple[str, ...]]  # of the experiment that it depends on

    # --- what a kind of learning adds ---

    @cached_property
    @abc.abstractmethod
    def theory(self) -> Any:
        """The prediction."""

    @cached_property
    @abc.abstractmethod
    def practice(self) -> Any:
        """The simulation on the generator's samples."""

    @cached_property
    @abc.abstractmethod
    def twin(self) -> Any:
        """The simulation on samples of the Gaussian model."""

    @abc.abstractmethod
    def errors_of(self, model: GaussianModel) -> Any:
        """The predicted test errors of another model of the inputs."""

    @property
    def remarks(self) -> list[str]:
        """Lines that go with the prediction."""
        return []

    @abc.abstractmethod
    def draw_theory(self) -> list[Path]:
        """Write the figures of the prediction alone; returns their paths."""

    @abc.abstractmethod
    def draw_practice(self) -> list[Path]:
        """Write the figures of the simulation alone; returns their paths."""

    @abc.abstractmethod
    def draw(self) -> list[Path]:
        """Write the figures and the page of the comparison; returns their paths."""

    # --- generator and model ---

    @cached_property
    def source(self) -> "Generator | Dataset":
        """The generator or data set of the experiment, its images cropped, pooled and standardised, without features."""
        section, composed = self.experiment.generator, self._named
        if section.crop is not None:
            composed = composed.crop(section.crop)
        if section.pool is not None:
            composed = composed.pool(section.pool)
        if not section.standardise:
            return composed
        name = "model-before-standardising.safetensors"
        model = self._model(name, INPUTS, lambda: self._estimated(composed, "standardise", INPUTS))
        return composed.standardise(model, floor=section.floor or 0.0)

    @cached_property
    def _named(self) -> "Generator | Dataset":
        """The generator by its name, on its device, or the data set of a path."""
        from gaussequiv import generators
        from gaussequiv.generators import zoo

        section = self.experiment.generator
        match section.name:
            case "single-layer":
                generator = generators.single_layer(self._matrices[0], section.units)
            case "deep-random":
                kind, strength = section.matrix_kind
                generator = generators.deep_random(
                    section.layer_widths, section.units, section.seed, matrix=kind, strength=strength
                )
            case _ if section.runs_code or section.is_onnx:
                generator = made(section, self.allow_code, self.experiment.simulation.device)
            case _:
                found = zoo.find(section.name, section.key)
                if isinstance(found, generators.Dataset):
                    return found
                generator = found
        return generator.to(device=self.experiment.simulation.device)

    @cached_property
    def generator(self) -> "Generator | Dataset":
        """The generator of the experiment: its last layer are the features, where there are any."""
        if self._features is None:
            return self.source
        centred = self._trains and self.experiment.learning.center
        return self.source.then(self._features, mean=self.inputs_model.mean_x if centred else None)

    @cached_property
    def model(self) -> GaussianModel:
        """The equivalent Gaussian model of what is learned from: the generator's inputs, or features of them."""
        return self._model("model.safetensors", MODEL, self._computed_model)

    @cached_property
    def inputs_model(self) -> GaussianModel:
        """That of the generator's inputs, without features."""
        if self.experiment.features.kind == "none":
            return self.model

        def computed() -> GaussianModel:
            known = self.experiment.inputs_in_closed_form
            return self._closed_form if known else self._estimated(self.source, "inputs", INPUTS)

        return self._model("model-inputs.safetensors", INPUTS, computed)

    @cached_property
    def trained(self) -> TwoLayer:
        """The student of the experiment after one-pass SGD on the generator's inputs: its first layer are the features."""

        def problem() -> OnlineSGD:
            found = online_problem(self.experiment, self.inputs_model)
            if not isinstance(found, OnlineSGD):
                raise InputError(
                    "trained features are those of one student; give one value where the experiment has a list"
                )
            return found

        e = self.experiment
        return self.after_training("features", self.key_of(*MODEL), problem, self.source, e.times.end, e.features.seed)

    def after_training(
        self, name: str, key: str, problem: Callable[[], OnlineSGD], inputs: Inputs, time: float, seed: int
    ) -> TwoLayer:
        """A student after one-pass SGD, found again where it was trained before; a damaged file is made again."""
        from gaussequiv import simulation

        path = self.folder / f"{name}.safetensors"
        key = digest(key, time, seed)
        with suppress(DamagedError):
            if path.is_file():
                network, provenance = TwoLayer.load_with_provenance(path)
                if provenance.get("key") == key:
                    return network
        self.save_experiment()
        asked = problem()
        network = simulation.train(
            asked,
            inputs,
            time=time,
            seed=seed,
            device=self.experiment.simulation.device,
            checkpoint=self.folder / f"{name}-{key[:12]}.partial",
            progress=lambda done, of: self.progress(name, done, of),
        )
        network.save(path, {"key": key, "problem": asked.describe(), "time": time, "seed": seed})
        return network

    # --- theory beside simulation ---

    @cached_property
    def comparisons(self) -> tuple[Compared, Compared | None]:
        """Theory beside the simulation and, if wanted, beside that on the Gaussian twin; both saved as JSON."""
        if self.experiment.simulation.seeds < 2:
            raise InputError("simulation.seeds = 1 has no standard error; simulate at least two seeds to compare")
        comparison = compare(self.theory, self.practice)
        comparison.save(self.folder / f"comparison{self.suffix}.json")
        if not self.experiment.simulation.twin:
            return comparison, None
        twin = compare(self.theory, self.twin)
        twin.save(self.folder / f"comparison-twin{self.suffix}.json")
        return comparison, twin

    @property
    def checked(self) -> str | None:
        """What the last check in this directory said of the experiment's own weights, if there was one."""
        path = self.folder / f"check{self.suffix}.json"
        if not path.is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))["verdicts"]
        return "; ".join(f"{name}: {one['word']}" for name, one in found.items() if one["decides"])

    @property
    def details(self) -> Mapping[str, Any]:
        """What a page shows at its end: the experiment, the model, the versions."""
        return {"experiment": self._values, "model": dict(self.model.provenance), "versions": versions()}

    def save_experiment(self) -> None:
        """Write the sections of the experiment that were used, and the versions that ran it."""
        import tomli_w

        atomic_write_text(self.folder / "experiment.toml", tomli_w.dumps(self._values))
        atomic_write_text(self.folder / "provenance.json", json.dumps(versions(), indent=1) + "\n")

    # --- parts ---

    @property
    def _values(self) -> dict[str, Any]:
        return self.experiment.model_dump(exclude_none=True, include={*self.sections, *self._beside(*self.sections)})

    @property
    def _trains(self) -> bool:
        return self.experiment.features.kind == "trained"

    def _beside(self, *parts: str) -> tuple[str, ...]:
        """Further sections that these sections need: those that say how features are trained."""
        return TRAINED if self._trains and "features" in parts else ()

    @cached_property
    def _matrices(self) -> list[Any]:
        from gaussequiv.generators import matrices

        section = self.experiment.generator
        kind, strength = section.matrix_kind
        return matrices(section.layer_widths, kind, section.seed, strength=strength)

    @cached_property
    def _features(self) -> "Features | None":
        from gaussequiv import generators

        section = self.experiment.features
        match section.kind:
            case "none":
                return None
            case "trained":
                return generators.first_layer(self.trained)
        return generators.random_features(
            self.source.input_dim, section.width or WIDTH, section.activation or "erf", section.kind, section.seed
        )

    def _model(self, name: str, parts: tuple[str, ...], compute: Callable[[], GaussianModel]) -> GaussianModel:
        path, key = self.folder / name, self.key_of(*parts)
        if path.is_file():
            model = GaussianModel.load(path)
            if model.provenance.get("key") == key:
                return model
        model = compute()
        model = model.with_provenance({**model.provenance, "key": key})
        self.save_experiment()
        model.save(path)
        return model

    def _computed_model(self) -> GaussianModel:
        if self.experiment.uses_closed_form:
            if self._features is None:
                return self._closed_form
            return self._closed_form.then(self._features.weight_matrix, self.experiment.features.activation or "erf")
        return self._estimated(self.generator, "estimate", MODEL)

    @property
    def _closed_form(self) -> GaussianModel:
        """The model of the generator's inputs from its matrices."""
        section = self.experiment.generator
        if section.name == "single-layer":
            return GaussianModel.single_layer(self._matrices[0], section.units)
        return GaussianModel.deep(self._matrices, section.units)

    def _estimated(self, generator: Inputs, stage: str, parts: tuple[str, ...]) -> GaussianModel:
        from gaussequiv import generators

        e, final = self.experiment.estimate, stage == "estimate"
        return generators.estimate(
            generator,
            e.samples,
            e.seed,
            e.workers,
            lambda done, of: self.progress(stage, done, of),
            engine=e.engine,
            folder=self._moments(stage, parts),
            rtol=e.rtol if final else None,
            quantities=self._errors_relative_to_the_first() if final and e.of == "error" else None,
            products=e.products,
        )

    def _moments(self, stage: str, parts: tuple[str, ...]) -> Path:
        """The folder of an estimate: that of another number of samples, too, which goes on from there."""
        sections = self.experiment.model_dump(mode="json", include={*parts, *self._beside(*parts)})
        estimate = sections.pop("estimate")
        kept = {name: estimate[name] for name in ("seed", "products")}
        return self.folder / f"moments-{stage}-{digest(sections, kept, self._contents, __version__)[:12]}"

    def _errors_relative_to_the_first(self) -> Callable[[GaussianModel], Any]:
        """The predicted test errors of a model, in units of those of the first one."""
        first: list[Any] = []

        def errors(model: GaussianModel) -> Any:
            found = self.errors_of(model)
            first.append(found)
            return found / first[0]

        return errors

    def estimate_shard(self, shard: tuple[int, int]) -> "Shard":
        """Do a part of the estimate, and leave its moments for `merge`."""
        from gaussequiv import generators

        e = self.experiment.estimate
        if self.experiment.uses_closed_form:
            raise InputError(
                "the model is known in closed form: there is nothing to share; set estimate.closed_form=false"
            )
        if e.rtol is not None:
            raise InputError("estimate.rtol is for one process; give the shards a number of samples")
        self.save_experiment()
        return generators.estimate_shard(
            self.generator,
            e.samples,
            shard,
            self._moments("estimate", MODEL),
            e.seed,
            e.workers,
            lambda done, of: self.progress("estimate", done, of),
            engine=e.engine,
            products=e.products,
        )

    @cached_property
    def merged(self) -> GaussianModel:
        """The model of shards that were done before."""
        from gaussequiv import generators

        folder = self._moments("estimate", MODEL)

        def merged() -> GaussianModel:
            if not folder.is_dir():
                raise InputError(f"there are no shards of this experiment in {self.folder}; run estimate --shard first")
            return generators.merge(folder, self.experiment.estimate.samples)

        return self._model("model.safetensors", MODEL, merged)

    def draw_convergence(self) -> list[Path]:
        """Write the figure of how an estimate became accurate, where it was to; returns its path."""
        from gaussequiv.report import figures

        found = self.model.provenance.get("convergence")
        return self._saved({"convergence": figures.convergence(found)}) if found and len(found["rows"]) > 1 else []

    def _curve(self, name: str, parts: tuple[str, ...], compute: Callable[[], T]) -> T:
        path, key = self.folder / name, self.key_of(*parts)
        if path.is_file():
            curve = load(path)
            if curve.data.attrs.get("key") == key:
                return curve  # type: ignore[return-value]
        computed = compute()
        computed = type(computed)(computed.data.assign_attrs(key=key))
        computed.save(path)
        return computed

    def _saved(self, drawn: dict[str, Any]) -> list[Path]:
        from gaussequiv.report import figures

        paths = [self.folder / f"{name}{self.suffix}.png" for name in drawn]
        for figure, path in zip(drawn.values(), paths, strict=True):
            figures.save(figure, path)
        return paths

    def _images(self) -> Any:
        """36 samples as images, where the generator makes any."""
        from gaussequiv.generators import zoo

        return zoo.images(self.source, self.source.sample(36, 0)[1])

    def _pictures(self) -> dict[str, tuple[str, str]]:
        """Figures of the generator as SVG, each with its caption: its spectrum, samples of images, how its model converged."""
        from gaussequiv.report import figures

        pictures = {
            "spectrum": (figures.svg(figures.spectrum(self.model)), "Spectrum of the covariance of the inputs.")
        }
        images = self._images()
        if images is not None:
            pictures["samples"] = (figures.svg(figures.samples(images)), f"Samples of {self.source.name}.")
        found = self.model.provenance.get("convergence")
        if found and len(found["rows"]) > 1:
            last = found["rows"][-1]
            pictures["convergence"] = (
                figures.svg(figures.convergence(found)),
                f"The model: {last['samples']} samples leave a relative error of {last['relative_error']:.2g} (asked for: "
                f"{found['rtol']:g}).",
            )
        return pictures

    def _simulation(self, stage: str, parts: tuple[str, ...]) -> dict[str, Any]:
        """The options of every simulation."""
        e = self.experiment.simulation
        return {
            "seeds": e.seeds,
            "seed": e.seed,
            "test_samples": e.test_samples,
            "device": e.device,
            "checkpoint": self.folder / f"{stage}-{self.key_of(*parts)[:12]}.partial",
            "progress": lambda done, of: self.progress(stage, done, of),
        }

    def key_of(self, *parts: str) -> str:
        """Hash of the sections that a stage depends on, of the weights or data, and of the version."""
        values = self.experiment.model_dump(mode="json", include={*parts, *self._beside(*parts)})
        for section in ("estimate", "theory"):
            for name in ("workers", "engine"):
                values.get(section, {}).pop(name, None)  # no result depends on it
        values.get("simulation", {}).pop("twin", None)  # nor the simulation on whether there is a second one
        values.get("batch", {}).pop("bayes", None)  # nor on a line drawn beside it
        if self._trains and "times" in values:
            values["times"] = {"end": self.experiment.times.end}  # when the training ends
        return digest(values, self._contents, __version__)

    @cached_property
    def _contents(self) -> str:
        """Hash of the weights, or of the data set, that the generator's name leads to; of code by its first samples."""
        if self.experiment.generator.runs_code or self.experiment.generator.is_onnx:  # weights may lie beside the file
            latents, inputs = self._named.sample(FINGERPRINT, stream(0, Purpose.CHECK))
            return hashlib.sha256(latents.tobytes() + inputs.tobytes()).hexdigest()
        path = Path(self.experiment.generator.name)
        if path.is_file():
            return sha256_of_file(path)
        return sha256_of_folder(path) if path.is_dir() and self.experiment.generator.is_data else ""


def digest(*values: Any) -> str:
    """Hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
