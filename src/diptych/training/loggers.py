"""Where numbers go: `metrics.jsonl`, which is the truth, and Weights & Biases beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diptych import atomic


class MetricsFile(Logger):
    """`metrics.jsonl`: one line a logged step, each step once, also after a resume.

    file: where; resume_from: lines after this step come from a run that went on past its last checkpoint: dropped
    """

    def __init__(self, file: str | Path, resume_from: int = 0) -> None:
        super().__init__()
        self.file = Path(file)
        self._step, self._line = 0, {}  # type: int, dict[str, float]
        self._unwritten = b""
        if self.file.exists():
            self._drop_after(resume_from)

    @rank_zero_only
    def _drop_after(self, step: int) -> None:
        lines = self.file.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and _step_of(line) <= step]
        if kept != lines:
            atomic.write(self.file, b"".join(kept))

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config has its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if step != self._step:
            self.save()
        self._step = step
        self._line.update({name: value for name, value in metrics.items() if math.isfinite(value)})  # NaN is no JSON

    @rank_zero_only
    def save(self) -> None:
        """Write the line of the step at hand. What a full disk refuses waits for the next one."""
        if self._line:
            self._unwritten += json.dumps({"step": self._step, **self._line}).encode() + b"\n"
            self._line = {}
        if self._unwritten:
            with contextlib.suppress(OSError), self.file.open("ab", buffering=0) as file:
                self._unwritten = self._unwritten[file.write(self._unwritten) :]

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        if self._unwritten:
            print(f"diptych: the disk refuses the end of {self.file}: make room and resume.", file=sys.stderr)


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut by a crash


def wandb_logger(run_dir: str, name: str, project: str = "diptych", config: dict[str, Any] | None = None) -> Logger:
    """A W&B logger: online where a key is found, offline where there is none (`wandb sync` uploads it later)."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    # Our own init: Lightning's goes through the environment, which wandb no longer reads after its first look.
    offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)
    experiment = wandb.init(
        name=name, project=project, dir=run_dir, config=config or {}, mode="offline" if offline else None
    )
    return WandbLogger(experiment=experiment)
