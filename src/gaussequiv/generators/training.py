"""Training of a DCGAN, and what the trainings of all generators share: average weights, rounding, the card.

The weights are a pure function of images, sizes, epochs and seed (on one type of machine, with one thread):
every random number comes from our own streams, and the global random state stays as it is.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gaussequiv.errors import InputError
from gaussequiv.generators import images as data
from gaussequiv.generators import zoo
from gaussequiv.generators.flows import RealNVPShape
from gaussequiv.generators.generator import Array

LEARNING_RATE = 5e-4
BETAS = (0.5, 0.999)
AVERAGING = 0.999
STATISTICS = 4096  # latents behind the final statistics of the batch normalisation
DISCRIMINATOR = 2  # lane of Purpose.WEIGHTS; the generator has 0, its latents have 1


# --- what all trainings share -------------------------------------------------------------------------------


def descend(loss: Tensor, adam: torch.optim.Adam, rate: float, *, clip: float | None = None) -> None:
    """One step of Adam at this learning rate; of a gradient longer than `clip`, that length is taken."""
    adam.zero_grad()
    loss.backward()
    weights = adam.param_groups[0]["params"]
    if clip is not None:
        nn.utils.clip_grad_norm_(weights, clip)
    adam.param_groups[0]["lr"] = rate
    adam.step()


def mix(average: nn.Module, module: nn.Module, step: int) -> None:
    """Move average weights towards the current ones: decay 0.999, at first the average of the latest tenth of the steps.

    So the random weights of the beginning fade away.
    """
    share = max(1 - AVERAGING, 10 / (10 + step))
    with torch.no_grad():
        for mean, weight in zip(average.parameters(), module.parameters(), strict=True):
            mean.lerp_(weight, share)


def round_to_half(module: nn.Module) -> None:
    """Round weights and buffers to what float16 holds, so that the figures of quality are those of the file."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            # + 0 makes -0 to 0: which of them a weight is that never moved would depend on the global random state
            tensor.copy_(tensor.half() + 0 if tensor.is_floating_point() else tensor)


def check_finite(module: nn.Module, seed: int) -> None:
    """Refuse, by an `InputError`, weights that are not finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
        raise InputError(f"the training diverged at seed={seed}; take another seed or fewer epochs")


def check_sizes(images: Array, shape: zoo.DCGANShape | RealNVPShape | zoo.DecoderShape) -> None:
    """Refuse, by an `InputError`, sizes that are not those of the images."""
    made = (shape.channels, shape.size, shape.size)
    if images.shape[1:] != made:
        raise InputError(
            f"the images have shape {images.shape[1:]} and the generator makes {made}; leave shape=None to fit it"
        )


def card(images: Array, module: nn.Module, recipe: dict[str, Any], quality: dict[str, float]) -> dict[str, Any]:
    """The card of trained weights: the data's fingerprint, the recipe, the number of weights, the figures of quality."""
    parameters = sum(weight.numel() for weight in module.parameters())
    return data.fingerprint(images) | {"recipe": recipe, "parameters": parameters, "quality": quality}


# --- a DCGAN ------------------------------------------------------------------------------------------------


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
    data.check(images, epochs)
    shape = shape or fitting_shape(*images.shape[1:3])
    check_sizes(images, shape)
    untrained = zoo.dcgan(shape, seed=seed).to(device=device)
    steps = epochs * (len(images) // data.BATCH)
    average = zoo.DCGAN(shape).to(untrained.device)
    for step in _fit(average, data.batches(images, epochs, seed), steps, seed):
        if progress is not None:
            progress(step, steps)
    round_to_half(average)
    with torch.no_grad():
        zoo.recompute_statistics(average, zoo.latents(seed, STATISTICS, shape).to(untrained.device))
    round_to_half(average)
    check_finite(average, seed)
    generator = zoo.as_generator(average, "dcgan").to(device=device)
    recipe = {
        "loss": "non-saturating",
        "optimiser": f"Adam, betas {BETAS}",
        "learning_rate": f"{LEARNING_RATE}, from half of the steps on linearly to 0",
        "batch": data.BATCH,
        "epochs": epochs,
        "steps": steps,
        "averaging": f"exponential, decay {AVERAGING}; batch normalisation from {STATISTICS} latents",
        "seed": seed,
    }
    return average.cpu(), card(images, average, recipe, data.quality(generator, untrained, images, seed))


def _fit(average: zoo.DCGAN, batches: Iterator[Array], steps: int, seed: int) -> Iterator[int]:
    """Alternate steps of discriminator and generator, put the latter's average weights into `average`."""
    shape, device = average.shape, next(average.parameters()).device
    module, critic = zoo.DCGAN(shape).to(device), Discriminator(shape).to(device)
    for net in (module, critic):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # saves a fifth on a CPU
    zoo.draw_weights(module, seed)
    zoo.draw_weights(critic, seed, lane=DISCRIMINATOR)
    adams = [torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, betas=BETAS) for net in (critic, module)]
    for step, batch in enumerate(batches):
        real = torch.from_numpy(batch.astype(np.float32)).to(device)
        rate = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
        made = module(zoo.latents(seed, data.BATCH, shape, chunk=1 + step).to(device))
        on_real, on_made = critic(real), critic(made.detach())
        descend(softplus(-on_real).mean() + softplus(on_made).mean(), adams[0], rate)
        critic.requires_grad_(False)
        descend(softplus(-critic(made)).mean(), adams[1], rate)
        critic.requires_grad_(True)
        mix(average, module, step)
        yield step + 1
