"""Pixels that are not finite, on one rank, at chosen steps: a callback for a run's config."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from diptych.base.batch import Batch


class Poison(L.Callback):
    """steps: from 1; rank: whose pixels"""

    def __init__(self, steps: list[int], rank: int) -> None:
        self.steps, self.rank = steps, rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step + 1 in self.steps and trainer.global_rank == self.rank:
            batch.images = torch.full_like(batch.images, torch.nan, dtype=torch.float32)
