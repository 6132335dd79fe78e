"""Resume a run: from its own config, with what a command line may change, and from its newest whole checkpoint.

A run's folder may come from anywhere. Its config is data, in which nothing is resolved. What may be trusted, and
whether programs may run, only the command line says.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import remove_partials
from diptych.base.masking import filled
from diptych.base.templates import NAMED
from diptych.base.terminal import complain, meant, one_line, to_type
from diptych.building.targets import refuse_foreign, trusting
from diptych.commands import stored
from diptych.commands.experiment import DATA, LENGTH, MAY_CHANGE
from diptych.commands.resolvers import budget
from diptych.commands.stored import Config

PLACES = ("data.shards", "data.sources", "data.evaluate", "data.files.cache")  # keys that name files
STARTS_FROM = ("model.pretrained", "model.image.pretrained", "model.text.pretrained")  # files read at step 0


def check_run(run_dir: Path) -> None:
    """Raises UserError for a folder without a run, with similar names of runs."""
    if (run_dir / stored.CONFIG).is_file():
        return
    if not os.path.lexists(run_dir):
        raise UserError(f"resume={run_dir} does not exist: {meant('resume', run_dir)}")
    inside = next((folder for folder in list(run_dir.parents)[:2] if (folder / stored.CONFIG).is_file()), None)
    if inside is not None:
        raise UserError(f"resume={run_dir} is a part of a run: type {to_type('resume', inside)}.")
    raise UserError(f"resume={run_dir} holds no {stored.CONFIG}, so it is no run: {meant('resume', run_dir)}")


def resumed_config(cfg: DictConfig, run_dir: Path, overrides: Sequence[str]) -> Config:
    """The run's own config, with what the command line may change. Raises UserError for other changes.

    cfg: the config of the command line, which is trusted; overrides: what was typed
    """
    source = f"resume={run_dir}"
    _refuse_links(run_dir)
    stored_config = stored.read(run_dir, source)
    for key in stored.unused(stored_config):
        complain(f"{key} in {run_dir / stored.CONFIG} is unknown to this version: ignored.")
    config = filled(stored_config, OmegaConf.to_container(cfg, resolve=True))
    config["data"]["allow_pipe"] = cfg.data.get("allow_pipe", False)
    config["allow_targets"] = list(cfg.allow_targets)
    config = stored.settled(_with_changes(config, stored_config, cfg, run_dir, overrides))
    if lost := stored.hidden(config):
        raise UserError(
            f"{source} needs {lost[0]} again, as when the run began: a run's folder keeps no passwords, tokens or"
            f" signed queries. Type {lost[0]}=ADDRESS, or keep the password in ~/.netrc and out of the address."
        )
    with trusting(config["allow_targets"]):
        refuse_foreign(config, source)
    stored.check_callbacks(config, source)
    if isinstance(choice := config["data"].get("templates"), str) and choice not in NAMED:
        raise UserError(
            f"{source} can't continue: data.templates={choice} there is a file, and a run holds the templates."
        )
    stored.name_vocabulary(config, run_dir)
    return config


def _with_changes(
    config: Config, stored_config: Config, cfg: DictConfig, run_dir: Path, overrides: Sequence[str]
) -> DictConfig:
    """config: the stored one, with its credentials. Raises UserError for a change of the experiment."""
    resumed = OmegaConf.create({"samples": None, **config})
    changed: set[str] = set()
    for key in map(_key_of, overrides):
        if key == "resume" or _is_given_again(key, stored_config, config, cfg):
            continue
        if key not in (*MAY_CHANGE, *LENGTH) and not DATA.fullmatch(key):
            raise UserError(
                f"{key} belongs to the experiment and can't change on resume={run_dir}:"
                " leave it out, or start a new run."
            )
        keys = [f"trainer.{name}" for name in ("devices", "accelerator", "strategy")] if key == "trainer" else [key]
        for each in keys:
            OmegaConf.update(resumed, each, OmegaConf.select(cfg, each), merge=False)
        changed.update(keys)
    if "trainer.max_steps" in changed and "samples" not in changed:
        resumed.samples = None
    elif "samples" in changed and "trainer.max_steps" not in changed:
        resumed.trainer.max_steps = budget(resumed.samples, resumed.data.batch_size, resumed.trainer.max_steps)
    if changed & set(LENGTH) and "steps" in resumed.data:
        resumed.data.steps = resumed.trainer.max_steps
    return resumed


def _key_of(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _is_given_again(key: str, stored_config: Config, config: Config, cfg: DictConfig) -> bool:
    """Whether an override only gives the credentials that the folder doesn't keep."""
    was, now = (OmegaConf.select(OmegaConf.create(each), key) for each in (stored_config, config))
    return was != now and now == OmegaConf.select(cfg, key)


