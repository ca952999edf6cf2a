"""Code of the user's by its name, "package.module:factory", and its failures in one line. It runs: ask before."""

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gaussequiv.errors import InputError, a_kind

FEW = 3  # names in a message


def is_code(name: Any) -> bool:
    """Whether a name is one of code, "package.module:factory"."""
    if not isinstance(name, str):
        return False
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, [*module.split("."), *attribute.split(".")]))


def find_code(name: str, what: str) -> Any:
    """What the name "package.module:attribute" leads to; modules in the current folder are found as well. Code runs.

    Raises:
        InputError: a sentence that starts with `what`, for a module or an attribute that there is not, or one that fails.

    """
    if not is_code(name):
        raise InputError(f"{what}: expected package.module:factory")
    where, _, attribute = name.partition(":")
    if where.endswith(".py"):
        raise InputError(f"{what}: modules are named without .py; expected {where.removesuffix('.py')}:{attribute}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # as for `python -m`, but last: nothing there hides an installed module
    try:
        found: Any = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise InputError(
                f"{what}: there is no module {where}; expected an installed one, or one in this folder"
            ) from error
        raise InputError(f"{what}: the module {where} needs {error.name}, which is missing") from error
    except (Exception, SystemExit) as error:  # whatever the user's code may raise
        raise InputError(f"{what}: the module {where} fails: {words(error)}") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise InputError(f"{what}: the module {where} has no {attribute}; expected a function of that name")
    return found


def call_code(name: str, what: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """What the factory "package.module:factory" returns; see `find_code`."""
    if not (arguments is None or isinstance(arguments, Mapping)):
        raise InputError(f"{what}: arguments={arguments!r}; expected arguments by their names, such as {{'width': 64}}")
    factory = find_code(name, what)
    short = name.partition(":")[2]
    if not callable(factory):
        raise InputError(
            f"{what}: {short} is {a_kind(factory)}; expected a function" + ("" if arguments else " without arguments")
        )
    try:
        return factory(**(arguments or {}))
    except (Exception, SystemExit) as error:  # whatever the user's code may raise
        raise InputError(f"{what}: {short}({listed(arguments or {})}) fails: {words(error)}") from error


def words(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def listed(names: Iterable[Any]) -> str:
    """A few names."""
    names = [str(name) for name in names]
    return ", ".join([*names[:FEW], *([f"and {len(names) - FEW} more"] if len(names) > FEW else [])])
