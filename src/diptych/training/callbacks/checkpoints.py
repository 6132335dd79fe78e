"""Checkpoints by step, written under another name and renamed: `last.ckpt` is whole or is not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L

from diptych.training.sharded import CheckpointFolders, remove, replace


class Checkpoints(L.Callback):
    """Writes `step=N.ckpt` every `every` steps and at the end, keeps the newest `keep`, and names two of them:
    `last.ckpt`, and `best.ckpt` where a validation reported a better number at that step.

    folder: where; every: steps between two; keep: how many step files stay
    """

    def __init__(self, folder: str | Path, every: int, keep: int = 2) -> None:
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(trainer.strategy.checkpoint_io, CheckpointFolders):
            trainer.strategy.checkpoint_io.wait()

    def save(self, trainer: L.Trainer, *names: str) -> None:
        """All ranks call it; rank 0 writes, or all do."""
        file = self.folder / f"step={trainer.global_step}.ckpt"
        if isinstance(trainer.strategy.checkpoint_io, CheckpointFolders):
            trainer.save_checkpoint(file, storage_options=["last.ckpt", *names])
            return
        partial = self.folder / f".step={trainer.global_step}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            replace(partial, file)
            for name in ("last.ckpt", *names):
                _name(file, self.folder / name)
            self._drop_old()

    def improved(self, trainer: L.Trainer, value: float) -> None:
        """Called by a validation: keep this step's weights as `best.ckpt` if `value` is the highest yet."""
        if self.best is None or value > self.best:
            self.best = value
            self.save(trainer, "best.ckpt")

    def _drop_old(self) -> None:
        files = sorted(self.folder.glob("step=*.ckpt"), key=lambda file: int(file.stem.removeprefix("step=")))
        for file in files[: -self.keep]:
            remove(file)


def _name(file: Path, name: Path) -> None:
    """Give `file` a second name at once: there is no moment without a whole file under it."""
    partial = name.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    os.link(file, partial)
    partial.replace(name)
