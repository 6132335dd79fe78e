"""When a run is saved: every n steps, every m minutes, at the end, and when a signal asks it to stop."""

from __future__ import annotations

import math
import random
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from diptych.base.errors import Stopped, UserError
from diptych.base.terminal import resume_command, say
from diptych.launch import distributed
from diptych.training.checkpoints import CheckpointFiles, give_name
from diptych.training.signals import Agreement, Signals, name


class Checkpoints(Checkpoint):
    """Saves `step=N.ckpt` and gives second names: `last.ckpt`, and `best.ckpt` where a validation at that step
    reported the best number so far. Lightning runs it after all other callbacks, so it saves what they changed at a
    step.

    A checkpoint holds the state of every global random generator of every rank, and a resumed rank continues with it.
    With another number of ranks each starts from the run's seed: our code never draws from global generators during
    the training, but a user's loss or tower may.

    folder: of the checkpoints; files: writes them; every: steps between two
    minutes: between two, on rank 0's clock; None for no such limit
    timeout: how long a rank waits for the others
    """

    def __init__(
        self,
        folder: str | Path,
        files: CheckpointFiles,
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
        self._generators: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def improved(self, value: float) -> None:
        """A validation calls this: the weights of this step become `best.ckpt` if `value` is the highest so far."""
        if math.isfinite(value) and (self.best is None or value > self.best):
            self.best, self._better = value, True

    def forget_best(self, step: int, writes: bool) -> str | None:
        """All ranks of a run that resumes at `step` call this where new scores can't be compared with the best one.
        Returns the name under which the best checkpoint stays; None where there is none.

        writes: whether this rank gives it that name
        """
        self.best, self._better = None, False
        best = (self.folder / "best.ckpt").resolve()
        if not best.exists() or best.parent != self.folder.resolve():  # someone else's folder may link to any file
            return None
        name = f"best-until-step={step}.ckpt"
        if writes:
            give_name(best, self.folder / name)
        return name

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._generators = checkpoint.get("generators", [])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before the first batch, whose transfer may draw. The loader's start draws from its own generator.
        if len(self._generators) == trainer.world_size:
            restore(self._generators[trainer.global_rank], pl_module.device)
        self._generators = []
        self._agreement = Agreement(self.timeout)
        self._signals.listen(  # here, since Lightning sets its own handlers just before
            lambda: _waits_for_data(trainer),
            f"all steps after the last checkpoint are lost; {self._how_to_resume()}",
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
            names = ["last.ckpt", "best.ckpt"] if self._better else ["last.ckpt"]
            self._better = False
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt", storage_options=names)
        if stop:
            self._stop(trainer, stop)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The loggers write first: a run that is killed after the checkpoint resumes there and doesn't log again."""
        checkpoint["generators"] = distributed.gather_objects(states(pl_module.device))
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
        """Whether `minutes` have passed on rank 0's clock, which then starts again."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._since < self.seconds:
            return False
        self._since = now
        return True

    def _report(self, trainer: L.Trainer) -> None:
        """Print and count a write that failed; the training continues."""
        error = self.files.last_error
        if self.files.failed > self._failed and error is not None:
            self._failed = self.files.failed
            if trainer.is_global_zero:
                say(
                    f"diptych: a checkpoint could not be written ({error.strerror or error}: {error.filename}); the"
                    " older ones stay, the training continues and tries again at the next one.",
                    file=sys.stderr,
                )
            for logger in trainer.loggers:
                logger.log_metrics({"checkpoint/failed": self._failed}, trainer.global_step)

    def _finish(self) -> None:
        """Wait until the newest checkpoint is on the disk. Raises UserError where it can't be written."""
        self.files.wait()
        if error := self.files.last_error:
            raise UserError(
                f"The last checkpoint could not be written ({error.strerror or error}: {error.filename}): free disk"
                f" space and type {resume_command(self.folder.parent)}."
            )

    def _stop(self, trainer: L.Trainer, signum: int) -> None:
        self._finish()
        trainer.strategy.barrier("saved")  # a launcher may end all ranks when the first has ended
        raise Stopped(f"{name(signum)} at step {trainer.global_step}: saved; {self._how_to_resume()}", signum)

    def _how_to_resume(self) -> str:
        return f"to resume, type {resume_command(self.folder.parent)}"


def _waits_for_data(trainer: L.Trainer) -> bool:
    batches = getattr(trainer.datamodule, "batches", None)  # type: ignore[attr-defined]
    return batches is not None and batches.waiting


def states(device: torch.device) -> dict[str, Any]:
    """The states of torch's generators (of the CPU and the device), Python's and NumPy's, as tensors and plain
    data."""
    numpy: Any = np.random.get_state(legacy=True)
    _, keys, *rest = numpy
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), *rest],
    }


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Set all generators to the states that `states` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"].cpu(), device)
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
