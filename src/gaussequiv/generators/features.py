r"""Feature maps on top of a generator: random features, the first layer of a network; and teachers measured on samples."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.generators.datasets import Dataset, Lookup
from gaussequiv.generators.generator import Array, Generator
from gaussequiv.generators.plan import Plan
from gaussequiv.generators.zoo import TORCH_ACTIVATIONS, torch_activation
from gaussequiv.maths.activations import Activation, Custom
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.models.teachers import MeasuredTeacher

GROUPS = 16  # of samples, left out one at a time for standard errors
CHUNK = 1024


class Features(nn.Module):
    r"""The features $\sigma(W x / \sqrt N)$ of flat inputs x, (n, N)."""

    def __init__(self, weights: Any, activation: "str | Callable[[Tensor], Tensor]") -> None:
        super().__init__()
        matrix = torch.from_numpy(np.array(weights, dtype=float))
        self.weights = nn.Parameter(matrix, requires_grad=False)
        self.activation = torch_activation(activation)

    @property
    def weight_matrix(self) -> Array:
        """W, (features, N), in double precision."""
        return np.asarray(self.weights.detach().cpu().double().numpy())

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (n, features) of a batch of inputs (n, N)."""
        return self.activation(inputs @ self.weights.T / self.weights.shape[1] ** 0.5)


