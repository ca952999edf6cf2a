"""Training of a DCGAN: `read_images` reads IDX files or PNGs, `train_dcgan` returns the net and its card.

The weights are a pure function of images, sizes, epochs and seed (on one type of machine, with one thread):
every random number comes from our own streams, and the global random state stays as it is.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import linalg
from torch import Tensor, nn
from torch.nn.functional import softplus

from gaussequiv.errors import InputError
from gaussequiv.generators import zoo
from gaussequiv.generators.generator import Array, Generator
from gaussequiv.models.streams import Purpose, stream

BATCH = 64
LEARNING_RATE = 5e-4
BETAS = (0.5, 0.999)
AVERAGING = 0.999
STATISTICS = 4096  # latents behind the final statistics of the batch normalisation
JUDGED, PIXELS = 10_000, 4096  # samples, and at most so many of the pixels, behind the figures of quality
DISCRIMINATOR, ORDER, JUDGE = 2, 3, 4  # lanes of Purpose.WEIGHTS; the generator has 0, its latents have 1


# --- reading images -----------------------------------------------------------------------------------------


def read_images(path: str | Path) -> Array:
    """Images (n, channels, size, size), float32 in [-1, 1], from an IDX file or a folder of IDX or PNG files.

    IDX files may be gzipped. Of a folder's IDX files those with labels are left out, and so are test sets if
    there are files whose names begin with "train". PNGs are 8-bit grey or RGB, in the order of their names.
    Raises `InputError` if nothing is there, a file is damaged, or the images do not fit one DCGAN.
    """
    path = Path(path)
    if path.is_file():
        images = _read_idx(path)
    elif path.is_dir():
        images = _read_folder(path)
    else:
        raise InputError(f"there is no {path}; expected an IDX file, or a folder of IDX files or of PNGs")
    fitting_shape(images.shape[1], images.shape[2])
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _read_folder(folder: Path) -> Array:
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read ({error}); check its permissions") from error
    pngs = [file for file in files if file.suffix.lower() == ".png"]
    idx = [file for file in files if "idx" in file.name and "label" not in file.name]
    idx = [file for file in idx if file.name.startswith("train")] or idx
    if bool(pngs) == bool(idx):
        raise InputError(
            f"the folder {folder} holds {len(pngs)} PNGs and {len(idx)} IDX files of images; "
            "expected only PNGs, or files such as train-images-idx3-ubyte.gz"
        )
    return _stacked(idx, _read_idx) if idx else _stacked(pngs, _read_png)


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
    if n == 0 or len(raw) != 16 + n * rows * columns:
        raise InputError(
            f"{file} is damaged: it announces {n} images of {rows} x {columns} pixels "
            f"and holds {len(raw) - 16} bytes of pixels instead of {n * rows * columns}; download it again"
        )
    _check_square(file, rows, columns)
    return np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(n, 1, rows, columns)


def _uncompressed(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error}); check its permissions or download it again") from error


def _read_png(file: Path) -> Array:
    kinds = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
    try:
        with Image.open(file) as image:
            _check_square(file, image.height, image.width)
            if image.mode not in kinds:
                raise InputError(
                    f"{file} is a PNG of mode {image.mode}; expected 8-bit grey or RGB, so convert it first"
                )
            pixels = np.asarray(image.convert(kinds[image.mode]))
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a complete PNG ({error}); make it again or remove it") from error
    return pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]


def _check_square(file: Path, rows: int, columns: int) -> None:
    if rows != columns:
        raise InputError(
            f"{file} holds images of {rows} x {columns} pixels; expected squares, so crop or pad them first"
        )


def fitting_shape(channels: int, size: int) -> zoo.DCGANShape:
    """Sizes of a DCGAN for these images: those of the zoo if they fit, else a map of 4 to 7 pixels, doubled.

    Raises `InputError` if `size` is not 4 to 7 times a power of two, or the channels are not one or three.
    """
    for known in (zoo.GREY_DCGAN, zoo.PAPER_DCGAN):
        if (channels, size) == (known.channels, known.size):
            return known
    base = size
    while base > 7 and base % 2 == 0:
        base //= 2
    doublings = (size // base).bit_length() - 1 if base else 0
    if base not in (4, 5, 6, 7) or doublings == 0:
        raise InputError(
            f"no DCGAN makes {size} x {size} pixels; expected a side of 8, 10, 12, 14, 16, 20, 24, 28, 32, "
            "40, 48, 56, 64, ..., so resize or pad the images"
        )
    if channels not in (1, 3):
        raise InputError(f"the images have {channels} channels; expected 1 (grey) or 3 (RGB)")
    widths = tuple(min(32 * 2**power, 512) for power in reversed(range(doublings)))
    return zoo.DCGANShape(latent=100, widths=widths, base=base, channels=channels, size=size)


# --- training -----------------------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """The generator's mirror image, with leaky ReLUs: images to logits (n,), positive for real ones."""

    def __init__(self, shape: zoo.DCGANShape) -> None:
        super().__init__()
        widths = shape.widths[::-1]
        done = shape.base * 2 ** (len(widths) - 1) == shape.size
        with torch.random.fork_rng(devices=[]):
            kernel = (1, 1, 0) if done else (4, 2, 1)
            layers: list[nn.Module] = [nn.Conv2d(shape.channels, widths[0], *kernel), nn.LeakyReLU(0.2)]
            for narrow, wide in pairwise(widths):
                convolution = nn.Conv2d(narrow, wide, 4, 2, 1, bias=False)
                layers += [convolution, nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
            self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, shape.base), nn.Flatten(0))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.layers(images)
        return logits


