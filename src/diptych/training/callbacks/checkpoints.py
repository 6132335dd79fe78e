"""When a run is saved: every n steps, every m minutes, at the end, and when a signal asks it to stop."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L

from diptych.base.errors import Stopped, UserError
from diptych.base.terminal import say, to_type
from diptych.training.agreement import Agreement
from diptych.training.naming import give_name
from diptych.training.sharded import CheckpointIO
from diptych.training.signals import Signals, name


class Checkpoints(L.Callback):
    """Has `step=N.ckpt` written, and names two of them: `last.ckpt`, and `best.ckpt` where a validation reported a
    better number at that step. It comes last of all callbacks, so that what they changed at a step is in.

    folder: where; files: what writes them; every: steps between two; minutes: of rank 0's clock, None for never
    timeout: of a rank's wait for the others
    """

    def __init__(
        self,
        folder: str | Path,
        files: CheckpointIO,
        every: int,
        minutes: float | None,
        timeout: timedelta,
    ) -> None:
        self.folder, self.files, self.every, self.timeout = Path(folder), files, every, timeout
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.best: float | None = None
        self._better = False
        self._signals = Signals()
        self._since = 0.0
        self._failed = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def improved(self, value: float) -> None:
        """Called by a validation: this step's weights become `best.ckpt` if `value` is the highest yet."""
        if math.isfinite(value) and (self.best is None or value > self.best):
            self.best, self._better = value, True

    def choose_anew(self, step: int, writes: bool) -> str | None:
        """Called on all ranks of a run that goes on from `step`, where a score can't be compared with the best one's.
        Returns the name under which the best one's checkpoint stays; None where there is none.

        writes: whether this rank gives it that name
        """
        self.best, self._better = None, False
        best = (self.folder / "best.ckpt").resolve()
        if not best.exists() or best.parent != self.folder.resolve():  # a folder from elsewhere may link to any file
            return None
        name = f"best-until-step={step}.ckpt"
        if writes:
            give_name(best, self.folder / name)
        return name

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._agreement = Agreement(self.timeout)
        self._signals.listen(  # here, since Lightning's own handlers come right before
            lambda: _waits_for_data(trainer),
            "what came after the last checkpoint is lost; to go on, type"
            f" python src/train.py {to_type('resume', self.folder.parent)}",
        )
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop, due = self._agreement(self._signals.received, self._due(trainer))
        end = trainer.global_step == trainer.max_steps
        saves = stop or due or end or self._better or trainer.global_step % self.every == 0
        if saves:
            self.files.wait()
        self._report(trainer)
        if saves:
            self.save(trainer)
        if stop:
            self._stop(trainer, stop)

    def save(self, trainer: L.Trainer) -> None:
        """All ranks call it; rank 0 writes."""
        names = ["last.ckpt", "best.ckpt"] if self._better else ["last.ckpt"]
        self._better = False
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt", storage_options=names)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What was logged up to a checkpoint is on the disk before it: a run that is killed right after it goes on
        from there, and would not log it again."""
        for logger in trainer.loggers:
            logger.save()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._signals.rest()
        self._agreement.arrived()
        self._finish()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._signals.rest()
        self.files.wait()

    def _due(self, trainer: L.Trainer) -> bool:
        """Whether the minutes are over, by rank 0's clock, which begins anew."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._since < self.seconds:
            return False
        self._since = now
        return True

    def _report(self, trainer: L.Trainer) -> None:
        """Says and counts a write that failed; the training goes on."""
        error = self.files.last_error
        if self.files.failed > self._failed and error is not None:
            self._failed = self.files.failed
            if trainer.is_global_zero:
                say(
                    f"diptych: a checkpoint could not be written ({error.strerror or error}: {error.filename}); the"
                    " older ones stay, the training goes on and tries again at the next one.",
                    file=sys.stderr,
                )
            for logger in trainer.loggers:
                logger.log_metrics({"checkpoint/failed": self._failed}, trainer.global_step)

    def _finish(self) -> None:
        """The newest checkpoint is on the disk. Raises UserError where it is not."""
        self.files.wait()
        if error := self.files.last_error:
            raise UserError(
                f"The last checkpoint could not be written ({error.strerror or error}: {error.filename}): make room"
                f" and type {to_type('resume', self.folder.parent)}."
            )

    def _stop(self, trainer: L.Trainer, signum: int) -> None:
        self._finish()
        trainer.strategy.barrier("saved")  # whoever starts ranks may end all when one has ended
        raise Stopped(
            f"{name(signum)} at step {trainer.global_step}: saved; to go on, type"
            f" python src/train.py {to_type('resume', self.folder.parent)}",
            signum,
        )


def _waits_for_data(trainer: L.Trainer) -> bool:
    batches = getattr(trainer.datamodule, "batches", None)  # type: ignore[attr-defined]
    return batches is not None and batches.waiting
