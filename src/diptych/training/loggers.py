"""Loggers: `metrics.jsonl`, the complete record of a run, and Weights & Biases, a copy of it for people."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diptych.base import files
from diptych.base.errors import UserError
from diptych.base.masking import masked_argument
from diptych.base.terminal import complain


class MetricsFile(Logger):
    """`metrics.jsonl`: one line for each logged step, and no step twice, also after a resume.

    resume_from: lines after this step are removed; they are of a run that continued past its last checkpoint
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
            files.write(self.file, b"".join(kept))

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the config has its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if step != self._step:
            self.save()
        self._step = step
        self._line.update({name: value for name, value in metrics.items() if math.isfinite(value)})  # JSON has no NaN

    @rank_zero_only
    def save(self) -> None:
        """Write the line of the current step. What a full disk refuses is written with the next line."""
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
            complain(f"the end of {self.file} could not be written: free disk space and resume the run.")


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut by a crash


class WandB(Logger):
    """One run of Weights & Biases, which is finished when the training ends, with its exit code.

    If W&B's service fails, one line says so, and the training continues without it. Lightning's WandbLogger would end
    the training, and it doesn't finish its run.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run: Any = run
        self._try(self._set_axis)

    def _set_axis(self) -> None:
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.run.id if self.run else ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run has the config from its start."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._try(lambda: self.run.log({**metrics, "trainer/global_step": step}))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._try(lambda: self.run.finish(exit_code=0 if status == "success" else 1))
        self.run = None

    def _try(self, act: Callable[[], Any]) -> None:
        if self.run is None:
            return
        try:
            act()
        except Exception as error:  # a lost service raises errors of wandb, of the system or of asyncio
            self.run = None
            complain(f"W&B's service has failed ({_said(error)}): the training continues with metrics.jsonl alone.")
            _tear_down()


@contextlib.contextmanager
def finishing(loggers: list[Logger]) -> Iterator[None]:
    """Finishes W&B's run after an error before Lightning's fit; during the fit Lightning finishes its loggers."""
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, WandB):
                logger.finalize("failed")  # does nothing if it is finished


def _tear_down() -> None:
    """Drop a failed service: the next run starts a new one, and the process's end prints no error about it."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def _said(error: BaseException) -> str:
    """An error's message, in one line and without pydantic's details."""
    words = " ".join(str(error).partition("[type=")[0].split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


OTHERWISE = "or set WANDB_MODE=offline or logger=none"


def prepare_wandb(project: str, name: str) -> None:
    """Check what W&B would refuse, before the run has a folder; and set WANDB_MODE, to online if there is an API key
    that W&B's server accepts. Raises UserError."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    mode = os.environ.get("WANDB_MODE") or None
    try:
        wandb.Settings(project=project, run_name=name, **({"mode": mode} if mode else {}))  # type: ignore[arg-type]
    except wandb.Error as error:
        raise UserError(f"W&B refuses logger.project={project}: {_said(error)}.") from error
    except ValueError as error:
        raise UserError(f"W&B refuses WANDB_MODE={mode} or logger.name={name}: {_said(error)}.") from error
    if mode not in (None, "online"):
        return
    try:
        found = wandb.login(prompt=False)
    except wandb.Error as error:
        if "://" not in str(error):  # errors of the connection name the server's address
            raise UserError(
                f"W&B can't use its API key: {str(error).rstrip('.')}: correct it, {OTHERWISE}."
            ) from error
        complain(f"W&B is offline ({_said(error)}): `wandb sync` can upload the run later.")
        found = False
    else:
        if mode == "online" and not found:
            raise UserError(f"WANDB_MODE=online needs an API key: type `wandb login`, {OTHERWISE}.")
    os.environ["WANDB_MODE"] = "online" if found else "offline"


def wandb_logger(
    run_dir: str, name: str, project: str = "diptych", config: dict[str, Any] | None = None
) -> Logger | None:
    """A W&B run for the run in `run_dir`; a resumed run continues its W&B run. None if W&B can't start: the training
    doesn't need it."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    mode = os.environ.get("WANDB_MODE", "offline")
    kept = Path(run_dir) / "wandb" / "id.txt"
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            with _arguments_masked():
                run = wandb.init(
                    name=name, project=project, dir=run_dir, config=config or {}, mode=attempt,  # type: ignore[arg-type]
                    id=_known_id(kept), resume="allow", reinit="create_new",
                )  # fmt: skip
        except Exception as error:
            _tear_down()
            complain(f"W&B can't start with WANDB_MODE={attempt} ({_said(error)}): the training continues.")
            continue
        if run.id and not run.disabled and not Path(run.dir).resolve().is_relative_to(Path(run_dir).resolve()):
            complain(f"W&B can't write into {run_dir}: its files of this run are in {Path(run.dir).parent}.")
        with contextlib.suppress(OSError):
            kept.write_text(f"{run.id}\n", encoding="utf-8")
        return WandB(run)
    return None


@contextlib.contextmanager
def _arguments_masked() -> Iterator[None]:
    """Within, passwords on the command line are masked: W&B stores the command line."""
    before = sys.argv[1:]
    sys.argv[1:] = map(masked_argument, before)
    try:
        yield
    finally:
        sys.argv[1:] = before


def _known_id(file: Path) -> str | None:
    """The id of the W&B run to continue; None for a new one."""
    try:
        known = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return known if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known) else None