def train_dcgan(
    images: Array,
    *,
    shape: zoo.DCGANShape | None = None,
    epochs: int = 10,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[zoo.DCGAN, dict[str, Any]]:
    """Train a DCGAN on images (n, channels, size, size) in [-1, 1]; return it, its recipe and its quality.

    Radford, Metz and Chintala's recipe (arXiv:1511.06434): the non-saturating loss of Goodfellow et al. and
    Adam, here with a learning rate that falls to zero over the second half. The result is the average of the
    generator's weights over the last thousand or so steps, rounded to float16 as `zoo.save` will store it,
    with the statistics of its batch normalisation recomputed. Nothing is written, so it may be interrupted.

    `images` are at least 64, as `read_images` returns them, and `shape` are the generator's sizes, by default
    those that fit. `seed` is that of the weights, the latents and the order of the images. The module comes
    back on the CPU, in evaluation mode. `progress(done, total)` is called after every step.
    Raises `InputError` if images or sizes do not fit, the device is missing, or the training diverged.
    """
    shape = _checked(images, shape)
    if epochs < 1:
        raise InputError(f"epochs={epochs}; expected at least 1")
    untrained = zoo.dcgan(shape, seed=seed).to(device=device)
    steps = epochs * (len(images) // BATCH)
    average = zoo.DCGAN(shape).to(untrained.device)
    for step in _fit(average, _batches(images, epochs, seed), steps, seed):
        if progress is not None:
            progress(step, steps)
    with torch.no_grad():
        _round(average)
        zoo.recompute_statistics(average, zoo.latents(seed, STATISTICS, shape).to(untrained.device))
        _round(average)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in average.state_dict().values()):
        raise InputError(f"the training diverged at seed={seed}; take another seed or fewer epochs")
    generator = Generator(average, latent=(shape.latent, 1, 1), device=device)
    return average.cpu(), {
        "images": list(images.shape),
        "images_sha256": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
        "recipe": {
            "loss": "non-saturating",
            "optimiser": f"Adam, betas {BETAS}",
            "learning_rate": f"{LEARNING_RATE}, from half of the steps on linearly to 0",
            "batch": BATCH,
            "epochs": epochs,
            "steps": steps,
            "averaging": f"exponential, decay {AVERAGING}; batch normalisation from {STATISTICS} latents",
            "seed": seed,
        },
        "parameters": sum(weight.numel() for weight in average.parameters()),
        "quality": _quality(generator, untrained, images, seed),
    }


def _checked(images: Array, shape: zoo.DCGANShape | None) -> zoo.DCGANShape:
    if images.ndim != 4 or images.shape[2] != images.shape[3] or len(images) < BATCH:
        raise InputError(
            f"the images have shape {images.shape}; expected (n, channels, size, size), n at least {BATCH}"
        )
    shape = shape or fitting_shape(images.shape[1], images.shape[2])
    if images.shape[1:] != (shape.channels, shape.size, shape.size):
        made = (shape.channels, shape.size, shape.size)
        raise InputError(
            f"the images have shape {images.shape[1:]} and the DCGAN makes {made}; leave shape=None to fit it"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):
        raise InputError(
            f"the pixels lie from {low:.4g} to {high:.4g}; expected -1 to 1, as `read_images` returns them"
        )
    if (images == images[:1]).all():
        raise InputError(f"the {len(images)} images are all the same; expected a data set")
    return shape


def _batches(images: Array, epochs: int, seed: int) -> Iterator[Tensor]:
    for epoch in range(epochs):
        order = stream(seed, Purpose.WEIGHTS, lane=ORDER, chunk=epoch).permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            yield torch.from_numpy(images[order[start : start + BATCH]].astype(np.float32))


def _fit(average: zoo.DCGAN, batches: Iterator[Tensor], steps: int, seed: int) -> Iterator[int]:
    """Alternate steps of discriminator and generator, put the latter's average weights into `average`."""
    shape, device = average.shape, next(average.parameters()).device
    module, critic = zoo.DCGAN(shape).to(device), Discriminator(shape).to(device)
    for net in (module, critic):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # saves a fifth on a CPU
    zoo.draw_weights(module, seed)
    zoo.draw_weights(critic, seed, lane=DISCRIMINATOR)
    adams = [torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, betas=BETAS) for net in (critic, module)]
    for step, real in enumerate(batches):
        for adam in adams:
            adam.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
        made = module(zoo.latents(seed, BATCH, shape, chunk=1 + step).to(device))
        on_real, on_made = critic(real.to(device)), critic(made.detach())
        _descend(softplus(-on_real).mean() + softplus(on_made).mean(), adams[0])
        critic.requires_grad_(False)
        _descend(softplus(-critic(made)).mean(), adams[1])
        critic.requires_grad_(True)
        # At first the average is that of the latest tenth of the steps, so that the random weights fade away.
        share = max(1 - AVERAGING, 10 / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), module.parameters(), strict=True):
                mean.lerp_(weight, share)
        yield step + 1


