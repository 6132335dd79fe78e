"""The config with which a run goes on: its own, with what a command line may change."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.masking import filled
from diptych.base.templates import NAMED
from diptych.base.terminal import complain, meant, one_line, to_type
from diptych.building.targets import refuse_foreign, trusting
from diptych.commands import stored
from diptych.commands.resolvers import budget
from diptych.commands.stored import Config
from diptych.commands.vocabulary import VOCABULARY, name_vocabulary

if TYPE_CHECKING:
    from diptych.towers.clip import CLIP

BUDGET = ("trainer.max_steps", "samples")  # checked in `experiment.check_length`
DATA = re.compile(r"data\.(shards|sources(\..+)?)")  # where it is; checked in `data.stream.identity`
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
    "data.evaluate",  # where sets are; others are said, see `training.callbacks.zeroshot`
    "data.files.retries",
    "data.files.timeout",
    "data.files.backoff",
    "data.files.cache",
    "data.files.cache_gb",
    "logger",
    "callbacks.progress",
    "allow_targets",
)
PLACES = ("data.shards", "data.sources", "data.evaluate", "data.files.cache")  # read or written, wherever they are
STARTS_FROM = ("model.pretrained", "model.image.pretrained", "model.text.pretrained")  # read where a run begins


def check_run(run_dir: Path) -> None:
    """Raises UserError for a folder that holds no run, naming those that may be meant."""
    file = run_dir / stored.CONFIG
    if file.is_file():
        return
    if not os.path.lexists(run_dir):
        raise UserError(f"resume={run_dir} does not exist: {meant('resume', run_dir)}")
    inside = next((folder for folder in list(run_dir.parents)[:2] if (folder / stored.CONFIG).is_file()), None)
    if inside is not None:
        raise UserError(f"resume={run_dir} is a part of a run: type {to_type('resume', inside)}.")
    raise UserError(f"resume={run_dir} holds no {stored.CONFIG}, so it is no run: {meant('resume', run_dir)}")


def resumed_config(cfg: DictConfig, run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """The run's own config, with what the command line may change. Raises UserError for the rest.

    cfg: what this command line composed, trusted; the run's config is data, in which nothing is resolved.
    """
    source = f"resume={run_dir}"
    _refuse_links(run_dir)
    config = stored.read(run_dir, source)
    for key in stored.unused(config):
        complain(f"{key} in {run_dir / stored.CONFIG} is nothing that this version reads.")
    before = config
    config = filled(config, OmegaConf.to_container(cfg, resolve=True))
    # A folder from elsewhere must neither run programs nor trust itself: this command line says it.
    config["data"]["allow_pipe"] = cfg.data.get("allow_pipe", False)
    config["allow_targets"] = list(cfg.allow_targets)
    resumed = OmegaConf.create({"samples": None, **config})
    changed: set[str] = set()
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key == "resume" or _is_given_again(key, before, config, cfg):
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
            OmegaConf.update(resumed, key, OmegaConf.select(cfg, key), merge=False)
            changed.add(key)
    if changed & set(BUDGET):
        _set_length(resumed, changed)
    config = stored.settled(resumed)
    if lost := stored.hidden(config):
        raise UserError(
            f"{source} needs {lost[0]} again, as when the run began: a run's folder keeps no passwords, tokens or"
            f" signed queries. Type {lost[0]}=ADDRESS, or keep the password in ~/.netrc and out of the address."
        )
    with trusting(config["allow_targets"]):
        refuse_foreign(config, source)
    stored.check_callbacks(config, source)
    if isinstance(choice := config["data"].get("templates"), str) and choice not in NAMED:
        raise UserError(f"{source} can't go on: data.templates={choice} there is a file, and a run holds their text.")
    name_vocabulary(config, run_dir)
    return OmegaConf.create(config)


def named_places(config: Mapping[str, Any], overrides: Sequence[str], begins: bool) -> list[str]:
    """`data.evaluate=/photos` for each file, folder and address that a run's own config names, that is read now, and
    that nobody typed. A folder from elsewhere may name any of this machine's, and nothing that it holds could prove
    where it comes from: so whoever goes on with it is told what goes into its weights and its report.

    begins: whether no step was taken yet
    """
    typed = tuple(override.split("=", 1)[0].lstrip("+~") for override in overrides)
    found = []
    for place, value in plain.leaves(config):
        key = _within(place, (*PLACES, *STARTS_FROM) if begins else PLACES)
        if key is None or _within(place, typed) or not isinstance(value, str) or not value:
            continue
        inside = [part for part in place.removeprefix(key).split(".") if part and not part.isdecimal()]
        if not inside or "shards" in inside or (inside[-1] not in ("_target_", "name", "names") and _is_there(value)):
            found.append(f"{key}={one_line(value)}")
    return found


def _within(place: str, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if place == key or place.startswith(f"{key}.")), None)


def _is_there(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except ValueError:  # a null character
        return False


def _is_given_again(key: str, before: Config, config: Config, cfg: DictConfig) -> bool:
    """Whether an override gives back what the folder doesn't keep, and nothing else."""
    was, now = (OmegaConf.select(OmegaConf.create(each), key) for each in (before, config))
    return was != now and now == OmegaConf.select(cfg, key)


def _refuse_links(run_dir: Path) -> None:
    """A run goes on reading its own files, and writing to them: a link could make them any file of the user's."""
    for file in sorted([*run_dir.iterdir(), run_dir / "wandb" / "id.txt"]):
        outside = file.is_symlink() and not file.resolve().is_relative_to(run_dir.resolve())
        if outside and (file.suffix or file.name == VOCABULARY):
            raise UserError(
                f"resume={run_dir} can't go on: {file.name} there is a link to {file.resolve()}, outside of the run:"
                " put the file itself in its place."
            )


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
    from diptych.data.stream.order import EDITION

    if (begun := describe.get("order", 1)) != EDITION:
        raise UserError(
            f"resume={run_dir} was begun with edition {begun} of the order of samples, this version has edition"
            f" {EDITION}: go on with the version that began it, or start a new run."
        )


def check_parts(cfg: Mapping[str, Any], run_dir: Path, model: CLIP) -> None:
    """What a batch norm sees depends on the micro-batches: refused on a resume with others."""
    from diptych.training.accumulation import batch_norms

    before = stored.read(run_dir, f"resume={run_dir}")["trainer"].get("accumulate", 1)
    now = cfg["trainer"].get("accumulate", 1)
    if batch_norms(model) and now != before:
        raise UserError(
            f"trainer.accumulate={now} can't change on resume={run_dir}: the model has batch"
            f" norms, whose statistics are those of a micro-batch, so leave it at {before}, or start a new run."
        )
