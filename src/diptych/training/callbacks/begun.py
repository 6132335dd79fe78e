"""The line that names a run's folder, printed once there is a run: its first batch is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from diptych.base.terminal import say


class Begun(L.Callback):
    """Until the first batch a mistake in data or config may end the run, and its folder goes: it is not named yet."""

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir: str | Path | None = run_dir

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.run_dir is not None and trainer.is_global_zero:
            say(f"run: {self.run_dir}")
        self.run_dir = None