def _descend(loss: Tensor, adam: torch.optim.Adam) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


def _round(module: nn.Module) -> None:
    for tensor in module.state_dict().values():
        tensor.copy_(tensor.half() if tensor.is_floating_point() else tensor)


# --- quality ------------------------------------------------------------------------------------------------


def pixel_frechet(first: Array, second: Array) -> float:
    r"""Fréchet distance $|\mu - \mu'|^2 + \mathrm{tr}(C + C' - 2 (C^{1/2} C' C^{1/2})^{1/2})$.

    The means and covariances are those of the pixels of two sets of images (first axis).
    """
    return _frechet(_moments(first), _moments(second))


def _quality(generator: Generator, untrained: Generator, images: Array, seed: int) -> dict[str, float]:
    """Figures of samples against all images; `_of_data` compares as many images with the others instead.

    Of images with more than 4,096 pixels, as many random ones are judged: covariances are cubic in them.
    """
    judge, flat = stream(seed, Purpose.WEIGHTS, lane=JUDGE), images.reshape(len(images), -1)
    order, pixels = judge.permutation(len(flat)), np.sort(judge.permutation(flat.shape[1])[:PIXELS])
    part, some = min(JUDGED, len(flat) // 2), flat[:, pixels]
    data = _moments(some)
    made = _moments(generator.sample(JUDGED, stream(seed, Purpose.CHECK))[1][:, pixels])
    random = _moments(untrained.sample(JUDGED, stream(seed, Purpose.CHECK))[1][:, pixels])
    own, data_own = (linalg.eigvalsh(moments[1]) for moments in (made, data))
    return {
        "frechet": _frechet(made, data),
        "frechet_of_data": _frechet(_moments(some[order[:part]]), _moments(some[order[part:]])),
        "frechet_of_random_weights": _frechet(random, data),
        "covariance_error": float(linalg.norm(made[1] - data[1]) / linalg.norm(data[1])),
        "top_share": float(own[-1] / own.sum()),
        "top_share_of_data": float(data_own[-1] / data_own.sum()),
        "participation_ratio": float(own.sum() ** 2 / (own**2).sum()),
        "participation_ratio_of_data": float(data_own.sum() ** 2 / (data_own**2).sum()),
    }


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
