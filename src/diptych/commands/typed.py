"""What a command line names: arguments as Hydra takes them, and the folder and files of a command."""

from __future__ import annotations

import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diptych.base.errors import UserError
from diptych.commands.claim import check_place


def quote(argument: str) -> str:
    """As Hydra wants it, without the quotes that the shell took: `data.shards=x/{000..003}.tar`, and values with
    letters beyond ASCII, which its grammar doesn't know. Others unchanged."""
    key, equals, value = argument.partition("=")
    if not equals or "'" in value or "=" in value or value[:1] in ("[", '"'):
        return argument
    braces = re.search(r"(?<!\$)\{[^{}:]*(\.\.|,)[^{}:]*\}", value)
    return f"{key}='{value}'" if braces or (value[:1] != "{" and not value.isascii()) else argument


def whole_lists(argument: str) -> list[str]:
    """`data.evaluate=[…]` takes the place of a data set's own sets: Hydra would merge the two, and can't."""
    if argument.startswith("data.evaluate=["):
        return ["data.evaluate=null", argument]
    return [argument]


def folder_of(cfg: DictConfig, key: str) -> tuple[Path, bool]:
    """What `key` says, which this process can write to; and whether someone typed it. A sweep's job has a folder of
    its own in there."""
    hydra = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN and key != "resume"
    folder = Path(hydra.runtime.output_dir if in_sweep else cfg[key]).absolute()
    check_place(folder, key)
    return folder, any(typed.split("=", 1)[0].lstrip("+") == key for typed in hydra.overrides.task)


def given(cfg: DictConfig, key: str) -> str:
    if OmegaConf.is_missing(cfg, key):
        what = {"format": "diptych, openai, open_clip or huggingface", "out": "a new name"}
        raise UserError(f"{key}= is missing: type {key}={what.get(key, 'RUN_DIR or a checkpoint file')}.")
    return cfg[key]
