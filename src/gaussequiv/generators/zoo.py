"""The zoo: single-layer, deep, DCGANs, flows and decoders, random and trained; `load` for names and files.

Weights are a pure function of the seed: they are drawn from our own streams, never from torch's global one.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.generators import flows
from gaussequiv.generators.composition import picture_shape
from gaussequiv.generators.datasets import Dataset, dataset
from gaussequiv.generators.flows import GREY_REALNVP, Pixels, RealNVP, RealNVPShape
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.random_matrices import STRENGTH, Kind, gaussian_matrix, matrices
from gaussequiv.maths.activations import Activation, Custom
from gaussequiv.models.storage import holds_data, load_arrays, save_arrays
from gaussequiv.models.streams import Purpose, stream

WEIGHTS = Path(__file__).parent / "weights"
TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "erf": lambda z: torch.erf(z / 2**0.5),
    "relu": torch.relu,
    "tanh": torch.tanh,
    "linear": lambda z: z,
    "abs": torch.abs,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "gelu": nn.functional.gelu,
}


# --- fully connected random generators ----------------------------------------------------------------------


class Dense(nn.Module):
    r"""$x_l = \sigma_l(F_l x_{l-1})$ for a list of matrices $F_l$ and one activation for each."""

    def __init__(self, matrices: Sequence[Tensor], activations: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.activations = tuple(activations)
        self.layers = nn.ParameterList([nn.Parameter(F, requires_grad=False) for F in matrices])

    def forward(self, latents: Tensor) -> Tensor:
        """Inputs (n, N) of a batch of latents (n, D)."""
        x = latents
        for F, sigma in zip(self.layers, self.activations, strict=True):
            x = sigma(x @ F.T)
        return x


def single_layer(F: Any, activation: str | Callable[[Tensor], Tensor] = "sign") -> Generator:
    r"""The generator $x = \sigma(F c)$ with the rows of $F$, shape (N, D), as given (no hidden rescaling)."""
    matrix = _as_matrix("F", F)
    module = Dense([matrix], [torch_activation(activation)])
    return Generator(module, latent=matrix.shape[1], name="single-layer")


def deep(matrices: Sequence[Any], activation: "str | Callable[[Tensor], Tensor] | Sequence[Any]" = "sign") -> Generator:
    r"""The generator $x = \sigma_L(F_L \cdots \sigma_1(F_1 c))$ with the rows as given.

    Args:
        matrices: $F_1, \ldots, F_L$ of shapes (width, D), (width, width), ..., (N, width).
        activation: one for all layers, or a list with one for each.

    """
    return _dense(matrices, activation, "deep")


def deep_random(
    widths: Sequence[int],
    activation: "str | Callable[[Tensor], Tensor] | Sequence[Any]" = "sign",
    seed: int = 0,
    *,
    matrix: Kind = "gaussian",
    strength: float = STRENGTH,
) -> Generator:
    r"""The generator $x = \sigma(F_L \cdots \sigma(F_1 c))$ with random matrices, by default $F_{ij} \sim N(0, 1/\text{fan-in})$.

    Args:
        widths: D, the widths of the hidden layers, and N.
        activation: one for all layers, or a list with one for each.
        seed: of the weights.
        matrix: "gaussian", "orthogonal", "hadamard" or "spiked", see `random_matrices.matrix`.
        strength: of the spikes, for "spiked" only.

    """
    return _dense(matrices(widths, matrix, seed, strength=strength), activation, "deep-random")


def _dense(matrices: Sequence[Any], activation: Any, name: str) -> Generator:
    if len(matrices) == 0:
        raise InputError("a deep generator without matrices; expected a list of them, one a layer")
    Fs = [_as_matrix(f"matrix {number}", F) for number, F in enumerate(matrices, start=1)]
    for number, (before, F) in enumerate(zip(Fs, Fs[1:], strict=False), start=2):
        if F.shape[1] != len(before):
            raise InputError(
                f"matrix {number} has shape {tuple(F.shape)} behind {len(before)} units; expected {len(before)} columns"
            )
    choices = list(activation) if isinstance(activation, list | tuple) else [activation] * len(Fs)
    if len(choices) != len(Fs):
        raise InputError(f"{len(choices)} activations for {len(Fs)} matrices; expected one for each, or one for all")
    dtype = functools.reduce(torch.promote_types, (F.dtype for F in Fs))
    module = Dense([F.to(dtype) for F in Fs], [torch_activation(g) for g in choices])
    return Generator(module, latent=Fs[0].shape[1], name=name)


def _as_matrix(name: str, F: Any) -> Tensor:
    if np.iscomplexobj(F):
        raise InputError(f"{name} is complex; expected real numbers")
    try:
        matrix = torch.as_tensor(np.array(F))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array of numbers ({error})") from error
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise InputError(f"{name} has shape {tuple(matrix.shape)}; expected (N, D), one row per input")
    if not torch.isfinite(matrix).all():
        raise InputError(f"{name} holds a NaN or an infinity; expected finite numbers")
    return matrix if matrix.is_floating_point() else matrix.double()


def torch_activation(activation: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The torch form of an activation: by name, or the callable itself."""
    if not isinstance(activation, str):
        if not callable(activation):
            raise InputError(f"the activation is {a_kind(activation)}; expected a name or a callable")
        return activation
    if activation not in TORCH_ACTIVATIONS:
        raise InputError(
            f"unknown activation {activation!r}; expected one of {', '.join(TORCH_ACTIVATIONS)} or a callable"
        )
    return TORCH_ACTIVATIONS[activation]


