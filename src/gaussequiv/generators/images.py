"""Images to learn from: reading them, their order in a training, and how far a generator's samples are from them."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import linalg

from gaussequiv.errors import InputError, integer
from gaussequiv.generators.generator import Array, Generator
from gaussequiv.models.streams import Purpose, stream

PICTURES = (".png", ".jpg", ".jpeg")
BATCH = 64  # at least so many images make a data set
JUDGED, PIXELS = 10_000, 4096  # samples, and at most so many of the pixels, behind the figures of quality
ORDER, JUDGE = 3, 4  # lanes of Purpose.WEIGHTS: the order of the images, and which of them judge


# --- reading images -----------------------------------------------------------------------------------------


def read_images(path: str | Path, *, square: bool = True) -> Array:
    """Images (n, channels, size, size), float32 in [-1, 1], from an IDX file or a folder of IDX, PNG or JPEG files.

    IDX files may be gzipped. Of a folder's IDX files those with labels are left out, and so are test sets if
    there are files whose names begin with "train". PNGs and JPEGs are 8-bit grey or RGB, in the order of their names.
    Raises `InputError` if nothing is there, a file is damaged, or the images are not of one size, or not `square` ones.
    """
    path = Path(path)
    if path.is_file():
        images = _read_idx(path)
    elif path.is_dir():
        images = _read_folder(path)
    else:
        raise InputError(f"there is no {path}; expected an IDX file, or a folder of IDX files or of PNGs and JPEGs")
    if square and images.shape[2] != images.shape[3]:
        raise InputError(
            f"{path} holds images of {images.shape[2]} x {images.shape[3]} pixels; expected squares, so crop or pad them first"
        )
    return as_pixels(images)


def as_pixels(images: Array) -> Array:
    """Unsigned bytes as pixels from -1 to 1, float32."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _read_folder(folder: Path) -> Array:
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read ({error}); check its permissions") from error
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    idx = [file for file in files if "idx" in file.name and "label" not in file.name]
    idx = [file for file in idx if file.name.startswith("train")] or idx
    if bool(pictures) == bool(idx):
        raise InputError(
            f"the folder {folder} holds {len(pictures)} PNGs or JPEGs and {len(idx)} IDX files of images; "
            "expected only pictures, or files such as train-images-idx3-ubyte.gz"
        )
    return _stacked(idx, _read_idx) if idx else _stacked(pictures, _read_picture)


def _stacked(files: list[Path], read: Callable[[Path], Array]) -> Array:
    parts = [read(files[0])]
    expected = parts[0].shape[1:]
    for file in files[1:]:
        part = read(file)
        if part.shape[1:] != expected:
            raise InputError(
                f"{file} holds images of shape {part.shape[1:]} and {files[0]} of shape {expected}; "
                "expected one (channels, rows, columns) for all, so resize or convert them first"
            )
        parts.append(part)
    return np.concatenate(parts)


def _read_idx(file: Path) -> Array:
    raw = _uncompressed(file)
    if len(raw) < 16 or raw[:4] != b"\x00\x00\x08\x03":
        raise InputError(
            f"{file} is not an IDX file of images: it begins with {raw[:4].hex() or 'nothing'}; "
            "expected 00000803 (unsigned bytes, three axes), as in train-images-idx3-ubyte"
        )
    n, rows, columns = (int(size) for size in np.frombuffer(raw, dtype=">u4", count=3, offset=4))
    if n * rows * columns == 0 or len(raw) != 16 + n * rows * columns:
        raise InputError(
            f"{file} is damaged: it announces {n} images of {rows} x {columns} pixels "
            f"and holds {len(raw) - 16} bytes of pixels instead of {n * rows * columns}; download it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(n, 1, rows, columns)


def _uncompressed(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error}); check its permissions or download it again") from error


def _read_picture(file: Path) -> Array:
    kinds = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
    try:
        with Image.open(file) as image:
            if image.mode not in kinds:
                raise InputError(
                    f"{file} is a picture of mode {image.mode}; expected 8-bit grey or RGB, so convert it first"
                )
            pixels = np.asarray(image.convert(kinds[image.mode]))
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a complete picture ({error}); make it again or remove it") from error
    return pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]


# --- a data set ---------------------------------------------------------------------------------------------


