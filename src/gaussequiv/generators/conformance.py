r"""`check_generator`: whether something is a generator as the theory wants one, $x = G(c)$, finding by finding."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaussequiv.code import words
from gaussequiv.errors import InputError, a_kind, integer
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.priors import Prior, law, seeded_globally
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, as_rng, stream

Array = np.ndarray[Any, np.dtype[Any]]
PROBED = 8  # latents on which a module is called twice, whole and in pieces
PIECE = 3
LEAST = 64  # samples
LAW = 1024  # of which fourth moments can be told
SIGMAS = 5.0  # standard errors of the moments of latents
MOST = 1024  # latents whose moments are looked at
DEAD = 1e-6  # of the largest standard deviation: inputs that vary less are constant
NORMS = (nn.modules.batchnorm._BatchNorm,)  # the base of all of them
DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass(frozen=True)
class Finding:
    """One law of generators: its name, whether it holds, and what was seen, in a sentence."""

    law: str
    holds: bool
    sentence: str

    def __str__(self) -> str:
        return f"{'ok' if self.holds else 'FAILS':5}  {self.law}: {self.sentence}"


@dataclass(frozen=True)
class Conformance:
    """What `check_generator` found; `ok` if every law holds, and `str` gives a line for each."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every law holds."""
        return all(finding.holds for finding in self.findings)

    @property
    def failures(self) -> list[Finding]:
        """The laws that do not hold."""
        return [finding for finding in self.findings if not finding.holds]

    def require(self) -> None:
        """Raise `InputError` with the first law that does not hold."""
        if not self.ok:
            first = self.failures[0]
            raise InputError(f"{self.name} is no generator ({first.law}): {first.sentence}")

    def __str__(self) -> str:
        verdict = "a generator" if self.ok else f"{len(self.failures)} of {len(self.findings)} laws fail"
        return "\n".join([f"{self.name}: {verdict}", *map(str, self.findings)])


def check_generator(generator: Inputs, samples: int = 2048) -> Conformance:
    """Check a generator against the laws that every part of this library relies on.

    Args:
        generator: a `Generator`, or an object of your own with `latent_dim`, `input_dim` and `sample(n, rng)`.
        samples: how many are drawn, 64 or more.

    Returns:
        A `Conformance`: sizes, finite outputs, seeds, global random state, latents, inputs that vary; and of a `Generator`
        also calls that repeat themselves, outputs that do not depend on the batch, layers, precision. Nothing is raised for a
        law that does not hold, also where the generator fails.

    """
    samples = integer("samples", samples, LEAST)
    if not callable(getattr(generator, "sample", None)):
        raise InputError(
            f"a {type(generator).__name__} was to be checked; expected a Generator, or what has sample(n, rng)"
        )
    name = str(getattr(generator, "name", type(generator).__name__))
    laws: list[tuple[str, Callable[[Any], tuple[bool, str]]]] = [
        ("sizes", _sizes),
        ("seeds", _seeds),
        ("global random state", _state),
        ("latents", lambda g: _latents(g, samples)),
        ("inputs", lambda g: _inputs(g, samples)),
    ]
    if isinstance(generator, Generator):
        laws += [("repeated calls", _repeats), ("batches", _batches), ("layers", _layers), ("precision", _precision)]
    findings = []
    for said, judge in laws:
        try:
            findings.append(Finding(said, *judge(generator)))
        except Exception as error:  # whatever the user's code may raise
            sentence = str(error).strip().split("\n")[0]
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            findings.append(Finding(said, False, f"{kind}{sentence}"))
        if said == "sizes" and not findings[-1].holds:
            break  # nothing else can be said
    return Conformance(name, tuple(findings))


def require_a_map(generator: Inputs) -> None:
    """Raise `InputError` for a generator that is no map of latents with a law that the theory knows.

    Of a `Generator`: outputs that change from call to call, or with others of their batch; of an object of the user's: latents
    that are not standard normal.
    """
    if not isinstance(generator, Generator):
        try:
            latents, _ = checked_sample(generator, LAW, stream(0, Purpose.CHECK))
        except InputError:
            return  # the first chunk fails as well, and is named
        holds, sentence = _of_latents(generator, latents)
        if not holds:
            name = getattr(generator, "name", type(generator).__name__)
            raise InputError(f"{name}: the latents are not standard normal: {sentence}")
        return
    for judge in (_repeats, _batches):
        holds, sentence = judge(generator)
        if not holds:
            raise InputError(f"{generator.name} is no map from latents to inputs: {sentence}")


