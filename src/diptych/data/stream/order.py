"""The order: which sample is at which place of which step. A pure function, without files, ranks or workers.

Shards are permuted by (seed, epoch) and put end to end in a line. The line is rotated by a random number of samples
and cut into K canonical streams of equal length. Each stream is cut into blocks, and samples are shuffled inside
their block. The global batch of a step takes B/K samples from each stream. Ranks and workers own whole streams, so
every layout that divides K gives the same batches.

The rotation makes every sample equally likely to be in the remainder that an epoch leaves out. Without it, shards of
one length that the streams divide would lose the same samples in every epoch, whatever their permutation.

A block is a part of one shard, or several small shards' whole pieces. So a resume at any step opens one shard per
stream, and the memory of a stream is bounded.
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

EDITION = 2  # of the order. A checkpoint stores it: a run never continues with other batches
BLOCK = 2048  # encoded samples that a stream holds to shuffle: about 100 MB of web images
PARTS = np.dtype([("shard", np.int64), ("copy", np.int64), ("size", np.int64), ("start", np.int64)])


class Run(NamedTuple):
    """Samples first … last-1 of a shard. copy: how often the epoch took this shard before; above 0 by weights only"""

    shard: int
    first: int
    last: int
    copy: int = 0


class Order:
    """The order of one epoch.

    index: the shards, their counts and weights, or the path of an index.json. Each epoch takes a shard of weight 2.25
        twice whole, and one quarter of it a third time, each epoch another quarter
    batch_size: the global batch, over all ranks
    streams: K; must divide the batch, and be a multiple of ranks × workers
    block: number of samples shuffled together, at most

    samples: of the epoch, weights applied; steps: its whole batches; remainder: samples that it leaves out
    parts: the line, as records (PARTS): `size` samples of a shard from `start` on, which continue at the shard's
        beginning after its end; ends: where in the line each part ends
    Raises UserError if the streams or the set don't fit the batch.
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
        self.counts = np.array(index.counts(), dtype=np.int64)
        self.parts = self._line()
        self.ends = np.cumsum(self.parts["size"])
        self.samples = int(self.parts["size"].sum())
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

    def _line(self) -> NDArray[np.void]:
        """The epoch's parts of shards, permuted and rotated."""
        weights = np.array([shard.weight for shard in self.index.shards])
        whole = np.floor(weights).astype(np.int64)
        shards = np.repeat(np.arange(len(whole)), whole)
        parts = np.zeros(len(shards), PARTS)
        parts["shard"], parts["size"] = shards, self.counts[shards]
        parts["copy"] = np.arange(len(shards)) - np.repeat(np.cumsum(whole) - whole, whole)
        if (share := weights - whole).any():
            parts = np.concatenate([parts, self._shares(share, whole)])
        parts = parts[seeding.permutation(len(parts), self.seed, self.epoch, 1)]
        samples = int(parts["size"].sum())
        begin = int(seeding.uniform_one(self.seed, self.epoch, 5) * samples)
        return self._rotated(parts, begin) if samples else parts

    def _rotated(self, parts: NDArray[np.void], begin: int) -> NDArray[np.void]:
        """The line that starts at place `begin`, which cuts a part; what was before it comes at the end."""
        ends = np.cumsum(parts["size"])
        at = int(np.searchsorted(ends, begin, side="right"))
        before = begin - int(ends[at] - parts["size"][at])  # samples of that part which move to the end
        parts = np.concatenate([parts[at:], parts[: at + 1]])
        parts["size"][0] -= before
        parts["size"][-1] = before
        parts["start"][0] = (parts["start"][0] + before) % self.counts[parts["shard"][0]]
        return parts

    def _shares(self, share: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.void]:
        """The parts that the weights' fractions take. Their sizes sum to exactly the rounded total, so that all
        epochs are equally long, and each epoch takes other parts, so that all samples get their turn."""
        line = seeding.permutation(len(share), self.seed, self.epoch, 3)
        sizes = np.zeros_like(self.counts)
        for value in np.unique(share[share > 0]):  # each source alone: all its shards have the same share
            own = line[share[line] == value]
            sizes[own] = np.diff(np.floor(np.cumsum(self.counts[own]) * value + 1e-6), prepend=0).astype(np.int64)
        turn = (seeding.uniform(self.seed, 4, np.arange(len(share))) + self.epoch * share) % 1.0
        taken = np.flatnonzero(sizes)
        parts = np.zeros(len(taken), PARTS)
        parts["shard"], parts["copy"], parts["size"] = taken, whole[taken], sizes[taken]
        parts["start"] = np.floor(turn * self.counts).astype(np.int64)[taken]
        return parts

    def runs(self, begin: int, end: int) -> Iterator[Run]:
        """The line from `begin` to `end`, as runs of shards, before the shuffle."""
        at = int(np.searchsorted(self.ends, begin, side="right"))
        while begin < end:
            until = min(end, int(self.ends[at]))
            if until > begin:
                number, copy, size, start = self.parts[at].item()
                count = int(self.counts[number])
                first = start + begin - int(self.ends[at] - size)
                last = first + until - begin
                if first < count:
                    yield Run(number, first, min(last, count), copy)
                if last > count:
                    yield Run(number, max(first - count, 0), last - count, copy)
            begin, at = max(begin, until), at + 1

    def at(self, epoch: int) -> Order:
        """The order of another epoch."""
        sizes = {"batch_size": self.batch_size, "streams": self.streams, "block": self.block}
        return Order(self.index, seed=self.seed, epoch=epoch, **sizes)

    def left_out(self) -> set[tuple[int, int]]:
        """The remainder, as (shard, sample)."""
        ends = [stream * self.stride for stream in range(1, self.streams + 1)]
        gaps = [(end - self.stride + self.length, end) for end in ends] + [(ends[-1], self.samples)]
        return {(run.shard, n) for gap in gaps for run in self.runs(*gap) for n in range(run.first, run.last)}

    def segments(self, stream: int, start: int, stop: int) -> Iterator[Run]:
        """A stream from place `start` to `stop`, before the shuffle."""
        begin = stream * self.stride
        return self.runs(begin + start, begin + min(stop, self.length))

    def line(self, stream: int) -> Line:
        """One canonical stream, cut into blocks."""
        if stream not in self._lines:
            self._lines[stream] = Line(self, stream)
        return self._lines[stream]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The global batch of one of this epoch's steps, as (shard, sample), stream by stream. Raises IndexError."""
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
    """The number of samples, of a set without weights, that all of these epochs leave out. It stops at 0."""
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
        """The block that holds a place of the stream."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def size(self, block: int) -> int:
        return int(self.starts[block + 1] - self.starts[block])

    def runs(self, block: int) -> list[Run]:
        """The samples of a block, in reading order."""
        return list(self.order.segments(self.stream, int(self.starts[block]), int(self.starts[block + 1])))

    def shuffled(self, block: int) -> NDArray[np.int64]:
        """Places in the block's reading order: the first sample to be emitted, the second, …"""
        return _permutation(self.size(block), self.order.seed, self.order.epoch, 2, self.stream, block)


def _pieces(order: Order, stream: int) -> list[int]:
    """The number of samples that the stream takes from each part of the line, in order."""
    begin = stream * order.stride
    end = begin + order.length
    first, last = np.searchsorted(order.ends, (begin, end), side="right")
    borders = np.concatenate([[begin], order.ends[first:last], [end]])
    return [int(size) for size in np.diff(borders) if size]


def _blocks(pieces: list[int], block: int) -> NDArray[np.int64]:
    """Cut a large piece evenly, join small ones -> the places between blocks [blocks + 1]."""
    sizes: list[int] = []
    room = 0  # in the last block, for more small pieces
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
