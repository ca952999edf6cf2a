r"""The plan of an estimate: which samples are drawn, and in which order their moments are summed.

Chunk i of 1,024 samples draws its latents from the stream (seed, i) and belongs to group i mod 16. The chunks of a group are
summed one after the other in blocks of 16, and the blocks of a group are merged in a binary tree. Nothing of it depends on who
does the work. The plan of more samples begins with the same blocks: an estimate is extended by what it lacks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gaussequiv.errors import InputError, integer

CHUNK = 1024  # samples that are drawn and multiplied together
LENGTH = 16  # chunks of a block
GROUPS = 16  # which are left out one at a time for standard errors


@dataclass(frozen=True, order=True)
class Block:
    """Chunks of one group that are summed in their order: the unit of work.

    Args:
        group: to which they belong.
        start: their position among the chunks of the group.
        count: how many; fewer than 16 at the end of a group.
        size: samples of a chunk, fewer than the others in the last one of a plan, which is a block of its own.

    """

    group: int
    start: int
    count: int
    size: int

    @property
    def chunks(self) -> tuple[int, ...]:
        """The numbers of its chunks, each that of a random stream."""
        return tuple(self.group + GROUPS * (self.start + i) for i in range(self.count))

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        return self.count * self.size

    @property
    def name(self) -> str:
        """A name for files."""
        return f"group-{self.group:02d}-chunk-{self.start:07d}-of-{self.size}"


@dataclass(frozen=True)
class Plan:
    """The blocks of an estimate with so many samples."""

    samples: int

    def __post_init__(self) -> None:
        integer("samples", self.samples)

    @property
    def chunk(self) -> int:
        """Samples of a chunk: 1,024, or fewer where there would be fewer than 16 chunks."""
        return min(CHUNK, -(-self.samples // GROUPS))

    @cached_property
    def groups(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each group, in order."""
        full, rest = divmod(self.samples, self.chunk)
        groups = []
        for group in range(min(GROUPS, full + (rest > 0))):
            chunks = len(range(group, full, GROUPS))
            blocks = [
                Block(group, start, min(LENGTH, chunks - start), self.chunk) for start in range(0, chunks, LENGTH)
            ]
            if rest and full % GROUPS == group:
                blocks.append(Block(group, chunks, 1, rest))
            groups.append(tuple(blocks))
        return tuple(groups)

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, group by group."""
        return (block for group in self.groups for block in group)

    def share(self, shard: tuple[int, int] | None) -> list[Block]:
        """The blocks of one of several shards, (i, n) with i from 1 to n: a contiguous part, or all of them."""
        blocks = list(self.blocks)
        if shard is None:
            return blocks
        i, n = checked_shard(shard)
        edges = [k * len(blocks) // n for k in range(n + 1)]
        return blocks[edges[i - 1] : edges[i]]


def checked_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """The shard (i, n) as integers with 1 <= i <= n."""
    try:
        i, n = shard
    except (TypeError, ValueError) as error:
        raise InputError(f"shard={shard!r}; expected two numbers, (i, n) with i from 1 to n") from error
    i, n = integer("shard", i), integer("shards", n)
    if i > n:
        raise InputError(f"shard {i} of {n}; expected one from 1 to {n}")
    return i, n
