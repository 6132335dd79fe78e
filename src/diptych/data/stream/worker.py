"""The stream: what one worker of one rank hands over, step by step. The cursor is the step number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass
from functools import lru_cache

from torch.utils.data import IterableDataset, get_worker_info

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.handover import hand_over
from diptych.data.stream.index import Index
from diptych.data.stream.order import BLOCK, Order
from diptych.data.stream.pairs import Pair
from diptych.data.stream.shards import Sample, Shelf
from diptych.data.stream.walk import Part, Walk, joined


@dataclass(frozen=True)
class Place:
    """Where this process stands among its peers."""

    rank: int = 0
    world: int = 1


class Stream(IterableDataset):
    """Yields one Part a step, from `start` up to `stop`, for the streams that this rank and worker own.

    pairs: (sample, seed) -> pair; memory: bytes to keep small shards; block: samples shuffled together
    whereabouts: two numbers a worker, the shard and sample that it opened last, for the rank's watchdog
    """

    def __init__(
        self,
        index: Index,
        pairs: Callable[[Sample, int], Pair],
        *,
        seed: int,
        batch_size: int,
        streams: int,
        start: int,
        stop: int,
        place: Place,
        memory: int,
        block: int = BLOCK,
        files: Files | None = None,
    ) -> None:
        self.index, self.pairs = index, pairs
        self.streams, self.start, self.stop, self.place = streams, start, stop, place
        self.memory, self.files = memory, files or Files()
        self.whereabouts: MutableSequence[int] = []
        first = Order(index, seed=seed, epoch=0, batch_size=batch_size, streams=streams, block=block)
        self.order = first.at
        self.steps_per_epoch, self.samples_per_epoch = first.steps, first.samples

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        if info is None:
            yield from self.parts(0, 1)
        else:
            for part in self.parts(info.id, info.num_workers):
                yield hand_over(part, info.num_workers, self.place.world)

    def parts(self, worker: int, workers: int) -> Iterator[Part]:
        """What worker `worker` of `workers` of this rank hands over."""
        share = self.streams // (self.place.world * workers)
        first = (self.place.rank * workers + worker) * share
        orders = lru_cache(maxsize=3)(self.order)  # one epoch is read into while another ends

        def opened(shard: int, sample: int) -> None:
            if self.whereabouts:
                self.whereabouts[2 * worker : 2 * worker + 2] = [shard, sample]

        shelf = Shelf(self.index, self.files, self.memory, opened)
        try:
            walks = [
                Walk(orders, stream, self.start, self.stop, shelf, self.pairs)
                for stream in range(first, first + share)
            ]
            for _ in range(self.start, self.stop):
                part = joined([walk.take() for walk in walks])
                part.retried = self.files.take_retries()
                yield part
        except UserError as error:  # a worker's exception would reach the user wrapped in a traceback
            yield Part(failure=str(error))
