"""The rank's side of the stream: its workers' parts become batches; what is skipped, retried or late is counted."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader

from diptych.base.batch import Batch
from diptych.base.errors import Stopped, UserError
from diptych.base.terminal import say
from diptych.data.stream.walk import Part
from diptych.data.stream.worker import Stream
from diptych.launch.children import end_with_parent, fork_server

Counted = dict[str, dict[str, int]]  # reason -> shard -> samples


class Steps:
    """The rank's batches, one per step: its workers' parts joined in stream order.

    max_bad: largest share of bad samples; above it the run stops
    stall: seconds of waiting after which a line says for which worker
    waiting: whether the rank waits for a batch now, so that a signal need not wait for the end of a step
    read: samples in batches so far; skipped, retried, stalled: counts so far
    """

    def __init__(self, stream: Stream, workers: int, max_bad: float, stall: float = 60.0) -> None:
        self.stream, self.workers, self.max_bad, self.stall = stream, workers, max_bad, stall
        self.waiting = False
        self.read = 0
        self.skipped: Counted = {}
        self.retried: Counter[str] = Counter()
        self.stalled: Counter[str] = Counter()

    def __len__(self) -> int:
        """The number of steps from step 0, which Lightning expects also after a resume."""
        return self.stream.stop

    def __iter__(self) -> Iterator[Batch]:
        parts = self._parts()
        for step in range(self.stream.start, self.stream.stop):
            begin = time.perf_counter()
            whole = joined([self._next(parts, worker) for worker in range(max(1, self.workers))])
            wait = time.perf_counter() - begin
            self._count(whole)
            assert whole.images is not None and whole.tokens is not None
            groups = torch.tensor(whole.groups) if whole.groups else None
            yield Batch(whole.images, whole.tokens, torch.tensor(whole.seeds), whole.keys, step, wait, groups)

    def _parts(self) -> Iterator[Part]:
        context = fork_server(__name__)
        self.stream.whereabouts = context.RawArray("q", [-1] * 2 * max(1, self.workers))
        loader = DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            multiprocessing_context=context if self.workers else None,
            worker_init_fn=end_with_parent,
            generator=torch.Generator(),  # its own: a draw from the global one would change the training
        )
        try:
            return iter(loader)
        except OSError as error:  # their queues have locks, which are files in /dev/shm
            raise UserError(
                f"data.workers={self.workers} can't be started ({error.strerror or error}): check the free space in"
                " /dev/shm and `ulimit -a`, or take data.workers=0."
            ) from error

    def _next(self, parts: Iterator[Part], worker: int) -> Part:
        """The next part of a worker. DataLoader asks its workers in turn, so `workers` parts in a row are one
        step."""
        with Watch(self.stall, lambda waited: self._say(worker, waited)):
            self.waiting = True
            try:
                part = self._received(parts)
            finally:
                self.waiting = False
        if part.failure:
            raise UserError(part.failure)
        return part

    def _received(self, parts: Iterator[Part]) -> Part:
        try:
            return next(parts)
        except (Stopped, KeyboardInterrupt):
            for worker in multiprocessing.active_children():
                worker.kill()  # it may hang, and so would whoever waits for its end
            raise
        except (RuntimeError, OSError, EOFError) as error:
            # A dead worker shows as torch's RuntimeError or as a broken pipe; "Caught" begins what a worker raised.
            gone = "DataLoader worker" in str(error) or not isinstance(error, RuntimeError)
            if "Caught" in str(error) or not gone:
                raise
            raise UserError(
                f"A worker of rank {self.stream.place.rank} was killed, perhaps because memory ran out: resume the"
                " run, with fewer data.workers if that happens again."
            ) from error

    def _say(self, worker: int, waited: float) -> None:
        names = self.stream.order.index.names
        shard, sample = self.stream.whereabouts[2 * worker : 2 * worker + 2]
        reader = f"worker {worker}" if self.workers else "its own reading"
        at = f"in shard {names[shard]}, from sample {sample} on" if shard >= 0 else "at its start"
        self.stalled[names[shard] if shard >= 0 else "start"] += 1
        rank = self.stream.place.rank
        say(f"diptych: rank {rank} has waited {waited:.3g} s for {reader}, {at}.", file=sys.stderr)

    def _count(self, part: Part) -> None:
        self.read += len(part.keys)
        self.retried += part.retried
        for (reason, shard), count in part.skipped.items():
            by_shard = self.skipped.setdefault(reason, {})
            by_shard[shard] = by_shard.get(shard, 0) + count
        # A rank knows its own bad samples alone: it stops only if they are too many for all ranks. `Counts` sums up.
        read = self.read * self.stream.place.world
        refuse_too_many(self.skipped, read, self.max_bad, self.stream.order.samples)


def joined(parts: list[Part]) -> Part:
    """The parts of one step as one, in their order."""
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


def refuse_too_many(skipped: Counted, read: int, max_bad: float, samples_per_epoch: int) -> None:
    """Raise UserError if more than the share `max_bad` of samples is bad.

    The share is of at least one epoch, so that one bad sample in the first batch does not stop a long run.
    """
    bad = sum(sum(by_shard.values()) for by_shard in skipped.values())
    if bad > max_bad * max(read, samples_per_epoch):
        reason = max(skipped, key=lambda name: sum(skipped[name].values()))
        raise UserError(
            f"{bad} bad samples of {max(read, bad)} read are more than data.max_bad={max_bad} allows;"
            f" most often: {reason}, in shard {max(skipped[reason], key=skipped[reason].__getitem__)}."
            " Fix the shards or raise data.max_bad."
        )


class Watch:
    """A context that calls `say(seconds waited)` after `seconds`, and again each time the wait has doubled."""

    def __init__(self, seconds: float, say: Callable[[float], None]) -> None:
        self.seconds, self.say = seconds, say
        self.over = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        pause = waited = self.seconds
        while not self.over.wait(pause):
            self.say(waited)
            pause, waited = waited, 2 * waited

    def __exit__(self, *error: object) -> None:
        self.over.set()
