"""What a run's folder keeps of its config: config.yaml and the vocabulary.

config.yaml is plain data, without interpolations and credentials. The folder may come from anywhere: no text in it is
resolved, and nothing is built from it before `targets` has checked every class that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diptych.base import files, plain
from diptych.base.errors import UserError
from diptych.base.masking import HIDDEN, masked
from diptych.base.moved import renamed

CONFIG = "config.yaml"
Config = dict[str, Any]

# What a training itself reads of a config; the classes check the rest.
KINDS: dict[str, type | UnionType] = {
    "name": str,
    "seed": int,
    "model": dict,
    "model._target_": str,
    "model.image": dict,
    "model.image._target_": str,
    "model.text": dict,
    "model.text._target_": str,
    "data": dict,
    "data._target_": str,
    "data.batch_size": int,
    "data.streams": int,
    "data.workers": int,
    "data.max_bad": int | float,
    "loss": dict,
    "loss._target_": str,
    "optim": dict,
    "optim._target_": str,
    "schedule": dict,
    "schedule._target_": str,
    "trainer": dict,
    "trainer._target_": str,
    "trainer.accelerator": str,
    "trainer.devices": int,
    "trainer.precision": str | int,
    "trainer.max_steps": int,
    "trainer.keep": int,
    "callbacks": dict,
}
OPTIONAL = ("logger", "finetune", "trainer.strategy", "data.files")  # sections, or null
NAMES: dict[type | UnionType, str] = {
    dict: "a section",
    str: "text",
    int: "a whole number",
    int | float: "a number",
    str | int: "text or a whole number",
}
OTHER_VERSION = "resume it with the version that began it, or start a new run"
VOCABULARY = "vocabulary.txt"  # in the run's folder, if the vocabulary is not OpenAI's
# The other keys of train.yaml and of its recipes.
OTHER = ("samples", "resume", "allow_targets", "run_dir", "logger", "finetune", "classes", "ngrams")


def settled(cfg: DictConfig) -> Config:
    """A composed config as plain data, with every interpolation resolved. Raises UserError for text that a later
    reader could resolve again, and for what YAML can't store."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    _refuse_odd(config, "", "")
    return renamed(config)


def _refuse_odd(node: Any, place: str, source: str) -> None:
    """source: the first words of the messages, empty for a config that the command line composed"""
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
                f"{source}{place} holds {node[:80]!r}: a run's config may hold no interpolation, escaped or not,"
                " since another program would resolve it: write the value itself."
            )
        if node == "???":
            raise UserError(f"{source}{place} must be given: type {place}=VALUE.")
    elif node is not None and not isinstance(node, bool | int | float):
        raise UserError(f"{source}{place} is a {type(node).__name__}, which no config file can hold.")


def write(config: Config, run_dir: Path) -> None:
    """Write config.yaml, without credentials. Raises UserError where the file is not what was written."""
    shown = masked(config)
    files.write(run_dir / CONFIG, plain.dump(shown))
    if not plain.same(plain.read(run_dir / CONFIG), shown):
        raise UserError(f"{run_dir / CONFIG} does not hold what was written to it: check the disk.")


def read(run_dir: Path, source: str) -> Config:
    """A run's config, from a folder that may come from anywhere. source: its name in messages, `resume=DIR`

    Raises UserError for a file that is missing, is not plain data, or is from a version with other keys.
    """
    file = run_dir / CONFIG
    if not file.is_file():
        raise UserError(f"{source} can't continue: {CONFIG} is missing there.")
    config = renamed(plain.read(file))
    _refuse_odd(config, "", f"{source} can't continue: in its {CONFIG} ")
    if wrong := wrong_kind(config):
        place, found, kinds = wrong
        if found is None:
            raise UserError(
                f"{source} can't continue: its {CONFIG} has no {place}, which this version needs: {OTHER_VERSION}."
            )
        raise UserError(
            f"{source} can't continue: {place} in its {CONFIG} is {_shown(found)}, where this version takes {kinds}:"
            f" {OTHER_VERSION}."
        )
    return config


def wrong_kind(config: Config) -> tuple[str, Any, str] | None:
    """The first key without a value of its kind: the key, its value, and what it must be."""
    for place, kinds in (KINDS | dict.fromkeys(OPTIONAL, dict)).items():
        found: Any = config
        for key in place.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found is None and place in OPTIONAL:
            continue
        if not isinstance(found, kinds) or isinstance(found, bool):
            return place, found, NAMES[kinds]
    return None


def check_callbacks(config: Config, source: str) -> None:
    """Raises UserError for a callback without a class."""
    for name, callback in config["callbacks"].items():
        if callback is not None and not (isinstance(callback, dict) and isinstance(callback.get("_target_"), str)):
            raise UserError(
                f"{source} can't continue: callbacks.{name} in its {CONFIG} is {_shown(callback)}, where this version"
                f" takes a section with a _target_: {OTHER_VERSION}."
            )


def unused(config: Config) -> list[str]:
    """The top-level keys that this version doesn't read."""
    read = {place.partition(".")[0] for place in KINDS}
    return sorted(set(config) - read - set(OTHER))


def hidden(config: Config) -> list[str]:
    """The keys whose credentials were not kept."""
    return [place for place, value in plain.leaves(config) if isinstance(value, str) and HIDDEN in value]


def _shown(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, dict | list) else f"a {type(value).__name__}"


def keep_vocabulary(config: Config, run_dir: Path) -> None:
    """Copy a new run's vocabulary into its folder, and use the copy: the file may change."""
    from diptych.data.text import bpe

    if (file := config["model"]["text"].get("vocabulary")) is not None:
        files.write(run_dir / VOCABULARY, bpe.read(file).text)
        name_vocabulary(config, run_dir)


def name_vocabulary(node: Any, run_dir: Path) -> None:
    """Set every `vocabulary` of a config to the copy in the run's folder. The folder may have moved; and any other
    file would be read into each checkpoint."""
    if isinstance(node, dict):
        if node.get("vocabulary") is not None:
            node["vocabulary"] = str(run_dir / VOCABULARY)
        node = list(node.values())
    for part in node if isinstance(node, list) else ():
        name_vocabulary(part, run_dir)


def carrying_vocabulary(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config with its vocabulary's text instead of a file's name: a checkpoint needs no second file."""
    from diptych.data.text import bpe

    text = dict(model["text"])
    if text.get("vocabulary") is not None:
        text["vocabulary"] = bpe.read(text["vocabulary"]).text
    return {**model, "text": text}


def check_vocabulary(described: Any, run_dir: Path) -> None:
    """described: the model's config in a checkpoint. Raises UserError if the folder has another vocabulary."""
    from diptych.data.text import bpe

    text = described["text"].get("vocabulary")
    file = run_dir / VOCABULARY
    if text is not None and (not file.is_file() or bpe.read(str(file)).text != text):
        raise UserError(
            f"resume={run_dir} can't continue: {file.name} there is not the vocabulary of the training, so the same"
            " token ids would be other words. Put the file back."
        )
