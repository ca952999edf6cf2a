"""Training by likelihood: `train_realnvp` and `train_vae` return the net and its card, as `train_dcgan` does."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.errors import InputError
from gaussequiv.generators import flows, zoo
from gaussequiv.generators import images as data
from gaussequiv.generators.generator import Array
from gaussequiv.generators.training import AVERAGING, card, check_finite, check_sizes, descend, mix, round_to_half
from gaussequiv.models.streams import Purpose, stream

BITS = 5  # of the grey values that a flow learns; the rest of a byte is noise of the printing
LEVELS = 2**BITS
BETAS = (0.9, 0.99)
LEARNING_RATE = 2e-3
MORE = 2  # epochs of a flow's dense couplings alone, for every epoch of all
WARM = 100  # steps until the full learning rate
CLIP = 1.0  # length of a gradient, of a loss per input
STANDARDISED = 4096  # images behind the first shift and scale of every coefficient
JUDGED = 4096  # images behind bits per dimension and ELBO
NOISE, ENCODER = 5, 6  # lanes of Purpose.WEIGHTS, after those of `images` and `training`

Progress = Callable[[int, int], None]


def train_realnvp(
    images: Array,
    *,
    shape: flows.RealNVPShape | None = None,
    epochs: int = 6,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[flows.RealNVP, dict[str, Any]]:
    """Train a RealNVP on images (n, channels, size, size) in [-1, 1]; return it, its recipe and its quality.

    Maximum likelihood (arXiv:1605.08803) of images of 5 bits, as Glow takes them: uniform noise fills the steps
    between grey values, the logit of alpha = .05 makes them unbounded. Before the first step every Haar coefficient
    gets the shift and scale that standardise it, and the couplings do nothing. The block means are a flow of their
    own, so its dense couplings, which are cheap, are trained alone for twice as many epochs after the `epochs` of all.
    Weights are averaged and rounded to float16 as those of `train_dcgan` are; arguments and refusals are the same.

    Quality has bits per dimension on 4,096 of the images, the error of inverting samples in double precision, and
    figures of the samples' pixels.
    """
    data.check(images, epochs)
    shape = shape or replace(flows.GREY_REALNVP, channels=images.shape[1], size=images.shape[2])
    check_sizes(images, shape)
    untrained = zoo.realnvp(shape, seed=seed, squash=True).to(device=device)
    module = _flow_at_the_start(images, shape, seed).to(untrained.device)

    steps = epochs * (len(images) // data.BATCH)

    def noise(step: int) -> np.random.Generator:
        return stream(seed, Purpose.WEIGHTS, lane=NOISE, chunk=1 + step)

    def loss(batch: Array, step: int) -> Tensor:
        return bits_per_dim(module, batch, noise(step)).mean()

    def loss_of_means(batch: Array, step: int) -> Tensor:
        with torch.no_grad():
            x, _ = dequantised(batch, noise(steps + step))
            means = module.standardised(x.to(module.mean)).flatten(1)[:, : module.coarse]
        z, log_det = module.inverse_of_means(means)
        return (0.5 * (z**2).sum(dim=1) - log_det).mean() / module.coarse

    def tick(done: int) -> None:
        if progress is not None:
            progress(done, (1 + MORE) * steps)

    average = flows.RealNVP(shape).to(untrained.device)
    _fit(average, module, loss, images, epochs, seed, tick)
    module.load_state_dict(average.state_dict())
    _fit(average.wide, module.wide, loss_of_means, images, MORE * epochs, seed, lambda done: tick(steps + done))
    generator = zoo.as_generator(average, "realnvp").to(device=device)
    some = images[: min(JUDGED, len(images))]
    figures = {
        "bits_per_dim": float(bits_per_dim(average, some, stream(seed, Purpose.CHECK, lane=NOISE)).mean()),
        "inversion_error": inversion_error(average, seed),
    }
    quality = figures | data.quality(zoo.squashed(generator), untrained, images, seed)
    recipe = {
        "loss": f"bits per dimension of {BITS}-bit images, uniform dequantisation, logit with alpha {flows.ALPHA}",
        **_recipe(epochs, images, seed),
        "then": f"{MORE * epochs} epochs of the dense couplings alone, on the block means",
    }
    return average.cpu(), card(images, average, recipe, quality)


def train_vae(
    images: Array,
    *,
    shape: zoo.DecoderShape | None = None,
    epochs: int = 15,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[zoo.Decoder, dict[str, Any]]:
    """Train a variational autoencoder on images (n, channels, size, size) in [-1, 1]; return its decoder and card.

    The evidence lower bound of Kingma and Welling (arXiv:1312.6114) with pixels that are Gaussian around the decoder's
    mean; their one variance is learned. The encoder mirrors the decoder and is not kept. Every argument and refusal is
    that of `train_dcgan`. Quality has the ELBO of 4,096 of the images in nats per image, the standard deviation of a
    pixel around the mean, and figures of samples of the mean.
    """
    data.check(images, epochs)
    shape = shape or replace(zoo.GREY_DECODER, channels=images.shape[1], size=images.shape[2])
    check_sizes(images, shape)
    untrained = zoo.vae(shape, seed=seed).to(device=device)
    module, average = (Autoencoder(shape, seed).to(untrained.device) for _ in range(2))

    def elbo(net: Autoencoder, batch: Array, rng: np.random.Generator) -> Tensor:
        noise = rng.standard_normal((len(batch), shape.latent), dtype=np.float32)
        return net(_tensor(batch, net), torch.from_numpy(noise).to(net.log_sigma))

    def loss(batch: Array, step: int) -> Tensor:
        bound = elbo(module, batch, stream(seed, Purpose.WEIGHTS, lane=NOISE, chunk=1 + step))
        return -bound.mean() / batch[0].size

    steps = epochs * (len(images) // data.BATCH)
    _fit(average, module, loss, images, epochs, seed, lambda done: progress(done, steps) if progress else None)
    decoder = average.decoder
    with torch.inference_mode():
        bound = elbo(average, images[: min(JUDGED, len(images))], stream(seed, Purpose.CHECK, lane=NOISE)).mean()
    generator = zoo.as_generator(decoder, "vae").to(device=device)
    figures = {"elbo": float(bound), "sigma": float(average.log_sigma.exp())}
    quality = figures | data.quality(generator, untrained, images, seed)
    recipe = {"loss": "ELBO, Gaussian pixels of one learned variance", **_recipe(epochs, images, seed)}
    return decoder.cpu(), card(images, decoder, recipe, quality)


# --- the flow -----------------------------------------------------------------------------------------------


@torch.no_grad()
def _flow_at_the_start(images: Array, shape: flows.RealNVPShape, seed: int) -> flows.RealNVP:
    module = flows.RealNVP(shape)
    flows.draw_weights(module, seed, spread=0.0)
    some = images[: min(STANDARDISED, len(images))]
    x, _ = dequantised(some, stream(seed, Purpose.WEIGHTS, lane=NOISE))
    maps = flows.spread_out(x)
    module.mean.copy_(maps.mean(dim=0))
    module.log_scale.copy_(maps.std(dim=0).log())
    return module


def dequantised(images: Array, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Logit-space images of 5-bit grey values with uniform noise, and the log-determinant of dx/dp, (n,)."""
    levels = np.rint((images + 1) * 127.5) // (256 // LEVELS)
    noisy = (levels + rng.random(images.shape, dtype=np.float32)) / LEVELS
    return flows.logits(torch.from_numpy(noisy.astype(np.float32)))