def activation(function: Callable[[Tensor], Tensor]) -> Activation:
    """A torch function that acts entry by entry as an `Activation` of the theory; its derivative is that of autograd."""
    wrapped = OnArrays(function)
    return Custom(wrapped, wrapped.derivative)


@dataclass(frozen=True)
class OnArrays:
    """A torch function on NumPy arrays. Its attribute `torch` is the function itself, which simulations use."""

    torch: Callable[[Tensor], Tensor]

    @property
    def __name__(self) -> str:
        return getattr(self.torch, "__name__", "torch function")

    def __call__(self, z: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """g(z), entry by entry."""
        with torch.no_grad():
            return np.asarray(self.torch(torch.from_numpy(np.array(z, dtype=float))).numpy())

    def derivative(self, z: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """g'(z), entry by entry, by autograd; 0 where the function has none, such as a step."""
        fields = torch.from_numpy(np.array(z, dtype=float)).requires_grad_()
        total = self.torch(fields).sum()
        if not total.requires_grad:
            return np.zeros(fields.shape)
        (gradient,) = torch.autograd.grad(total, fields)
        return np.asarray(gradient.numpy())


# --- convolutional generators -------------------------------------------------------------------------------


@dataclass(frozen=True)
class DCGANShape:
    """Sizes of a DCGAN generator: transposed convolutions from (latent, 1, 1) to (channels, size, size).

    The first one makes a map of `base` x `base` pixels with `widths[0]` channels; each further width doubles
    the map (kernel 4, stride 2); the last one doubles it once more or, if `size` is reached, is 1 x 1.
    """

    latent: int
    widths: tuple[int, ...]
    base: int
    channels: int
    size: int

    def __post_init__(self) -> None:
        grown = self.base * 2 ** (len(self.widths) - 1)
        if self.size not in (grown, 2 * grown):
            raise InputError(
                f"a DCGAN of these widths makes {grown} or {2 * grown} pixels; size={self.size} was asked for"
            )


PART = 64  # latents that a convolution sees at once while statistics are taken
PAPER_DCGAN = DCGANShape(latent=100, widths=(512, 256, 128, 64), base=4, channels=3, size=32)
GREY_DCGAN = DCGANShape(latent=100, widths=(64, 48), base=7, channels=1, size=28)


class DCGAN(nn.Module):
    """The generator of Radford, Metz and Chintala (arXiv:1511.06434): batch normalisation, ReLU, and tanh."""

    def __init__(self, shape: DCGANShape) -> None:
        super().__init__()
        self.shape, self.latent = shape, (shape.latent, 1, 1)
        with torch.random.fork_rng(devices=[]):  # the layers draw initial weights from the global stream
            self.layers = nn.Sequential(*_dcgan_layers(shape), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """Images (n, channels, size, size) of a batch of latents (n, latent, 1, 1)."""
        images: Tensor = self.layers(latents)
        return images


def dcgan(shape: DCGANShape = GREY_DCGAN, *, seed: int = 0) -> Generator:
    """A DCGAN with random weights, N(0, 0.02^2) as at the start of its training.

    Batch normalisation is used in evaluation mode, as in a trained one; its running statistics are those of
    1,024 latents, layer by layer, so that every layer has unit variance before its ReLU.
    """
    module = DCGAN(shape)
    draw_weights(module, seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        recompute_statistics(module, latents(seed, 1024, shape))
    return as_generator(module, "dcgan-random" if shape == GREY_DCGAN else "dcgan-random-32")


def latents(seed: int, n: int, shape: DCGANShape, chunk: int = 0) -> Tensor:
    """Latent maps (n, latent, 1, 1), standard normal, from the stream of the weights."""
    rng = stream(seed, Purpose.WEIGHTS, chunk=chunk, lane=1)
    return torch.from_numpy(rng.standard_normal((n, shape.latent, 1, 1), dtype=np.float32))


def draw_weights(module: nn.Module, seed: int, lane: int = 0) -> None:
    """Convolutions N(0, 0.02^2), scales of the normalisations N(1, 0.02^2), biases 0 (as Radford et al.)."""
    rng = stream(seed, Purpose.WEIGHTS, lane=lane)
    for layer in module.modules():
        mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
        if isinstance(layer, nn.BatchNorm2d | nn.Conv2d | nn.ConvTranspose2d):
            draws = mean + 0.02 * rng.standard_normal(tuple(layer.weight.shape))
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(draws))
                if layer.bias is not None:
                    layer.bias.zero_()


def recompute_statistics(module: DCGAN, batch: Tensor) -> None:
    """Set the running mean and variance of every batch normalisation to those of one large batch.

    Convolutions see a part of it at a time, as their work space is many times their output.
    """
    layers = list(module.layers.children())
    last = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm2d))
    for layer in layers[: last + 1]:
        if isinstance(layer, nn.BatchNorm2d):
            momentum, layer.momentum = layer.momentum, 1.0
            batch = layer.train()(batch)
            layer.eval().momentum = momentum
        elif isinstance(layer, nn.ReLU):
            batch.relu_()
        else:
            batch = _in_parts(layer, batch)
    module.eval()


def _in_parts(layer: nn.Module, batch: Tensor) -> Tensor:
    first: Tensor = layer(batch[:PART])
    out = first.new_empty((len(batch), *first.shape[1:]))
    for start in range(0, len(batch), PART):
        out[start : start + PART] = layer(batch[start : start + PART])
    return out


def _dcgan_layers(shape: DCGANShape) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.ConvTranspose2d(shape.latent, shape.widths[0], shape.base, bias=False)]
    for narrow, wide in zip(shape.widths[1:], shape.widths[:-1], strict=True):
        layers += [*_normalised(wide), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)]
    last = shape.widths[-1]
    done = shape.base * 2 ** (len(shape.widths) - 1) == shape.size
    final = nn.ConvTranspose2d(last, shape.channels, 1) if done else nn.ConvTranspose2d(last, shape.channels, 4, 2, 1)
    return [*layers, *_normalised(last), final]


