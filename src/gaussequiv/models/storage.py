"""Files: atomic writes, and arrays in safetensors with a checksum of their own.

A reader sees the old file or the new one, never a part: everything is written to a temporary neighbour, flushed to
the disk and renamed. Safetensors does not detect flipped bits, so the contents carry a sha256.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gaussequiv.errors import InputError, StorageError

SCHEMA = 1

Arrays = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


class DamagedError(InputError):
    """A file of this package that is truncated or altered."""


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Create or replace `path` by what `write` puts into a temporary neighbour.

    Raises `StorageError` if the disk is full or the folder cannot be written; `path` then is what it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"could not create the folder {path.parent}: {error}") from error
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(4)}{path.suffix}"
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors leaves 0600 behind
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except InputError:
        raise
    except Exception as error:  # a full disk is an OSError, a SafetensorError or a RuntimeError
        raise StorageError(f"could not write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Create or replace the text file `path`."""
    atomic_write(path, lambda temporary: _write_text(temporary, text))


def save_arrays(path: str | Path, kind: str, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    """Save named arrays and JSON metadata as one safetensors file with a sha256 of all contents."""
    from safetensors.numpy import save_file

    contents = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    header = {
        "format": "gaussequiv",
        "schema": str(SCHEMA),
        "kind": kind,
        "metadata": json.dumps(metadata, sort_keys=True),
    }
    header["sha256"] = _digest(contents, header)
    atomic_write(Path(path), lambda temporary: save_file(contents, temporary, metadata=header))


def load_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray[Any, np.dtype[Any]]], dict[str, Any]]:
    """Load what `save_arrays` saved.

    Raises `InputError` if the file is missing, of another kind, of a later schema, truncated or altered.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a gaussequiv {kind} file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); check its permissions") from error
    except (SafetensorError, ValueError, TypeError) as error:
        raise DamagedError(f"{path} is not a complete safetensors file ({error}); make it again") from error
    if header.get("format") != "gaussequiv" or header.get("kind") != kind:
        found = header.get("kind", "foreign")
        raise InputError(f"{path} is a {found} file; expected a gaussequiv {kind} file")
    if header.get("schema") != str(SCHEMA):
        raise InputError(f"{path} has schema {header.get('schema')}; this version of gaussequiv reads {SCHEMA}")
    checksum = header.pop("sha256", "")
    if checksum != _digest(dict(sorted(arrays.items())), header):
        raise DamagedError(f"{path} was damaged or altered: its sha256 does not match its contents; make it again")
    return arrays, json.loads(header["metadata"])


def holds_data(path: str | Path) -> bool:
    """Whether a path is that of a data set: a folder, an .npy, .npz or IDX file, or safetensors that are not of this package."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.suffix in (".npy", ".npz") or path.is_dir():
        return True
    if not path.is_file():
        return False
    if path.suffix != ".safetensors":
        with path.open("rb") as file:
            return file.read(4).startswith((b"\x1f\x8b", b"\x00\x00\x08"))
    try:
        with safe_open(path, framework="numpy") as arrays:
            return (arrays.metadata() or {}).get("format") != "gaussequiv"
    except (SafetensorError, OSError):
        return False


def sha256_of_folder(folder: Path) -> str:
    """Hexadecimal sha256 of the names and contents of the files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        digest.update(f"{file.name}:{sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(arrays: Arrays, header: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