def checked_sample(generator: Inputs, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Latents (n, D) and inputs (n, N) of any object with `sample(n, rng)`, as real and finite arrays.

    Raises `InputError` for an object that fails, or returns something else.
    """
    try:
        found = generator.sample(n, rng)
    except InputError:
        raise
    except Exception as error:  # whatever a user's object may raise
        raise InputError(f"sample({n}, rng) failed: {words(error)}") from error
    wanted = (n, generator.latent_dim), (n, generator.input_dim)
    pair: Any = found
    try:
        latents, inputs = (np.asarray(one.detach().cpu() if isinstance(one, Tensor) else one) for one in pair)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"sample returned {a_kind(found)}; expected latents {wanted[0]} and inputs {wanted[1]}"
        ) from error
    if (latents.shape, inputs.shape) != wanted:
        raise InputError(
            f"sample returned the shapes {latents.shape} and {inputs.shape}; expected {wanted[0]} and {wanted[1]}"
        )
    for one in (latents, inputs):
        if one.dtype.kind not in "fiub":
            raise InputError(f"sample returned numbers of dtype {one.dtype}; expected real ones")
        if not np.isfinite(one).all():
            raise InputError("sample returned a NaN or an infinity; expected finite latents and inputs")
    return latents, inputs


def _sizes(generator: Inputs) -> tuple[bool, str]:
    N, D = integer("input_dim", generator.input_dim), integer("latent_dim", generator.latent_dim, 0)
    for n in (2, 5):
        latents, inputs = generator.sample(n, as_rng(0))
        if np.shape(latents) != (n, D) or np.shape(inputs) != (n, N):
            got = f"{np.shape(latents)} and {np.shape(inputs)}"
            return False, f"sample({n}) returned shapes {got}; expected ({n}, {D}) and ({n}, {N})"
    return True, f"D = {D} latents, N = {N} inputs"


def _seeds(generator: Inputs) -> tuple[bool, str]:
    found: list[Array] = []
    for seed in (1, 1, 2):
        with seeded_globally(len(found)):  # what a seed leaves open comes from here
            found.append(np.asarray(generator.sample(5, as_rng(seed))[1]))
    first, again, other = found
    if not np.array_equal(first, again):
        return False, "the same seed gave other samples; expected every random number to follow from it"
    if np.array_equal(first, other):
        return False, "another seed gave the same samples; expected draws from the generator that is passed"
    return True, "the same seed gives the same samples, another one others"


def _state(generator: Inputs) -> tuple[bool, str]:
    before = _global_state()
    generator.sample(3, as_rng(0))
    if _global_state() == before:
        return True, "untouched by a sample"
    return False, "a sample moves the global random numbers of torch or NumPy; expected draws from `rng` alone"


def _global_state() -> tuple[bytes, str]:
    """The state of torch's and NumPy's global random numbers."""
    _, key, *rest = np.random.get_state()  # noqa: NPY002 (it is what is looked at)
    return torch.get_rng_state().numpy().tobytes(), f"{np.asarray(key).tobytes().hex()} {rest}"


def _latents(generator: Inputs, samples: int) -> tuple[bool, str]:
    prior = getattr(generator, "prior", None)
    if isinstance(prior, Prior):
        laws = prior.examine()
        reasons = [law.reason for law in laws if law.reason]
        if reasons:
            return False, reasons[0]
        sizes = "; ".join(f"{x.name}: projections {x.projections:+.1%}, overlaps {x.overlaps:+.1%}" for x in laws)
        return True, f"of their own law, Gaussian enough (fourth moments of {sizes})"
    if generator.latent_dim == 0:
        return True, "unknown, so teachers look at the inputs"
    return _of_latents(generator, np.asarray(generator.sample(samples, stream(0, Purpose.CHECK))[0], dtype=float))


def _of_latents(generator: Inputs, draws: Array) -> tuple[bool, str]:
    """Whether draws (P, D) are standard normal."""
    c, samples = np.asarray(draws[:, :MOST], dtype=float), len(draws)
    if not draws.size:
        return True, "unknown"
    z = max(float(np.abs(c.mean(0)).max()), float(np.abs(c.T @ c / samples - np.eye(c.shape[1])).max()) / 2**0.5)
    z *= samples**0.5
    if z > SIGMAS + (2 * np.log(c.shape[1] ** 2)) ** 0.5:
        way = "pass a prior" if isinstance(generator, Generator) else "draw others, or let latent_dim be 0: unknown"
        return False, f"means and covariances are not those of N(0, 1): up to {z:.0f} standard errors off; {way}"
    if samples >= LAW and not isinstance(generator, Generator):  # whose own are standard normal
        found = law("latents", c, stream(0, Purpose.CHECK, lane=3))
        if found.reason:
            return False, found.reason
    return True, f"standard normal (means and covariances within {z:.1f} standard errors, the largest of all)"


def _inputs(generator: Inputs, samples: int) -> tuple[bool, str]:
    x = np.asarray(generator.sample(samples, stream(0, Purpose.CHECK))[1], dtype=float)
    if not np.isfinite(x).all():
        return False, "a NaN or an infinity among them; expected finite numbers"
    deviation = x.std(axis=0)
    constant = int((deviation <= DEAD * deviation.max()).sum())
    if constant == len(deviation):
        return False, "they do not vary with the latents"
    also = f", {constant} of {len(deviation)} constant" if constant else ""
    return True, f"finite, from {x.min():.3g} to {x.max():.3g}{also}"


def _pushed(generator: Generator, latents: Tensor, seed: int) -> Tensor:
    """Inputs, with another state of torch's global random numbers."""
    with seeded_globally(seed, [generator.device] if latents.is_cuda else []):
        return generator.push(latents).cpu().double()


def _probe(generator: Generator, lane: int = 1) -> Tensor:
    return generator.latents(PROBED, stream(0, Purpose.CHECK, lane=lane)).to(device=generator.device)


def _off(a: Tensor, b: Tensor) -> float:
    """The largest difference in units of the standard deviation over latents, its root mean square over the inputs."""
    return float((a - b).abs().max() / (a.std(dim=0).square().mean().sqrt() or 1.0))


def _rounding(generator: Generator) -> float:
    return 10 * float(torch.finfo(generator.dtype).eps) ** 0.5  # type: ignore[arg-type]


def _repeats(generator: Generator) -> tuple[bool, str]:
    latents = _probe(generator)
    if generator.stochastic:
        if _off(*(_pushed(generator, latents, 1) for _ in range(2))) > _rounding(generator):
            return False, (
                "it is stochastic, and two calls with the same seed differ: its random numbers are not the global ones of torch "
                "or NumPy (but of a torch.Generator of its own, or of ONNX), which the seed sets; draw them from these"
            )
        return True, "its own random numbers follow from the seed (stochastic)"
    off = _off(*(_pushed(generator, latents, seed) for seed in (1, 2)))
    if off > _rounding(generator):
        return False, (
            f"two calls with the same latents differ by {off:.2g} standard deviations, as with dropout or noise that is not "
            "switched off; switch it off, or set stochastic, which draws it from the seed"
        )
    return True, "two calls with the same latents agree"


def _batches(generator: Generator) -> tuple[bool, str]:
    if not _repeats(generator)[0]:
        return True, "not compared, as the module draws random numbers"
    latents = _probe(generator)
    if generator.stochastic:  # the same random numbers for a batch of as many, of which some are others
        others = torch.cat([latents[:PIECE], _probe(generator, lane=2)[PIECE:]])
        whole, pieces = (_pushed(generator.to(batch_size=PROBED), z, 1)[:PIECE] for z in (latents, others))
    else:
        whole = _pushed(generator.to(batch_size=PROBED), latents, 1)
        pieces = torch.cat([_pushed(generator, part, 1) for part in latents.split(PIECE)])
    off = _off(whole, pieces)
    if off > _rounding(generator):
        return False, (
            f"outputs depend on the other latents of their batch (by {off:.2g} standard deviations), as with batch "
            f"normalisation in training mode{_culprit(generator)}; expected running statistics and eval()"
        )
    return True, "outputs do not depend on the others of their batch"


def _culprit(generator: Generator) -> str:
    if not isinstance(generator.module, nn.Module):
        return " inside the function"
    for name, layer in generator.module.named_modules():
        if isinstance(layer, NORMS) and layer.running_mean is None:
            return f" or without running statistics ({name or type(layer).__name__})"
    return ""


def _layers(generator: Generator) -> tuple[bool, str]:
    module = generator.module
    if not isinstance(module, nn.Module):
        return True, "a function; what it calls is used as it is, in the mode that it is in"
    layers = list(module.modules())
    numbers = sum(p.numel() for p in module.parameters())
    said = [f"{numbers:,} parameters"]
    for kind, plural in ((NORMS, "batch normalisations"), (DROPOUTS, "dropouts")):
        count = sum(isinstance(layer, kind) for layer in layers)
        if count:
            moving = sum(isinstance(layer, kind) and layer.training for layer in layers)
            said.append(f"{count} {plural}" + (f" ({moving} in training mode; the copy is not)" if moving else ""))
    return True, ", ".join(said)


def _precision(generator: Generator) -> tuple[bool, str]:
    if not isinstance(generator.module, nn.Module) or generator.dtype == torch.float64:
        return True, f"{generator.dtype}"
    latents = _probe(generator)
    try:
        exact = _pushed(generator.to(dtype=torch.float64), latents, 1)
    except InputError:
        return True, f"{generator.dtype} only"
    if generator.stochastic or not _repeats(generator)[0]:
        return True, f"{generator.dtype}"
    off = _off(exact, _pushed(generator, latents, 1))
    return True, f"{generator.dtype}, within {off:.1g} standard deviations of double precision"
