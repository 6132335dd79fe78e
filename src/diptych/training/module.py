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

from diptych.base.batch import Batch
from diptych.launch import distributed
from diptych.model.patches import kept_patches
from diptych.towers.clip import CLIP
from diptych.training.accumulation import features
from diptych.training.gradients import with_nan_if_not_finite

MAX_LOG_SCALE = math.log(100)  # paper, section 2.5: "clipped to prevent scaling the logits by more than 100"


class ContrastiveModule(L.LightningModule):
    """Trains a model of two towers with a contrastive loss.

    model: two towers and a logit scale
    loss: (image [B, D], text [B, D], both L2-normalised, scale []) -> scalar; gathers over ranks by itself. It gets
        the batch's groups [B] as a fourth where the data has any
    optimizer: (model, loss) -> Optimizer; a loss may have parameters, which take no weight decay
    schedule: (optimizer, steps) -> scheduler, stepped once a step
    steps: length of the run
    describe: what a checkpoint says of itself: plain data, enough to build the model again
    accumulate: micro-batches that a rank's rows are encoded in; loss and gradient are the whole batch's
    dtype: what the towers compute in, where weights or autocast don't say (`precision.tower_dtype`)
    """

    def __init__(
        self,
        model: CLIP,
        loss: nn.Module,
        optimizer: Callable[[nn.Module, nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        steps: int,
        describe: dict[str, Any] | None = None,
        accumulate: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        model.any_size = True  # as the augmentation gives them
        self._optimizer, self._schedule, self.steps = optimizer, schedule, steps
        self.describe = describe or {}
        self.last_loss = torch.tensor(math.nan)  # of the last step, for the record
        self.last_features: tuple[Tensor, Tensor] | None = None  # and whose they were, where they are not finite
        self.accumulate, self.tower_dtype = accumulate, dtype

    def configure_model(self) -> None:
        # Lightning does it after a checkpoint is loaded, when float64 weights were rounded to float32 ones.
        self.trainer.precision_plugin.convert_module(self)
        if self.trainer.world_size > 1:
            distributed.synchronise_batch_norm(self.model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        kept = kept_patches(self.model, batch.seeds, batch.images)
        image, text = features(self.model, batch.images, batch.tokens, self.accumulate, self.tower_dtype, kept)
        groups = () if batch.groups is None else (batch.groups,)
        loss = self.loss(image, text, self.model.logit_scale.exp(), *groups)
        self.last_loss, self.last_features = loss.detach(), (image.detach(), text.detach())
        return with_nan_if_not_finite(loss)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.model.logit_scale.requires_grad:  # a frozen one stays as it is, to the last digit
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=MAX_LOG_SCALE)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.model, self.loss)
        schedule = self._schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that became longer: the batch that was its last is not any more."""
        if checkpoint["global_step"] < self.steps:
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diptych"] = self.describe
