"""The config with which a run goes on: its own, with what a command line may change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from diptych.config import budget
from diptych.errors import UserError
from diptych.targets import refuse_foreign_targets
from diptych.vocabulary import name_vocabulary

if TYPE_CHECKING:
    from diptych.towers.clip import CLIP

BUDGET = ("trainer.max_steps", "samples")  # checked in `experiment.check_length`
DATA = re.compile(r"data\.(shards|sources(\..+)?)")  # where it is; checked in `data.identity`
# What may change when a run goes on: nothing here touches the experiment.
RESUMABLE = (
    "trainer",
    "trainer.devices",
    "trainer.accelerator",
    "trainer.strategy.replicas",
    "trainer.strategy.activation_checkpointing",
    "trainer.strategy.sharded_checkpoints",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.checkpoint_minutes",
    "trainer.keep",
    "trainer.accumulate",
    "trainer.nonfinite_steps",
    "trainer.timeout",
    "data.workers",
    "data.memory",
    "data.stall",
    "data.allow_pipe",
    "data.files.retries",
    "data.files.timeout",
    "data.files.backoff",
    "data.files.cache",
    "data.files.cache_gb",
    "logger",
    "callbacks.progress",
    "allow_targets",
)


def check_run(run_dir: Path) -> None:
    """Raises UserError for a folder that holds no run."""
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={run_dir} can't go on: config.yaml is missing there.")


def resumed_config(cfg: DictConfig, run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """The run's own config, with what the command line may change. Raises UserError for the rest."""
    resumed = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(resumed, DictConfig)
    if "allow_pipe" in resumed.data:
        resumed.data.allow_pipe = False  # a folder from elsewhere must not run programs: this command line says it
    changed: set[str] = set()
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key == "resume":
            continue
        if key not in (*RESUMABLE, *BUDGET) and not DATA.fullmatch(key):
            raise UserError(
                f"{key} belongs to the experiment and can't change on resume={run_dir}:"
                " leave it out, or start a new run."
            )
        if key == "trainer":
            for name in ("devices", "accelerator", "strategy"):
                OmegaConf.update(resumed, f"trainer.{name}", cfg.trainer[name], merge=False)
        else:
            OmegaConf.update(resumed, key, OmegaConf.select(cfg, key))
            changed.add(key)
    if changed & set(BUDGET):
        _set_length(resumed, changed)
    OmegaConf.update(resumed, "allow_targets", cfg.allow_targets)  # what the folder says of it does not count
    refuse_foreign_targets(OmegaConf.to_container(resumed, resolve=True), run_dir, cfg.allow_targets)  # type: ignore[arg-type]
    name_vocabulary(resumed, run_dir)
    return resumed


def _set_length(resumed: DictConfig, changed: set[str]) -> None:
    """All that follows from the number of steps or samples that was typed."""
    if "trainer.max_steps" not in changed:
        resumed.trainer.max_steps = budget(resumed.samples, resumed.data.batch_size, resumed.trainer.max_steps)
    elif "samples" not in changed:
        resumed.samples = None
    if "steps" in resumed.data:
        resumed.data.steps = resumed.trainer.max_steps


def check_order(describe: Mapping[str, Any], run_dir: Path) -> None:
    """describe: what the checkpoint says of itself. Raises UserError where its steps were those of another order."""
    from diptych.data.order import EDITION

    if (begun := describe.get("order", 1)) != EDITION:
        raise UserError(
            f"resume={run_dir} was begun with edition {begun} of the order of samples, this version has edition"
            f" {EDITION}: go on with the version that began it, or start a new run."
        )


def check_parts(cfg: DictConfig, run_dir: Path, model: CLIP) -> None:
    """What a batch norm sees depends on the micro-batches: refused on a resume with others."""
    from diptych.training.accumulation import batch_norms

    before = OmegaConf.load(run_dir / "config.yaml").trainer.get("accumulate", 1)
    if batch_norms(model) and cfg.trainer.get("accumulate", 1) != before:
        raise UserError(
            f"trainer.accumulate={cfg.trainer.accumulate} can't change on resume={run_dir}: the model has batch"
            f" norms, whose statistics are those of a micro-batch, so leave it at {before}, or start a new run."
        )