def random_features(
    input_dim: int,
    features: int,
    activation: "str | Callable[[Tensor], Tensor]" = "erf",
    kind: Literal["gaussian", "orthogonal"] = "gaussian",
    seed: int = 0,
) -> Features:
    r"""Random features $\sigma(W x / \sqrt N)$, to be put behind a generator by `generator.then(...)`.

    Args:
        input_dim: N.
        features: their number, p.
        activation: sigma, a name or a torch function.
        kind: "gaussian", entries $W_{ij} \sim N(0, 1)$; "orthogonal", rows of norm $\sqrt N$ that are orthogonal to each
            other, in blocks of N where p > N.
        seed: of the weights.

    Raises:
        InputError: sizes that are not positive, another kind, or an unknown activation.

    """
    N, p = integer("input_dim", input_dim), integer("features", features)
    rng = stream(seed, Purpose.WEIGHTS, chunk=N, lane=2)
    if kind == "gaussian":
        return Features(rng.standard_normal((p, N)), activation)
    if kind != "orthogonal":
        raise InputError(f"kind={kind!r}; expected 'gaussian' or 'orthogonal'")
    blocks = []
    for _ in range(-(-p // N)):
        Q, R = np.linalg.qr(rng.standard_normal((N, N)))
        blocks.append(Q * np.sign(np.diag(R)))  # uniform over the orthogonal group
    return Features(np.sqrt(N) * np.concatenate(blocks)[:p], activation)


def first_layer(network: TwoLayer) -> Features:
    r"""The hidden units $g(W x / \sqrt N)$ of a network as features: pre-learned ones, if it was trained."""
    g = network.activation
    if not isinstance(g, Activation):
        raise InputError(f"the network's activation is {a_kind(g)}; expected an Activation")
    return Features(network.weights, _on_tensors(g))


def then(
    generator: Generator,
    features: "nn.Module | TwoLayer | Callable[[Tensor], Tensor]",
    *,
    shape: "tuple[int, ...] | None" = None,
    mean: Any = None,
) -> Generator:
    """The generator whose inputs are features of another's; see `Generator.then`."""
    module = first_layer(features) if isinstance(features, TwoLayer) else features
    if not callable(module):
        raise InputError(
            f"the features are a {type(features).__name__}; expected a torch module, a callable or a TwoLayer"
        )
    N = generator.input_dim
    if isinstance(module, Features) and module.weights.shape[1] != N:
        raise InputError(f"the features look at {module.weights.shape[1]} inputs; the generator has N={N}")
    if shape is not None and int(np.prod(shape)) != N:
        raise InputError(f"shape={shape}; expected one of {N} inputs")
    composed = Composed(generator, module, shape, mean)
    flat = isinstance(generator.latent, Mapping)
    return replace(
        generator,
        module=composed,
        latent=generator.latent_dim if flat else generator.latent,
        output=None,
        extra=None,
        name=f"{generator.name}, {getattr(features, '__name__', type(module).__name__).lower()}",
    )


class Shared:
    """A function that is not copied with the module that it is a part of, as modules are: it may not be copyable."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **named)

    def __deepcopy__(self, memo: Any) -> "Shared":
        return self


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    return function if isinstance(function, nn.Module) else Shared(function)


class Composed(nn.Module):
    """Features of the flat inputs of a generator, which may be given another shape and be centred before."""

    def __init__(
        self, generator: Generator, features: Callable[[Tensor], Tensor], shape: "tuple[int, ...] | None", mean: Any
    ) -> None:
        super().__init__()
        self.inner = _shared(generator.module)
        self.call = generator.call
        self.features = _shared(features)
        self.shape = shape
        centre = torch.zeros(1) if mean is None else torch.from_numpy(np.array(mean, dtype=float))
        if mean is not None and centre.shape != (generator.input_dim,):
            raise InputError(f"the mean has shape {tuple(centre.shape)}; expected ({generator.input_dim},)")
        self.register_buffer("mean", centre)

    def forward(self, latents: Tensor) -> Tensor:
        """Features (n, ...) of a batch of latents in the inner generator's shape."""
        n = len(latents)
        centre = self.get_buffer("mean")
        x = self.call(self.inner, latents.flatten(1)).flatten(1).to(centre.dtype) - centre
        return self.features(x if self.shape is None else x.reshape(n, *self.shape))


def measure_teacher(
    generator: Inputs,
    function: "Callable[..., Any] | Any",
    *,
    output: Literal["linear", "sign"] = "linear",
    on: Literal["inputs", "latents"] = "inputs",
    samples: int = 100_000,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> MeasuredTeacher:
    r"""The moments of the labels of any teacher, $E[x y] - E[x] E[y]$ and $E y^2$, on samples of a generator.

    Those on a `Dataset` are exact, in one pass over it; `samples` and `seed` are then not used, and standard errors are zero.

    Args:
        generator: a `Generator`, or anything with `sample(n, rng)`.
        function: the teacher, a torch module or callable from flat inputs (n, N), or latents (n, D), to (n,) or (n, 1)
            numbers; of two columns, a classifier's scores, the difference is taken. Of a `Dataset` also the labels of its
            samples, an array (n,), such as +1 for odd and -1 for even classes.
        output: "linear" for real labels; "sign" for the sign of what the function returns.
        on: what it looks at.
        samples: how many; those of `estimate` with the same seed.
        seed: of the latents.
        progress: called with (samples done, samples in all).

    Raises:
        InputError: a function that fails, returns another shape or a NaN, or labels that are all the same.

    """
    finite = isinstance(generator, Dataset)
    samples = len(generator) if isinstance(generator, Dataset) else integer("samples", samples, least=2 * GROUPS)
    if output not in ("linear", "sign"):
        raise InputError(f"output={output!r}; expected 'linear' or 'sign'")
    if on not in ("inputs", "latents"):
        raise InputError(f"on={on!r}; expected 'inputs' or 'latents'")
    labels = _labels(generator, function, on)
    N = generator.input_dim
    sums: list[list[Any]] = [[0, np.zeros(N), 0.0, np.zeros(N), 0.0] for _ in range(GROUPS)]  # count, x, y, x y, y^2
    chunks, done = -(-samples // Plan(samples).chunk), 0
    for index, (latents, inputs) in enumerate(_chunks(generator, samples, seed)):
        y, x = labels(latents, inputs), np.asarray(inputs, dtype=float)
        if output == "sign":
            y = np.where(y > 0, 1.0, -1.0)
        few = chunks < GROUPS  # then every group gets a part of every chunk
        for group in range(GROUPS) if few else (index % GROUPS,):
            a, b = (x[group::GROUPS], y[group::GROUPS]) if few else (x, y)
            for i, value in enumerate((len(b), a.sum(0), b.sum(), a.T @ b, float(b @ b))):
                sums[group][i] = sums[group][i] + value
        done += len(x)
        if progress is not None:
            progress(done, samples)
    total = [sum(group[i] for group in sums) for i in range(5)]
    covariance, square = _moments(total)
    spread = np.zeros(N)
    if not finite:
        parts = [_moments([t - s for t, s in zip(total, group, strict=True)])[0] for group in sums]
        spread = np.sqrt((GROUPS - 1) / GROUPS * ((np.array(parts) - np.mean(parts, axis=0)) ** 2).sum(0))
    average = float(total[2]) / samples
    if square - average**2 <= 1e-12 * square:
        raise InputError("all labels are the same; expected a teacher that tells inputs apart")
    return MeasuredTeacher(
        covariance,
        1.0 if output == "sign" else square,
        output,
        labels,
        spread,
        {"samples": samples, "on": on, "mean": average} | ({} if finite else {"seed": seed}),
    )


def _labels(generator: Inputs, function: "Callable[..., Any] | Any", on: str) -> Callable[[Array, Array], Array]:
    """A teacher, or the labels of a data set, as a function of latents and inputs."""
    if on == "latents" and generator.latent_dim == 0:
        raise InputError(
            "the latents are unknown, as those of a data set, so no teacher looks at them; pass on='inputs'"
        )
    if isinstance(generator, Dataset) and isinstance(function, np.ndarray | Sequence | Lookup):
        return function if isinstance(function, Lookup) else Lookup(generator, function)
    if not callable(function):
        raise InputError(f"the teacher is {a_kind(function)}; expected a torch module or a callable")
    return Labelled(function, on)


def _chunks(generator: Inputs, samples: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Latents and inputs of seeded samples, some at a time; of a data set all of it, once."""
    if isinstance(generator, Dataset):
        yield from generator.chunks()
        return
    size = Plan(samples).chunk
    for index, start in enumerate(range(0, samples, size)):
        yield generator.sample(min(size, samples - start), stream(seed, Purpose.ESTIMATE, chunk=index))


def _moments(sums: list[Any]) -> tuple[Array, float]:
    count, x, y, xy, yy = sums
    return xy / count - x * y / count**2, float(yy) / count


class Labelled:
    """A torch teacher as a function of NumPy latents (n, D) and inputs (n, N) to labels (n,)."""

    def __init__(self, function: Callable[..., Any], on: str) -> None:
        self.on = on
        self.function = copy.deepcopy(function).eval() if isinstance(function, nn.Module) else function

    def __call__(self, latents: Array, inputs: Array) -> Array:
        """Labels (n,), in double precision."""
        seen = torch.from_numpy(np.ascontiguousarray(inputs if self.on == "inputs" else latents))
        if isinstance(self.function, nn.Module):
            weights = next(self.function.parameters(), None)
            seen = seen if weights is None else seen.to(dtype=weights.dtype, device=weights.device)
        try:
            with torch.inference_mode():
                found = torch.as_tensor(self.function(seen)).detach().cpu().double()
        except InputError:
            raise
        except Exception as error:  # whatever a user's function may raise
            sentence = str(error).strip().split("\n")[0]
            raise InputError(f"the teacher failed on {self.on} of shape {tuple(seen.shape)}: {sentence}") from error
        if found.ndim == 2 and found.shape[1] == 2:
            found = found[:, 1] - found[:, 0]
        found = found.squeeze(1) if found.ndim == 2 and found.shape[1] == 1 else found
        if found.shape != (len(seen),):
            raise InputError(
                f"the teacher returned shape {tuple(found.shape)}; expected ({len(seen)},), one label a sample"
            )
        if not torch.isfinite(found).all():
            raise InputError("the teacher returned a NaN or an infinity; expected finite labels")
        return np.asarray(found.numpy())


@dataclass(frozen=True)
class OnInputsOf:
    """A teacher on the inputs of a generator as a function of its latents: for a student that sees features only."""

    generator: Generator
    labels: Labelled

    def __call__(self, latents: Tensor) -> Array:
        """Labels (n,) of latents (n, D)."""
        return self.labels(latents.numpy(), self.generator.push(latents).cpu().numpy())


def on_inputs_of(generator: Generator, function: Callable[..., Any]) -> OnInputsOf:
    """A teacher that looks at the inputs of `generator`, where what is learned from are features of them.

    `measure_teacher(generator.then(features), on_inputs_of(generator, function), on="latents")` measures it.

    Raises `InputError` for a stochastic generator, whose inputs do not follow from the latents.
    """
    if generator.stochastic:
        raise InputError(
            f"{generator.name} is stochastic, so inputs do not follow from latents; expected a teacher on latents"
        )
    return OnInputsOf(generator, Labelled(function, "inputs"))


def _on_tensors(g: Activation) -> Callable[[Tensor], Tensor]:
    """An activation of the theory on tensors: by its name, by its own torch function, or through NumPy."""
    if g.name in TORCH_ACTIVATIONS:
        return TORCH_ACTIVATIONS[g.name]
    own = getattr(g.function, "torch", None) if isinstance(g, Custom) else None
    if callable(own):
        return own

    def through_numpy(z: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(g(z.detach().cpu().double().numpy()))).to(z)

    return through_numpy
