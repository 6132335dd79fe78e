"""Walking one canonical stream: blocks are read in order, samples handed out in their block's shuffled order.

What stands in for a sample that gives no pair depends on the order and the data alone: the next of its block that
gives one, cyclically; for a block of which nothing can be read, the same place of the next block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.data.io.address import printable
from diptych.data.stream.captions import BadSample, source_of
from diptych.data.stream.order import Line, Order
from diptych.data.stream.pairs import Pair, stack
from diptych.data.stream.shards import Damaged, Sample, Shelf


@dataclass
class Part:
    """What one worker hands over for one step: its streams' samples, or the reason why there are none."""

    images: Tensor | None = None
    tokens: Tensor | None = None
    groups: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reason, shard) -> samples
    retried: Counter[str] = field(default_factory=Counter)  # address -> times
    failure: str | None = None


def joined(parts: list[Part]) -> Part:
    """Several parts of one step as one, in their order."""
    if len(parts) == 1:
        return parts[0]
    whole = Part(
        images=torch.cat([part.images for part in parts if part.images is not None]),
        tokens=torch.cat([part.tokens for part in parts if part.tokens is not None]),
    )
    for part in parts:
        whole.groups += part.groups
        whole.seeds += part.seeds
        whole.keys += part.keys
        whole.skipped += part.skipped
        whole.retried += part.retried
    return whole


class Item(NamedTuple):
    """A sample of a block: which it is, and its content."""

    shard: int
    number: int
    copy: int
    content: Sample | Damaged


class Block:
    """A block of a stream, being read and then emptied. Positions count in reading order.

    needed: how many of its samples, from the end of the shuffled order, are still to be handed out; the others are
        not kept
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
        """Read on, by `count` samples."""
        for _ in range(min(count, self.missing)):
            item, position = next(self._reading), self.size - self.missing
            self.missing -= 1
            if position not in self._unwanted or isinstance(item.content, Damaged):
                self._items[position] = item

    def item(self, position: int) -> Item:
        """The sample at a position; one that is no longer kept is read again by itself."""
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
        """Whether no sample of the block, which is read, came out of its tar."""
        return len(self._items) == self.size and all(
            isinstance(item.content, Damaged) for item in self._items.values()
        )


class Walk:
    """One canonical stream from step `start` to `stop`, counted from the beginning of the training.

    While a block is handed out, the next is read at the same pace: reading never comes in gusts, and what is held
    stays at about one block.

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
        """The blocks from one on, up to where the training stops."""
        while True:
            order = self.orders(epoch)
            line = order.line(self.stream)
            for block in range(number, len(line)):
                if epoch * order.length + line.starts[block] >= self.stop * order.per_stream:
                    return
                yield Block(line, block, self.shelf)
            epoch, number = epoch + 1, 0

    def take(self) -> Part:
        """The stream's B/K samples of the next step."""
        part = Part()
        pairs = [self._pair(part) for _ in range(self.block.line.order.per_stream)]
        part.images, part.tokens, part.groups = stack(pairs)
        return part

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
        """The pair at the cursor or what stands in for it. The sample at the cursor is counted if it is bad; those
        passed over have their turn."""
        block = self.block
        if (pair := self._try(block, block.shuffled[self.offset], part)) is not None:
            return pair
        bad = block.shuffled[self.offset]
        part.skipped[block.bad[bad], self.shelf.index.names[block.item(bad).shard]] += 1
        if (pair := self._next_good(block, self.offset + 1, part)) is not None:
            return pair
        if not block.unreadable():
            self._refuse(block)
        return self._from_another(part)

    def _next_good(self, block: Block, offset: int, part: Part) -> Pair | None:
        for ahead in range(block.size):
            pair = self._try(block, block.shuffled[(offset + ahead) % block.size], part)
            if pair is not None:
                return pair
        return None

    def _try(self, block: Block, position: int, part: Part) -> Pair | None:
        if position in block.bad:
            return None
        item = block.item(position)
        order = block.line.order
        again = (item.copy,) if item.copy else ()  # without weights a seed is what it was before there were any
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

    def _from_another(self, part: Part) -> Pair:
        """The pair at the cursor's place of the next block, cyclically, that can be read."""
        line = self.block.line
        for ahead in range(1, len(line)):
            number = (self.block.number + ahead) % len(line)
            if self.spare is None or self.spare.line is not line or self.spare.number != number:
                self.spare = Block(line, number, self.shelf)
                self.spare.fill(self.spare.size)
            pair = self._next_good(self.spare, self.offset, part)
            if pair is not None:
                return pair
            if not self.spare.unreadable():
                self._refuse(self.spare)
        run = line.runs(self.block.number)[0]
        raise UserError(
            f"Nothing can be read of a whole stream, from shard {self.shelf.index.names[run.shard]} on:"
            f" check the shards with pack.py source=shards verify=true{_fewer(line.order.streams)}."
        )

    def _refuse(self, block: Block) -> None:
        position, reason = next((p, r) for p, r in reversed(block.bad.items()) if not _damaged(block, p))
        item = block.item(position)
        assert not isinstance(item.content, Damaged)
        key, shard = printable(item.content["__key__"]), printable(self.shelf.index.names[item.shard])
        source = f" (packed from {found})" if (found := source_of(item.content)) else ""
        raise UserError(
            f"No sample of a whole block of {block.size} gives a pair; the last is {key} of shard {shard}{source}:"
            f" {reason}. A sample's files have one name and are neighbours in the tar: fix the shard or leave it out"
            f"{_fewer(block.line.order.streams)}."
        )


def _fewer(streams: int) -> str:
    """Of fewer streams, each has more samples to take in place of those that can't be read."""
    return f", or take fewer data.streams ({streams} now)" if streams > 1 else ""


def _damaged(block: Block, position: int) -> bool:
    return isinstance(block.item(position).content, Damaged)
