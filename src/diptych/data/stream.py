"""The stream: walks the order, reads shards, makes pairs, and hands each rank its share of every step.

The cursor is the step number. A bad sample is replaced by the next good one of its block, so what stands in
the batch depends on the data and the order alone; what was skipped travels with the batch and is counted.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diptych.batch import Batch
from diptych.data import seeding
from diptych.data.index import Index
from diptych.data.order import Order
from diptych.data.pairs import BadSample, stack
from diptych.data.shards import Sample, Shelf
from diptych.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where this process stands among its peers."""

    rank: int = 0
    world: int = 1


@dataclass
class Part:
    """What one worker hands over for one step: its streams' samples, or the reason why there are none."""

    images: Tensor | None = None
    tokens: Tensor | None = None
    seeds: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reason, shard) -> samples
    failure: str | None = None


class Stream(IterableDataset):
    """Yields one Part a step, from `start` up to `stop`, for the streams that this rank and worker own."""

    def __init__(
        self,
        index: Index,
        pairs: Callable[[Sample, int], tuple[Tensor, Tensor]],
        *,
        seed: int,
        batch_size: int,
        streams: int,
        start: int,
        stop: int,
        place: Place,
        memory: int,
    ) -> None:
        self.index, self.pairs, self.seed, self.batch_size = index, pairs, seed, batch_size
        self.streams, self.start, self.stop, self.place = streams, start, stop, place
        self.memory = memory
        self.steps_per_epoch = self._order(0).steps

    def _order(self, epoch: int) -> Order:
        return Order(self.index, seed=self.seed, epoch=epoch, batch_size=self.batch_size, streams=self.streams)

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        share = self.streams // (self.place.world * workers)
        first = (self.place.rank * workers + worker) * share
        shelf = Shelf(self.index, self.memory)
        try:
            step = self.start
            while step < self.stop:
                epoch, within = divmod(step, self.steps_per_epoch)
                order = self._order(epoch)
                owned = [_Walk(order, stream, within, shelf, self.pairs) for stream in range(first, first + share)]
                for _ in range(within, min(self.steps_per_epoch, within + self.stop - step)):
                    yield _joined([walk.take() for walk in owned])
                    step += 1
        except UserError as error:  # a worker's exception would reach the user wrapped in a traceback
            yield Part(failure=str(error))


class _Walk:
    """One stream of one epoch, from a step on."""

    def __init__(
        self, order: Order, stream: int, step: int, shelf: Shelf, pairs: Callable[..., tuple[Tensor, Tensor]]
    ) -> None:
        self.order, self.stream, self.shelf, self.pairs = order, stream, shelf, pairs
        self.place = step * order.per_stream
        self.block = -1
        self.held: list[tuple[int, int, Sample]] = []  # shard, number in the shard, content
        self.line = self._read_on(self.place // order.block * order.block)

    def _read_on(self, start: int) -> Iterator[tuple[int, int, Sample]]:
        for shard, first, last in self.order.segments(self.stream, start, self.order.length):
            for number, sample in enumerate(self.shelf.samples(shard, first, last), first):
                yield shard, number, sample

    def take(self) -> Part:
        """The next batch_size / K samples of the stream."""
        part, pairs = Part(), []
        for _ in range(self.order.per_stream):
            block, offset = divmod(self.place, self.order.block)
            if block != self.block:
                self.block, self.permuted = block, self.order.shuffled(self.stream, block)
                self.held = [next(self.line) for _ in range(len(self.permuted))]
            pairs.append(self._good(offset, part))
            self.place += 1
        part.images, part.tokens = stack(pairs)
        return part

    def _good(self, offset: int, part: Part) -> tuple[Tensor, Tensor]:
        """The pair at `offset` of the permuted block, or the next one after it (cyclically) that is good."""
        for ahead in range(len(self.permuted)):
            shard, number, sample = self.held[int(self.permuted[(offset + ahead) % len(self.permuted)])]
            seed = seeding.mix_one(self.order.seed, self.order.epoch, shard, number) >> 1
            name = self.shelf.index.shards[shard].name
            try:
                pair = self.pairs(sample, seed)
            except BadSample as error:
                part.skipped[str(error), name] += 1
                reason, key = error, sample["__key__"]
                continue
            part.seeds.append(seed)
            part.keys.append(f"{name}/{sample['__key__']}")
            return pair
        raise UserError(f"No sample of a whole block gives a pair; the last is {key} of shard {name}: {reason}.")


def _joined(parts: list[Part]) -> Part:
    whole = Part(
        images=torch.cat([part.images for part in parts if part.images is not None]),
        tokens=torch.cat([part.tokens for part in parts if part.tokens is not None]),
    )
    for part in parts:
        whole.seeds += part.seeds
        whole.keys += part.keys
        whole.skipped += part.skipped
        whole.failure = whole.failure or part.failure
    return whole


class Steps:
    """The rank's batches, one a step: its workers' parts joined in stream order, and what they skipped.

    skipped: reason -> shard -> count, so far; read: samples that stand in batches so far
    max_bad: the share of bad samples past which the run stops
    """

    def __init__(self, stream: Stream, workers: int, max_bad: float) -> None:
        self.stream, self.workers, self.max_bad = stream, workers, max_bad
        self.read = 0
        self.skipped: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        """Counted from step 0, as Lightning counts them, also after a resume."""
        return self.stream.stop

    def __iter__(self) -> Iterator[Batch]:
        # Not a plain fork: one of a process whose BLAS threads are running may hang.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        loader = DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            multiprocessing_context=context if self.workers else None,
            worker_init_fn=_end_with_parent,
        )
        parts = iter(loader)
        for step in range(self.stream.start, self.stream.stop):
            # DataLoader asks its workers in turn, so the next `workers` parts are this step's.
            begin = time.perf_counter()
            whole = _checked([next(parts) for _ in range(max(1, self.workers))])
            wait = time.perf_counter() - begin
            self._count(whole)
            assert whole.images is not None and whole.tokens is not None
            yield Batch(whole.images, whole.tokens, torch.tensor(whole.seeds), whole.keys, step, wait)

    def _count(self, part: Part) -> None:
        self.read += len(part.keys)
        for (reason, shard), count in part.skipped.items():
            by_shard = self.skipped.setdefault(reason, {})
            by_shard[shard] = by_shard.get(shard, 0) + count
        bad = sum(sum(by_shard.values()) for by_shard in self.skipped.values())
        # Against at least an epoch, so that one bad sample in the first batch does not stop a long run.
        if bad > self.max_bad * max(self.read, self.stream.index.samples // self.stream.place.world):
            reason = max(self.skipped, key=lambda name: sum(self.skipped[name].values()))
            raise UserError(
                f"{bad} bad samples of {self.read + bad} read are more than data.max_bad={self.max_bad} allows;"
                f" most often: {reason}, in shard {max(self.skipped[reason], key=self.skipped[reason].__getitem__)}."
                " Mend the shards or raise data.max_bad."
            )


def _end_with_parent(worker: int) -> None:
    """A killed rank leaves no worker behind: torch's own watchdog sees the fork server, which stays."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _checked(parts: list[Part]) -> Part:
    for part in parts:
        if part.failure:
            raise UserError(part.failure)
    return _joined(parts) if len(parts) > 1 else parts[0]
