"""The section `generator` of an experiment."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gaussequiv.code import is_code
from gaussequiv.maths.activations import activation
from gaussequiv.models.storage import holds_data


class Section(BaseModel):
    """A section of an experiment: nothing but its settings, of their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def activation_name(name: str) -> str:
    """The name of an activation; raises for an unknown one."""
    activation(name)
    return name


Matrix = Literal["gaussian", "orthogonal", "hadamard", "spiked"]  # the kinds of `generators.matrix`
COMPOSED = {"crop", "pool", "standardise", "floor"}  # settings of images
CALLED = {"latent", "output", "extra", "prior", "stochastic"}  # how a module is called
OF_MATRICES = {"activation", "matrix", "strength"}  # settings of fully connected random generators


def _latent(shape: Any) -> Any:
    """A number, a shape, or a table of them."""
    if isinstance(shape, dict) and shape:
        return {name: _latent(one) for name, one in shape.items()}
    sizes = list(shape) if isinstance(shape, list | tuple) else [shape]
    if not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError(
            "expected the shape of one latent, such as 100 or [100, 1, 1], or a table of shapes by their names"
        )
    return tuple(sizes)


def _table(values: Any) -> Any:
    if not isinstance(values, dict):
        raise ValueError("expected a table of names and values, such as {label = 3}")
    return values


def _output(choice: Any) -> Any:
    if type(choice) not in (int, str):
        raise ValueError("expected the position or the name of one of several outputs")
    return choice


def _prior(names: Any) -> Any:
    """The name of code, or a table of them."""
    for name in names.values() if isinstance(names, dict) else [names]:
        if not isinstance(name, str) or not is_code(name):
            raise ValueError(
                "expected package.module:sampler, a function of yours of (n, rng) that returns latents, or a table of such "
                "names by those of the latents"
            )
    return names


class GeneratorSection(Section):
    """Which generator: a name of the zoo, a file of weights, an ONNX model, your code, or a data set; images may be composed.

    Sizes and matrices are for the random ones only, `key` is that of a file of several arrays or weights. Of your code, named
    "package.module:factory", `weights`, `arguments` of the factory, `latent`, `output`, `extra` and `stochastic` are those of
    `generators.from_code`; a `prior` is named "package.module:sampler", one for each of several latents.
    """

    name: str = "dcgan"
    key: str | None = None
    weights: Annotated[str, Field(min_length=1)] | None = None
    arguments: Annotated[Any, AfterValidator(_table)] = None
    latent: Annotated[Any, AfterValidator(_latent)] = None
    output: Annotated[Any, AfterValidator(_output)] = None
    extra: Annotated[Any, AfterValidator(_table)] = None
    prior: Annotated[Any, AfterValidator(_prior)] = None
    stochastic: bool = False
    crop: int | None = Field(default=None, ge=1)
    pool: int | None = Field(default=None, ge=1)
    standardise: bool = False
    floor: float | None = Field(default=None, gt=0)
    input_dim: int | None = Field(default=None, ge=1)
    latent_dim: int | None = Field(default=None, ge=1)
    widths: tuple[int, ...] | None = Field(default=None, strict=False)
    activation: Annotated[str, AfterValidator(activation_name)] | None = None
    matrix: Matrix | None = None
    strength: float | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "GeneratorSection":
        random = {"single-layer": {"input_dim", "latent_dim", *OF_MATRICES}, "deep-random": {"widths", *OF_MATRICES}}
        values = {key: getattr(self, key) for key in self.model_fields_set - {"name", "seed"}}
        given = {key for key, value in values.items() if value is not None and value is not False}  # 0 is an output
        if self.from_code:
            allowed = {*COMPOSED, *CALLED, "key", "weights", "arguments"}
        elif self.is_onnx:
            allowed = {*COMPOSED, *CALLED}
        else:
            allowed = random.get(self.name, {*COMPOSED, "key"})
        foreign = given - allowed
        if foreign and self._is_unknown:
            raise ValueError(
                f"unknown generator {self.name!r}; expected a name of `gaussequiv generators`, package.module:factory, or a file"
            )
        if foreign:
            raise ValueError(f"{', '.join(sorted(foreign))} cannot be set for {self.name}")
        if self.widths is not None and (len(self.widths) < 2 or min(self.widths) < 1):
            raise ValueError("expected widths of at least two numbers, all at least 1: D, hidden layers, N")
        if self.floor is not None and not self.standardise:
            raise ValueError("floor is that of standardised inputs; set standardise = true, or leave it out")
        if self.strength is not None and self.matrix != "spiked":
            raise ValueError('strength is that of spiked matrices; set matrix = "spiked", or leave it out')
        return self

    @property
    def _is_unknown(self) -> bool:
        """Whether the name is that of no generator, and nothing is there."""
        from gaussequiv.generators.zoo import NAMES

        return self.name not in NAMES and not Path(self.name).exists() and Path(self.name).suffix != ".safetensors"

    @property
    def from_code(self) -> bool:
        """Whether it is what a function of the user's returns."""
        return is_code(self.name)

    @property
    def runs_code(self) -> bool:
        """Whether code of the user's runs: that of the generator, or of its prior."""
        return self.from_code or self.prior is not None

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX model."""
        return self.name.endswith(".onnx")

    @property
    def is_data(self) -> bool:
        """Whether it is a data set, whose latents are unknown."""
        if self.key is None and not holds_data(self.name):
            return False
        from gaussequiv.generators.zoo import NAMES

        return self.name not in NAMES  # a folder of that name does not hide the generator

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """D, the widths of hidden layers, N of a fully connected random generator."""
        if self.name == "single-layer":
            return self.latent_dim or 500, self.input_dim or 1000
        return self.widths or (500, 500, 500, 1000)

    @property
    def units(self) -> str:
        """Its activation."""
        return self.activation or "sign"

    @property
    def has_exact_moments(self) -> bool:
        """Whether the closed form is exact: a single layer, or linear ones."""
        return len(self.layer_widths) == 2 or self.units == "linear"

    def closed_form_error_is_below(self, samples: int) -> bool:
        """Whether the closed form of a deep generator is more accurate than that many samples.

        Its error grows as layers / width for odd activations, that of samples falls as their inverse root: 200 units in
        the hidden ones of three layers are worth 100,000 samples (measured, docs/validation.md). Others converge too slowly.
        """
        widths = self.layer_widths
        layers, narrowest = len(widths) - 1, min(widths[1:-1])
        return activation(self.units).odd and 4.75 * narrowest >= layers * math.sqrt(samples)

    @property
    def matrix_kind(self) -> tuple[Matrix, float]:
        """The kind of its matrices, and the strength of spikes."""
        return self.matrix or "gaussian", 2.0 if self.strength is None else self.strength
