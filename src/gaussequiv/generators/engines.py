"""Who does the blocks of an estimate: this thread, others, processes, or a cluster. The result does not depend on it.

Anything with the interface of `concurrent.futures.Executor` will do; a client of Dask has one. A worker that dies costs the
blocks that it had not finished, which are done again.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from gaussequiv.errors import InputError, StorageError, a_kind
from gaussequiv.generators.collection import EVERY, Folder, Node
from gaussequiv.generators.conformance import checked_sample
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.moments import Accumulator, Moments, OnDevice
from gaussequiv.generators.plan import Block
from gaussequiv.maths.averages import Array
from gaussequiv.maths.threads import one_blas_thread
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, as_rng, stream

LOCAL = ("threads", "processes")
FINGERPRINT = 256  # samples that stand for a generator
AHEAD = 2  # blocks that are given out for every worker
FAILURES = 3  # deaths of workers in a row, without a block that was finished, after which it is the block's fault

Report = Callable[[int], Any]


@dataclass(frozen=True)
class Job:
    """What there is to be done for every block.

    Args:
        generator: anything with `sample(n, rng)`.
        seed: of its latents.
        products: the precision of sums within a chunk.
        folder: where a block is kept that takes longer than half a minute.
        probe: the generator's first inputs, which it must have in every process.
        threads: that share the products of a chunk.

    """

    generator: Inputs
    seed: int
    products: str = "float64"
    folder: Folder | None = None
    probe: Array | None = None
    threads: int = 1

    def moments(self, block: Block, first: Moments | None = None, report: Report | None = None) -> Moments:
        """Those of a block, of which the first chunks may be done."""
        if first is None and self.folder is not None:
            first = self.folder.unfinished(block)
        sums = self._begun(first)
        if report is not None and sums.count:
            report(sums.count)
        saved = time.monotonic()
        begun = sums.count // block.size
        with one_blas_thread:
            for done, (latents, inputs) in enumerate(self._ahead(block.size, block.chunks[begun:]), begun):
                sums.add(latents, inputs)
                if report is not None:
                    report(block.size)
                if self.folder is not None and done + 1 < block.count and time.monotonic() - saved > EVERY:
                    self.folder.save(Node(block.group, block.start, done + 1, block.size), sums.moments)
                    saved = time.monotonic()
        return sums.moments

    def _begun(self, first: Moments | None) -> Accumulator:
        device = _device_of(self.generator)
        if device is None:
            return Accumulator(self.products, first, self.threads)
        return OnDevice(self.products, first, device)

    def _ahead(self, size: int, chunks: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
        """Latents and inputs of chunks, of a `Generator` drawn while those before are worked on.

        An object of the user's may return the same memory each time, or need the state of this thread.
        """
        if not chunks:
            return
        if not isinstance(self.generator, Generator):
            yield from (self._named(size, chunk) for chunk in chunks)
            return
        torch_threads = torch.get_num_threads()  # which a thread does not inherit
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch_threads,)) as drawing:
            coming: Future[tuple[Any, Any]] | None = None
            for chunk, following in zip(chunks, (*chunks[1:], None), strict=True):
                found = self._named(size, chunk) if coming is None else coming.result()
                coming = None if following is None else drawing.submit(self._named, size, following)
                yield found

    def _named(self, size: int, chunk: int) -> tuple[Any, Any]:
        """The same as `_sampled`, whose refusals name the chunk."""
        try:
            return self._sampled(size, chunk)
        except InputError as error:
            raise InputError(f"chunk {chunk} of the estimate (seed {self.seed}): {error}") from error

    def _sampled(self, size: int, chunk: int) -> tuple[Any, Any]:
        """Latents and inputs of a chunk."""
        rng = stream(self.seed, Purpose.ESTIMATE, chunk=chunk)
        if _device_of(self.generator) is not None:
            latents, there = self.generator.draw(size, rng)  # type: ignore[attr-defined]
            return latents.numpy(), there
        return checked_sample(self.generator, size, rng)


def _device_of(generator: Inputs) -> torch.device | None:
    """Where a generator's inputs are, if that is not the memory of the CPU."""
    device = getattr(generator, "device", None) if isinstance(generator, Generator) else None
    return device if isinstance(device, torch.device) and device.type == "cuda" else None


First = Callable[[Block], Moments | None]  # the first chunks of a block, where they are done


