"""The worker's side of the stream: the parts that one worker of one rank makes, step by step, and hands over.

The cursor is the step number. A part reaches the rank in shared memory, which may be too small. A worker that left
that to a queue would lose the part: the queue's thread prints an error, and the rank waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pair, stack
from diptych.data.stream.shards import Sample, Shelf
from diptych.data.stream.walk import Part, Walk
from diptych.launch.world import nodes

SHARED = Path("/dev/shm")  # where torch puts shared memory, on Linux
WAITING = 2  # parts that a worker makes ahead; a third is at the rank


@dataclass(frozen=True)
class Place:
    """This process's rank among all ranks."""

    rank: int = 0
    world: int = 1


class Stream(IterableDataset):
    """Yields one Part per step, from `start` up to `stop`, of the streams that this rank and worker own.

    order: of any epoch; pairs: (sample, seed) -> pair; memory: bytes for small shards that are kept
    whereabouts: two numbers per worker, the shard and sample that it opened last, for the rank's watchdog
    """

    def __init__(
        self,
        order: Order,
        pairs: Callable[[Sample, int], Pair],
        *,
        start: int,
        stop: int,
        place: Place,
        memory: int,
        files: Files | None = None,
    ) -> None:
        self.order, self.pairs = order, pairs
        self.start, self.stop, self.place = start, stop, place
        self.memory, self.files = memory, files or Files()
        self.whereabouts: MutableSequence[int] = []

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        if info is None:
            yield from self.parts(0, 1)
        else:
            for part in self.parts(info.id, info.num_workers):
                yield hand_over(part, info.num_workers, self.place.world)

    def parts(self, worker: int, workers: int) -> Iterator[Part]:
        """The parts of worker `worker` of this rank's `workers`."""
        share = self.order.streams // (self.place.world * workers)
        first = (self.place.rank * workers + worker) * share
        orders = lru_cache(maxsize=3)(self.order.at)  # the next epoch is read while one ends

        def opened(shard: int, sample: int) -> None:
            if self.whereabouts:
                self.whereabouts[2 * worker : 2 * worker + 2] = [shard, sample]

        shelf = Shelf(self.order.index, self.files, self.memory, opened)
        try:
            walks = [
                Walk(orders, stream, self.start, self.stop, shelf, self.pairs)
                for stream in range(first, first + share)
            ]
            for _ in range(self.start, self.stop):
                part = Part()
                pairs = [pair for walk in walks for pair in walk.take(part)]
                part.images, part.tokens, part.groups = stack(pairs)
                part.retried = self.files.take_retries()
                yield part
        except UserError as error:  # raised here, it would reach the user inside a worker's traceback
            yield Part(failure=str(error))


def hand_over(part: Part, workers: int, ranks: int) -> Part:
    """The part with its tensors in shared memory, or one that says why that failed. ranks: on all machines"""
    tensors = [tensor for tensor in (part.images, part.tokens) if isinstance(tensor, Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    here = workers * max(1, ranks // nodes())  # workers on this machine
    try:
        if SHARED.is_dir():  # check before the first part, not when some have filled the memory
            room = os.statvfs(SHARED)
            if room.f_blocks * room.f_frsize < WAITING * size * here:
                raise OSError("too small")
        for tensor in tensors:
            tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        return Part(failure=_too_small(size, here, str(error)))
    return part


def _too_small(size: int, workers: int, why: str) -> str:
    needed = (WAITING + 1) * size * workers
    room = os.statvfs(SHARED) if SHARED.is_dir() else None
    has = (
        f"{room.f_bavail * room.f_frsize:,} of its {room.f_blocks * room.f_frsize:,} bytes are free" if room else why
    )
    return (
        f"/dev/shm has no room for the workers' batches: {needed:,} bytes are needed, {WAITING + 1} parts of {size:,}"
        f" a worker, and {has}: make it larger (docker run --shm-size={-(-needed // 2**20)}m), or take"
        " data.workers=0, fewer workers or a smaller data.batch_size."
    )
