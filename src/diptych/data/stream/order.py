"""The order: which sample stands where in which step. A pure function, without files, ranks or workers.

Shards are permuted by (seed, epoch) and laid end to end; the line is turned, as a ring, by a drawn number of samples
and cut into K canonical streams of equal length; each stream is cut into blocks, and samples are shuffled inside
their block. The global batch at a step takes B/K samples from each stream. Ranks and workers own whole streams, so no
layout that divides K changes a batch.

The turn makes every sample as likely as any other to be in the remainder of an epoch. Without it shards of one length
that the streams divide lose the same samples in every epoch, however they are permuted.

A block lies within one shard, or is made of whole pieces of several small ones, so that going on anywhere opens
one shard a stream, and what a stream holds is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.base.terminal import counted
from diptych.data.stream.index import Index, open_index

EDITION = 2  # of the order. A checkpoint carries it: a run never goes on with other batches
BLOCK = 2048  # samples that a stream holds, encoded, to shuffle: about 100 MB of web images


class Run(NamedTuple):
    """Samples first … last-1 of a shard. copy: 0, or how often the epoch has had this shard before (weights)."""

    shard: int
    first: int
    last: int
    copy: int = 0


class Order:
    """The order of one epoch.

    index: the shards, their counts and weights, or the path of an index.json. A shard of weight 2.25 stands in each
        epoch twice whole, and a third time with a quarter of it, another one each epoch
    batch_size: the global batch, over all ranks
    streams: K; must divide the batch, and be a multiple of ranks × workers
    block: samples shuffled together, at most

    samples: in the epoch, weights applied; steps: whole batches of it; remainder: samples left out of it
    Raises UserError when the batch can't be made from the streams or the set.
    """

    def __init__(
        self, index: Index | str | Path, *, seed: int, epoch: int, batch_size: int, streams: int, block: int = BLOCK
    ) -> None:
        if not isinstance(index, Index):
            index = open_index(str(index) if isinstance(index, Path) else index, key="index")
        if streams < 1 or batch_size % streams:
            raise UserError(
                f"data.batch_size={batch_size} can't be cut into data.streams={streams} equal parts:"
                f" take a batch that is a multiple of {max(streams, 1)}, or other streams."
            )
        self.index, self.batch_size = index, batch_size
        self.seed, self.epoch, self.streams, self.block = seed, epoch, streams, block
        self._lay(index)
        if batch_size > self.samples:
            raise UserError(
                f"data.batch_size={batch_size} is more than the {counted(self.samples, 'sample')} of the shards:"
                " take a smaller batch or more shards."
            )
        self.per_stream = batch_size // streams
        self.stride = self.samples // streams
        self.steps = self.stride // self.per_stream
        self.length = self.steps * self.per_stream
        if self.steps == 0:
            raise UserError(
                f"{counted(self.samples, 'sample')} in data.streams={streams} give no whole batch of {batch_size}:"
                " take fewer streams."
            )
        self.remainder = self.samples - self.length * streams
        self._lines: dict[int, Line] = {}

    def _lay(self, index: Index) -> None:
        """Lay the epoch's parts of shards end to end: arrays shard, copy, size, start (where in the shard the part
        begins; it wraps at the shard's end), ends (where in the line it ends)."""
        counts = np.array(index.counts(), dtype=np.int64)
        weights = np.array([shard.weight for shard in index.shards])
        whole = np.floor(weights).astype(np.int64)
        shards = np.repeat(np.arange(len(counts)), whole)
        copies = np.concatenate([np.arange(n) for n in whole]) if (whole > 1).any() else np.zeros_like(shards)
        parts: list[tuple[NDArray[np.int64], ...]] = [(shards, copies, counts[shards], np.zeros_like(shards))]
        if (share := weights - whole).any():
            parts.append(self._shares(counts, share, whole))
        shards, copies, sizes, starts = (np.concatenate(column) for column in zip(*parts, strict=True))
        line = seeding.permutation(len(shards), self.seed, self.epoch, 1)
        self.shard, self.copy, self.size, self.start = shards[line], copies[line], sizes[line], starts[line]
        self.counts = counts
        self.samples = int(self.size.sum())
        if self.samples:
            self._turn(int(seeding.uniform_one(self.seed, self.epoch, 5) * self.samples))
        self.ends = np.cumsum(self.size)

    def _turn(self, begin: int) -> None:
        """Let the line begin at its place `begin`, which cuts a part; what stood before comes at the line's end."""
        ends = np.cumsum(self.size)
        at = int(np.searchsorted(ends, begin, side="right"))
        before = begin - int(ends[at] - self.size[at])  # samples of that part which move to the end
        line = np.concatenate([np.arange(at, len(ends)), np.arange(at + 1)])
        self.shard, self.copy, self.size, self.start = (
            column[line] for column in (self.shard, self.copy, self.size, self.start)
        )
        self.size[0] -= before
        self.size[-1] = before
        self.start[0] = (self.start[0] + before) % self.counts[self.shard[0]]

    def _shares(
        self, counts: NDArray[np.int64], share: NDArray[np.float64], whole: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], ...]:
        """The fractions of weights: of every shard about its share, in all exactly the rounded sum, so that every
        epoch is equally long; and another part each epoch, so that all samples have their turn."""
        line = seeding.permutation(len(counts), self.seed, self.epoch, 3)
        sizes = np.zeros_like(counts)
        for value in np.unique(share[share > 0]):  # each source by itself, since a share is a source's
            own = line[share[line] == value]
            sizes[own] = np.diff(np.floor(np.cumsum(counts[own]) * value + 1e-6), prepend=0).astype(np.int64)
        turn = (seeding.uniform(self.seed, 4, np.arange(len(counts))) + self.epoch * share) % 1.0
        taken = np.flatnonzero(sizes)
        return taken, whole[taken], sizes[taken], np.floor(turn * counts).astype(np.int64)[taken]

    def runs(self, begin: int, end: int) -> Iterator[Run]:
        """The line from `begin` to `end`, as runs of shards, before any shuffle."""
        at = int(np.searchsorted(self.ends, begin, side="right"))
        while begin < end:
            until = min(end, int(self.ends[at]))
            if until > begin:
                number, copy, count = int(self.shard[at]), int(self.copy[at]), int(self.counts[self.shard[at]])
                first = int(self.start[at]) + begin - int(self.ends[at] - self.size[at])
                last = first + until - begin
                if first < count:
                    yield Run(number, first, min(last, count), copy)
                if last > count:
                    yield Run(number, max(first - count, 0), last - count, copy)
            begin, at = max(begin, until), at + 1

    def at(self, epoch: int) -> Order:
        """The same set's order in another epoch."""
        return Order(
            self.index,
            seed=self.seed,
            epoch=epoch,
            batch_size=self.batch_size,
            streams=self.streams,
            block=self.block,
        )

    def left_out(self) -> set[tuple[int, int]]:
        """The remainder, as (shard, sample)."""
        ends = [stream * self.stride for stream in range(1, self.streams + 1)]
        gaps = [(end - self.stride + self.length, end) for end in ends] + [(ends[-1], self.samples)]
        return {(run.shard, n) for gap in gaps for run in self.runs(*gap) for n in range(run.first, run.last)}

    def segments(self, stream: int, start: int, stop: int) -> Iterator[Run]:
        """A stream's line from place `start` to `stop`, before the shuffle."""
        begin = stream * self.stride
        return self.runs(begin + start, begin + min(stop, self.length))

    def line(self, stream: int) -> Line:
        """One canonical stream, cut into blocks."""
        if stream not in self._lines:
            self._lines[stream] = Line(self, stream)
        return self._lines[stream]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The global batch of a step of this epoch, as (shard, sample), stream by stream. Raises IndexError."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is not in this epoch, whose {counted(self.steps, 'step')} count from 0.")
        samples = []
        for stream in range(self.streams):
            line = self.line(stream)
            for place in range(step * self.per_stream, (step + 1) * self.per_stream):
                block = line.find(place)
                first = int(line.starts[block])
                source = first + int(line.shuffled(block)[place - first])
                (run,) = self.segments(stream, source, source + 1)
                samples.append((run.shard, run.first))
        return samples