def bits_per_dim(flow: flows.RealNVP, images: Array, rng: np.random.Generator) -> Tensor:
    r"""$-\log_2$ of the probability of each 5-bit image, over the number of its values, (n,); an upper bound.

    $\log p = \log N(z) + \log |dz/dx| + \log |dx/dp| - N \log 32$, with one draw of the noise of dequantisation.
    """
    x, slope = dequantised(images, rng)
    z, log_det = flow.inverse(x.to(flow.mean))
    density = -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det + slope.to(log_det)
    return BITS - density / (z.shape[1] * math.log(2))


@torch.no_grad()
def inversion_error(flow: flows.RealNVP, seed: int, count: int = 64) -> float:
    """The largest difference of latents, pushed and pulled back in double precision, from what they were."""
    exact = flows.RealNVP(flow.shape).double()
    exact.load_state_dict(flow.state_dict())
    draws = stream(seed, Purpose.CHECK, lane=NOISE, chunk=1).standard_normal((count, flow.shape.latent))
    z = torch.from_numpy(draws)
    return float((exact.inverse(exact(z))[0] - z).abs().max())


# --- the autoencoder ----------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    """An encoder, a decoder and the width of the pixels around its mean; what it returns is the ELBO."""

    def __init__(self, shape: zoo.DecoderShape, seed: int) -> None:
        super().__init__()
        self.decoder = zoo.Decoder(shape)
        widths = (shape.channels * shape.size**2, *shape.hidden[::-1], 2 * shape.latent)
        self.encoder = zoo.perceptron(widths)
        self.log_sigma = nn.Parameter(torch.zeros(()))
        flows.draw_layers(self.decoder, stream(seed, Purpose.WEIGHTS))
        flows.draw_layers(self.encoder, stream(seed, Purpose.WEIGHTS, lane=ENCODER), last=0.1)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        r"""$E \log p(x | c) - KL(q(c | x), N(0, I))$ in nats per image, (n,), with c = mean + scale * noise."""
        mean, log_scale = self.encoder(images.flatten(1)).chunk(2, dim=1)
        made = self.decoder(mean + log_scale.exp() * noise)
        squares = ((images - made) ** 2).flatten(1) / self.log_sigma.exp() ** 2
        fit = -(0.5 * squares + self.log_sigma + 0.5 * math.log(2 * math.pi)).sum(dim=1)
        return fit - 0.5 * (mean**2 + (2 * log_scale).exp() - 2 * log_scale - 1).sum(dim=1)


