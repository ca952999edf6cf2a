r"""RealNVP (Dinh, Sohl-Dickstein and Bengio, arXiv:1605.08803): an invertible map of Gaussian latents to logit-space images.

A flow has as many latents as inputs, D = N, and its inputs are what the paper feeds to networks: images in logit space,
$x = \operatorname{logit}(\alpha + (1 - 2\alpha) p)$ with pixels $p \in [0, 1]$ and $\alpha = .05$. `pixels` goes back.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from gaussequiv.errors import InputError, integer
from gaussequiv.models.streams import Purpose, stream

ALPHA = 0.05
LEAST, MOST = -2.0, 0.7  # logarithms of the scales of a coupling: it may narrow what it moves far more than widen it
SHIFT = 3.0  # the largest shift of a coupling, in standard deviations of the data
SOFT = 1.5  # logits are SOFT asinh(y / SOFT): the data end at 2.94, tails of y beyond count by their logarithm
DETAILS = (3, 2, 1)  # of the four kinds of Haar maps, the one that a local coupling moves, in turns
PAIRS = ((0, 3), (1, 2), (0, 1), (2, 3), (0, 2), (1, 3))  # of every 2 x 2 block means, those a dense coupling keeps


@dataclass(frozen=True)
class RealNVPShape:
    """Sizes of a RealNVP for images (channels, size, size), its D = N latents being channels * size^2.

    `local` convolutional couplings of `width` channels act on the details of 2 x 2 blocks of pixels; `wide` dense
    couplings with `hidden` units on the blocks' means.
    """

    channels: int
    size: int
    width: int
    local: int
    hidden: int
    wide: int

    def __post_init__(self) -> None:
        for name in ("channels", "size", "width", "local", "hidden", "wide"):
            integer(name, getattr(self, name))
        if self.size % 4:
            raise InputError(f"size={self.size}; expected a multiple of 4 pixels, which a RealNVP halves twice")

    @property
    def latent(self) -> int:
        """D, as many as there are inputs."""
        return self.channels * self.size**2


GREY_REALNVP = RealNVPShape(channels=1, size=28, width=96, local=6, hidden=192, wide=8)


class Coupling(nn.Module):
    r"""An affine coupling: of the two groups of coordinates along axis 1 one moves by what the net makes of the other.

    $x_b = z_b e^{s(z_a)} + t(z_a)$ and $x_a = z_a$. Of the net's outputs, s saturates at -2 and .7 and t at -3 and 3: where the
    net has seen no data, it would else send rare latents far away, and several couplings multiply that.
    """

    def __init__(self, kept: Tensor, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        order = torch.cat([kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]])
        self.count = int(kept.sum())
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """From latents towards images."""
        a, b, s, t = self._parts(z)
        return torch.cat([a, b * s.exp() + t], dim=1)[:, self.get_buffer("back")]

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From images towards latents, and the logarithm of the Jacobian's determinant, (n,)."""
        a, b, s, t = self._parts(x)
        z = torch.cat([a, (b - t) * (-s).exp()], dim=1)[:, self.get_buffer("back")]
        return z, -s.flatten(1).sum(1)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = x[:, self.get_buffer("order")]
        a, b = x[:, : self.count], x[:, self.count :]
        s, t = self.net(a).chunk(2, dim=1)
        bound = torch.where(s > 0, MOST, -LEAST)
        return a, b, bound * torch.tanh(s / bound), SHIFT * torch.tanh(t / SHIFT)


