"""Lightning's Trainer for one run. It counts steps, and our callbacks write the metrics, the bar and the
checkpoints."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import Strategy

from diptych.base.quantities import Count, NotNegative, Positive, Whole
from diptych.training.callbacks.checkpoints import Checkpoints
from diptych.training.callbacks.counts import Counts
from diptych.training.callbacks.gradients import Gradients
from diptych.training.callbacks.progress import Record
from diptych.training.checkpoints import CheckpointFiles, CheckpointFolders
from diptych.training.precision import make_precision, resolve_precision
from diptych.training.strategy import FullySharded, Recompute, Replicated


def make_trainer(
    *,
    run_dir: str | Path,
    devices: Count,
    max_steps: Count,
    strategy: Callable[..., Strategy] | None = None,
    accelerator: str = "auto",
    precision: str = "auto",
    log_every: Count = 10,
    checkpoint_every: Count = 1000,
    checkpoint_minutes: NotNegative | None = None,
    keep: Count = 2,
    timeout: Positive = 30.0,
    nodes: int = 1,
    clip: Positive | None = 1.0,
    nonfinite_steps: Whole = 0,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> L.Trainer:
    """The trainer of one rank.

    devices: number of ranks on this machine; several ranks train data-parallel (NCCL on GPUs, gloo on CPUs)
    strategy: (timeout) -> how ranks share the model; None: each has a copy
    nodes: number of machines; all have the same number of ranks
    timeout: minutes that a rank waits for the others before it fails
    checkpoint_every, checkpoint_minutes: steps and minutes between two checkpoints
    keep: number of step checkpoints that stay
    precision: one of `precision.NAMES`, or "auto": bf16-mixed where the hardware supports it
    clip: largest norm of the whole gradient; None for no clipping
    nonfinite_steps: the most steps in a row that may be skipped because they are not finite; 0 stops at the first
    """
    run_dir = Path(run_dir)
    quiet()
    wait = timedelta(minutes=timeout)
    shared = (strategy or Replicated)(timeout=wait)
    sharded = isinstance(shared, FullySharded) and shared.sharded_checkpoints
    files = CheckpointFolders(keep) if sharded else CheckpointFiles(keep)
    gradients = Gradients(clip, nonfinite_steps, run_dir / "nonfinite")
    own = [
        gradients,
        Record(run_dir, log_every, gradients),
        Counts(run_dir / "samples.json", log_every),
        *([Recompute()] if getattr(shared, "activation_checkpointing", False) else []),
        *callbacks,
        Checkpoints(run_dir / "checkpoints", files, checkpoint_every, checkpoint_minutes, wait),
    ]
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=shared if devices * nodes > 1 or isinstance(shared, FullySharded) else "auto",
        plugins=[LightningEnvironment(), files, make_precision(resolve_precision(precision, accelerator), device)],
        max_steps=max_steps,
        max_epochs=1,
        callbacks=own,
        logger=list(loggers) or False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # Record chooses the steps to log; with more, Lightning warns of short runs
        limit_val_batches=0,
        default_root_dir=run_dir,
    )


def quiet() -> None:
    """Silence Lightning's remarks on what we chose on purpose, so that its other warnings are noticed."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*GPU available but not used.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # our loader continues at the step
        ".*Detected call of `lr_scheduler.step\\(\\)` before.*",  # float16's scaler may skip the first step
        ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts stay in eval mode
    ):
        warnings.filterwarnings("ignore", message=message)


def describe_hardware() -> dict[str, Any]:
    """The machine's entries in the run's environment file."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "gpus": gpus or "none"}
