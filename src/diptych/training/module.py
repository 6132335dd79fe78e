"""The LightningModule: two towers, a loss and an optimiser."""

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

MAX_LOG_SCALE = math.log(100)  # paper, section 2.5: "clipped to prevent scaling the logits by more than 100"


class ContrastiveModule(L.LightningModule):
    """Trains a model of two towers with a contrastive loss.

    model: two towers and a logit scale
    loss: (image [B, D], text [B, D], both L2-normalised, scale []) -> scalar; it gathers over ranks itself. Its
        fourth argument is the batch's groups [B], if the data has groups
    optimizer: (model, loss) -> Optimizer; a loss may have parameters, which get no weight decay
    schedule: (optimizer, steps) -> scheduler, which advances once per step
    steps: length of the run
    describe: stored in every checkpoint: plain data, enough to build the model again
    accumulate: number of micro-batches in which a rank's rows are encoded; loss and gradient are the whole batch's
    dtype: in which the towers compute; None where the weights' type or autocast decides (`precision.tower_dtype`)
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
        model.any_size = True  # the augmentation chooses the images' size
        self._optimizer, self._schedule, self.steps = optimizer, schedule, steps
        self.describe = describe or {}
        self.last_loss = torch.tensor(math.nan)  # of the last step, for the log
        self.last_features: tuple[Tensor, Tensor] | None = None  # of the last step, to find faulty samples
        self.accumulate, self.tower_dtype = accumulate, dtype

    def configure_model(self) -> None:
        # Lightning itself converts after it has loaded a checkpoint, which would round float64 weights to float32.
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
        if self.model.logit_scale.requires_grad:  # a frozen scale must not change at all
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=MAX_LOG_SCALE)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.model, self.loss)
        schedule = self._schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """For a run that became longer: its last batch so far is no longer the last one."""
        if checkpoint["global_step"] < self.steps:
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diptych"] = self.describe


def with_nan_if_not_finite(loss: Tensor) -> Tensor:
    """The loss [], unchanged; but where it is not finite, its gradient is NaN everywhere.

    An infinite loss can have a finite gradient. With NaN, an error on one rank reaches all ranks with the gradients
    that they exchange anyway, and all decide alike.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


def compile_towers(model: CLIP) -> None:
    """Compile both towers of `model` in place, each when it is first called. Names in checkpoints stay the same.

    The text tower's code reads from the tokens how long the captions are, on the host, which a graph can't contain.
    So only its blocks are compiled, once for captions of any length: the length is a dynamic size there.
    """
    model.image.compile()
    getattr(model.text, "transformer", model.text).compile(dynamic=True)
