"""The order: which sample stands where in which step. A pure function, without files, ranks or workers.

Shards are permuted by (seed, epoch) and laid end to end; the line is cut into K canonical streams of equal
length; within a stream, samples are shuffled inside bounded blocks. The global batch at a step takes B/K
samples from each stream. Ranks and workers own whole streams, so no layout that divides K changes a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diptych.data import seeding
from diptych.data.index import Index
from diptych.errors import UserError

BLOCK = 4096  # samples that a stream holds, encoded, to shuffle: about 200 MB of web images


class Order:
    """The order of one epoch.

    index: the shards and their counts
    batch_size: the global batch, over all ranks
    streams: K; must divide the batch, and be a multiple of ranks × workers
    block: samples shuffled together
    Raises UserError when the batch can't be made from the streams or the set.
    """

    def __init__(
        self, index: Index, *, seed: int, epoch: int, batch_size: int, streams: int, block: int = BLOCK
    ) -> None:
        if streams < 1 or batch_size % streams:
            raise UserError(
                f"data.batch_size={batch_size} can't be cut into data.streams={streams} equal parts:"
                f" take a batch that is a multiple of {max(streams, 1)}, or other streams."
            )
        if batch_size > index.samples:
            raise UserError(
                f"data.batch_size={batch_size} is more than the {index.samples} samples of the shards:"
                " take a smaller batch or more shards."
            )
        self.seed, self.epoch, self.streams, self.block = seed, epoch, streams, block
        self.per_stream = batch_size // streams
        self.stride = index.samples // streams
        self.steps = self.stride // self.per_stream
        self.length = self.steps * self.per_stream
        if self.steps == 0:
            raise UserError(
                f"{index.samples} samples in data.streams={streams} give no whole batch of {batch_size}:"
                " take fewer streams."
            )
        self.remainder = index.samples - self.length * streams
        counts = np.array([shard.samples for shard in index.shards], dtype=np.int64)
        self.shards = seeding.permutation(len(counts), seed, epoch, 1)
        self.ends = np.cumsum(counts[self.shards])

    def segments(self, stream: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The line from `start` to `stop` of a stream, before the shuffle: (shard, first, last + 1)."""
        begin, end = stream * self.stride + start, stream * self.stride + min(stop, self.length)
        at = int(np.searchsorted(self.ends, begin, side="right"))
        while begin < end:
            first_of_shard = int(self.ends[at - 1]) if at else 0
            until = min(end, int(self.ends[at]))
            if until > begin:
                yield int(self.shards[at]), begin - first_of_shard, until - first_of_shard
            begin, at = until, at + 1

    def shuffled(self, stream: int, block: int) -> NDArray[np.int64]:
        """Where in its block each emitted sample of the block stands."""
        size = min(self.block, self.length - block * self.block)
        return _permutation(size, self.seed, self.epoch, 2, stream, block)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The global batch of a step of this epoch, as (shard, sample), stream by stream."""
        samples = []
        for stream in range(self.streams):
            for place in range(step * self.per_stream, (step + 1) * self.per_stream):
                block, offset = divmod(place, self.block)
                source = block * self.block + int(self.shuffled(stream, block)[offset])
                ((shard, first, _),) = self.segments(stream, source, source + 1)
                samples.append((shard, first))
        return samples


@lru_cache(maxsize=64)
def _permutation(size: int, *parts: int) -> NDArray[np.int64]:
    return seeding.permutation(size, *parts)
