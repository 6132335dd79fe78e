"""Where the time of a step goes, measured in a few steps of the run itself."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from diptych.base.batch import Batch
from diptych.base.files import write_json
from diptych.training.module import ContrastiveModule

WAIT, MADE = "waiting for data", "transfer and augmentation"
IMAGE, TEXT, LOSS = "image tower", "text tower", "loss"
BACK = ", backward"
NORMS, STEP, REST = "gradient norms and clipping", "optimiser", "all else"
ORDER = (WAIT, MADE, IMAGE, TEXT, LOSS, LOSS + BACK, TEXT + BACK, IMAGE + BACK, NORMS, STEP, REST)
COMMUNICATION = ("gloo:", "nccl:", "c10d::")  # prefixes of torch's names for collectives
Stamp = float | torch.cuda.Event


class Profile(L.Callback):
    """Times the parts of `steps` steps after the first `after`, then traces `traced` steps with torch's profiler.

    It writes `profile.json`, which the report shows, and `trace.json.gz`, for ui.perfetto.dev, into the run's folder.
    Only rank 0 measures, with CUDA events on a GPU. A tower's backward pass begins when the gradient of its features
    is there; encoding a part of a batch again counts as the tower's. Communication between ranks overlaps the
    backward pass, so it has its own line and no share. The traced steps are slower and are not among the timed ones.
    """

    def __init__(self, after: int = 50, steps: int = 20, traced: int = 2) -> None:
        self.after, self.steps, self.traced = after, steps, traced
        self._since = 0  # steps since this process started
        self._marks: list[tuple[str, Stamp]] = []  # the part that ended at a stamp
        self._found: list[dict[str, float]] = []
        self._now = REST  # the part that runs now, in the backward pass
        self._hooks: list[Any] = []  # empty while nothing is measured
        self._cuda = False
        self._profiler: profile | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        if not trainer.is_global_zero:
            return
        self._cuda = pl_module.device.type == "cuda"
        for name, module in ((IMAGE, pl_module.model.image), (TEXT, pl_module.model.text), (LOSS, pl_module.loss)):
            assert isinstance(module, nn.Module)
            self._hooks += [
                module.register_forward_pre_hook(self._entered),
                module.register_forward_hook(self._left(name)),
            ]
        self._mark(REST)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._mark(MADE)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._mark(LOSS)
        self._now = LOSS + BACK

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(self._now)
        self._now = REST

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        self._mark(NORMS)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self._hooks:
            return
        self._mark(STEP)
        self._since += 1
        if self.after < self._since <= self.after + self.steps:
            self._found.append(_summed(self._marks, batch.wait))
        if self._since == self.after + self.steps and self.traced:
            on_gpu = [ProfilerActivity.CUDA] if self._cuda else []
            self._profiler = profile(activities=[ProfilerActivity.CPU, *on_gpu])
            self._profiler.start()
        if self._since == self.after + self.steps + self.traced:
            self._finish(Path(trainer.default_root_dir))
        del self._marks[:-1]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._hooks:  # the run was shorter than that
            self._finish(Path(trainer.default_root_dir))

    def _finish(self, run_dir: Path) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._marks = [], []
        told: dict[str, Any] = {"steps": len(self._found), "after": self.after}
        if self._found:
            told["seconds"] = statistics.median(sum(step.values()) for step in self._found)
            told["parts"] = {name: statistics.median(step.get(name, 0.0) for step in self._found) for name in ORDER}
        if self._profiler is not None:
            self._profiler.stop()
            traced = min(self.traced, self._since - self.after - self.steps)
            self._profiler.export_chrome_trace(str(run_dir / "trace.json.gz"))
            told |= _operations(self._profiler, traced, "device" if self._cuda else "cpu")
            self._profiler = None
        write_json(run_dir / "profile.json", told)

    @torch.compiler.disable
    def _mark(self, name: str) -> None:
        if not self._hooks:
            return
        if self._cuda:
            stamp: Stamp = torch.cuda.Event(enable_timing=True)
            stamp.record()  # type: ignore[union-attr]
        else:
            stamp = time.perf_counter()
        self._marks.append((name, stamp))

    @torch.compiler.disable
    def _entered(self, module: nn.Module, inputs: Any) -> None:
        self._mark(self._now)

    def _left(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        @torch.compiler.disable
        def left(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._mark(name)
            if name != LOSS and output.requires_grad and self._now == REST:
                output.register_hook(lambda gradient: self._reached(name + BACK))

        return left

    def _reached(self, name: str) -> None:
        """The gradient of a tower's features is there: the part before ends, and the tower's backward pass begins."""
        self._mark(self._now)
        self._now = name


def _summed(marks: list[tuple[str, Stamp]], wait: float) -> dict[str, float]:
    """Seconds of one step by part; the first mark is the end of the previous step."""
    found: dict[str, float] = defaultdict(float)
    if isinstance(marks[-1][1], torch.cuda.Event):
        marks[-1][1].synchronize()
    for (_, begun), (name, ended) in pairwise(marks):
        if isinstance(begun, float) and isinstance(ended, float):
            found[name] += ended - begun
        else:
            found[name] += begun.elapsed_time(ended) / 1000  # type: ignore[union-attr, arg-type]
    waited = min(wait, found[MADE])
    return {**found, WAIT: waited, MADE: found[MADE] - waited}


def _operations(profiler: profile, traced: int, where: str) -> dict[str, Any]:
    """Of a traced step: the ten operations that take the most time on the "cpu" or "device", and the seconds of
    collectives."""
    spent = f"self_{where}_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, spent))
    whole = sum(getattr(event, spent) for event in events)
    exchanged = sum(event.cpu_time_total for event in events if event.key.startswith(COMMUNICATION))
    return {
        "traced": traced,
        "operations": [
            {"name": event.key, "share": getattr(event, spent) / whole, "calls": event.count / traced}
            for event in events[:10]
        ],
        "communication": exchanged / 1e6 / traced,
    }
