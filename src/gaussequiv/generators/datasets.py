"""Data sets as generators: samples are drawn from a finite set with replacement, and their latents are unknown."""

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.code import words
from gaussequiv.errors import InputError, integer
from gaussequiv.generators import composition
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.images import as_pixels, read_images
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.streams import as_rng

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 1024  # samples that are looked at, or mapped, at once
FEW = 5  # names of arrays in a message
ARRAYS = (".npy", ".npz", ".safetensors")


@dataclass(frozen=True, eq=False)
class Dataset:
    r"""A finite set of inputs $x_1, \ldots, x_n$ as a generator: each sample is one of them, drawn with replacement.

    Its latents are unknown: `latent_dim` is 0, and a teacher looks at the inputs. Floats are kept as they come (float16 as
    float32); unsigned bytes are pixels and become numbers from -1 to 1, as those of image files; other integers become floats.

    Args:
        data: (n, ...), at least two samples that are not all the same.
        name: for messages, files and figures.

    Raises:
        InputError: no array of real numbers, one sample, a NaN, or samples that are all the same.

    """

    data: Array
    name: str = "data set"

    def __post_init__(self) -> None:
        data = _numbers(self.name, self.data)
        if data.ndim < 2 or len(data) < 2 or data[0].size == 0:
            raise InputError(
                f"{self.name} has shape {data.shape}; expected (n, ...), at least two samples of some numbers"
            )
        if not np.isfinite(data).all():
            bad = ~np.isfinite(data.reshape(len(data), -1)).all(axis=1)
            raise InputError(
                f"{self.name} holds a NaN or an infinity in {bad.sum()} of {len(data)} samples, first in number "
                f"{bad.argmax()}; expected finite numbers, so leave those samples out"
            )
        if (data == data[:1]).all():
            raise InputError(f"the {len(data)} samples of {self.name} are all the same; expected ones that vary")
        data.flags.writeable = False
        object.__setattr__(self, "data", data)

    def __len__(self) -> int:
        """The number of samples of the set."""
        return len(self.data)

    @property
    def latent_dim(self) -> int:
        """0: the latents are unknown."""
        return 0

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample before it is flattened."""
        return self.data.shape[1:]

    @property
    def input_dim(self) -> int:
        """N, the number of inputs: the size of a flattened sample."""
        return math.prod(self.output_shape)

    @property
    def dtype(self) -> Any:
        """The precision of the inputs, of NumPy."""
        return self.data.dtype

    @property
    def rows(self) -> Array:
        """All samples of the set, flattened, (n, N)."""
        return self.data.reshape(len(self), -1)

    @property
    def sha256(self) -> str:
        """Hash of the numbers of the set."""
        return hashlib.sha256(self.data.data).hexdigest()

    def sample(self, n: int, rng: np.random.Generator | int) -> tuple[Array, Array]:
        """Draw `n` samples with replacement: latents (n, 0), which are unknown, and inputs (n, N)."""
        index = as_rng(rng).integers(len(self), size=integer("n", n))
        return np.zeros((len(index), 0), dtype=self.dtype), self.rows[index]

    def chunks(self) -> Iterator[tuple[Array, Array]]:
        """All samples once, in order: latents (m, 0) and inputs (m, N), some at a time."""
        for start in range(0, len(self), CHUNK):
            part = self.rows[start : start + CHUNK].copy()
            yield np.zeros((len(part), 0), dtype=self.dtype), part

    def then(
        self,
        features: "nn.Module | TwoLayer | Callable[[Tensor], Tensor]",
        *,
        shape: tuple[int, ...] | None = None,
        mean: Any = None,
    ) -> "Dataset":
        r"""The data set of features of the samples, $v = \varphi(x)$, in the same order; they are computed at once.

        Args:
            features: as in `Generator.then`.
            shape: of one sample as the features want it; flat if left out.
            mean: subtracted from the samples before, (N,), such as `model.mean_x`.

        Raises:
            InputError: not a feature map, or one of another number of inputs, or one that fails or returns a NaN.

        """
        samples = torch.tensor(self.rows)
        mapped = Generator(_unchanged, self.input_dim, dtype=samples.dtype, name=self.name).then(
            features, shape=shape, mean=mean
        )
        found = mapped.push(samples).numpy()
        alone = np.concatenate([mapped.push(part).numpy() for part in samples[:FEW].split(1)])
        size = float(np.sqrt(found.var(axis=0, dtype=float).mean())) or 1.0
        if np.abs(alone - found[: len(alone)]).max() > 10 * np.sqrt(np.finfo(found.dtype).eps) * size:
            raise InputError(
                f"the features of a sample of {self.name} depend on the others of their batch, or change from call to call, as "
                "with batch normalisation in training mode; expected a map of single samples"
            )
        return Dataset(found.reshape(len(self), *mapped.output_shape), mapped.name)

    def crop(self, size: "int | tuple[int, int]", *, at: "tuple[int, int] | None" = None) -> "Dataset":
        """Images cut to `size` pixels; see `Generator.crop`."""
        return composition.crop(self, size, at)

    def pool(self, size: int) -> "Dataset":
        """Averages of squares of `size` x `size` pixels; see `Generator.pool`."""
        return composition.pool(self, size)

    def standardise(self, by: "GaussianModel | tuple[Any, Any]", *, floor: float = 0.0) -> "Dataset":
        """Inputs of mean zero and variance one; see `Generator.standardise`."""
        return composition.standardise(self, by, floor)


def dataset(source: Any, *, key: str | None = None, name: str | None = None) -> Dataset:
    """A data set as a generator.

    Args:
        source: an array (n, ...); or the path of an .npy, .npz or .safetensors file of one, of an IDX file of images
            (gzipped or not), or of a folder of IDX, PNG or JPEG images, which `gaussequiv train` reads as well.
        key: which array of an .npz or .safetensors file; may be left out where it holds one.
        name: for messages, files and figures; by default that of the file or folder.

    Raises:
        InputError: a path where nothing is, an empty folder, a damaged file, one of pickled objects, images of several sizes,
            or what is no `Dataset`.

    """
    if not isinstance(source, str | Path):
        if key is not None:
            raise InputError(f"key={key!r} is that of a file of several arrays; leave it out for an array")
        return Dataset(source, name or "data set")
    path = Path(source)
    if path.suffix in ARRAYS:
        return Dataset(_read_arrays(path, key), name or path.stem)
    if key is not None:
        raise InputError(f"key={key!r} is that of an .npz or .safetensors file; leave it out for {path}")
    if not path.exists():
        raise InputError(
            f"there is no {path}; expected a folder of images, an IDX file, or an array in {', '.join(ARRAYS)}"
        )
    images = read_images(path, square=False)
    return Dataset(images, name or path.resolve().name.removesuffix(".gz"))


class Lookup:
    """Labels of the samples of a data set as a function of latents, which it does not use, and inputs (n, N).

    Raises:
        InputError: labels of another number, or that are not finite, and equal samples with different labels.

    """

    def __init__(self, data: Dataset, labels: Any) -> None:
        values = np.asarray(labels)
        if values.shape != (len(data),) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise InputError(
                f"the labels have shape {values.shape} and dtype {values.dtype}; expected ({len(data)},) finite numbers, one a "
                f"sample of {data.name}"
            )
        self.dtype, self.name, self.known = data.dtype, data.name, dict[bytes, float]()
        for row, label in zip(data.rows, values.astype(float).tolist(), strict=True):
            if self.known.setdefault(_mark(row), label) != label:
                raise InputError(
                    f"{data.name} holds equal samples with different labels; leave those out, as no teacher can tell them apart"
                )

    def __call__(self, latents: Array, inputs: Array) -> Array:
        """Labels (n,) of samples of the set."""
        try:
            return np.array([self.known[_mark(row)] for row in np.asarray(inputs).astype(self.dtype)])
        except KeyError:
            raise InputError(f"the labels are those of the samples of {self.name}, and other inputs came") from None


def _unchanged(samples: Tensor) -> Tensor:
    return samples


def _mark(row: Array) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _numbers(name: str, data: Any) -> Array:
    """A copy of the data in float32 or float64."""
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise InputError(f"{name} has masked entries; expected samples without, so take out the rows that are masked")
    try:
        array = np.asarray(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no array ({str(error).splitlines()[0]}); expected samples of one shape") from error
    if array.dtype == np.uint8:
        return as_pixels(array)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is an array of dtype {array.dtype}; expected real numbers, such as float32")
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    return np.array(array, dtype=np.float32 if small else np.float64, order="C")


def _read_arrays(path: Path, key: str | None) -> Array:
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected an array of samples, (n, ...)")
    from safetensors import SafetensorError

    try:
        return _read_array(path, key)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        pickled = "pickle" in str(error).lower()
        if pickled and path.read_bytes()[:6].startswith((b"\x93NUMPY", b"PK")):
            raise InputError(
                f"{path} holds Python objects, which are not read as they could run code; expected numbers, saved as an array of "
                "one dtype such as float32"
            ) from error
        sentence = "" if pickled else f" ({words(error)})"  # NumPy takes any other bytes for a pickle
        raise InputError(f"{path} is not a complete {path.suffix} file{sentence}; make it again") from error


def _read_array(path: Path, key: str | None) -> Array:
    """The array of a file that the key chooses, and no other; nothing in it is ever run."""
    from safetensors import safe_open

    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") == "gaussequiv":
                raise InputError(f"{path} is a gaussequiv file and no data set; open it with generators.load")
            found = file.get_tensor(_chosen(path, list(file.keys()), key))
        return np.asarray(found.float() if found.dtype == torch.bfloat16 else found)
    with path.open("rb") as opened:
        arrays = np.load(opened, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            _chosen(path, [path.stem], key)
            return arrays
        return np.asarray(arrays[_chosen(path, arrays.files, key)])


def _chosen(path: Path, names: list[str], key: str | None) -> str:
    """The name of the array that is meant."""
    shown = [*names[:FEW], *(["..."] if len(names) > FEW else [])]
    listed = f" ({', '.join(shown)})" if shown else ""
    if key is None and len(names) != 1:
        raise InputError(f"{path} holds {len(names)} arrays{listed}; choose one by its key")
    if key is not None and key not in names:
        raise InputError(f"{path} has no array {key!r}, but {len(names)} others{listed}; choose one of them")
    return names[0] if key is None else key
