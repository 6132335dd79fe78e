"""Which run a checkpoint belongs to, and what it needs to go on as that run: its config, its data, its length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.errors import UserError
from diptych.base.moved import first
from diptych.base.terminal import counted, to_type

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

# Not the experiment: where things are, how they are run, watched and shown, and how long. Each with all keys below.
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


def describe(cfg: Mapping[Any, Any]) -> dict[str, str]:
    """Of a resolved config: key -> digest of its value, for all that the experiment depends on."""
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
    """of_checkpoint: what `describe` said when it was written. Raises UserError where the run is another one."""
    differing = other_keys(of_checkpoint, describe(cfg))
    if differing:
        named = ", ".join(differing[:3])
        raise UserError(
            f"resume={run_dir} can't go on: {checkpoint.name} there is not a checkpoint of the run that config.yaml"
            f" describes: {named} {'is another' if len(differing) == 1 else 'are others'}. Put back what was"
            " changed; for a new run from these weights type model.pretrained=PATH."
        )


def other_keys(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The keys at which two descriptions differ, those that only one of them has included, name and seed first."""
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    return sorted(differing, key=lambda key: (key not in ("name", "seed"), key))


def check_command(typed: Mapping[Any, Any], was: Mapping[Any, Any], run_dir: Path) -> None:
    """A job that was started again goes on with the run in its folder, if that is the run that its command describes.

    typed: the config of the command; was: the run's own. Raises UserError, naming keys, where they differ.
    """
    differing = other_keys(describe(was), describe(typed))
    if typed["trainer"]["max_steps"] != was["trainer"]["max_steps"]:
        differing.append("trainer.max_steps")
    if differing:
        raise UserError(
            f"run_dir={run_dir} holds another run than this command describes: {', '.join(differing[:3])}"
            f" {'differs' if len(differing) == 1 else 'differ'}. The environment says that this job was started again"
            f" (SLURM_RESTART_COUNT or TORCHELASTIC_RESTART_COUNT): to go on with that run type"
            f" {to_type('resume', run_dir)}, for a new one take another run_dir."
        )


def check_length(
    schedule: Callable[[Optimizer, int], LRScheduler], augment: Any, before: int, now: int, step: int, run_dir: Path
) -> None:
    """Whether a run that was begun for `before` steps and has taken `step` may become one of `now`: where the steps
    that it has taken are those that it would have taken. Then it is that longer run, bit for bit.

    Raises UserError where learning rates or pictures of the steps taken follow from the run's length.
    """
    if now < step:
        raise UserError(
            f"trainer.max_steps={now} is less than the {counted(step, 'step')} that resume={run_dir} has taken: give"
            f" at least {step}."
        )
    given = {}  # what follows from the length -> how to begin a run in which it does not
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
    """The learning rates of the steps 0 … until, as shares of the optimiser's."""
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
