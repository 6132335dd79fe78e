"""What was read, skipped, tried again and waited for, over all ranks and over resumes, in `samples.json`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import lightning as L

from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.terminal import complain
from diptych.data.stream.index import Index
from diptych.data.stream.steps import Steps, refuse_too_many
from diptych.launch import distributed

NOTHING: dict[str, Any] = {"read": 0, "skipped": {}}
EVENTS = ("retried", "stalled")


class Counts(L.Callback):
    """Keeps `samples.json`, and what of it came before in every checkpoint: {"read": n, "skipped": {reason: {shard:
    count}}}, and where there was any, "retried": {address: times}, "stalled": {shard: times}, and "left_out":
    {reason: {shard: times}} of what the tars hold that is part of no sample.

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
        """All ranks' counts, and those from before a resume; every rank must call it."""
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
        if trainer.world_size > 1:  # other ranks may be gone: no collective here
            return
        counts = added([self._before, _counts(_batches(trainer))])
        if counts["read"]:  # else the run has not begun, and its folder goes
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
        with contextlib.suppress(UserError):  # a full disk: the next time it says this too
            write_json(self.file, total | ({"left_out": self._left_out} if self._left_out else {}))


def _batches(trainer: L.Trainer) -> Steps | None:
    return getattr(trainer.datamodule, "batches", None)  # type: ignore[attr-defined]


def _counts(batches: Steps | None) -> dict[str, Any]:
    if batches is None:
        return NOTHING
    events = {"retried": dict(batches.retried), "stalled": dict(batches.stalled)}
    return {"read": batches.read, "skipped": batches.skipped} | {name: of for name, of in events.items() if of}


def added(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several counts."""
    skipped: dict[str, dict[str, int]] = {}
    for count in counts:
        for reason, by_shard in count["skipped"].items():
            skipped[reason] = _sum([skipped.get(reason, {}), by_shard])
    events = {name: _sum([count.get(name, {}) for count in counts]) for name in EVENTS}
    return {"read": sum(count["read"] for count in counts), "skipped": skipped} | {
        name: of for name, of in events.items() if of
    }


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
