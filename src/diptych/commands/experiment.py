"""Whether a run may continue from a checkpoint: its config, data and length are those that it began with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.errors import UserError
from diptych.base.masking import masked
from diptych.base.moved import first
from diptych.base.terminal import counted, say, to_type
from diptych.building.build import make
from diptych.commands import stored
from diptych.commands.config import arguments
from diptych.commands.stored import Config

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from diptych.towers.clip import CLIP

# Keys that don't change what is learned, each with all keys below it: where files are, how the run is computed,
# logged and evaluated, and how long it is. `describe` leaves them out.
ELSEWHERE = (
    "resume", "run_dir", "allow_targets", "logger", "samples",
    "callbacks.progress", "callbacks.zeroshot", "callbacks.words", "callbacks.profile",
    "trainer._target_", "trainer._partial_", "trainer.accelerator", "trainer.devices", "trainer.strategy",
    "trainer.max_steps", "trainer.log_every", "trainer.checkpoint_every", "trainer.checkpoint_minutes",
    "trainer.keep", "trainer.accumulate", "trainer.nonfinite_steps", "trainer.timeout",
    "data.steps", "data.shards", "data.sources", "data.workers", "data.memory", "data.stall", "data.files",
    "data.allow_pipe", "data.evaluate", "data.labelled", "data.synonyms", "data.ngrams", "data.templates",
    "data.max_bad", "data.tokenizer.vocabulary", "model.text.vocabulary", "model.compile",
)  # fmt: skip
# What the command line may change when a run is resumed. None of these changes the experiment.
MAY_CHANGE = (
    "allow_targets", "logger", "callbacks.progress",
    "trainer", "trainer.devices", "trainer.accelerator", "trainer.strategy.replicas",
    "trainer.strategy.activation_checkpointing", "trainer.strategy.sharded_checkpoints",
    "trainer.log_every", "trainer.checkpoint_every", "trainer.checkpoint_minutes",
    "trainer.keep", "trainer.accumulate", "trainer.nonfinite_steps", "trainer.timeout",
    "data.workers", "data.memory", "data.stall", "data.allow_pipe", "data.evaluate",
    "data.files.retries", "data.files.timeout", "data.files.backoff", "data.files.cache", "data.files.cache_gb",
)  # fmt: skip
LENGTH = ("trainer.max_steps", "samples")  # may change too, if `check_length` allows it
DATA = re.compile(r"data\.(shards|sources(\..+)?)")  # where the data is: may change if it is the same data


def check_run_of(checkpoint: Mapping[str, Any], config: Config, run_dir: Path, model: CLIP) -> None:
    """config: with which the run is to continue; model: its model. Nothing is written before this.

    Raises UserError where the checkpoint is another run's, where the data is not the same, and where the run can't
    become as long as asked for.
    """
    step, was = int(checkpoint["global_step"]), stored.read(run_dir, f"resume={run_dir}")
    began, steps = checkpoint["diptych"].get("run"), config["trainer"]["max_steps"]
    before = began["steps"] if began else was["trainer"]["max_steps"]
    stored.check_vocabulary(checkpoint["diptych"]["model"], run_dir)
    _check_batch_norms(config["trainer"].get("accumulate", 1), was["trainer"].get("accumulate", 1), run_dir, model)
    if began:
        check_same(began["experiment"], config, run_dir / f"checkpoints/step={step}.ckpt", run_dir)
        _check_data(began.get("data"), config, run_dir)
    else:
        _check_without_note(config, was, run_dir)
    if steps != before:
        schedule, augment = make(config["schedule"], "schedule"), make(config["data"].get("augment"), "data.augment")
        check_length(schedule, augment, before, steps, step, run_dir)
        say(f"length: {counted(steps, 'step')} instead of {before:,}; every step taken stays as it was")
    if step >= steps:
        say(f"This run is complete: {step:,} of {counted(steps, 'step')}. Only its report is made again.")


def check_order(checkpoint: Mapping[str, Any], run_dir: Path) -> None:
    """Raises UserError where the steps of the checkpoint read the samples in another order."""
    from diptych.data.stream.order import EDITION

    if (began := checkpoint["diptych"].get("order", 1)) != EDITION:
        raise UserError(
            f"resume={run_dir} was begun with edition {began} of the order of samples, this version has edition"
            f" {EDITION}: resume it with the version that began it, or start a new run."
        )


def _check_batch_norms(now: int, before: int, run_dir: Path, model: CLIP) -> None:
    from diptych.training.accumulation import batch_norms

    if now != before and batch_norms(model):
        raise UserError(
            f"trainer.accumulate={now} can't change on resume={run_dir}: the model has batch norms, whose statistics"
            f" are those of a micro-batch. Leave it at {before}, or start a new run."
        )


def _check_data(began: Any, config: Config, run_dir: Path) -> None:
    """began: how the checkpoint describes its data; None for a data class that doesn't describe it"""
    from diptych.data.datamodule import PairData
    from diptych.data.stream import identity

    if began is None:
        return
    data = make(arguments(config, "data"), "data")
    if isinstance(data, PairData) and (said := identity.difference(began, data.describe())):
        raise UserError(
            f"resume={run_dir} can't continue, since its data has changed: {said}. Give the data that it began"
            " with, in the same order (data.shards= says where it is now), or start a new run."
        )


