"""Callbacks that cause real failures at a chosen step."""

from __future__ import annotations

import os
import resource
import signal
from typing import Any

import lightning as L


class SignalAt(L.Callback):
    """Sends a signal to its own process, on one rank, in the middle of a step."""

    def __init__(self, step: int, name: str, rank: int = 0) -> None:
        self.step, self.signum, self.rank = step, signal.Signals[name], rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
        if batch.step + 1 == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.signum)


class RaiseAt(L.Callback):
    """Raises an error on one rank."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
        if batch.step + 1 == self.step and trainer.global_rank == self.rank:
            raise ArithmeticError("two and two are five")


class FullDisk(L.Callback):
    """From step `first` to step `last`, no file may grow beyond `size` bytes."""

    def __init__(self, first: int, last: int, size: int) -> None:
        self.first, self.last, self.size = first, last, size

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if batch.step + 1 == self.first:
            trainer.callbacks[-1].files.wait()  # type: ignore[attr-defined]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))
        if batch.step == self.last:
            trainer.callbacks[-1].files.wait()  # type: ignore[attr-defined]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