def left_out_of_all(orders: Iterable[Order]) -> int:
    """How many samples of a set without weights stand in none of these epochs; none is asked for after that is 0."""
    left: set[tuple[int, int]] | None = None
    for order in orders:
        left = order.left_out() if left is None else left & order.left_out()
        if not left:
            break
    return len(left or ())


class Line:
    """One canonical stream of an epoch. starts: the place of each block's first sample, and the stream's end."""

    def __init__(self, order: Order, stream: int) -> None:
        self.order, self.stream = order, stream
        self.starts = _blocks(_pieces(order, stream), order.block)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def find(self, place: int) -> int:
        """The block that a place of the stream lies in."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def size(self, block: int) -> int:
        return int(self.starts[block + 1] - self.starts[block])

    def runs(self, block: int) -> list[Run]:
        """What is read for a block, in reading order."""
        return list(self.order.segments(self.stream, int(self.starts[block]), int(self.starts[block + 1])))

    def shuffled(self, block: int) -> NDArray[np.int64]:
        """Which of the block's samples, in reading order, is emitted first, second, …"""
        return _permutation(self.size(block), self.order.seed, self.order.epoch, 2, self.stream, block)


def _pieces(order: Order, stream: int) -> list[int]:
    """How many samples in a row the stream takes from each part of the line."""
    begin = stream * order.stride
    end = begin + order.length
    first, last = np.searchsorted(order.ends, (begin, end), side="right")
    borders = np.concatenate([[begin], order.ends[first:last], [end]])
    return [int(size) for size in np.diff(borders) if size]


def _blocks(pieces: list[int], block: int) -> NDArray[np.int64]:
    """Cut a large piece evenly, join small ones: [blocks + 1] places."""
    sizes: list[int] = []
    room = 0  # left in the last block, when it may be joined
    for piece in pieces:
        if piece <= room:
            sizes[-1] += piece
            room -= piece
        elif piece <= block:
            sizes.append(piece)
            room = block - piece
        else:
            cuts = np.linspace(0, piece, -(-piece // block) + 1).astype(np.int64)
            sizes += np.diff(cuts).tolist()
            room = 0
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@lru_cache(maxsize=64)
def _permutation(size: int, *parts: int) -> NDArray[np.int64]:
    return seeding.permutation(size, *parts)
