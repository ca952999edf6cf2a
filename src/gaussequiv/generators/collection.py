"""The moments of blocks as they come in: merged along the tree of their plan, and kept in a folder that survives everything.

A folder holds one file for every completed subtree, O(log) of them, each with a sha256 and replaced atomically. What was
damaged is computed again, what belongs to another estimate is refused.
"""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gaussequiv.errors import InputError, StorageError
from gaussequiv.generators.moments import Moments
from gaussequiv.generators.plan import LENGTH, Block, Plan
from gaussequiv.models.storage import DamagedError, load_arrays, save_arrays

EVERY = 30.0  # seconds between two writings
LARGE = 2_000_000  # numbers of a triangle beyond which moments that are in a file are not kept in memory as well
MOST = 20_000_000  # numbers of matrices that wait to be written, 160 MB, before half a minute is over
STALE = 3600.0  # seconds after which a temporary file is nobody's
KIND = "moments"
OURS = re.compile(r"group-\d{2}-chunk-\d{7}-of-\d{4}(-length-\d{7}|-unfinished)\.safetensors")
TEMPORARY = re.compile(r"\." + OURS.pattern.replace(r"\.safetensors", r"\.[0-9a-f]{8}\.safetensors"))


class Node(NamedTuple):
    """A subtree: `length` chunks of a group from `start` on, of `size` samples each."""

    group: int
    start: int
    length: int
    size: int

    @property
    def end(self) -> int:
        """The position behind its last chunk."""
        return self.start + self.length

    @property
    def whole(self) -> bool:
        """Whether it is made of whole blocks."""
        return self.length % LENGTH == 0

    @property
    def sibling(self) -> int:
        """Where the subtree begins with which it is merged."""
        return self.start ^ self.length

    @classmethod
    def of(cls, block: Block) -> "Node":
        """That of a block."""
        return cls(block.group, block.start, block.count, block.size)

    @property
    def file(self) -> str:
        """The name of its file; that of an unfinished block does not depend on how much is done."""
        length = f"-length-{self.length:07d}" if self.whole else "-unfinished"
        return f"group-{self.group:02d}-chunk-{self.start:07d}-of-{self.size:04d}{length}.safetensors"


@dataclass(frozen=True)
class Folder:
    """Where the moments of one estimate are kept.

    Args:
        path: the folder; it is made when something is written.
        key: what identifies the estimate: generator, seed, precision.
        kept: True writes and removes nothing, damaged files neither.

    """

    path: Path
    key: str
    kept: bool = False

    def save(self, node: Node, moments: Moments) -> None:
        """Write the moments of a subtree."""
        save_arrays(self.path / node.file, KIND, moments.arrays(), {"key": self.key, "node": list(node)})

    def load(self, node: Node) -> Moments:
        """Read them again."""
        arrays, metadata = load_arrays(self.path / node.file, KIND)
        if tuple(metadata.get("node", ())) != node or metadata.get("key") != self.key:
            raise StorageError(f"{self.path / node.file} was changed by another process; run the command again")
        return Moments.from_arrays(arrays)

    def remove(self, node: Node) -> None:
        """Remove its file, where there is one."""
        (self.path / node.file).unlink(missing_ok=True)

    def unfinished(self, block: Block) -> Moments | None:
        """The first chunks of a block, where some of them are done."""
        first = Node(block.group, block.start, 1, block.size)
        if block.count > 1 and (self.path / first.file).is_file():
            try:
                arrays, metadata = load_arrays(self.path / first.file, KIND)
            except InputError:
                return None
            if metadata["key"] == self.key and metadata["node"][2] <= block.count:
                return Moments.from_arrays(arrays)
        return None

    def nodes(self) -> Iterator[Node]:
        """The subtrees whose files are there and sound; a damaged one is removed, to be computed again.

        Raises:
            InputError: a file belongs to another estimate.

        """
        for file in self.path.glob(".group-*"):
            with suppress(OSError):
                if TEMPORARY.fullmatch(file.name) and time.time() - file.stat().st_mtime > STALE:
                    file.unlink()
        for file in sorted(file for file in self.path.glob("group-*") if OURS.fullmatch(file.name)):
            try:
                _, metadata = load_arrays(file, KIND)
            except DamagedError:
                if not self.kept:
                    file.unlink(missing_ok=True)
                continue
            if metadata.get("key") != self.key:
                raise InputError(
                    f"{self.path} holds the moments of another estimate (other generator, weights, seed or precision); "
                    "give another folder, or remove it"
                )
            yield Node(*metadata["node"])