def _normalised(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU()]


# --- decoders and flows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder: fully connected layers from `latent` variables to images (channels, size, size)."""

    latent: int
    hidden: tuple[int, ...]
    channels: int
    size: int

    def __post_init__(self) -> None:
        for name in ("latent", "channels", "size"):
            integer(name, getattr(self, name))
        for width in self.hidden:
            integer("a width of the hidden layers", width)


GREY_DECODER = DecoderShape(latent=20, hidden=(256, 256), channels=1, size=28)


class Decoder(nn.Module):
    """The mean of a variational autoencoder's decoder (Kingma and Welling, arXiv:1312.6114): ReLUs, and tanh."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape, self.latent = shape, (shape.latent,)
        self.layers = perceptron((shape.latent, *shape.hidden, shape.channels * shape.size**2))

    def forward(self, latents: Tensor) -> Tensor:
        """Images (n, channels, size, size) in [-1, 1] of a batch of latents (n, D)."""
        s = self.shape
        images: Tensor = torch.tanh(self.layers(latents)).reshape(-1, s.channels, s.size, s.size)
        return images


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLUs between them."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):  # the layers draw initial weights from the global stream
        for inside, outside in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vae(shape: DecoderShape = GREY_DECODER, *, seed: int = 0) -> Generator:
    """A decoder with random weights, N(0, 2 / fan-in), and no biases: fields of variance two before its tanh."""
    module = Decoder(shape)
    flows.draw_layers(module, stream(seed, Purpose.WEIGHTS))
    return as_generator(module, "vae-random")


def realnvp(shape: RealNVPShape = GREY_REALNVP, *, seed: int = 0, squash: bool = False) -> Generator:
    """A RealNVP with random weights, in logit space, or with `squash=True` in pixels from -1 to 1."""
    module = RealNVP(shape)
    flows.draw_weights(module, seed)
    generator = as_generator(module, "realnvp-random")
    return squashed(generator) if squash else generator


def squashed(generator: Generator) -> Generator:
    """The generator of pixels from -1 to 1 of a generator of images in logit space, as a RealNVP is one.

    Raises `InputError` for any other generator.
    """
    if not isinstance(generator.module, RealNVP):
        raise InputError(f"{generator.name} is no RealNVP; expected a generator of images in logit space")
    return replace(generator, module=Pixels(generator.module), name=f"{generator.name}-pixels")


def images(
    source: Generator | Dataset, inputs: np.ndarray[Any, np.dtype[Any]]
) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Inputs of a generator or data set as pictures (n, channels, rows, columns) from -1 to 1; None where they are none.

    Logits of a flow become pixels; other numbers beyond -1 and 1 are shrunk, all alike, to what can be drawn.
    """
    shape = picture_shape(source.output_shape)
    if shape is None:
        return None
    logits = isinstance(source, Generator) and isinstance(source.module, RealNVP)
    seen = flows.pixels(torch.from_numpy(inputs)).numpy() if logits else inputs
    low, high = float(seen.min()), float(seen.max())
    if low < -1 or high > 1:
        seen = 2 * (seen - low) / (high - low) - 1
    return np.asarray(seen.reshape(len(inputs), *shape))