class Local(nn.Module):
    """The net of a convolutional coupling: 3 x 3, 1 x 1 and 3 x 3; every place has biases of its own."""

    def __init__(self, inside: int, outside: int, width: int, size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, width, 3, padding=1, bias=False)
        self.place = nn.Parameter(torch.zeros(width, size, size))
        self.second = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, outside, size, size) of maps (n, inside, size, size)."""
        hidden = torch.relu(self.second(torch.relu(self.first(x) + self.place)))
        made: Tensor = self.last(hidden)
        return made


class RealNVP(nn.Module):
    r"""The flow: `forward` generates, `inverse` takes images back and returns the log-determinant besides.

    From an image: $y = 1.5 \sinh(x / 1.5)$ of every logit, the Haar transform of blocks of 2 x 2 pixels, one shift and scale
    per coefficient, local couplings that move the details, which then are latents, and dense couplings of the blocks' means.
    """

    def __init__(self, shape: RealNVPShape) -> None:
        super().__init__()
        self.shape, self.latent = shape, (shape.latent,)
        c, place = shape.channels, shape.size // 4
        self.maps, self.coarse = (16 * c, place, place), 4 * c * place**2
        with torch.random.fork_rng(devices=[]):  # the layers draw initial weights from the global stream
            self.mean = nn.Parameter(torch.zeros(self.maps))
            self.log_scale = nn.Parameter(torch.zeros(self.maps))
            self.local = nn.ModuleList(
                Coupling(_all_but(DETAILS[k % 3], 4 * c), Local(12 * c, 8 * c, shape.width, place))
                for k in range(shape.local)
            )
            self.wide = nn.ModuleList(
                Coupling(_pair(PAIRS[k % 6], c, place), _dense(self.coarse // 2, self.coarse, shape.hidden))
                for k in range(shape.wide)
            )

    def forward(self, latents: Tensor) -> Tensor:
        """Logit-space images (n, channels, size, size) of a batch of latents (n, D)."""
        coarse = latents[:, : self.coarse]
        for coupling in reversed(self.wide):
            coarse = coupling(coarse)
        maps = torch.cat([coarse, latents[:, self.coarse :]], dim=1).reshape(-1, *self.maps)
        for coupling in reversed(self.local):
            maps = coupling(maps)
        return SOFT * torch.asinh(merged(maps * self.log_scale.exp() + self.mean) / SOFT)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, D) of logit-space images, flat or not, and the log-determinant of dz/dx, (n,)."""
        maps = self.standardised(x.reshape(-1, self.shape.channels, self.shape.size, self.shape.size))
        log_det = torch.cosh(x / SOFT).log().flatten(1).sum(1) - self.log_scale.sum()
        for coupling in self.local:
            maps, change = coupling.inverse(maps)  # type: ignore[operator]
            log_det = log_det + change
        flat = maps.flatten(1)
        coarse, change = self.inverse_of_means(flat[:, : self.coarse])
        return torch.cat([coarse, flat[:, self.coarse :]], dim=1), log_det + change

    def standardised(self, images: Tensor) -> Tensor:
        """Haar maps of images, each coefficient with its shift and scale undone."""
        return (spread_out(images) - self.mean) * (-self.log_scale).exp()

    def inverse_of_means(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """The dense couplings alone, a flow of their own: latents of block means, (n, D/4), and the log-determinant."""
        log_det = torch.zeros(len(coarse)).to(coarse)
        for coupling in self.wide:
            coarse, change = coupling.inverse(coarse)  # type: ignore[operator]
            log_det = log_det + change
        return coarse, log_det


class Pixels(nn.Module):
    """A flow whose outputs are pixels from -1 to 1."""

    def __init__(self, flow: RealNVP) -> None:
        super().__init__()
        self.flow, self.shape = flow, flow.shape

    def forward(self, latents: Tensor) -> Tensor:
        """Images (n, channels, size, size) of a batch of latents (n, D)."""
        return pixels(self.flow(latents))


def draw_weights(module: RealNVP, seed: int, *, spread: float = 0.2) -> None:
    r"""Weights such that logarithms of scales and shifts have this standard deviation, for latents of variance one.

    The scales are smaller by $b = \log(1 - r^2) / 2 - r^2$ with r the spread, so that the variance stays near one instead of
    growing exponentially with the number of couplings: for Gaussian s of variance r^2 a coupling keeps it,
    $E[e^{2 (s + b)}] + r^2 = 1$. As scales saturate, it falls by about 1.4 % a coupling at r = .2.
    """
    rng = stream(seed, Purpose.WEIGHTS)
    less = 0.5 * np.log(1 - spread**2) - spread**2
    for coupling in (*module.local, *module.wide):
        last = draw_layers(coupling, rng, last=spread)
        with torch.no_grad():
            last.bias[: len(last.bias) // 2] = LEAST * np.arctanh(less / LEAST)  # type: ignore[index, arg-type]


def draw_layers(module: nn.Module, rng: np.random.Generator, *, last: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Weights of linear maps and convolutions N(0, 2 / fan-in), those of the last one times `last`, which it returns.

    Biases are 0.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer in layers:
            gain = last if layer is layers[-1] else 1.0
            draws = gain * np.sqrt(2 / layer.weight[0].numel()) * rng.standard_normal(tuple(layer.weight.shape))
            layer.weight.copy_(torch.from_numpy(draws))
            if layer.bias is not None:
                layer.bias.zero_()
    return layers[-1]


def pixels(x: Tensor) -> Tensor:
    """Pixels in [-1, 1] of logit-space images; what lies beyond black and white is clipped."""
    return (2 * (torch.sigmoid(x) - ALPHA) / (1 - 2 * ALPHA) - 1).clamp(-1, 1)


def logits(p: Tensor) -> tuple[Tensor, Tensor]:
    """Logit-space images of pixels in [0, 1], and the log-determinant of dx/dp, (n,)."""
    squeezed = ALPHA + (1 - 2 * ALPHA) * p
    slope = np.log(1 - 2 * ALPHA) - squeezed.log() - (1 - squeezed).log()
    return torch.logit(squeezed), slope.flatten(1).sum(1)


def _dense(inside: int, outside: int, hidden: int) -> nn.Sequential:
    layers = (nn.Linear(inside, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outside))
    return nn.Sequential(*layers)


def _all_but(moved: int, many: int) -> Tensor:
    """Which maps a local coupling keeps: those of the other three kinds, each of `many` maps."""
    return (torch.arange(4) != moved).repeat_interleave(many)


def _pair(kept: tuple[int, int], channels: int, size: int) -> Tensor:
    """Which of the blocks' means a dense coupling keeps, their order being that of `split`: a checkerboard, rows, columns."""
    return torch.isin(torch.arange(4), torch.tensor(kept)).repeat(channels).repeat_interleave(size**2)


def spread_out(images: Tensor) -> Tensor:
    """Haar maps of 1.5 sinh(x / 1.5), which a flow's couplings model."""
    return split(SOFT * torch.sinh(images / SOFT))


HAAR = 0.5 * torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])  # symmetric, its own inverse


def split(images: Tensor) -> Tensor:
    """Haar maps (n, 16 c, size/4, size/4) of images (n, c, size, size): four of block means, then those of each detail."""
    n, c, size, _ = images.shape
    blocks = pixel_unshuffle(images, 2).reshape(n, c, 4, size // 2, size // 2)
    return pixel_unshuffle(torch.einsum("kl,nclij->nkcij", HAAR.to(images), blocks).flatten(1, 2), 2)


def merged(maps: Tensor) -> Tensor:
    """The inverse of `split`."""
    kinds = pixel_shuffle(maps, 2)
    n, many, half, _ = kinds.shape
    blocks = torch.einsum("kl,nlcij->nckij", HAAR.to(maps), kinds.reshape(n, 4, many // 4, half, half))
    return pixel_shuffle(blocks.flatten(1, 2), 2)