def check(images: Array, epochs: int) -> None:
    """Refuse, by an `InputError`, what no generator can be trained on: few images, other pixels, all the same."""
    integer("epochs", epochs)
    if images.ndim != 4 or images.shape[2] != images.shape[3] or len(images) < BATCH:
        raise InputError(
            f"the images have shape {images.shape}; expected (n, channels, size, size), n at least {BATCH}"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):
        raise InputError(
            f"the pixels lie from {low:.4g} to {high:.4g}; expected -1 to 1, as `read_images` returns them"
        )
    if (images == images[:1]).all():
        raise InputError(f"the {len(images)} images are all the same; expected a data set")


def batches(images: Array, epochs: int, seed: int) -> Iterator[Array]:
    """Batches of `BATCH` images, in an order of their own in every epoch; what is left of an epoch is left out."""
    for epoch in range(epochs):
        order = stream(seed, Purpose.WEIGHTS, lane=ORDER, chunk=epoch).permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            yield images[order[start : start + BATCH]]


def fingerprint(images: Array) -> dict[str, Any]:
    """Shape and sha256 of a data set, for the card of what was trained on it."""
    return {
        "images": list(images.shape),
        "images_sha256": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
    }


# --- quality ------------------------------------------------------------------------------------------------


def pixel_frechet(first: Array, second: Array) -> float:
    r"""Fréchet distance $|\mu - \mu'|^2 + \mathrm{tr}(C + C' - 2 (C^{1/2} C' C^{1/2})^{1/2})$.

    The means and covariances are those of the pixels of two sets of images (first axis).
    """
    return _frechet(_moments(first), _moments(second))


def quality(generator: Generator, untrained: Generator, images: Array, seed: int) -> dict[str, float]:
    """Figures of samples against all images; `_of_data` compares as many images with the others instead.

    Of images with more than 4,096 pixels, as many random ones are judged: covariances are cubic in them.
    """
    judge, flat = stream(seed, Purpose.WEIGHTS, lane=JUDGE), images.reshape(len(images), -1)
    order, pixels = judge.permutation(len(flat)), np.sort(judge.permutation(flat.shape[1])[:PIXELS])
    part, some = min(JUDGED, len(flat) // 2), flat[:, pixels]
    data = _moments(some)
    made = _moments(generator.sample(JUDGED, stream(seed, Purpose.CHECK))[1][:, pixels])
    random = _moments(untrained.sample(JUDGED, stream(seed, Purpose.CHECK))[1][:, pixels])
    (top, ratio), (data_top, data_ratio) = concentration(made[1]), concentration(data[1])
    return {
        "frechet": _frechet(made, data),
        "frechet_of_data": _frechet(_moments(some[order[:part]]), _moments(some[order[part:]])),
        "frechet_of_random_weights": _frechet(random, data),
        "covariance_error": float(linalg.norm(made[1] - data[1]) / linalg.norm(data[1])),
        "top_share": top,
        "top_share_of_data": data_top,
        "participation_ratio": ratio,
        "participation_ratio_of_data": data_ratio,
    }


def concentration(covariance: Array) -> tuple[float, float]:
    r"""Share of the first eigenvalue in the trace, and participation ratio $(\sum_i \rho_i)^2 / \sum_i \rho_i^2$."""
    rho = linalg.eigvalsh(covariance)
    return float(rho[-1] / rho.sum()), float(rho.sum() ** 2 / (rho**2).sum())


def _moments(images: Array) -> tuple[Array, Array]:
    """Mean and covariance of the pixels, in float64, by parts: all images at once may not fit into memory."""
    flat = np.ascontiguousarray(images.reshape(len(images), -1))
    mean = flat.mean(axis=0, dtype=np.float64)
    second = np.zeros((mean.size, mean.size))
    for start in range(0, len(flat), 4096):
        part = flat[start : start + 4096] - mean
        second += part.T @ part
    return mean, second / len(flat)


def _frechet(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    (mean, C), (other_mean, other_C) = first, second
    values, vectors = linalg.eigh(C)
    # Rounding leaves eigenvalues of about -1e-15 where the pixels are constant.
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(linalg.eigvalsh(root @ other_C @ root).clip(0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(C) + np.trace(other_C) - 2 * cross)