# --- names and files ----------------------------------------------------------------------------------------

Network = DCGAN | RealNVP | Decoder
ARCHITECTURES: dict[str, tuple[type[Any], type[Network]]] = {
    "dcgan": (DCGANShape, DCGAN),
    "realnvp": (RealNVPShape, RealNVP),
    "vae": (DecoderShape, Decoder),
}


def save(module: Network, path: str | Path, card: dict[str, Any]) -> None:
    """Save the weights of a generator, in float16, with its sizes and a card of its data and its training."""
    names = [name for name, (_, kind) in ARCHITECTURES.items() if isinstance(module, kind)]
    if not names:
        raise InputError(f"a {type(module).__name__} cannot be saved; expected one of {', '.join(ARCHITECTURES)}")
    arrays = {key: _as_stored(tensor) for key, tensor in module.state_dict().items()}
    metadata = {"architecture": names[0], "shape": asdict(module.shape), "card": card}
    save_arrays(path, "generator", arrays, metadata)


def load(name: str | Path) -> Generator:
    """A generator by the name of the zoo or from a file that `gaussequiv train` wrote.

    Raises `InputError` for an unknown name, a missing file, a foreign file, or weights that do not fit.
    """
    if not isinstance(name, str | Path):
        raise InputError(f"a generator was asked for by a {type(name).__name__}; expected a name or a path")
    if str(name) in NAMES:
        return NAMES[str(name)]()
    path = Path(name)
    if path.suffix in (".pt", ".pth", ".ckpt"):
        raise InputError(
            f"{path} are weights without their module; expected package.module:factory, with generator.weights={path}, or "
            "generators.load_weights"
        )
    if path.exists() and holds_data(path):
        raise InputError(f"{path} holds data, not a generator; expected generators.dataset({str(name)!r})")
    if path.suffix != ".safetensors":
        raise InputError(
            f"unknown generator {str(name)!r}; expected one of {', '.join(NAMES)}, a .safetensors file, or, in an experiment, "
            "an .onnx model, package.module:factory, a folder of images, an IDX file or an .npy or .npz file that is there"
        )
    return _load_file(path, path.stem)


def find(name: str | Path, key: str | None = None) -> Generator | Dataset:
    """A generator by its name or file, or the data set of a folder or file: a name of the zoo comes first."""
    path = Path(name)
    missing_folder = len(path.parts) > 1 and not path.suffix and not path.exists()
    if str(name) in NAMES and key is not None:
        raise InputError(f"key={key!r} is that of a file of several arrays; leave it out for {name}")
    if str(name) not in NAMES and (key is not None or holds_data(path) or missing_folder):
        return dataset(path, key=key)
    return load(name)


