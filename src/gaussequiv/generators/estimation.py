r"""Estimation of the equivalent Gaussian model: one streaming pass over a fixed plan of seeded chunks.

The formulas are those of `moments`, the order of all sums is that of the `plan`, and who does the work is up to `engines`: the
result is the same to the last bit for any number of workers, any order, and any number of interruptions. What is done is kept
in a folder, if there is one: the same call goes on from there, and a call for more samples adds what is missing.

Leaving out one of sixteen groups of samples at a time gives sixteen models, whose spread is that of the estimate: standard
errors of its arrays, and of everything that is predicted from it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussequiv.errors import InputError, a_kind, callback, folder_path, integer, number
from gaussequiv.generators.collection import LARGE, Collection, Folder, all_of
from gaussequiv.generators.conformance import require_a_map
from gaussequiv.generators.datasets import Dataset
from gaussequiv.generators.engines import Job, Report, first_samples, work
from gaussequiv.generators.moments import NAMES, PRODUCTS, Estimates, Moments, pack, tree, unpack
from gaussequiv.generators.plan import CHUNK, GROUPS, Plan, checked_shard
from gaussequiv.generators.priors import Prior
from gaussequiv.maths.averages import Array
from gaussequiv.maths.threads import one_blas_thread
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.problems import Inputs
from gaussequiv.models.replicates import SYMMETRIC, Replicates
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.models.streams import Purpose, as_rng

COPIES = 12  # matrices N x N that are held at a time, the sixteen float32 triangles of the replicates among them
FIRST = GROUPS * CHUNK  # samples before an accuracy is looked at; they are doubled then
PLAN = "plan.json"

Quantities = Callable[[GaussianModel], Any]


@dataclass(frozen=True)
class Shard:
    """A part of an estimate that is done: (i, n), its blocks, and where their moments are."""

    number: int
    shards: int
    blocks: int
    folder: Path

    def __str__(self) -> str:
        return f"shard {self.number} of {self.shards}: {self.blocks} blocks done in {self.folder}"


def estimate(
    generator: Inputs,
    samples: int = 100_000,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], Any] | None = None,
    *,
    engine: Any = "threads",
    folder: str | Path | None = None,
    rtol: float | None = None,
    quantities: Quantities | None = None,
    products: str = "float64",
) -> GaussianModel:
    r"""The Gaussian model with the means and covariances of a generator, with standard errors.

    Those of a `Dataset` are exact: its samples are drawn from a finite set, whose mean and covariance (divided by its size n)
    are found in one pass over it. There is nothing to estimate, so `samples` and `seed` are not used and `standard_errors` is
    empty. How well the set stands for the law that it came from is another question. Its latents are unknown: D = 0.

    Args:
        generator: anything with `sample(n, rng)`; its latents must be standard normal, those of a `Generator` with a prior, or
            unknown (D = 0).
        samples: P, the number of samples; more than 4 (D + 2).
        seed: of the latents.
        workers: how many blocks are worked on at a time; the result does not depend on it.
        progress: called with (samples done, samples in all).
        engine: who does the work: "threads"; "processes", which also survives the death of one; any
            `concurrent.futures.Executor`; a Dask client, or the address of a scheduler. The result does not depend on it.
        folder: where the moments are kept. The same call goes on from what is there, and one for more samples extends it;
            an interruption loses half a minute at most, or one chunk of 1,024 samples.
        rtol: stop as soon as the standard errors of the quantities, relative to the largest of them, are at most this; the
            number of samples doubles until then, from 16,384, and `samples` is the limit.
        quantities: what has to be that accurate: a function of a model that returns an array. By default Q, R and T of two
            random students and teachers.
        products: precision of sums within a chunk, "float64" or "float32"; the others are in float64.

    Returns:
        A `GaussianModel` with Psi = I, unless the latents have a prior; of a generator one whose `standard_errors` hold those
        of its arrays, entry by entry, and whose `replicates` are the sixteen models that each leave out one part of the samples.

    Raises:
        InputError: too few samples; a generator that fails or returns a NaN (the chunk is named), whose outputs depend on
            others of their batch or change from call to call; latents that no Gaussian can stand for; a folder of another
            estimate; an engine that is none.
        StorageError: a folder that cannot be written; workers that die again and again.

    """
    callback(progress)
    if isinstance(generator, Dataset):
        return _exact(generator, progress)
    estimation = Estimation.of(generator, samples, seed, products, folder)
    try:
        if rtol is None:
            estimation.run(workers, engine, progress)
            return estimation.model()
        wanted = quantities or field_covariances(generator.input_dim, generator.latent_dim)
        return _to_accuracy(estimation, number("rtol", rtol, positive=True), wanted, workers, engine, progress)
    finally:
        estimation.close()


def estimate_shard(
    generator: Inputs,
    samples: int,
    shard: tuple[int, int],
    folder: str | Path,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], Any] | None = None,
    *,
    engine: Any = "threads",
    products: str = "float64",
) -> Shard:
    """Do one of n parts of an estimate, (i, n), and leave its moments in a folder for `merge`; see `estimate`.

    Each part may be done on another machine that sees the folder, and again by another number of parts: what is there is not
    computed twice.
    """
    i, n = checked_shard(shard)
    callback(progress)
    if isinstance(generator, Dataset):
        raise InputError("a data set has no shards: its moments are exact, in one pass")
    estimation = Estimation.of(generator, samples, seed, products, folder, (i, n))
    estimation.run(workers, engine, progress)
    return Shard(i, n, len(estimation.plan.share((i, n))), Path(folder))


def merge(folder: str | Path, samples: int | None = None) -> GaussianModel:
    """The model from the shards in a folder, as `estimate` would have returned it.

    Args:
        folder: of the shards.
        samples: how many they are of; by default what the last shard that was begun says.

    Raises:
        InputError: no such folder, or blocks that are missing.

    """
    path = folder_path(folder)
    about = _about(path)
    if samples is not None:
        about["samples"] = integer("samples", samples)
    plan, key = Plan(about["samples"]), str(about["key"])
    estimation = Estimation(plan, None, about, Collection(Folder(path, key, kept=True)))
    missing = estimation.collection.missing(estimation.plan)
    if missing:
        blocks = len(list(estimation.plan.blocks))
        raise InputError(
            f"{len(missing)} of {blocks} blocks of {about['samples']} samples are missing in {folder} (the first is number "
            f"{list(estimation.plan.blocks).index(missing[0]) + 1}); run all shards of as many samples; what is "
            "complete ends at once"
        )
    return estimation.model()


def _about(folder: Path) -> dict[str, Any]:
    """What a folder of shards is an estimate of."""
    path = folder / PLAN
    if not path.is_file():
        raise InputError(f"{folder} does not hold an estimate, as there is no {PLAN}; expected a folder of shards")
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
        Plan(about["samples"])
        _ = [about[name] for name in ("key", "prior", "source", "seed")]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; run a shard again, which writes it") from error
    return about


@dataclass(frozen=True)
class Estimation:
    """An estimate on its way.

    Args:
        plan: its blocks.
        job: what there is to be done for each; None where all is done.
        about: what it is an estimate of, as plain values.
        collection: of the moments that are done.
        shard: the part that is to be done.
        temporary: where large moments are, if the user gave no folder; `close` removes it.

    """

    plan: Plan
    job: Job | None
    about: Mapping[str, Any]
    collection: Collection
    shard: tuple[int, int] | None = None
    temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def of(
        cls,
        generator: Inputs,
        samples: int,
        seed: int,
        products: str,
        path: str | Path | None,
        shard: tuple[int, int] | None = None,
    ) -> "Estimation":
        """Check the arguments of `estimate` and find what is done already."""
        if not callable(getattr(generator, "sample", None)):
            raise InputError(
                f"the generator is {a_kind(generator)}; expected a Generator, or Generator(it, latent=...)"
            )
        D, samples, seed = generator.latent_dim, integer("samples", samples), integer("seed", seed, least=0)
        if samples <= 4 * (D + 2):
            raise InputError(
                f"{samples} samples for D={D} latents; expected more than {4 * (D + 2)} to regress on them"
            )
        if products not in PRODUCTS:
            raise InputError(f"products={products!r}; expected {' or '.join(map(repr, PRODUCTS))}")
        _require_memory(generator.input_dim)
        prior = getattr(generator, "prior", None)
        require_a_map(generator)
        if isinstance(prior, Prior):
            prior.require_gaussian_enough()
        about = {
            "source": getattr(generator, "name", type(generator).__name__),
            "samples": samples,
            "seed": seed,
            "estimator": "regression on the latents" if D and prior is None else "plain moments",
            "prior": prior is not None,
            "products": products,
        }
        folder, share, temporary = None, None, None
        if path is None and generator.input_dim**2 > 2 * LARGE:
            temporary = tempfile.TemporaryDirectory(prefix="gaussequiv-")
            path = temporary.name
        if path is not None:
            folder = Folder(folder_path(path), _key(generator, seed, products))
            about["key"] = folder.key
            share = Plan(samples).share(shard) if shard is not None else None
        collection = Collection(folder, share=share)
        job = Job(
            generator, seed, products, folder if temporary is None else None
        )  # workers elsewhere would not clean up
        return cls(Plan(samples), job, about, collection, shard, temporary)

    def run(self, workers: int, engine: Any, progress: Callable[[int, int], Any] | None) -> None:
        """Do the blocks that are missing."""
        assert self.job is not None
        workers = integer("workers", workers)
        if self.job.folder is not None:  # that of the user
            atomic_write_text(self.job.folder.path / PLAN, json.dumps(dict(self.about), indent=1) + "\n")
        missing = self.collection.missing(self.plan, self.shard)
        total = sum(block.samples for block in self.plan.share(self.shard))
        report = _counted(total - sum(block.samples for block in missing), total, progress)
        try:
            for block, moments in work(self.job, missing, self.collection.unfinished, engine, workers, report):
                self.collection.put(block, moments)
        finally:
            self.collection.save()

    def extended(self, samples: int) -> "Estimation":
        """The same with another number of samples; what is done is kept."""
        about = {**self.about, "samples": samples}
        return Estimation(Plan(samples), self.job, about, self.collection, temporary=self.temporary)

    def close(self) -> None:
        """Remove what was temporary."""
        if self.temporary is not None:
            self.temporary.cleanup()

    def model(self) -> GaussianModel:
        """The model of all samples, with those that leave out one group."""
        known = not self.about["prior"]
        found = Moments.regression if known else Moments.plain
        parts: list[dict[str, Array]] = []

        def kept() -> Iterator[Moments]:
            for group in all_of(self.collection, self.plan):
                parts.append(group.arrays(np.float32))
                yield group

        with one_blas_thread:
            total = tree(kept())
            if known:
                total.require_standard_normal()
            estimates = found(total)
            names = NAMES[: len(estimates)]
            replicates, errors = _left_out(total, parts, found, estimates, known)
        full = dict(zip(names, estimates, strict=True))
        size = {
            name: float(np.linalg.norm(errors[name]) / (np.linalg.norm(full[name]) or 1.0)) for name in ("Omega", "Phi")
        }
        provenance = {k: v for k, v in self.about.items() if k not in ("prior", "key")} | {
            "relative_error": size,
            "moments_sha256": _digest(total),
        }
        return GaussianModel(**full, standard_errors=errors, replicates=replicates, provenance=provenance)


def field_covariances(N: int, D: int, units: int = 2) -> Quantities:
    r"""Q = $W \Omega W^T / N$, R = $W \Phi W^{*T} / \sqrt{N D}$ and T = $W^* \Psi W^{*T} / D$ of random weights, as one vector.

    They are what the theory sees of a model at the start of a training; R is measured in units of $\sqrt{Q T}$.
    """
    rng = as_rng(0, Purpose.WEIGHTS)
    W, teacher = rng.standard_normal((units, N)) / np.sqrt(N), rng.standard_normal((units, D)) / np.sqrt(max(D, 1))

    def covariances(model: GaussianModel) -> Array:
        Q, R, T = W @ model.Omega @ W.T, W @ model.Phi @ teacher.T, teacher @ model.Psi @ teacher.T
        return np.concatenate([block[np.triu_indices(len(block))] for block in (Q, T)] + [R.ravel()])

    return covariances


def _to_accuracy(
    estimation: Estimation,
    rtol: float,
    quantities: Quantities,
    workers: int,
    engine: Any,
    progress: Callable[[int, int], Any] | None,
) -> GaussianModel:
    """Double the samples until the quantities are accurate, or there are no more."""
    rows: list[dict[str, Any]] = []
    limit = estimation.plan.samples
    samples = min(FIRST, limit)
    while True:
        current = estimation.extended(samples)
        current.run(workers, engine, progress)
        model = current.model()
        values, errors, _ = model.jackknife(quantities)
        if not (values.size and np.isfinite(values).all() and np.isfinite(errors).all()):
            raise InputError(
                "the quantities are not all finite numbers; expected a function of a model that returns an array"
            )
        scale = float(np.abs(values).max()) or 1.0
        reached = float(errors.max()) / scale
        rows.append({"samples": samples, "relative_error": reached, "values": values.ravel().tolist()})
        if reached <= rtol or samples == limit:
            break
        wanted = 1.1 * samples * min(reached / rtol, 10.0) ** 2
        samples = min(limit, max(2 * samples, CHUNK * (min(int(wanted), 8 * samples) // CHUNK)))
    found = {"rtol": rtol, "reached": reached <= rtol, "rows": rows}
    return model.with_provenance({**model.provenance, "convergence": found})


def _left_out(
    total: Moments,
    parts: list[dict[str, Array]],
    found: Callable[[Moments], Estimates],
    full: Estimates,
    regressed: bool,
) -> tuple[Replicates, dict[str, Array]]:
    """The estimates without one group at a time, as differences from the estimate of all, and the standard errors of these."""
    names = NAMES[: len(full)]
    changes: dict[str, Array] = {}
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    squares: dict[str, Any] = dict.fromkeys(names, 0.0)
    G = len(parts)
    linear = full[1] @ full[1].T if regressed else None
    for group in range(G):
        left = found(total.without(Moments.from_arrays(parts.pop(0))))
        for name, own, of_all in zip(names, left, full, strict=True):
            change = own - of_all
            packed = pack(change) if name in SYMMETRIC else change
            sums[name] = sums[name] + packed
            squares[name] = squares[name] + packed**2
            if name == "Omega" and linear is not None:
                change += linear
                change -= left[1] @ left[1].T
                name, packed = "residual", pack(change)  # noqa: PLW2901 (it is kept instead)
            if name not in changes:
                changes[name] = np.empty((G, *packed.shape), dtype=np.float32)
            changes[name][group] = packed
    errors = {}
    for name, of_all in zip(names, full, strict=True):
        error = np.sqrt((G - 1) / G * np.maximum(squares.pop(name) - sums.pop(name) ** 2 / G, 0.0))
        errors[name] = unpack(error, len(of_all)) if name in SYMMETRIC else error
    return Replicates(changes), errors


def _exact(data: Dataset, progress: Callable[[int, int], Any] | None) -> GaussianModel:
    """The moments of a finite set, in one pass."""
    report = _counted(0, len(data), progress)

    def parts() -> Iterable[Moments]:
        for latents, inputs in data.chunks():
            yield Moments.of(latents, inputs)
            report(len(inputs))

    total = tree(parts())
    provenance = {
        "source": data.name,
        "samples": len(data),
        "estimator": "exact moments of the data set",
        "sha256": data.sha256,
    }
    return GaussianModel(total.xx / total.count, total.xc, mean_x=total.mean_x, provenance=provenance)


def _counted(done: int, total: int, progress: Callable[[int, int], Any] | None) -> Report:
    """A function that adds up samples and passes on (done, in all)."""

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    if done:
        report(0)
    return report


def _key(generator: Inputs, seed: int, products: str) -> str:
    """Hash of what the moments of a chunk depend on: the generator by its first samples, the seed, the precision."""
    digest = hashlib.sha256(f"{seed} {products} {CHUNK}".encode())
    for array in (*first_samples(generator), *_weights(generator)):
        digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _weights(generator: Inputs) -> list[Array]:
    """Those of a generator's module, which its first samples need not see all of."""
    state = getattr(getattr(generator, "module", None), "state_dict", None)
    values = state().values() if callable(state) else ()
    return [np.asarray(value.detach().cpu().double()) for value in values if isinstance(value, torch.Tensor)]


def _require_memory(N: int) -> None:
    """Refuse matrices that do not fit into this machine."""
    needed, there = COPIES * 8 * N**2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"N={N} inputs need about {needed / 1e9:.3g} GB for their covariances, and this machine has {there / 1e9:.3g}; use "
            "generators.sampled_model, which needs no matrix"
        )


def _digest(moments: Moments) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(moments.arrays().items()):
        digest.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