# --- what both share ----------------------------------------------------------------------------------------


def _fit(
    average: nn.Module,
    module: nn.Module,
    loss: Callable[[Array, int], Tensor],
    images: Array,
    epochs: int,
    seed: int,
    tick: Callable[[int], None],
) -> None:
    """Descend the loss of `module`; `average` gets its average weights, rounded to float16."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    adam = torch.optim.Adam(module.parameters(), betas=BETAS)
    steps = epochs * (len(images) // data.BATCH)
    for step, batch in enumerate(data.batches(images, epochs, seed)):
        value = loss(batch, step)
        if not bool(torch.isfinite(value)):
            raise InputError(f"the training diverged at seed={seed}, step {step}; take another seed or fewer epochs")
        rate = LEARNING_RATE * min(1.0, (1 + step) / WARM, 2 * (1 - step / steps))
        descend(value, adam, rate, clip=CLIP)
        mix(average, module, step)
        tick(step + 1)
    round_to_half(average)
    check_finite(average, seed)
    average.eval().requires_grad_(False)


def _recipe(epochs: int, images: Array, seed: int) -> dict[str, Any]:
    return {
        "optimiser": f"Adam, betas {BETAS}",
        "learning_rate": f"{LEARNING_RATE}, from 0 within {WARM} steps, from half of the steps on linearly to 0",
        "batch": data.BATCH,
        "epochs": epochs,
        "steps": epochs * (len(images) // data.BATCH),
        "averaging": f"exponential, decay {AVERAGING}",
        "clipping": f"gradients of norm {CLIP}",
        "seed": seed,
    }


def _tensor(batch: Array, net: Autoencoder) -> Tensor:
    return torch.from_numpy(batch.astype(np.float32)).to(net.log_sigma.device)
