"""The LightningDataModule over a stream of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.base.quantities import BelowOne, Count, Positive, Whole
from diptych.data.io.files import Files
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.held_out import AUTO, check, held_out, hold_out
from diptych.data.stream import identity
from diptych.data.stream.index import open_index, open_sources
from diptych.data.stream.order import BLOCK, Order, left_out_of_all
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream


class PairData(L.LightningDataModule):
    """Image–text pairs from webdataset shards. Step s is the same batch on any number of ranks and workers.

    shards: an index.json, a pattern of tars (braces, globs), a folder of them, or a list of these; or
    sources: several such sets, {name: {"shards": …, "weight": how often an epoch takes each sample}}
    image: (encoded bytes, seed) -> uint8 [3, H, W]; tokenizer: texts -> int64 [N, L]; groups, captions: see `Pairs`
    batch_size: global, over all ranks
    streams: K canonical streams, a multiple of ranks × workers
    block: samples of a stream that are shuffled together; each stream holds about so many, encoded
    workers: processes per rank; 0: the rank reads by itself
    max_bad: largest share of bad samples; above it the run stops
    memory: megabytes per worker for small shards that are kept
    stall: seconds of waiting for a worker after which a line says for which, and where it reads
    files: how addresses are opened; allow_pipe: whether `pipe:COMMAND` may run a program
    augment: (Batch, progress 0–1) -> Batch, on the device; None: only the crop
    evaluate: labelled sets for validation and the report, if any
    validation: number of pairs to hold out of training, chosen by a hash of their keys, or `auto`: see `hold_out`
    Raises UserError for what can't be read or divided, before any sample is read.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None,
        image: Callable[[bytes, int], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        *,
        batch_size: Count,
        streams: Count,
        seed: Whole,
        steps: Count,
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        block: Count = BLOCK,
        workers: Whole = 0,
        max_bad: BelowOne = 0.01,
        memory: Whole = 64,
        stall: Positive = 60.0,
        files: Files | None = None,
        allow_pipe: bool = False,
        groups: str | None = None,
        captions: str | None = None,
        augment: Callable[[Batch, float], Batch] | None = None,
        evaluate: Sequence[EvalSet] | None = None,
        validation: int | str = 0,
    ) -> None:
        super().__init__()
        self.pairs = Pairs(image, tokenizer, groups, captions)
        self.batch_size, self.steps, self.workers = batch_size, steps, workers
        self.max_bad, self.memory, self.stall = max_bad, memory, stall
        self.augment, self.evaluate = augment, list(evaluate or ())
        self.files = files or Files()
        self.files.allow_pipe = allow_pipe
        if sources and shards:
            raise UserError("data.shards and data.sources both name what to train on: give one, the other null.")
        if sources:
            whole = open_sources(sources, self.files, max_bad)
        elif shards:
            whole = open_index(shards, self.files, max_bad=max_bad)
        else:
            raise UserError(
                "data.shards must be given: an index.json, or a pattern such as 'shards/{000000..000999}.tar'."
            )
        layout = {"seed": seed, "epoch": 0, "batch_size": batch_size, "streams": streams, "block": block}
        check(validation)
        self.index, self.told = hold_out(whole, validation, self.files)
        try:
            self.order = Order(self.index, **layout)
        except UserError:
            if validation != AUTO or not self.index.held:
                raise
            self.index, self.told = whole, "no pair is held out for validation: the others would fill no batch."
            self.order = Order(whole, **layout)
        self.held_out = held_out(self.index, self.files, captions, groups)
        if self.held_out and not self.held_out.evalset.items:
            self.told += " None of them gives a pair."
            self.held_out = None
        self.start = 0
        self.batches: Steps | None = None

    def describe(self) -> dict[str, Any]:
        """What a checkpoint stores about the data, see `diptych.data.stream.identity`."""
        return identity.describe(self.order, self.files)

    def left_out_of_all(self, steps: int) -> int | None:
        """The number of samples that all whole epochs of so many steps leave out; None without a whole epoch, or with
        weights."""
        whole = steps // self.order.steps
        if not whole or any(shard.weight != 1 for shard in self.index.shards):
            return None
        return left_out_of_all(map(self.order.at, range(whole)))

    def train_dataloader(self) -> Steps:
        assert self.trainer is not None
        place = Place(self.trainer.global_rank, self.trainer.world_size)
        check_layout(self.batch_size, self.order.streams, place.world, self.workers)
        stream = Stream(
            self.order,
            self.pairs,
            start=self.start,
            stop=self.steps,
            place=place,
            memory=self.memory * 2**20,
            files=self.files,
        )
        self.batches = Steps(stream, self.workers, self.max_bad, self.stall)
        return self.batches

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self.augment(batch, batch.step / self.steps) if self.augment else batch


def check_layout(batch_size: int, streams: int, ranks: int, workers: int) -> None:
    """Raise UserError for a batch or streams that these ranks and workers can't share equally."""
    if batch_size % ranks:
        near = sorted({max(1, batch_size // ranks) * ranks, (batch_size // ranks + 1) * ranks})
        raise UserError(
            f"data.batch_size={batch_size} can't be divided over trainer.devices={ranks} ranks:"
            f" take {' or '.join(map(str, near))} (with data.streams a multiple of {ranks})."
        )
    readers = ranks * max(1, workers)
    if streams % readers:
        raise UserError(
            f"data.streams={streams} can't be divided over {ranks} ranks × {max(1, workers)} workers:"
            f" take data.streams={readers * max(1, round(streams / readers))}, or other workers."
        )
