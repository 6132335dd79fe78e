"""Where numbers go: `metrics.jsonl`, which is the truth, and Weights & Biases beside it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class MetricsFile(Logger):
    """`metrics.jsonl`: one line a logged step, each step once, also after a resume.

    file: where; resume_from: lines after this step come from a run that went on past its last checkpoint: dropped
    """

    def __init__(self, file: str | Path, resume_from: int = 0) -> None:
        super().__init__()
        self.file = Path(file)
        self._step, self._line = 0, {}  # type: int, dict[str, float]
        if self.file.exists():
            self._drop_after(resume_from)

    @rank_zero_only
    def _drop_after(self, step: int) -> None:
        kept = [line for line in self.file.read_text().splitlines() if _step_of(line) <= step]
        self.file.write_text("".join(line + "\n" for line in kept))

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
        """Write the line of the step at hand."""
        if self._line:
            with self.file.open("a") as file:
                file.write(json.dumps({"step": self._step, **self._line}) + "\n")
            self._line = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
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
