"""The numbers of a run: measured every n steps, on all ranks, and handed to every logger."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from diptych.base.batch import Batch
from diptych.launch import distributed
from diptych.training.callbacks.gradients import Gradients
from diptych.training.module import ContrastiveModule


class Record(L.Callback):
    """Logs loss, logit scale, learning rate, pairs/s, the share of time spent waiting for data, and what `Gradients`
    measured.

    every: steps between two lines; the first and the last step are always logged
    `latest` holds the newest line, for the progress bar.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.latest: dict[str, float] = {}
        self._pairs = 0
        self._waited = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()
        self._gradients = next(c for c in trainer.callbacks if isinstance(c, Gradients))  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        self._pairs += len(batch) * trainer.world_size
        self._waited += batch.wait
        step = trainer.global_step
        if step % self.every and step not in (1, trainer.max_steps):
            return
        loss = distributed.mean_over_ranks(pl_module.last_loss)
        wait = distributed.mean_over_ranks(torch.tensor(self._waited, device=loss.device))
        seconds = time.perf_counter() - self._since
        self.latest = {
            "train/loss": loss.item(),
            "train/logit_scale": pl_module.model.logit_scale.exp().item(),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/pairs_per_second": self._pairs / seconds,
            "train/data_wait": wait.item() / seconds,
        }
        self.latest |= {f"train/{name}": number for name, number in self._gradients.numbers(trainer).items()}
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step)
        self._pairs, self._waited, self._since = 0, 0.0, time.perf_counter()
