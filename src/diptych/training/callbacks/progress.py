"""The progress bar: step, loss, pairs/s, share of time waiting for data, logit scale, time left."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diptych.base.terminal import say
from diptych.training.callbacks.record import Record


class ProgressBar(L.Callback):
    """A live bar on a terminal; elsewhere (a log file, CI) a plain line every `seconds`."""

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self._bar: Progress | None = None
        self._last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._record = next(c for c in trainer.callbacks if isinstance(c, Record))  # type: ignore[attr-defined]
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
            self._bar.update(self._task, completed=trainer.global_step, numbers=numbers(self._record.latest, " · "))
            return
        now = time.monotonic()
        done = trainer.global_step - self._first
        if done == 1 or trainer.global_step == trainer.max_steps or now - self._last >= self.seconds:
            self._last = now
            left = (now - self._begun) / done * (trainer.max_steps - trainer.global_step)
            say(
                f"step {trainer.global_step}/{trainer.max_steps}  {numbers(self._record.latest, '  ')}"
                f"  {left / 60:.1f} min left",
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def numbers(latest: dict[str, float], separator: str) -> str:
    """The newest figures in one line."""
    if not latest:
        return ""
    return separator.join(
        [
            f"loss {latest['train/loss']:.3f}",
            f"{latest['train/pairs_per_second']:,.0f} pairs/s",
            f"{latest['train/data_wait']:.0%} data wait",
            f"scale {latest['train/logit_scale']:.1f}",
        ]
    )