def _refuse_links(run_dir: Path) -> None:
    """A resumed run reads and writes its own files. A link could make that any file of the user's."""
    for file in sorted([*run_dir.iterdir(), run_dir / "wandb" / "id.txt"]):
        outside = file.is_symlink() and not file.resolve().is_relative_to(run_dir.resolve())
        if outside and (file.suffix or file.name == stored.VOCABULARY):
            raise UserError(
                f"resume={run_dir} can't continue: {file.name} there is a link to {file.resolve()}, outside of the"
                " run: put the file itself in its place."
            )


def named_places(config: Mapping[str, Any], overrides: Sequence[str], begins: bool) -> list[str]:
    """`data.evaluate=/photos` for each file, folder and address that will be read because the run's own config names
    it, and not because someone typed it. A folder from elsewhere may name any file of this machine. So the user is
    told what will go into the weights and the report.

    begins: whether no step was taken yet
    """
    typed = [_key_of(override) for override in overrides]
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


def recover(run_dir: Path) -> Path | None:
    """`last.ckpt`, which is now the newest whole checkpoint; None where the run wrote no checkpoint.

    Damaged files are reported and renamed (`step=N.ckpt.damaged`), unfinished files are removed.
    Raises UserError, with each file's damage, where no checkpoint is whole.
    """
    from diptych.training.checkpoints import give_name, step_checkpoints

    folder = run_dir / "checkpoints"
    last = folder / "last.ckpt"
    remove_partials(folder)
    files = step_checkpoints(folder)
    if last.exists() and not any(last.samefile(file) for file in files):
        files.append(last)
    damaged: dict[Path, str] = {}
    for file in files:
        reason = damage(file)
        if reason is None:
            _set_aside(damaged, f"the run continues from {file.name}")
            if file != last:
                give_name(file, last)
            return last
        damaged[file] = reason
    if damaged:
        named = "; ".join(f"{file.name} ({reason})" for file, reason in damaged.items())
        raise UserError(f"resume={run_dir} can't continue, since all its checkpoints are damaged: {named}.")
    return None


def damage(file: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is whole. A file is compared with its own digest, or without one
    with the checksums of torch's format, a zip. Of a folder only the description is read."""
    from diptych.interop.sharded import opened
    from diptych.training.checkpoints import digest_of_sealed

    try:
        if file.is_dir():
            with opened(file):
                return None
        with zipfile.ZipFile(file) as archive:
            if archive.comment:
                whole = archive.comment == digest_of_sealed(file, len(archive.comment))
                return None if whole else "its digest does not match"
            entry = archive.testzip()
    except Exception as error:  # damaged bytes can make a reader of zip files raise anything
        return str(error).rstrip(".") or type(error).__name__
    return None if entry is None else f"the checksum of {entry} does not match"


def _set_aside(damaged: dict[Path, str], then: str) -> None:
    for file, reason in damaged.items():
        complain(f"{file} is damaged ({reason}): {then}.")
        best = file.with_name("best.ckpt")
        if best.exists() and best.samefile(file):
            best.unlink()
        file.replace(file.with_name(f"{file.name}.damaged"))
