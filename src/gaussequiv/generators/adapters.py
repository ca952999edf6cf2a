"""Generators that were made elsewhere: your own code with its weights, normalising flows, ONNX files."""

import copy
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.code import call_code, find_code, listed, words
from gaussequiv.errors import InputError, integer
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.priors import seeded_globally

MOST_SEED = 2**63 - 1  # of torch
DEEPEST = 3  # of weights in the dictionaries of a file
SIZES = ("latent", "latent_dim", "z_dim", "nz", "dim_z", "latent_size")  # attributes that say what the latents are
LIBRARIES = ("zuko", "normflows")
ONNX_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


# --- code ---------------------------------------------------------------------------------------------------


def from_code(
    name: str,
    *,
    weights: str | Path | None = None,
    key: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    latent: Any = None,
    seed: int = 0,
    **options: Any,
) -> Generator:
    """The generator of a factory "package.module:factory" (or of a module or class there), with weights of a file. Code runs.

    Args:
        name: of a function or class that returns a `torch.nn.Module`, a function of latents, a flow of zuko or normflows, or a
            `Generator`; or of a `torch.nn.Module` itself. Modules in the current folder are found as well.
        weights: a file of `load_weights`.
        key: of the weights in it, see `load_weights`.
        arguments: of the factory.
        seed: of torch's and NumPy's global random numbers while the code makes its module: of random weights.
        latent: shape of one latent; left out where the module says so by `latent`, `latent_dim`, `z_dim` or `nz`.
        options: of `Generator`, such as `output`, `extra`, `prior`.

    Raises:
        InputError: code that there is not or that fails, weights that do not fit, or latents of unknown shape.

    """
    what = f"generator {name!r}"
    with seeded_globally(integer("seed", seed, 0, most=MOST_SEED)):  # an import happens once, and may draw weights
        found = find_code(name, what)
    with seeded_globally(seed):
        made = found if isinstance(found, nn.Module | Generator) else call_code(name, what, arguments)
    if isinstance(made, nn.Module) and made is found:
        made = copy.deepcopy(made)  # one module for all calls: it keeps its weights
    if isinstance(made, Generator):
        if weights is not None:
            made = replace(made, module=load_weights(made.module, weights, key))
        return replace(made, **({"latent": latent} if latent is not None else {}), **options)
    if weights is not None:
        made = load_weights(made, weights, key)
    label = options.pop("name", name.partition(":")[2])
    if is_flow(made) and latent is None:
        return from_flow(made, name=label, **options)
    if not callable(made):
        raise InputError(f"{what} returned a {type(made).__name__}; expected a torch module or a function of latents")
    if latent is None:
        known = [getattr(made, size) for size in SIZES if _is_size(getattr(made, size, None))]
        if not known:
            raise InputError(f"{what} does not say how many latents it has; set latent, such as 100 or (100, 1, 1)")
        latent = known[0]
    return Generator(made, latent, name=label, **options)


# --- weights ------------------------------------------------------------------------------------------------


