"""Gradients between the backward pass and the optimiser's step: norms by tower, a check that they are finite,
clipping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.launch import distributed
from diptych.training.accumulation import batch_norms
from diptych.training.checkpoints import CheckpointFiles
from diptych.training.module import ContrastiveModule

TOWERS = ("image", "text")


class Gradients(L.Callback):
    """Clips the whole gradient to the norm `clip` (None: no clipping). Stops at a step that is not finite, or skips
    it.

    limit: the most steps in a row that may be skipped; 0 stops at the first. A skipped step changes no weight, no
        running statistic and no optimiser state; the batch, the schedule and the step's number advance
    folder: gets `step=N.json` for each such step: what was not finite, the keys of the samples whose features are not
        finite, by tower, and the keys of each rank's batch

    norms: of the newest gradient before clipping, see `gradient_norms`
    skipped: number of skipped steps
    scaled_down: number of steps at which float16's scaler reduced its scale and skipped the step. That is how it
        finds its scale, so they don't count as not finite
    """

    def __init__(self, clip: float | None, limit: int, folder: Path) -> None:
        self.clip, self.limit, self.folder = clip, limit, folder
        self.norms: dict[str, Tensor] = {}
        self.skipped = self.scaled_down = self._in_a_row = 0
        self._batch: Batch | None = None
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._unchecked: _Step | None = None

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
        self._check(trainer)
        self.norms = gradient_norms(pl_module)
        assert pl_module.last_features is not None
        step = trainer.global_step + 1
        self._unchecked = _Step(step, self._batch.keys, pl_module.last_loss, pl_module.last_features, self.norms)
        # To skip a step, the host must wait for the device. To stop, it can check a step later and never waits.
        if (self.limit or _scaler(trainer)) and not self._check(trainer):
            optimizer.zero_grad(set_to_none=True)  # without a gradient an optimiser changes nothing
            for buffer, before in self._statistics:
                buffer.copy_(before)
        elif self.clip is not None:
            nn.utils.clip_grads_with_norm_(pl_module.parameters(), self.clip, self.norms["all"])

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)  # weights that are not finite are never saved

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer)

    def numbers(self, trainer: L.Trainer) -> dict[str, float]:
        """The numbers to log. Waits for the device."""
        found = {"gradient_norm" if name == "all" else f"gradient_norm/{name}": n for name, n in self.norms.items()}
        numbers = {name: float(norm) for name, norm in found.items()} | {"nonfinite_steps": self.skipped}
        if (scaler := _scaler(trainer)) is not None:
            numbers |= {"scale": scaler.get_scale(), "scaled_down_steps": self.scaled_down}
        return numbers

    def _check(self, trainer: L.Trainer) -> bool:
        """Check the newest step, unless that was done: whether its gradient is finite. All ranks call this and get
        the same answer. Raises UserError where the run has to stop."""
        step, self._unchecked = self._unchecked, None
        if step is None:
            return True
        if step.is_finite():
            self._in_a_row = 0
            return True
        losses = distributed.gather_objects(float(step.loss))
        scaler = _scaler(trainer)
        # With a scale of 1 or less, the scale can't be the reason.
        if scaler is not None and all(map(math.isfinite, losses)) and scaler.get_scale() > 1:
            self.scaled_down += 1
            return False
        culprits, file = step.culprits(losses), self.folder / f"step={step.number}.json"
        _write(trainer, step, culprits, file)
        if self._in_a_row == self.limit:
            writer = trainer.strategy.checkpoint_io
            if isinstance(writer, CheckpointFiles):
                writer.wait()
            trainer.strategy.barrier("refused")  # a launcher may end all ranks, even a writing one, with the first
            raise UserError(_sentence(step.number, culprits, file, self._in_a_row))
        self._in_a_row += 1
        self.skipped += 1
        return False


class _Step:
    """A step whose gradient norms are on the device; the host has not looked at them yet."""

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
            self._copied.synchronize()  # waits for that copy, not for later work
        return bool(self._finite)

    def culprits(self, losses: list[float]) -> list[str]:
        """What is not finite. A loss that is not finite makes all gradients so, and is named alone."""
        if not all(map(math.isfinite, losses)):
            return ["the loss"]
        towers = [name for name, norm in self.norms.items() if name != "all" and not norm.isfinite()]
        return [f"the gradient of the {name} tower" for name in towers] or ["the gradient of the logit scale"]

    def samples(self) -> dict[str, list[str]]:
        """The keys of this rank's samples whose features are not finite, by tower."""
        found = {}
        for name, rows in zip(TOWERS, self.features, strict=True):
            finite = rows.isfinite().all(dim=1).tolist()
            if not all(finite):
                found[name] = [key for key, fine in zip(self.keys, finite, strict=True) if not fine]
        return found


def _write(trainer: L.Trainer, step: _Step, culprits: list[str], file: Path) -> None:
    """Rank 0 writes what all ranks know of a step that is not finite."""
    samples: dict[str, list[str]] = {}
    for of_rank in distributed.gather_objects(step.samples()):
        for tower, keys in of_rank.items():
            samples.setdefault(tower, []).extend(keys)
    keys = distributed.gather_objects(step.keys)
    if trainer.is_global_zero:
        write_json(file, {"step": step.number, "not_finite": culprits, "samples": samples, "keys": keys})


def _scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _sentence(number: int, culprits: list[str], file: Path, in_a_row: int) -> str:
    is_not = f"{' and '.join(culprits)} {'are' if len(culprits) > 1 else 'is'} not finite"
    before = f", like the {in_a_row} before it" if in_a_row else ""
    return (
        f"At step {number} {is_not}{before}: {file} has the keys of its samples. Look at them, lower optim.lr,"
        f" or allow up to N such steps in a row to be skipped with trainer.nonfinite_steps=N (also on resume=)."
    )


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """The norm of the gradient of `module.model.image` and `.text`, each [], and that of the whole `module`, "all".

    A frozen tower has none. Nothing waits for the device; all ranks get the same numbers.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            tower = name.split(".")[1] if name.startswith("model.") else ""
            groups.setdefault(tower if tower in TOWERS else "", []).append(parameter.grad)
    norms = {name: _norm(gradients) for name, gradients in groups.items()}
    whole = torch.linalg.vector_norm(torch.stack(list(norms.values()))) if norms else torch.tensor(0.0)
    return {tower: norms[tower] for tower in TOWERS if tower in norms} | {"all": whole}


def _norm(gradients: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