class Collection:
    """The moments of the blocks of an estimate that are done.

    Args:
        folder: where they are kept, if they are.
        share: the blocks that this process works on, where there are others: it merges and removes no files but those.

    """

    def __init__(self, folder: Folder | None = None, share: Iterable[Block] | None = None) -> None:
        self._folder = folder
        self._share = None if share is None else {(block.group, block.start) for block in share}
        self._nodes: dict[Node, Moments | None] = {}  # None: in its file only, or joined
        self._joined: dict[Node, tuple[Node, Node]] = {}  # whose parts stay in their files, where nothing is written
        self._unsaved: set[Node] = set()
        self._absorbed: set[Node] = set()
        self._saved_at = time.monotonic()
        for node in folder.nodes() if folder is not None else ():
            self._nodes[node] = None
        for node in sorted(self._nodes):  # what another shard left side by side
            if node in self._nodes:
                self._merge_up(node)
                self._save_if_much()

    def missing(self, plan: Plan, shard: tuple[int, int] | None = None) -> list[Block]:
        """The blocks of a plan, or of a shard of it, that are not done."""
        return [block for block in plan.share(shard) if not self._holds(Node.of(block), _end(plan, block.group))]

    def put(self, block: Block, moments: Moments) -> None:
        """Add the moments of a block, and write if the last time is long ago."""
        node = Node.of(block)
        others = [n for n in self._nodes if n != node and not n.whole and n[:2] == node[:2] and n.size == node.size]
        self._nodes[node] = moments
        self._unsaved.add(node)
        for other in others:
            self._drop(other)
        if node.whole:  # a worker may have left its first chunks in a file
            self._absorbed.add(node._replace(length=1))
        self._merge_up(node)
        if time.monotonic() - self._saved_at >= EVERY:
            self.save()
        self._save_if_much()

    def unfinished(self, block: Block) -> Moments | None:
        """The first chunks of a block, where it was the last one of a smaller plan."""
        node = Node.of(block)
        known = [other for other in self._nodes if _begins(other, node)]
        return self._load(max(known, key=lambda other: other.length)) if known else None

    def save(self) -> None:
        """Write what is new, then remove the files of what was merged."""
        self._saved_at = time.monotonic()
        if self._folder is None:
            return
        for node in sorted(self._unsaved):
            moments = self._nodes[node]
            if moments is not None:
                self._folder.save(node, moments)
                if moments.xx.size > 2 * LARGE:  # of the others a few megabytes stay in memory
                    self._nodes[node] = None
        self._unsaved.clear()
        names = {node.file for node in self._nodes}
        for node in self._absorbed:
            if node.file not in names:
                self._folder.remove(node)
        self._absorbed.clear()

    def group(self, plan: Plan, group: int) -> Moments:
        """The moments of one of the sixteen groups, all of whose blocks are done."""
        end = _end(plan, group)
        parts, at = [], 0
        while at < end:
            here = (n for n in self._nodes if n[:2] == (group, at) and n.size == plan.chunk)
            node = max(n for n in here if n.end <= end)
            parts.append(self._load(node))
            at = node.end
        rest = [Node.of(block) for block in plan.groups[group] if block.size != plan.chunk]
        parts += [self._load(node) for node in rest]
        total = parts.pop()
        while parts:
            total = parts.pop().merge(total)
        return total

    def _holds(self, node: Node, end: int) -> bool:
        return any(
            n.group == node.group
            and n.size == node.size
            and n.start <= node.start
            and n.end >= node.end
            and (n == node or n.end <= end)
            for n in self._nodes
        )

    def _merge_up(self, node: Node) -> None:
        """Merge a subtree with its neighbour as long as that is there."""
        while node.whole:
            other = Node(node.group, node.sibling, node.length, node.size)
            if other not in self._nodes or not (self._owns(node) and self._owns(other)):
                return
            first, second = sorted((node, other))
            parent = Node(node.group, first.start, 2 * node.length, node.size)
            if self._folder is not None and self._folder.kept:
                self._nodes[parent] = None
                self._joined[parent] = first, second
                del self._nodes[first], self._nodes[second]
            else:
                self._nodes[parent] = self._load(first).merge(self._load(second))
                self._unsaved.add(parent)
                self._drop(first)
                self._drop(second)
            node = parent

    def _owns(self, node: Node) -> bool:
        starts = range(node.start, node.end, LENGTH)
        return self._share is None or all((node.group, start) in self._share for start in starts)

    def _save_if_much(self) -> None:
        waiting = (self._nodes[node] for node in self._unsaved)
        if sum(moments.xx.size for moments in waiting if moments is not None) > MOST:
            self.save()

    def _drop(self, node: Node) -> None:
        self._nodes.pop(node, None)
        self._unsaved.discard(node)
        self._absorbed.add(node)

    def _load(self, node: Node) -> Moments:
        if node in self._joined:
            first, second = self._joined[node]
            return self._load(first).merge(self._load(second))
        moments = self._nodes.get(node)
        if moments is None:
            assert self._folder is not None
            moments = self._folder.load(node)
        return moments


def all_of(collection: Collection, plan: Plan) -> Iterator[Moments]:
    """The moments of the groups of a plan, one after the other."""
    return (collection.group(plan, group) for group in range(len(plan.groups)))


def _end(plan: Plan, group: int) -> int:
    """How many full chunks a group has."""
    return sum(block.count for block in plan.groups[group] if block.size == plan.chunk)


def _begins(node: Node, whole: Node) -> bool:
    """Whether a node holds the first chunks of another one, unfinished."""
    return node[:2] == whole[:2] and node.size == whole.size and not node.whole and node.length < whole.length
