"""Teachers of full-batch experiments that are measured: drawn ones without a closed form, and those of a user's own code."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gaussequiv.code import call_code
from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs
from gaussequiv.models.storage import load_arrays, save_arrays
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.models.teachers import MeasuredTeacher, Perceptron

KIND = "measured teacher"  # of its files
PROBED = 4096  # samples whose labels stand for the teacher


def from_code(name: str, allowed: bool) -> Callable[..., Any]:
    """What the factory "package.module:factory" returns; modules in the current folder are found as well.

    Raises:
        InputError: code that was not allowed, a module or a factory that there is not, or one that fails or returns no function.

    """
    what = f"batch.teacher = {name!r}"
    if not allowed:
        raise InputError(f"{what} runs your code; allow it with --allow-code")
    function = call_code(name, what)
    if not callable(function):
        short = name.partition(":")[2]
        raise InputError(
            f"{what}: {short}() returned a {type(function).__name__}; expected a torch module or a callable"
        )
    return function


def fingerprint(source: Inputs, function: Callable[..., Any], on: str) -> str:
    """Hash of the labels of a few samples: what is known of a teacher of unknown code.

    Raises:
        InputError: labels of a wrong shape, or that are not finite.

    """
    from gaussequiv.generators.features import Labelled

    labels = Labelled(function, on)(*source.sample(PROBED, stream(0, Purpose.CHECK)))
    return hashlib.sha256(labels.tobytes()).hexdigest()


def centred(teacher: Perceptron | TwoLayer, mean: Array | None) -> Callable[[Any], Array]:
    """The labels of a drawn teacher, without noise, as a function of what it looks at."""
    function = teacher.local_fields if isinstance(teacher, Perceptron) else teacher
    return lambda seen: function(np.asarray(seen) - (0.0 if mean is None else mean))


def save(path: Path, teacher: MeasuredTeacher, key: str) -> None:
    """Save the moments of a teacher, atomically."""
    arrays = {"covariance": teacher.covariance, "standard_error": np.asarray(teacher.standard_error)}
    plain = {"square": teacher.square, "output": teacher.output, "provenance": dict(teacher.provenance), "key": key}
    save_arrays(path, KIND, arrays, plain)


def load(path: Path, key: str, function: Callable[[Array, Array], Array]) -> MeasuredTeacher | None:
    """The teacher that was saved with this key, if there is one."""
    if not path.is_file():
        return None
    arrays, plain = load_arrays(path, KIND)
    if plain["key"] != key:
        return None
    return MeasuredTeacher(
        arrays["covariance"], plain["square"], plain["output"], function, arrays["standard_error"], plain["provenance"]
    )