def _check_without_note(config: Config, was: Config, run_dir: Path) -> None:
    """For a checkpoint of an earlier version, which doesn't describe its run and data."""
    for key in ("shards", "sources"):
        if masked(config["data"].get(key)) != was["data"].get(key):
            raise UserError(
                f"data.{key} can't change on resume={run_dir}: its checkpoint is of an earlier version, which did not"
                " describe the data, so nothing can tell whether it is the same."
            )
    say(
        "The checkpoint is of an earlier version, which did not describe its run and data: make sure that both are"
        " the same as before."
    )


def describe(cfg: Mapping[Any, Any]) -> dict[str, str]:
    """Key -> digest of its value, for all keys of a config that the experiment depends on."""
    return {key: hashlib.sha256(value.encode()).hexdigest()[:12] for key, value in _values(cfg, "")}


def _values(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key in ELSEWHERE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _values(value, f"{key}.")
        else:
            yield key, json.dumps(first(value) if name == "_target_" else value, sort_keys=True, default=str)


def check_same(of_checkpoint: Mapping[str, str], cfg: Mapping[Any, Any], checkpoint: Path, run_dir: Path) -> None:
    """of_checkpoint: `describe`'s answer when it was written. Raises UserError where that was another run."""
    differing = other_keys(of_checkpoint, describe(cfg))
    if differing:
        named = ", ".join(differing[:3])
        raise UserError(
            f"resume={run_dir} can't continue: {checkpoint.name} there is not a checkpoint of the run that"
            f" config.yaml describes: {named} {'differs' if len(differing) == 1 else 'differ'}. Put back what was"
            " changed. For a new run from these weights type model.pretrained=PATH."
        )


def other_keys(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The keys that differ, or that only one description has; name and seed first."""
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    return sorted(differing, key=lambda key: (key not in ("name", "seed"), key))


def check_command(typed: Mapping[Any, Any], was: Mapping[Any, Any], run_dir: Path) -> None:
    """A requeued job may continue the run in its folder if its command describes that run.

    typed: the config of the command; was: the run's own. Raises UserError, with the keys, where they differ.
    """
    differing = other_keys(describe(was), describe(typed))
    if typed["trainer"]["max_steps"] != was["trainer"]["max_steps"]:
        differing.append("trainer.max_steps")
    if differing:
        raise UserError(
            f"run_dir={run_dir} holds another run than this command describes: {', '.join(differing[:3])}"
            f" {'differs' if len(differing) == 1 else 'differ'}. The environment says that this job was started again"
            f" (SLURM_RESTART_COUNT or TORCHELASTIC_RESTART_COUNT): to resume that run type"
            f" {to_type('resume', run_dir)}, for a new run take another run_dir."
        )


def check_length(
    schedule: Callable[[Optimizer, int], LRScheduler], augment: Any, before: int, now: int, step: int, run_dir: Path
) -> None:
    """Check that a run of `before` steps, which has taken `step`, may become a run of `now` steps: that its first
    `step` steps would be the same, bit for bit.

    Raises UserError where the learning rates or the pictures of these steps depend on the run's length.
    """
    if now < step:
        raise UserError(
            f"trainer.max_steps={now} is less than the {counted(step, 'step')} that resume={run_dir} has taken: give"
            f" at least {step}."
        )
    given = {}  # what depends on the length -> how to begin a run in which it does not
    if _rates(schedule, before, step) != _rates(schedule, now, step):
        given["learning rates"] = "schedule=constant, with schedule.warmup in steps"
    if augment is not None and getattr(augment, "by_progress", True):
        given["pictures"] = "data.augment=null, or one size of pictures"
    if given:
        further = f"{to_type('model.pretrained', run_dir)} trainer.max_steps={max(1, now - step)}"
        raise UserError(
            f"resume={run_dir} can't become a run of {counted(now, 'step')}: its {' and '.join(given)} follow from"
            f" its length, and the {counted(step, 'step')} taken were those of a run of {before}. Either train its"
            f" weights further in a new run ({further}), or begin again with a run that can become longer"
            f" ({'; '.join(given.values())})."
        )


def _rates(schedule: Callable[[Optimizer, int], LRScheduler], steps: int, until: int) -> list[float]:
    """The learning rates of the steps 0 … until, relative to the optimiser's."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    made = schedule(optimizer, steps)
    if type(made) is LambdaLR:
        return [made.lr_lambdas[0](step) for step in range(until + 1)]
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(until):
        optimizer.step()
        made.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates
