"""A run's config.yaml: plain data without interpolations and credentials, written by the run, read when it goes on.

Whatever wrote it, the file is data: no text in it is resolved, and nothing is built from it before `targets` has
looked at every class that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diptych.base import files, plain
from diptych.base.errors import UserError
from diptych.base.masking import HIDDEN, masked
from diptych.base.moved import renamed

CONFIG = "config.yaml"
Config = dict[str, Any]

# What a training needs of a config; more is each class's own affair. Versions differ by what they name and how.
KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "seed": (int,),
    "model": (dict,),
    "model._target_": (str,),
    "model.image": (dict,),
    "model.image._target_": (str,),
    "model.text": (dict,),
    "model.text._target_": (str,),
    "data": (dict,),
    "data._target_": (str,),
    "data.batch_size": (int,),
    "data.streams": (int,),
    "data.workers": (int,),
    "data.max_bad": (int, float),
    "loss": (dict,),
    "loss._target_": (str,),
    "optim": (dict,),
    "optim._target_": (str,),
    "schedule": (dict,),
    "schedule._target_": (str,),
    "trainer": (dict,),
    "trainer._target_": (str,),
    "trainer.accelerator": (str,),
    "trainer.devices": (int,),
    "trainer.precision": (str, int),
    "trainer.max_steps": (int,),
    "trainer.keep": (int,),
    "callbacks": (dict,),
}
OPTIONAL: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("logger", "finetune", "trainer.strategy", "data.files"), (dict,)
)
NAMES = {dict: "a section", str: "text", int: "a whole number", float: "a number"}
OTHER_VERSION = "go on with the version that began it, or start a new run"
# Beside the sections: keys of train.yaml and of its recipes.
OTHER = ("samples", "resume", "allow_targets", "run_dir", "logger", "finetune", "classes", "ngrams")


def settled(cfg: DictConfig) -> Config:
    """A composed config as plain data, every interpolation resolved for good. Raises UserError for what YAML or a
    later reader could take for something else."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    _refuse_odd(config, "", "")
    return renamed(config)


def _refuse_odd(node: Any, place: str, source: str) -> None:
    """source: begins each sentence, empty for a config that the command line composed."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            at = f"{place}.{key}" if place else str(key)
            if not isinstance(key, str) or "${" in key:
                raise UserError(f"{source}{at} has the key {key!r}: a config's keys are text without ${{…}}.")
            _refuse_odd(value, at, source)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            _refuse_odd(value, f"{place}.{number}", source)
    elif isinstance(node, str):
        if "${" in node:
            raise UserError(
                f"{source}{place} holds {node[:80]!r}: a run's config holds no interpolation, escaped or not, since"
                " whoever reads it would resolve it; write the value itself."
            )
        if node == "???":
            raise UserError(f"{source}{place} must be given: type {place}=VALUE.")
    elif node is not None and not isinstance(node, bool | int | float):
        raise UserError(f"{source}{place} is a {type(node).__name__}, which no config file can hold.")


def write(config: Config, run_dir: Path) -> None:
    """Into the run's folder, without credentials. Raises UserError where the file does not say the same."""
    shown = masked(config)
    files.write(run_dir / CONFIG, plain.dump(shown))
    if not plain.same(plain.read(run_dir / CONFIG), shown):
        raise UserError(f"{run_dir / CONFIG} does not hold what was written to it: check the disk.")


def read(run_dir: Path, source: str) -> Config:
    """A run's config, from a folder that may come from anywhere. source: names it in messages, `resume=DIR`.

    Raises UserError for a file that is missing, no plain data, or of a version that names things otherwise.
    """
    file = run_dir / CONFIG
    if not file.is_file():
        raise UserError(f"{source} can't go on: {CONFIG} is missing there.")
    config = renamed(plain.read(file))
    _refuse_odd(config, "", f"{source} can't go on: in its {CONFIG} ")
    for place, kinds in (KINDS | OPTIONAL).items():
        found = _at(config, place)
        if found is None and place in OPTIONAL:
            continue
        if found is None:
            raise UserError(
                f"{source} can't go on: its {CONFIG} has no {place}, which this version needs: {OTHER_VERSION}."
            )
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            raise UserError(
                f"{source} can't go on: {place} in its {CONFIG} is {_shown(found)}, where this version takes"
                f" {' or '.join(NAMES[kind] for kind in kinds)}: {OTHER_VERSION}."
            )
    return config


def check_callbacks(config: Config, source: str) -> None:
    """Raises UserError for what can't be one."""
    for name, callback in config["callbacks"].items():
        if callback is not None and not (isinstance(callback, dict) and isinstance(callback.get("_target_"), str)):
            raise UserError(
                f"{source} can't go on: callbacks.{name} in its {CONFIG} is {_shown(callback)}, where this version"
                f" takes a section with a _target_: {OTHER_VERSION}."
            )


def unused(config: Config) -> list[str]:
    """The top-level keys that nothing here reads: of a user's own, or of a version that knows more."""
    read = {place.partition(".")[0] for place in KINDS}
    return sorted(set(config) - read - set(OTHER))


def hidden(config: Config) -> list[str]:
    """The places whose credentials were not kept."""
    return [place for place, value in plain.leaves(config) if isinstance(value, str) and HIDDEN in value]


def _at(config: Any, place: str) -> Any:
    for key in place.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _shown(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, dict | list) else f"a {type(value).__name__}"