def load_weights(module: Any, path: str | Path, key: str | None = None) -> nn.Module:
    """A module with the weights of a file, saved on any device; nothing in the file is ever run.

    Args:
        module: whose parameters and buffers they are; it is changed.
        path: a `.safetensors` file, or one of `torch.save` that holds tensors only (`weights_only=True`).
        key: where the file holds several that fit, such as "generator" or "checkpoint.ema", with a dot for each level.

    Raises:
        InputError: no such file, a damaged one, one that holds pickled objects, names or shapes that are not those of the
            module, or a NaN.

    """
    path = Path(path)
    if not isinstance(module, nn.Module):
        raise InputError(f"weights {path} for a {type(module).__name__}; expected a torch module to put them into")
    known = module.state_dict()
    state = _bare(_state(path, key, set(known)))
    optional = {name for name in known if name.endswith("num_batches_tracked")}
    there = {known[name].data_ptr() for name in state if name in known}
    shared = {name for name, value in known.items() if value.data_ptr() in there}  # saved once
    missing, foreign = set(known) - set(state) - optional - shared, set(state) - set(known)
    if missing or foreign:
        said = [f"{len(missing)} missing ({listed(sorted(missing))})"] if missing else []
        said += [f"{len(foreign)} that it does not have ({listed(sorted(foreign))})"] if foreign else []
        raise InputError(f"the weights in {path} are not those of {type(module).__name__}: {', '.join(said)}")
    for name, value in state.items():
        if value.shape != known[name].shape:
            raise InputError(
                f"the weights in {path} do not fit {type(module).__name__}: {name} has shape {tuple(value.shape)}; expected "
                f"{tuple(known[name].shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"the weights in {path} hold a NaN or an infinity ({name}); expected finite numbers")
    module.load_state_dict(state, strict=False)
    return module


def _state(path: Path, key: str | None, names: set[str]) -> dict[str, Tensor]:
    """The tensors of a file by their names: of several dictionaries of them that of the key, or the only one that fits."""
    found = _read(path)
    states = dict(_states(found))
    if not states:
        raise InputError(f"{path} holds {listed(found) or 'nothing'}; expected tensors by their names")
    if key is not None:
        if key not in states:
            there = listed(name for name in states if name) or "only one set of weights, so leave the key out"
            raise InputError(f"{path} has no weights {key!r}; it holds {there}")
        return states[key]
    fitting = [name for name, state in states.items() if len(set(_bare(state)) & names) > len(names) / 2]
    chosen = fitting if fitting else list(states)
    if len(chosen) != 1:
        raise InputError(f"{path} holds several sets of weights; choose one of {listed(chosen)} by its key")
    return states[chosen[0]]


def _states(found: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dictionaries of tensors inside of dictionaries, by their keys with dots between them."""
    if not isinstance(found, Mapping) or depth > DEEPEST:
        return
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors and len(tensors) == len(found):
        yield name, tensors
        return
    for key, value in found.items():
        yield from _states(value, f"{name}.{key}" if name else str(key), depth + 1)


def _read(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file of weights in .safetensors, .pt or .pth")
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected weights in .safetensors, .pt or .pth")
    damaged = f"{path} is no complete file of weights, of safetensors or of torch.save; save it again"
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path, device="cpu"))
        with path.open("rb") as opened:
            if not opened.read(2).startswith((b"PK", b"\x80")):  # of a zip archive, of a pickle
                raise InputError(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, such as other protocols, it refuses or reads
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds pickled Python objects, which are not read as they could run code; save module.state_dict() instead"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        if "TorchScript" in str(error):
            raise InputError(f"{path} is a TorchScript archive; save the state_dict() of its module instead") from error
        raise InputError(damaged) from error
    if isinstance(found, nn.Module) or not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}; expected a state_dict(), tensors by their names")
    return dict(found)


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefix of `DataParallel` or of `torch.compile`."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


# --- flows --------------------------------------------------------------------------------------------------


class Flow(nn.Module):
    """Samples of a flow as a map: standard normal latents through its base and its transform."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow if isinstance(flow, nn.Module) else None
        self.plain = None if isinstance(flow, nn.Module) else flow

    def forward(self, latents: Tensor, **context: Any) -> Tensor:
        """Outputs (n, ...) of latents (n, ...)."""
        base, transform = _parts(self.flow if self.flow is not None else self.plain, context)
        scaled = _scaled(base)
        if scaled is not None:
            mean, scale = scaled
            latents = mean + scale * latents
        return transform(latents)


def is_flow(found: Any) -> bool:
    """Whether it is a flow of zuko or normflows, or a transformed distribution of torch."""
    library = type(found).__module__.partition(".")[0]
    known = library in LIBRARIES and (hasattr(found, "base") or hasattr(found, "q0"))
    return known or isinstance(found, torch.distributions.TransformedDistribution)


def from_flow(flow: Any, *, context: Any = None, name: str | None = None, **options: Any) -> Generator:
    """The generator of a normalising flow of zuko or normflows, or of a `torch.distributions.TransformedDistribution`.

    Its latents are those of the flow's base: standard normal where that is a Gaussian with independent components, whose means
    and scales then belong to the map, and else a prior.

    Args:
        flow: a `zuko.flows.Flow`, a `normflows.NormalizingFlow`, or a distribution with a base and a transform.
        context: of a conditional flow of zuko, that of one sample.
        name: for messages, files and figures.
        options: of `Generator`.

    Raises:
        InputError: another object, or a flow whose base has no shape.

    """
    if not is_flow(flow):
        raise InputError(
            f"a {type(flow).__name__} is no flow that is known; expected one of {', '.join(LIBRARIES)} or a "
            "TransformedDistribution, or pass Generator a function from latents to samples"
        )
    try:
        flow = copy.deepcopy(flow)  # its base is drawn from as well, and later training must not reach it
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the {type(flow).__name__} cannot be copied ({words(error)}); detach its tensors") from error
    given = {} if context is None else {"context": context}
    repeated = {} if context is None else {"context": torch.as_tensor(context)[None]}
    try:
        base = _parts(flow, repeated)[0]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            latent = tuple(_draws(base, 2).shape[1:])
    except Exception as error:  # whatever another library may raise
        raise InputError(f"the {type(flow).__name__} cannot be sampled: {words(error)}") from error
    if context is not None and latent and latent[0] == 1:
        latent = latent[1:]  # the batch of the context
    prior = None if _scaled(base) is not None else lambda n, rng: _seeded(base, n, rng).reshape(n, *(latent or (1,)))
    return Generator(
        Flow(flow), latent or 1, name=name or type(flow).__name__.lower(), extra=given, prior=prior, **options
    )


def _parts(flow: Any, context: Mapping[str, Any]) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The base of a flow, and its map from the base to samples."""
    if hasattr(flow, "q0"):  # normflows
        return flow.q0, flow.forward
    if isinstance(flow, torch.distributions.TransformedDistribution):

        def transform(z: Tensor) -> Tensor:
            for one in flow.transforms:
                z = one(z)
            return z

        return flow.base_dist, transform
    distribution = flow(context["context"]) if context else flow() if isinstance(flow, nn.Module) else flow
    return distribution.base, distribution.transform.inv


def _scaled(base: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and scale of a Gaussian base with independent components."""
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if isinstance(base, torch.distributions.Normal):
        return base.loc, base.scale
    if type(base).__name__ == "DiagGaussian" and hasattr(base, "log_scale"):  # of normflows
        temperature = getattr(base, "temperature", None)
        return base.loc, torch.exp(base.log_scale) * (1.0 if temperature is None else temperature)
    return None


def _draws(base: Any, n: int) -> Tensor:
    if isinstance(base, torch.distributions.Distribution):
        return base.sample((n,))
    found = base(n)
    return found[0] if isinstance(found, tuple) else found


def _seeded(base: Any, n: int, rng: np.random.Generator) -> Tensor:
    with seeded_globally(int(rng.integers(2**62))), torch.no_grad():
        return _draws(base, n)


# --- ONNX ---------------------------------------------------------------------------------------------------


class Onnx:
    """A session of onnxruntime as a function of named tensors to a dictionary of outputs."""

    def __init__(self, path: Path, device: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"{path} needs onnxruntime: pip install 'gaussequiv[onnx]'") from error
        if not path.is_file():
            raise InputError(f"there is no file {path}; expected an .onnx model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
        there = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=[*there, "CPUExecutionProvider"])
        except Exception as error:  # of a library without a common base
            reason = words(error).rpartition(" : ")[2]
            raise InputError(f"{path} is no ONNX model that runs here: {reason}") from error
        self.path, self.inputs = path, {one.name: one for one in self.session.get_inputs()}
        self.outputs = [one.name for one in self.session.get_outputs()]
        for one in self.inputs.values():
            if one.type not in ONNX_TYPES:
                raise InputError(f"the input {one.name} of {path} is a {one.type}; expected one of numbers")

    def __call__(self, *latents: Tensor, **named: Any) -> dict[str, Tensor]:
        """Outputs by their names; the one latent that has no name is the input that is not among the named ones."""
        free = [name for name in self.inputs if name not in named]
        values = {**dict(zip(free, latents, strict=False)), **named}
        missing = [name for name in self.inputs if name not in values]
        foreign = [name for name in values if name not in self.inputs]
        if missing or foreign:
            raise InputError(
                f"{self.path} has the inputs {', '.join(self.inputs)}; {listed(missing or foreign)} "
                + ("has no value: pass it as extra" if missing else "is none of them")
            )
        n = max((len(value) for value in values.values() if isinstance(value, Tensor) and value.ndim), default=1)
        batch = next((one.shape[0] for one in self.inputs.values() if one.shape), None)
        step = batch if isinstance(batch, int) else n
        parts = [self._run(values, start, step, n) for start in range(0, n, step)]
        found = zip(self.outputs, zip(*parts, strict=True), strict=True)
        return {name: torch.from_numpy(_joined(pieces)[:n]) for name, pieces in found}

    def _run(self, values: Mapping[str, Any], start: int, step: int, n: int) -> list[Any]:
        """One batch of a model that takes `step` samples at once; the last is filled up with its first sample."""
        feed: dict[str, Any] = {}
        for name, value in values.items():
            array = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if isinstance(value, Tensor) and array.ndim and len(array) == n:
                array = array[start : start + step]
                array = np.concatenate([array, np.repeat(array[:1], step - len(array), axis=0)])
            if not self.inputs[name].shape and array.ndim:
                array = array[0]  # one number for the whole batch
            feed[name] = np.ascontiguousarray(array, dtype=ONNX_TYPES[self.inputs[name].type])
        return list(self.session.run(None, feed))


def _joined(pieces: tuple[Any, ...]) -> Any:
    """Outputs of all batches; one number of a whole batch has no samples."""
    return np.concatenate([np.atleast_1d(piece) for piece in pieces])


def from_onnx(
    path: str | Path,
    *,
    latent: Any = None,
    output: Any = None,
    extra: Mapping[str, Any] | None = None,
    device: str = "cpu",
    name: str | None = None,
    **options: Any,
) -> Generator:
    """The generator of an ONNX model, run by onnxruntime (the extra `onnx`).

    Args:
        path: of the model.
        latent: shape of one latent, or shapes by the names of several inputs; left out where the model has one free input of
            fixed size.
        output: name or position of the output; may be left out where there is one.
        extra: further inputs by their names, that of one sample.
        device: "cuda" where onnxruntime has it.
        name: for messages, files and figures.
        options: of `Generator`.

    Raises:
        InputError: no such file, no ONNX model, no onnxruntime, inputs of unknown shape, or an output that there is not.

    """
    path = Path(path)
    session = Onnx(path, device)
    if latent is None:
        free = [one for one in session.inputs.values() if one.name not in (extra or {})]
        if len(free) != 1 or not all(isinstance(size, int) for size in free[0].shape[1:]) or len(free[0].shape) < 2:
            shapes = ", ".join(f"{one.name} {one.shape}" for one in free)
            raise InputError(
                f"{path} has the inputs {shapes}; set latent, shapes by these names, and extra for the others"
            )
        latent = tuple(free[0].shape[1:])
    if output is None and len(session.outputs) == 1:
        output = 0
    if isinstance(output, int) and -len(session.outputs) <= output < len(session.outputs):
        output = session.outputs[output]
    return Generator(session, latent, output=output, extra=extra, name=name or path.stem, **options)


def _is_size(found: Any) -> bool:
    return all(type(size) is int for size in (found if isinstance(found, tuple | list) and found else [found]))