def card(name: str | Path) -> dict[str, Any]:
    """The model card of shipped or saved weights: data, licence, recipe, seed, figures of quality."""
    path = WEIGHTS / f"{SHIPPED[str(name)]}.safetensors" if str(name) in SHIPPED else Path(name)
    metadata = load_arrays(path, "generator")[1]
    found: dict[str, Any] = metadata["card"]
    return found


def _load_file(path: Path, name: str) -> Generator:
    arrays, metadata = load_arrays(path, "generator")
    kind = metadata.get("architecture")
    if kind not in ARCHITECTURES:
        raise InputError(f"{path} holds a generator of kind {kind!r}; expected one of {', '.join(ARCHITECTURES)}")
    shape_of, network = ARCHITECTURES[kind]
    try:
        sizes = {key: tuple(size) if isinstance(size, list) else size for key, size in metadata["shape"].items()}
        module = network(shape_of(**sizes))
        module.load_state_dict({key: torch.from_numpy(array).float() for key, array in arrays.items()})
    except (AttributeError, KeyError, TypeError, RuntimeError, InputError) as error:
        reason = " ".join(str(error).split("\n")[:2])
        raise InputError(f"the weights in {path} do not fit a {network.__name__} ({reason})") from error
    return as_generator(module, name)


def as_generator(module: Network, name: str) -> Generator:
    """Convolutions are half as fast again with their channels last (measured on CPU, docs/validation.md)."""
    fast: Network = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Generator(fast, latent=module.latent, name=name)


def _as_stored(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    array = tensor.detach().cpu().numpy()
    return array.astype(np.float16) if array.dtype.kind == "f" else array


SHIPPED = {
    "dcgan": "dcgan-fashion-mnist",
    "dcgan-fashion-mnist": "dcgan-fashion-mnist",
    "realnvp": "realnvp-fashion-mnist",
    "realnvp-pixels": "realnvp-fashion-mnist",
    "vae": "vae-fashion-mnist",
}


def _shipped(file: str) -> Generator:
    return _load_file(WEIGHTS / f"{file}.safetensors", file)


NAMES: dict[str, Callable[[], Generator]] = {
    "dcgan": lambda: _shipped("dcgan-fashion-mnist"),
    "dcgan-fashion-mnist": lambda: _shipped("dcgan-fashion-mnist"),
    "dcgan-random": lambda: dcgan(GREY_DCGAN),
    "dcgan-random-32": lambda: dcgan(PAPER_DCGAN),
    "realnvp": lambda: _shipped("realnvp-fashion-mnist"),
    "realnvp-pixels": lambda: squashed(_shipped("realnvp-fashion-mnist")),
    "realnvp-random": realnvp,
    "vae": lambda: _shipped("vae-fashion-mnist"),
    "vae-random": vae,
    "single-layer": lambda: single_layer(gaussian_matrix(1000, 500), "sign"),
    "deep-random": lambda: deep_random((500, 500, 500, 1000), "sign"),
}
SIZES = {
    "dcgan": (100, 784),
    "dcgan-fashion-mnist": (100, 784),
    "dcgan-random": (100, 784),
    "dcgan-random-32": (100, 3072),
    "realnvp": (784, 784),
    "realnvp-pixels": (784, 784),
    "realnvp-random": (784, 784),
    "vae": (20, 784),
    "vae-random": (20, 784),
    "single-layer": (500, 1000),
    "deep-random": (500, 1000),
}  # D and N of each, so that a list does not build them
DESCRIPTIONS = {
    "dcgan": "small DCGAN trained on Fashion-MNIST, 28 x 28 grey",
    "dcgan-fashion-mnist": "the same",
    "dcgan-random": "the small DCGAN with random weights",
    "dcgan-random-32": "the paper's DCGAN, 3 x 32 x 32, with random weights",
    "realnvp": "RealNVP trained on Fashion-MNIST, images in logit space",
    "realnvp-pixels": "the same in pixels",
    "realnvp-random": "RealNVP with random weights, in logit space",
    "vae": "decoder of a VAE trained on Fashion-MNIST, 28 x 28 grey",
    "vae-random": "the decoder with random weights",
    "single-layer": "sign(F c) with Gaussian F",
    "deep-random": "three layers of sign units with Gaussian weights",
}
