"""The LightningModule: two towers, a loss, an optimiser, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diptych import distributed
from diptych.batch import Batch, normalise
from diptych.towers.clip import CLIP

MAX_LOG_SCALE = math.log(100)  # paper, section 2.5: "clipped to prevent scaling the logits by more than 100"


class ContrastiveModule(L.LightningModule):
    """Trains a model of two towers with a contrastive loss.

    model: gives (image [B, D], text [B, D], both L2-normalised, scale []) for (images, tokens)
    loss: (image, text, scale) -> scalar; gathers over ranks by itself
    optimizer: model -> Optimizer
    schedule: (optimizer, steps) -> scheduler, stepped once a step
    steps: length of the run
    describe: what a checkpoint says of itself: plain data, enough to build the model again
    """

    def __init__(
        self,
        model: CLIP,
        loss: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        steps: int,
        describe: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self._optimizer, self._schedule, self.steps = optimizer, schedule, steps
        self.describe = describe or {}
        self.last_loss = torch.tensor(math.nan)  # of the last step, for the record
        self.gradient_norm: Tensor | None = None  # before clipping; None where nothing is clipped

    def configure_model(self) -> None:
        if self.trainer.world_size > 1:
            distributed.synchronise_batch_norm(self.model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = normalise(batch.images, self.model.mean, self.model.std)
        image, text, scale = self.model(images, batch.tokens)
        loss = self.loss(image, text, scale)
        self.last_loss = loss.detach()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of the whole gradient. Lightning's own refuses fused optimisers, for fp16's sake alone."""
        if gradient_clip_val is not None:
            self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.model.logit_scale.requires_grad:  # a frozen one stays as it is, to the last digit
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=MAX_LOG_SCALE)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.model)
        schedule = self._schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diptych"] = self.describe
