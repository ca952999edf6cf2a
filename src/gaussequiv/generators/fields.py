r"""Local fields of a generator in one pass: the sums that every statistic of the battery is made of, in constant memory.

Chunk i of 1,024 samples has the stream (seed, i) and belongs to group i mod 16, as in the `plan` of an estimate. In the
coordinates $y = P u$ in which the first chunk is white, each group keeps the sums of products of up to four coordinates and of
the learner's functionals; and of the first 32,768 samples the fields themselves, which the sliced distance sorts. Sums are
added in the order of the chunks: the result does not depend on the number of threads.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussequiv.errors import InputError
from gaussequiv.generators.collection import EVERY
from gaussequiv.generators.conformance import checked_sample
from gaussequiv.generators.datasets import Dataset
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.learners import Learner
from gaussequiv.generators.plan import CHUNK, GROUPS, Plan
from gaussequiv.maths import sliced
from gaussequiv.maths.averages import Array
from gaussequiv.maths.hermite import Powers
from gaussequiv.maths.threads import one_blas_thread
from gaussequiv.maths.whitening import SINGULAR, coordinates
from gaussequiv.models.problems import Inputs
from gaussequiv.models.storage import DamagedError, load_arrays, save_arrays
from gaussequiv.models.streams import Purpose, stream

KIND = "sums of local fields"
LANE = 7  # of the streams of checks: the others are those of conformance
STILL = 1e-9  # deviations beside values, below which a field does not vary

Part = tuple[Powers, Array, Array, Array]  # sums of a chunk: powers, functionals, their products with y; and y itself


@dataclass(frozen=True)
class Pilot:
    """Coordinates y = P u (r, L) in which the fields of the first chunk have covariance I; u = B y."""

    P: Array
    B: Array

    @classmethod
    def of(cls, u: Array, name: str = "the student") -> "Pilot":
        """From fields (n, L): combinations that do not vary are left out."""
        covariance = np.cov(u, rowvar=False, bias=True).reshape(u.shape[1], -1)
        size = np.sqrt(np.diag(covariance))
        still = np.flatnonzero(~(size > STILL * np.abs(u).max(axis=0)))
        if len(still):
            raise InputError(f"field {still[0] + 1} of {name} does not vary on this generator; leave out the unit")
        A, B = coordinates(covariance, SINGULAR)  # where a student has learned a teacher their fields all but coincide
        return cls(A.T, B)


@dataclass(eq=False)
class FieldSums:
    """What one pass keeps of the fields of one learner.

    Args:
        pilot: the coordinates.
        powers: of each group, in these.
        functionals: their sums, (groups, p).
        slopes: sums of products of functionals and coordinates, (groups, p, r).
        kept: the first samples as (group, y (n, r)).

    """

    pilot: Pilot
    powers: list[Powers]
    functionals: Array
    slopes: Array
    kept: list[tuple[int, Array]] = field(default_factory=list)

    @classmethod
    def empty(cls, pilot: Pilot, functionals: int) -> "FieldSums":
        """Nothing yet."""
        nothing = Powers.of(np.zeros((0, len(pilot.P))))
        r = len(pilot.P)
        return cls(pilot, [nothing] * GROUPS, np.zeros((GROUPS, functionals)), np.zeros((GROUPS, functionals, r)))

    def add(self, group: int, part: Part) -> None:
        """Add a chunk."""
        powers, functionals, slopes, y = part
        room = sliced.MOST - sum(len(rows) for _, rows in self.kept)
        if room > 0:
            self.kept.append((group, y[:room]))
        self.powers[group] = self.powers[group] + powers
        self.functionals[group] += functionals
        self.slopes[group] += slopes

    def __add__(self, other: "FieldSums") -> "FieldSums":
        """Sums over both parts, which have the same pilot; the samples that are kept are the first ones of both."""
        if not np.array_equal(self.pilot.P, other.pilot.P):
            raise InputError("these sums are in different coordinates; expected parts of one check")
        total = FieldSums(
            self.pilot,
            [a + b for a, b in zip(self.powers, other.powers, strict=True)],
            self.functionals + other.functionals,
            self.slopes + other.slopes,
            list(self.kept),
        )
        room = sliced.MOST - sum(len(rows) for _, rows in self.kept)
        for group, rows in other.kept:
            if room > 0:
                total.kept.append((group, rows[:room]))
                room -= len(rows)
        return total

    @property
    def samples(self) -> int:
        """How many there were."""
        return sum(powers.count for powers in self.powers)

    @property
    def groups(self) -> list[Powers]:
        """Those that have samples."""
        return [powers for powers in self.powers if powers.count]

    def covariance(self, powers: Powers) -> Array:
        """That of the fields, from sums of this pilot, (L, L)."""
        return self.pilot.B @ powers.covariance @ self.pilot.B.T

    def slope(self, powers: Powers, functionals: Array, slopes: Array) -> Array:
        r"""How averages of functionals f move with the mean of the coordinates, $\mathrm{Cov}(f, y)\, C^{-1}$, (p, r).

        For Gaussian fields that is exact (Stein's lemma).
        """
        cross = slopes / powers.count - np.outer(functionals / powers.count, powers.mean)
        return np.asarray(np.linalg.solve(powers.covariance, cross.T).T)

    def kept_groups(self) -> list[Array]:
        """The samples that were kept, by group."""
        found = [[rows for g, rows in self.kept if g == group] for group in range(GROUPS)]
        return [np.concatenate(rows) for rows in found if rows]

    # --- files ---

    def arrays(self, prefix: str) -> dict[str, Array]:
        """The numbers by name."""
        return {
            f"{prefix}.P": self.pilot.P,
            f"{prefix}.B": self.pilot.B,
            f"{prefix}.functionals": self.functionals,
            f"{prefix}.slopes": self.slopes,
            f"{prefix}.counts": np.array([powers.count for powers in self.powers]),
            **{
                f"{prefix}.{name}": np.stack([getattr(powers, name) for powers in self.powers])
                for name in ("first", "second", "third", "fourth")
            },
            f"{prefix}.kept": np.concatenate([rows for _, rows in self.kept]),
            f"{prefix}.members": np.array([[group, len(rows)] for group, rows in self.kept]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], prefix: str) -> "FieldSums":
        """What `arrays` gave."""

        def of(name: str) -> Array:
            return np.asarray(arrays[f"{prefix}.{name}"])

        sums = zip(of("counts"), of("first"), of("second"), of("third"), of("fourth"), strict=True)
        members = of("members")
        rows = np.split(of("kept"), np.cumsum(members[:, 1])[:-1])
        return cls(
            Pilot(of("P"), of("B")),
            [Powers(int(count), *others) for count, *others in sums],
            of("functionals").copy(),
            of("slopes").copy(),
            [(int(group), part) for (group, _), part in zip(members, rows, strict=True)],
        )


@dataclass(frozen=True)
class Pass:
    """One pass over a generator for several learners.

    Args:
        generator: anything with `sample(n, rng)`.
        learners: by name.
        means: of inputs and latents, which are subtracted.
        samples: n, of which there are as many as fill the last chunk; of a data set each sample is taken once at the most,
            in random order, so that what is left over when the last chunk is full is not.
        seed: of the latents.

    """

    generator: Inputs
    learners: Mapping[str, Learner]
    means: tuple[Array, Array]
    samples: int
    seed: int

    def run(
        self, workers: int, progress: Callable[[int, int], Any] | None, folder: Path | None = None
    ) -> dict[str, FieldSums]:
        """The sums of all samples; with a folder an interruption loses half a minute at most, and more samples go on."""
        size = self._chunk
        chunks = self.samples // size if isinstance(self.generator, Dataset) else -(-self.samples // size)
        file = None if folder is None else folder / f"fields-{self._key()[:16]}.safetensors"
        done, sums = self._found(file)
        if done > chunks:
            done, sums, file = 0, {}, None  # more than is asked for is there, and stays
        if not sums:
            first = self._fields(0, size)
            sums = {
                name: FieldSums.empty(Pilot.of(u, name), learner.functionals(u[:1]).shape[1])
                for (name, learner), u in zip(self.learners.items(), first, strict=True)
            }
        saved, begun = time.monotonic(), done
        pilots = [one.pilot for one in sums.values()]
        with one_blas_thread, ThreadPoolExecutor(workers) as pool:
            try:
                for index, parts in self._ahead(pool, workers, pilots, range(done, chunks), size):
                    for one, part in zip(sums.values(), parts, strict=True):
                        one.add(index % GROUPS, part)
                    done = index + 1
                    if progress is not None:
                        progress(min(done * size, self.samples), self.samples)
                    if file is not None and time.monotonic() - saved > EVERY:
                        self._save(file, done, sums)
                        saved = time.monotonic()
            finally:
                if file is not None and done > begun:
                    self._save(file, done, sums)
        return sums

    def _ahead(
        self, pool: ThreadPoolExecutor, workers: int, pilots: Sequence[Pilot], indices: range, size: int
    ) -> Iterator[tuple[int, list[Part]]]:
        """The parts of chunks in their order, some of them computed ahead."""
        waiting: list[tuple[int, Future[Any]]] = []
        coming = iter(indices)
        try:
            while True:
                for index in coming:
                    waiting.append((index, pool.submit(self._part, index, size, pilots)))
                    if len(waiting) > workers:
                        break
                if not waiting:
                    return
                index, future = waiting.pop(0)
                yield index, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _part(self, index: int, size: int, pilots: Sequence[Pilot]) -> list[Part]:
        parts = []
        for learner, pilot, u in zip(self.learners.values(), pilots, self._fields(index, size), strict=True):
            y = u @ pilot.P.T
            functionals = learner.functionals(u)
            parts.append((Powers.of(y), functionals.sum(axis=0), functionals.T @ y, y))
        return parts

    def _fields(self, index: int, size: int) -> list[Array]:
        """Fields (n, L) of every learner on a chunk."""
        rng = stream(self.seed, Purpose.CHECK, chunk=index, lane=LANE)
        try:
            latents, inputs = self._sampled(index, size, rng)
        except InputError as error:
            raise InputError(f"chunk {index} of the check (seed {self.seed}): {error}") from error
        mean_x, mean_c = self.means
        rows, centred, found = self._rows, latents - mean_c, []
        seen = np.split(
            _projected(inputs, np.concatenate(rows), mean_x), np.cumsum([len(part) for part in rows]), axis=1
        )
        for learner, own in zip(self.learners.values(), seen, strict=False):  # np.split leaves an empty rest
            on_latents = learner.scaled[1] if not learner.on_inputs else np.zeros((0, centred.shape[1]))
            found.append(np.concatenate([own, centred @ on_latents.T], axis=1))
        return found

    @cached_property
    def _rows(self) -> list[Array]:
        """What every learner projects the inputs on, so that they are gone through once."""
        return [
            np.concatenate(learner.scaled) if learner.on_inputs else learner.scaled[0]
            for learner in self.learners.values()
        ]

    def _sampled(self, index: int, size: int, rng: np.random.Generator) -> tuple[Array, Any]:
        """Latents, and inputs as a tensor of a `Generator`, where it is."""
        if isinstance(self.generator, Dataset):
            rows = self.generator.rows[self._order[index * size : (index + 1) * size]]
            return np.zeros((len(rows), 0)), torch.from_numpy(np.array(rows, dtype=float))
        if isinstance(self.generator, Generator):
            latents, inputs = self.generator.draw(size, rng)
            return latents.numpy(), inputs
        c, x = checked_sample(self.generator, size, rng)
        return np.asarray(c, dtype=float), torch.from_numpy(np.array(x, dtype=float))

    @cached_property
    def _order(self) -> Any:
        """A random order of the samples of a data set: a sample that comes twice would look like an atom."""
        assert isinstance(self.generator, Dataset)
        return stream(self.seed, Purpose.CHECK, lane=LANE).permutation(len(self.generator))

    @property
    def _chunk(self) -> int:
        """Samples of a chunk; of a small data set so few that there is one in every group."""
        if isinstance(self.generator, Dataset):
            return min(CHUNK, self.samples // GROUPS)
        return Plan(self.samples).chunk

    def _key(self) -> str:
        """Hash of what the sums depend on."""
        digest = hashlib.sha256(f"{self._chunk} {self.seed}".encode())
        probe = self.generator.sample(64, stream(0, Purpose.CHECK, lane=LANE))
        if isinstance(self.generator, Dataset):
            digest.update(self.generator.sha256.encode())
        arrays = [*probe, *self.means]
        for name, learner in self.learners.items():
            digest.update(f"{name} {type(learner).__name__} {learner.on_inputs} {learner.what}".encode())
            probes = np.linspace(-2, 2, 16 * learner.fields).reshape(16, -1)
            arrays += [learner.student, learner.teacher, learner.functionals(probes)]
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _save(self, file: Path, done: int, sums: Mapping[str, FieldSums]) -> None:
        arrays = {"done": np.array(done)}
        for number, one in enumerate(sums.values()):
            arrays |= one.arrays(str(number))
        save_arrays(file, KIND, arrays, {"names": list(sums)})

    def _found(self, file: Path | None) -> tuple[int, dict[str, FieldSums]]:
        if file is None or not file.is_file():
            return 0, {}
        try:
            arrays, metadata = load_arrays(file, KIND)
        except DamagedError:
            return 0, {}
        found = {name: FieldSums.from_arrays(arrays, str(i)) for i, name in enumerate(metadata["names"])}
        return int(arrays["done"].item()), found


def _projected(inputs: torch.Tensor, rows: Array, mean: Array) -> Array:
    r"""$(x - \bar x) W^T$ in double precision, where the inputs are: (n, units)."""
    if not len(rows):
        return np.zeros((len(inputs), 0))
    W = torch.tensor(rows, device=inputs.device)
    centre = torch.tensor(mean, device=inputs.device)
    return np.asarray(((inputs.double() - centre) @ W.T).cpu().numpy())
