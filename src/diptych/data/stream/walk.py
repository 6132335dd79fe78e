"""Walking one canonical stream: blocks are read in order, and each block's samples handed out in shuffled order.

If a sample gives no pair, another stands in for it. Which one depends on the order and the data alone: the next of
its block, cyclically, that gives a pair; for a block of which nothing can be read, the same place of the next block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.data.io.address import printable
from diptych.data.stream.order import Line, Order
from diptych.data.stream.pairs import BadSample, Pair, source_of
from diptych.data.stream.shards import Damaged, Sample, Shelf


@dataclass
class Part:
    """One worker's part of one step: its streams' samples in their order, or the reason why there are none."""

    images: Tensor | None = None
    tokens: Tensor | None = None
    groups: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reason, shard) -> samples
    retried: Counter[str] = field(default_factory=Counter)  # address -> times
    failure: str | None = None


class Item(NamedTuple):
    """One sample of a block: its place, and its content."""

    shard: int
    number: int
    copy: int
    content: Sample | Damaged


class Block:
    """A block of a stream, first filled and then emptied. Positions count in reading order.

    needed: how many samples, the last of the shuffled order, will be handed out; the others are not kept
    """

    def __init__(self, line: Line, number: int, shelf: Shelf, needed: int | None = None) -> None:
        self.line, self.number, self.shelf = line, number, shelf
        self.shuffled = [int(position) for position in line.shuffled(number)]
        self.size = len(self.shuffled)
        self.missing = self.size
        self.bad: dict[int, str] = {}  # position -> why it gives no pair
        self._unwanted = set(self.shuffled[: self.size - needed]) if needed is not None else set()
        self._items: dict[int, Item] = {}
        self._reading = self._read()

    def _read(self) -> Iterator[Item]:
        for run in self.line.runs(self.number):
            for number, content in enumerate(self.shelf.samples(run.shard, run.first, run.last), run.first):
                yield Item(run.shard, number, run.copy, content)

    def fill(self, count: int) -> None:
        """Read the next `count` samples."""
        for _ in range(min(count, self.missing)):
            item, position = next(self._reading), self.size - self.missing
            self.missing -= 1
            if position not in self._unwanted or isinstance(item.content, Damaged):
                self._items[position] = item

    def item(self, position: int) -> Item:
        """The sample at a position; one that is no longer kept is read again."""
        if position in self._items:
            return self._items[position]
        before = 0
        for run in self.line.runs(self.number):
            if position < before + run.last - run.first:
                number = run.first + position - before
                return Item(run.shard, number, run.copy, next(self.shelf.samples(run.shard, number, number + 1)))
            before += run.last - run.first
        raise IndexError(position)

    def drop(self, position: int) -> None:
        """Forget the content of a sample that was handed out."""
        if position in self._items and not isinstance(self._items[position].content, Damaged):
            del self._items[position]

    def unreadable(self) -> bool:
        """Whether no sample of the block, which is filled, could be read from its tar."""
        return len(self._items) == self.size and all(
            isinstance(item.content, Damaged) for item in self._items.values()
        )


class Walk:
    """One canonical stream from step `start` to `stop`, counted from the beginning of the training.

    While one block is emptied, the next is filled at the same pace: reading is even, and a stream holds about one
    block.

    orders: epoch -> its Order; pairs: (sample, seed) -> pair, raising BadSample
    """

    def __init__(
        self,
        orders: Callable[[int], Order],
        stream: int,
        start: int,
        stop: int,
        shelf: Shelf,
        pairs: Callable[[Sample, int], Pair],
    ) -> None:
        self.orders, self.stream, self.stop, self.shelf, self.pairs = orders, stream, stop, shelf, pairs
        self.spare: Block | None = None
        first = orders(0)
        epoch, within = divmod(start, first.steps)
        line = orders(epoch).line(stream)
        place = within * first.per_stream
        block = line.find(place)
        self.offset = place - int(line.starts[block])
        self._following = self._blocks(epoch, block + 1)
        self.block = Block(line, block, shelf, needed=line.size(block) - self.offset)
        self.next = next(self._following, None)

    def _blocks(self, epoch: int, number: int) -> Iterator[Block]:
        """The blocks from this one to where the training stops."""
        while True:
            order = self.orders(epoch)
            line = order.line(self.stream)
            for block in range(number, len(line)):
                if epoch * order.length + line.starts[block] >= self.stop * order.per_stream:
                    return
                yield Block(line, block, self.shelf)
            epoch, number = epoch + 1, 0

    def take(self, part: Part) -> list[Pair]:
        """The stream's B/K pairs of the next step; their keys, seeds and counts are added to `part`."""
        return [self._pair(part) for _ in range(self.block.line.order.per_stream)]

    def _pair(self, part: Part) -> Pair:
        if self.offset == self.block.size:
            assert self.next is not None
            self.block, self.offset = self.next, 0
            self.next = next(self._following, None)
        self.block.fill(self.block.missing)
        pair = self._good(part)
        self.block.drop(self.block.shuffled[self.offset])
        self.offset += 1
        if self.next is not None:
            left = self.block.size - self.offset
            self.next.fill(-(-self.next.missing // (left + 1)))
        return pair

    def _good(self, part: Part) -> Pair:
        """The pair at the cursor or the one that stands in for it. Only the sample at the cursor is counted as bad:
        the others that are passed over get their own turn."""
        block, position = self.block, self.block.shuffled[self.offset]
        if (pair := self._try(block, position, part)) is not None:
            return pair
        part.skipped[block.bad[position], self.shelf.index.names[block.item(position).shard]] += 1
        for block in self._blocks_to_stand_in():
            for ahead in range(block.size):
                position = block.shuffled[(self.offset + ahead) % block.size]
                if (pair := self._try(block, position, part)) is not None:
                    return pair
            if not block.unreadable():
                self._refuse(block)
        run = self.block.line.runs(self.block.number)[0]
        raise UserError(
            f"Nothing can be read of a whole stream, from shard {self.shelf.index.names[run.shard]} on:"
            f" check the shards with pack.py source=shards verify=true{_fewer(self.block.line.order.streams)}."
        )

    def _blocks_to_stand_in(self) -> Iterator[Block]:
        """The block at hand, then the others of its epoch, from the next one on, cyclically. The last one is kept."""
        yield self.block
        line = self.block.line
        for ahead in range(1, len(line)):
            number = (self.block.number + ahead) % len(line)
            if self.spare is None or self.spare.line is not line or self.spare.number != number:
                self.spare = Block(line, number, self.shelf)
                self.spare.fill(self.spare.size)
            yield self.spare

    def _try(self, block: Block, position: int, part: Part) -> Pair | None:
        if position in block.bad:
            return None
        item = block.item(position)
        order = block.line.order
        again = (item.copy,) if item.copy else ()  # a first copy's seed is what it would be without weights
        number = self.shelf.index.place(item.shard, item.number)
        seed = seeding.mix_one(order.seed, order.epoch, item.shard, number, *again) >> 1
        try:
            if isinstance(item.content, Damaged):
                raise BadSample(item.content.reason)
            pair = self.pairs(item.content, seed)
        except BadSample as error:
            block.bad[position] = str(error)
            return None
        part.seeds.append(seed)
        part.keys.append(f"{self.shelf.index.names[item.shard]}/{item.content['__key__']}")
        return pair

    def _refuse(self, block: Block) -> None:
        """Raise UserError for a block that can be read and gives no pair, with the last sample that was tried."""
        tried = ((block.item(position), reason) for position, reason in reversed(block.bad.items()))
        item, reason = next((item, reason) for item, reason in tried if not isinstance(item.content, Damaged))
        assert not isinstance(item.content, Damaged)
        key, shard = printable(item.content["__key__"]), printable(self.shelf.index.names[item.shard])
        source = f" (packed from {found})" if (found := source_of(item.content)) else ""
        raise UserError(
            f"No sample of a whole block of {block.size} gives a pair; the last is {key} of shard {shard}{source}:"
            f" {reason}. A sample's files have one name and are neighbours in the tar: fix the shard or leave it out"
            f"{_fewer(block.line.order.streams)}."
        )


def _fewer(streams: int) -> str:
    """With fewer streams, each has more samples that can stand in."""
    return f", or take fewer data.streams ({streams} now)" if streams > 1 else ""