def work(
    job: Job, blocks: list[Block], first: First, engine: Any, workers: int, report: Report
) -> Iterator[tuple[Block, Moments]]:
    """The moments of blocks, in the order in which they are done.

    Raises:
        InputError: an engine that is none, or a generator that fails or cannot be sent to another process.
        StorageError: workers die again and again.

    """
    if isinstance(engine, str) and engine == "threads":
        job = replace(job, threads=max(torch.get_num_threads() // workers, 1))
    if isinstance(engine, str) and engine == "threads" and workers == 1:
        for block in blocks:
            yield block, job.moments(block, first(block), report)
        return
    here = isinstance(engine, ThreadPoolExecutor) or (isinstance(engine, str) and engine == "threads")
    payload: Any = job if here else _pickled(job)
    remaining = dict.fromkeys(blocks)
    failures = 0
    while remaining:
        with _executor(engine, workers) as (executor, width):
            try:
                for block, moments in _finished(executor, width, payload, list(remaining), first):
                    report(block.samples)
                    del remaining[block]
                    failures = 0
                    yield block, moments
            except (BrokenProcessPool, CancelledError) as error:
                failures += 1
                if failures == FAILURES:
                    raise StorageError(
                        f"workers died {FAILURES} times in a row, near group {next(iter(remaining)).group}: is there memory "
                        f"for {workers} of them? ({type(error).__name__})"
                    ) from error


def _finished(
    executor: Executor, width: int, payload: Any, blocks: list[Block], first: First
) -> Iterator[tuple[Block, Moments]]:
    waiting: dict[Future[Moments], Block] = {}
    queue = iter(blocks)
    try:
        while True:
            for block in queue:
                waiting[executor.submit(_moments, payload, block, first(block))] = block
                if len(waiting) >= AHEAD * width:
                    break
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    finally:
        for future in waiting:
            future.cancel()


def _moments(payload: "Job | bytes", block: Block, first: Moments | None) -> Moments:
    """What a worker does."""
    job = _unpickled(payload) if isinstance(payload, bytes) else payload
    return job.moments(block, first)


def _pickled(job: Job) -> bytes:
    import cloudpickle

    probe = first_samples(job.generator)[1]
    try:
        return bytes(cloudpickle.dumps(replace(job, probe=probe)))
    except Exception as error:  # whatever a user's generator may raise
        raise InputError(
            f"the generator cannot be sent to other processes ({error}); use threads, or write it as a module"
        ) from error


@lru_cache(maxsize=2)
def _unpickled(payload: bytes) -> Job:
    """The job of a worker process, which computes on one core."""
    import cloudpickle

    torch.set_num_threads(1)
    job: Job = cloudpickle.loads(payload)  # what `_pickled` made in the parent of this worker
    here = first_samples(job.generator)[1]
    assert job.probe is not None
    if here.shape != job.probe.shape or not np.allclose(here, job.probe, rtol=1e-3, atol=1e-3):
        raise InputError(
            "the generator gives other samples in another process: a function of a module is sent by its name, and what was "
            "changed in the module since is not; pass the torch module itself, or use threads"
        )
    return job


def first_samples(generator: Inputs) -> tuple[Array, Array]:
    """The latents and inputs that a generator is known by."""
    latents, inputs = generator.sample(FINGERPRINT, as_rng(0, Purpose.CHECK))
    return np.asarray(latents), np.asarray(inputs)


@contextmanager
def _executor(engine: Any, workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor, and how many blocks it works on at a time."""
    if isinstance(engine, str) and engine == "threads":
        with ThreadPoolExecutor(workers) as threads:
            yield threads, workers
    elif isinstance(engine, str) and engine == "processes":
        from loky import get_reusable_executor

        processes = get_reusable_executor(max_workers=workers, reuse=False, timeout=60)
        try:
            yield processes, workers
        finally:
            processes.shutdown(wait=True, kill_workers=True)
    elif isinstance(engine, Executor):
        yield engine, workers
    elif isinstance(engine, str) and "://" in engine:
        with _client(engine) as client, _executor(client, workers) as found:
            yield found
    elif hasattr(engine, "get_executor") and hasattr(engine, "ncores"):
        yield engine.get_executor(pure=False, retries=FAILURES), max(sum(engine.ncores().values()), 1)
    else:
        given = repr(engine) if isinstance(engine, str) else a_kind(engine)
        raise InputError(
            f"engine: {given}; expected {', '.join(map(repr, LOCAL))}, an Executor, a Dask client, or its address, tcp://..."
        )


@contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("a Dask scheduler needs `pip install gaussequiv[dask]`") from error
    try:
        client: Any = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"there is no Dask scheduler at {address} ({type(error).__name__}); is it running?") from error
    try:
        yield client
    finally:
        client.close()
