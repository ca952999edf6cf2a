"""Generators of an experiment that are not of the zoo: the user's code, and ONNX models."""

from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv.code import find_code
from gaussequiv.errors import InputError
from gaussequiv.report.generator_settings import GeneratorSection

if TYPE_CHECKING:
    from gaussequiv.generators import Generator


def made(section: GeneratorSection, allowed: bool, device: str) -> "Generator":
    """The generator that a section names.

    Raises:
        InputError: code that was not allowed, or what `generators.from_code` and `generators.from_onnx` refuse.

    """
    from gaussequiv.generators import from_code, from_onnx

    if section.runs_code and not allowed:
        what = f"name = {section.name!r}" if section.from_code else f"prior = {section.prior!r}"
        raise InputError(f"generator.{what} runs your code; allow it with --allow-code")
    given = {"latent": section.latent, "output": section.output, "extra": _arrays(section.extra)}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if section.prior is not None:
        options["prior"] = _samplers(section.prior)
    if section.stochastic:
        options["stochastic"] = True
    if section.is_onnx:
        return from_onnx(section.name, device=device, **options)
    given = {"weights": section.weights, "key": section.key, "arguments": section.arguments, "seed": section.seed}
    return from_code(section.name, **given, **options)


def _samplers(prior: str | dict[str, str]) -> Any:
    if isinstance(prior, dict):
        return {latent: find_code(name, f"generator.prior = {name!r}") for latent, name in prior.items()}
    return find_code(prior, f"generator.prior = {prior!r}")


def _arrays(extra: dict[str, Any] | None) -> dict[str, Any] | None:
    """Numbers and lists of them as arrays of one sample; words and truth values as they are."""

    def array(name: str, value: Any) -> Any:
        if isinstance(value, str | bool):
            return value
        try:
            found = np.array(value)
        except ValueError:  # rows of several lengths
            found = np.array(None)
        if found.dtype.kind not in "if":
            raise InputError(f"generator.extra.{name} = {value!r}; expected a number or a list of numbers")
        return found

    return None if extra is None else {name: array(name, value) for name, value in extra.items()}
