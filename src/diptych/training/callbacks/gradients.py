"""Gradients between backward pass and step: measured by tower, refused where they are not finite, clipped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.launch import distributed
from diptych.training.accumulation import batch_norms
from diptych.training.gradients import gradient_norms
from diptych.training.module import ContrastiveModule
from diptych.training.sharded import CheckpointIO


class Gradients(L.Callback):
    """Clips the whole gradient to the norm `clip` (None: doesn't); stops at steps that are not finite, or skips them.

    limit: how many steps in a row may be skipped; with 0 the first one stops the run. A skipped step changes no
        weight, no running statistic and no optimiser state; the batch, the schedule and the step's number go on
    folder: gets `step=N.json` for each such step: what was not finite, the keys of samples whose features are not, by
        tower, and the keys of each rank's batch

    norms: of the gradient at hand, before clipping, by `gradient_norms`
    skipped: steps skipped so far; scaled_down: steps at which float16's scaler, seeking its scale, took a smaller one
        and no step, which is not held against anyone
    """

    def __init__(self, clip: float | None, limit: int, folder: Path) -> None:
        self.clip, self.limit, self.folder = clip, limit, folder
        self.norms: dict[str, Tensor] = {}
        self.skipped = self.scaled_down = self._in_a_row = 0
        self._batch: Batch | None = None
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._unseen: _Step | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "scaled_down": self.scaled_down, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.scaled_down = state_dict["skipped"], state_dict["scaled_down"]
        self._in_a_row = state_dict["in_a_row"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = batch
        if self.limit:
            buffers = [buffer for norm in batch_norms(pl_module) for buffer in norm.buffers()]
            self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        assert isinstance(pl_module, ContrastiveModule) and self._batch is not None
        self._settle(trainer)
        self.norms = gradient_norms(pl_module)
        assert pl_module.last_features is not None
        step = trainer.global_step + 1
        self._unseen = _Step(step, self._batch.keys, pl_module.last_loss, pl_module.last_features, self.norms)
        # To skip, the host must know now, and waits. To stop, it is told a step later and the device never idles.
        if (self.limit or _scaler(trainer)) and not self._settle(trainer):
            optimizer.zero_grad(set_to_none=True)  # without a gradient an optimiser changes nothing
            for buffer, before in self._statistics:
                buffer.copy_(before)
        elif self.clip is not None:
            nn.utils.clip_grads_with_norm_(pl_module.parameters(), self.clip, self.norms["all"])

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._settle(trainer)  # what is not finite is never saved

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._settle(trainer)

    def numbers(self, trainer: L.Trainer) -> dict[str, float]:
        """For the record. Waits for the device."""
        found = {"gradient_norm" if name == "all" else f"gradient_norm/{name}": n for name, n in self.norms.items()}
        numbers = {name: float(norm) for name, norm in found.items()} | {"nonfinite_steps": self.skipped}
        if (scaler := _scaler(trainer)) is not None:
            numbers |= {"scale": scaler.get_scale(), "scaled_down_steps": self.scaled_down}
        return numbers

    def _settle(self, trainer: L.Trainer) -> bool:
        """Whether the last step's gradient is finite, if that was not asked before. All ranks call it, and all get
        the same answer. Raises UserError where the run has to stop."""
        step = self._unseen
        if step is None or step.is_finite():
            self._in_a_row = self._in_a_row if step is None else 0
            self._unseen = None
            return True
        losses = distributed.gather_objects(float(step.loss))
        scaler = _scaler(trainer)
        # Below 1 there is no scale left to blame.
        if scaler is not None and all(map(math.isfinite, losses)) and scaler.get_scale() > 1:
            self.scaled_down += 1
            self._unseen = None
            return False
        what, file = step.culprits(losses), self.folder / f"step={step.number}.json"
        samples: dict[str, list[str]] = {}
        for of_rank in distributed.gather_objects(step.samples()):
            for tower, keys in of_rank.items():
                samples.setdefault(tower, []).extend(keys)
        told = {"step": step.number, "not_finite": what, "samples": samples}
        told["keys"] = distributed.gather_objects(step.keys)
        if trainer.is_global_zero:
            write_json(file, told)
        if self._in_a_row == self.limit:
            writer = trainer.strategy.checkpoint_io
            if isinstance(writer, CheckpointIO):
                writer.wait()
            trainer.strategy.barrier("refused")  # whoever starts ranks may end all, a writing one too, when one ended
            raise UserError(_sentence(step.number, what, file, self._in_a_row))
        self._in_a_row += 1
        self.skipped += 1
        self._unseen = None
        return False


class _Step:
    """A step whose gradient was measured on the device, and not yet looked at by the host."""

    def __init__(
        self, number: int, keys: list[str], loss: Tensor, features: tuple[Tensor, Tensor], norms: dict[str, Tensor]
    ) -> None:
        self.number, self.keys, self.loss, self.features, self.norms = number, keys, loss, features, norms
        self._finite = norms["all"].isfinite().to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if norms["all"].is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def is_finite(self) -> bool:
        if self._copied is not None:
            self._copied.synchronize()  # with that copy, not with what was queued since
        return bool(self._finite)

    def culprits(self, losses: list[float]) -> list[str]:
        """What is not finite. A loss takes all gradients with it and is named alone."""
        if not all(map(math.isfinite, losses)):
            return ["the loss"]
        towers = [name for name, norm in self.norms.items() if name != "all" and not norm.isfinite()]
        return [f"the gradient of the {name} tower" for name in towers] or ["the gradient of the logit scale"]

    def samples(self) -> dict[str, list[str]]:
        """The keys of this rank's samples whose features are not finite, by tower."""
        towers = dict(zip(("image", "text"), self.features, strict=True))
        fine = {name: rows.isfinite().all(dim=1).tolist() for name, rows in towers.items()}
        return {
            name: [key for key, of in zip(self.keys, rows, strict=True) if not of]
            for name, rows in fine.items()
            if not all(rows)
        }


def _scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _sentence(number: int, what: list[str], file: Path, in_a_row: int) -> str:
    is_not = f"{' and '.join(what)} {'are' if len(what) > 1 else 'is'} not finite"
    before = f", as in the {in_a_row} before it" if in_a_row else ""
    return (
        f"At step {number} {is_not}{before}: {file} has the keys of its samples. Look at them, lower optim.lr,"
        f" or have up to N such steps in a row skipped with trainer.nonfinite_steps=N (also on resume=)."
    )
