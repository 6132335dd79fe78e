"""The LightningDataModule over a stream of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lightning as L
from torch import Tensor

from diptych.batch import Batch
from diptych.data.evalset import EvalSet
from diptych.data.index import open_index
from diptych.data.order import Order
from diptych.data.pairs import Pairs
from diptych.data.stream import Place, Steps, Stream
from diptych.errors import UserError


class PairData(L.LightningDataModule):
    """Image–text pairs from webdataset shards; step s is the same batch on any ranks × workers.

    shards: an index.json, a brace pattern of tars, or a list of either
    image: (encoded bytes, seed) -> uint8 [3, H, W]; tokenizer: texts -> int64 [N, L]; see `Pairs`
    batch_size: global, over all ranks
    streams: K canonical streams, a multiple of ranks × workers
    workers: processes a rank; 0 reads in the rank itself
    max_bad: share of bad samples past which the run stops
    memory: megabytes a worker may use to keep small shards
    augment: (Batch, progress 0–1) -> Batch, on the device; None for the crop alone
    evaluate: labelled sets for validation and the report, if any
    Raises UserError for what can't be read or divided, before any sample is read.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        image: Callable[[bytes, int], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        *,
        batch_size: int,
        streams: int,
        seed: int,
        steps: int,
        workers: int = 0,
        max_bad: float = 0.01,
        memory: int = 64,
        augment: Callable[[Batch, float], Batch] | None = None,
        evaluate: Sequence[EvalSet] | None = None,
    ) -> None:
        super().__init__()
        self.pairs = Pairs(image, tokenizer)
        self.batch_size, self.streams, self.seed = batch_size, streams, seed
        self.steps, self.workers, self.max_bad, self.memory = steps, workers, max_bad, memory
        self.augment, self.evaluate = augment, list(evaluate or ())
        self.index = open_index(shards)
        self.order = Order(self.index, seed=seed, epoch=0, batch_size=batch_size, streams=streams)
        self.start = 0
        self.batches: Steps | None = None

    def train_dataloader(self) -> Steps:
        assert self.trainer is not None
        place = Place(self.trainer.global_rank, self.trainer.world_size)
        check_layout(self.batch_size, self.streams, place.world, self.workers)
        stream = Stream(
            self.index,
            self.pairs,
            seed=self.seed,
            batch_size=self.batch_size,
            streams=self.streams,
            start=self.start,
            stop=self.steps,
            place=place,
            memory=self.memory * 2**20,
        )
        self.batches = Steps(stream, self.workers, self.max_bad)
        return self.batches

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self.augment(batch, batch.step / self.steps) if self.augment else batch


def check_layout(batch_size: int, streams: int, ranks: int, workers: int) -> None:
    """Refuse, in one sentence, a batch or streams that these ranks and workers can't share equally."""
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
