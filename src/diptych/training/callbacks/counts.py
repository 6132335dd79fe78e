"""What was read and what was skipped, over all ranks and over resumes, in `samples.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from diptych import distributed


class Counts(L.Callback):
    """Keeps `samples.json`: {"read": n, "skipped": {reason: {shard: count}}}; part of every checkpoint."""

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._before: dict[str, Any] = {"read": 0, "skipped": {}}

    def total(self, trainer: L.Trainer) -> dict[str, Any]:
        """All ranks' counts, and those from before a resume; every rank must call it."""
        batches = trainer.datamodule.batches  # type: ignore[attr-defined]
        mine = {"read": batches.read, "skipped": batches.skipped} if batches else {"read": 0, "skipped": {}}
        return added([self._before, *distributed.gather_objects(mine)])

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["samples"] = total = self.total(trainer)
        if trainer.is_global_zero:
            self._write(total)
            for logger in trainer.loggers:
                skipped = sum(sum(by_shard.values()) for by_shard in total["skipped"].values())
                logger.log_metrics({"data/read": total["read"], "data/skipped": skipped}, trainer.global_step)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._before = checkpoint["samples"]

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        batches = getattr(trainer.datamodule, "batches", None)  # type: ignore[attr-defined]
        if batches and trainer.world_size == 1:  # other ranks may be gone: no collective here
            self._write(added([self._before, {"read": batches.read, "skipped": batches.skipped}]))

    def _write(self, total: dict[str, Any]) -> None:
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(total, indent=1) + "\n")
        partial.replace(self.file)


def added(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several counts."""
    skipped: dict[str, dict[str, int]] = {}
    for count in counts:
        for reason, by_shard in count["skipped"].items():
            for shard, number in by_shard.items():
                into = skipped.setdefault(reason, {})
                into[shard] = into.get(shard, 0) + number
    return {"read": sum(count["read"] for count in counts), "skipped": skipped}
