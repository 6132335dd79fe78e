"""What a run has read, over all ranks and resumes: samples, in `samples.json`, and the words of their captions."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.terminal import complain
from diptych.data.stream.index import Index
from diptych.data.stream.steps import Steps, refuse_too_many
from diptych.data.text.seen_words import record_of
from diptych.data.text.tokenizer import Tokenizer
from diptych.launch import distributed

NOTHING: dict[str, Any] = {"read": 0, "skipped": {}}
EVENTS = ("retried", "stalled")


class Counts(L.Callback):
    """Writes `samples.json`, and stores the counts in every checkpoint for a resume: {"read": n, "skipped": {reason:
    {shard: count}}}, and where there are any, "retried": {address: times}, "stalled": {shard: times}, and "left_out":
    {reason: {shard: times}} for entries of the tars that belong to no sample.

    every: steps between two sums over all ranks; more bad samples than `data.max_bad` allows stop the run there
    """

    def __init__(self, file: str | Path, every: int) -> None:
        self.file, self.every = Path(file), every
        self._before = NOTHING
        self._left_out: dict[str, dict[str, int]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        index = getattr(trainer.datamodule, "index", None)  # type: ignore[attr-defined]
        if isinstance(index, Index):
            self._left_out = index.not_taken()
            for warning in index.warnings() if trainer.is_global_zero else ():
                complain(f"{warning}.")

    def total(self, trainer: L.Trainer) -> dict[str, Any]:
        """All ranks' counts plus those from before a resume; every rank must call this."""
        return added([self._before, *distributed.gather_objects(_counts(_batches(trainer)))])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._publish(trainer, self.total(trainer))

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["samples"] = total = self.total(trainer)
        self._publish(trainer, total)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._before = checkpoint["samples"]

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.world_size > 1:  # other ranks may have ended: no collective here
            return
        counts = added([self._before, _counts(_batches(trainer))])
        if counts["read"]:  # otherwise the run has not started, and its folder is removed
            self._write(counts)

    def _publish(self, trainer: L.Trainer, total: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            self._write(total)
            sums = {f"data/skipped/{reason}": sum(shards.values()) for reason, shards in total["skipped"].items()}
            metrics = {"data/read": total["read"], "data/skipped": sum(sums.values()), **sums}
            metrics |= {f"data/{name}": sum(total[name].values()) for name in EVENTS if name in total}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, trainer.global_step)
        if batches := _batches(trainer):
            refuse_too_many(total["skipped"], total["read"], batches.max_bad, batches.stream.order.samples)

    def _write(self, total: dict[str, Any]) -> None:
        with contextlib.suppress(UserError):  # a full disk: the next write has these counts, too
            write_json(self.file, total | ({"left_out": self._left_out} if self._left_out else {}))


def _batches(trainer: L.Trainer) -> Steps | None:
    return getattr(trainer.datamodule, "batches", None)  # type: ignore[attr-defined]


def _counts(batches: Steps | None) -> dict[str, Any]:
    if batches is None:
        return NOTHING
    return {"read": batches.read, "skipped": batches.skipped, "retried": batches.retried, "stalled": batches.stalled}


def added(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several counts, as plain data; events that never happened are left out."""
    skipped: dict[str, Counter[str]] = {}
    events: dict[str, Counter[str]] = {name: Counter() for name in EVENTS}
    for count in counts:
        for reason, by_shard in count["skipped"].items():
            skipped.setdefault(reason, Counter()).update(by_shard)
        for name, times in events.items():
            times.update(count.get(name, {}))
    return {
        "read": sum(count["read"] for count in counts),
        "skipped": {reason: dict(by_shard) for reason, by_shard in skipped.items()},
        **{name: dict(times) for name, times in events.items() if times},
    }


class Words(L.Callback):
    """Counts the words of the run's first captions and stores them in every checkpoint (`describe["words"]`), so that
    an evaluation can warn of prompts with words that the model was not trained on.

    captions: the most captions that are counted, over all ranks; in a large set they contain the words of any prompt
    """

    def __init__(self, captions: int) -> None:
        self.captions = captions
        self.counts: Counter[str] = Counter()
        self.read = 0  # captions of all ranks, with those from before a resume
        self._before: dict[str, Any] = {}
        self._texts: dict[tuple[int, ...], str] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        tokenizer = trainer.datamodule.pairs.tokenizer  # type: ignore[attr-defined]
        if self.read >= self.captions or not isinstance(tokenizer, Tokenizer):
            return
        self.read += len(batch) * trainer.world_size
        for ids in tokenizer.words(batch.tokens):
            if ids not in self._texts:
                self._texts[ids] = tokenizer.decode(ids)
            self.counts[self._texts[ids]] += 1

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """All ranks call this."""
        if not self.read:
            return
        total = sum(distributed.gather_objects(self.counts), Counter[str]())
        record = self._before
        if total:
            record = record_of(total + Counter(record.get("words", "").split()), self.read)
            record["distinct"] = max(record["distinct"], self._before.get("distinct", 0))
        pl_module.describe = {**pl_module.describe, "words": record}  # type: ignore[assignment, dict-item]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._before = checkpoint["diptych"].get("words") or {}
        self.read = self._before.get("captions", 0)
