"""What a run says while it trains: its folder, its numbers for every logger, and a progress bar."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diptych.base.batch import Batch
from diptych.base.terminal import say
from diptych.launch import distributed
from diptych.training.callbacks.gradients import Gradients
from diptych.training.module import ContrastiveModule


class Record(L.Callback):
    """Logs loss, logit scale, learning rate, pairs/s, the share of time spent waiting for data, and the numbers of
    `gradients`. Other callbacks find the newest ones in Lightning's `trainer.callback_metrics`.

    run_dir: printed with the first batch; before that, an error in data or config may remove the folder again
    every: steps between two lines; the first and the last step are always logged
    """

    def __init__(self, run_dir: Path, every: int, gradients: Gradients) -> None:
        self.run_dir, self.every, self.gradients = run_dir, every, gradients
        self._begun = False
        self._pairs = 0
        self._waited = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._begun and trainer.is_global_zero:
            say(f"run: {self.run_dir}")
        self._begun = True

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
        latest = {
            "train/loss": loss.item(),
            "train/logit_scale": pl_module.model.logit_scale.exp().item(),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/pairs_per_second": self._pairs / seconds,
            "train/data_wait": wait.item() / seconds,
        }
        latest |= {f"train/{name}": number for name, number in self.gradients.numbers(trainer).items()}
        trainer.callback_metrics.update(latest)
        for logger in trainer.loggers:
            logger.log_metrics(latest, step)
        self._pairs, self._waited, self._since = 0, 0.0, time.perf_counter()


class ProgressBar(L.Callback):
    """A live bar on a terminal: step, loss, pairs/s, share of time waiting for data, logit scale, time left.
    Elsewhere (a log file, CI) a plain line every `seconds`."""

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self._bar: Progress | None = None
        self._last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = Console()
        self._begun, self._first, self._last = time.monotonic(), trainer.global_step, time.monotonic()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]train"),
                BarColumn(bar_width=None, complete_style="#3b6ea8", finished_style="#2f7d5b"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "train", total=trainer.max_steps, completed=trainer.global_step, numbers="first step …"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, numbers=_numbers(trainer, " · "))
            return
        now = time.monotonic()
        done = trainer.global_step - self._first
        if done == 1 or trainer.global_step == trainer.max_steps or now - self._last >= self.seconds:
            self._last = now
            left = (now - self._begun) / done * (trainer.max_steps - trainer.global_step)
            say(
                f"step {trainer.global_step}/{trainer.max_steps}  {_numbers(trainer, '  ')}  {left / 60:.1f} min left"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _numbers(trainer: L.Trainer, separator: str) -> str:
    """The newest numbers in one line; empty where none has been logged yet."""
    latest: dict[str, Any] = trainer.callback_metrics
    if "train/loss" not in latest:
        return ""
    return separator.join(
        [
            f"loss {latest['train/loss']:.3f}",
            f"{latest['train/pairs_per_second']:,.0f} pairs/s",
            f"{latest['train/data_wait']:.0%} data wait",
            f"scale {latest['train/logit_scale']:.1f}",
        ]
    )
