"""What is wrong with a command line: its overrides read one by one, and held to the config that they change."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diptych.base.terminal import hydra, shell

LIGHTNINGS_ACCUMULATION = (
    "accumulate_grad_batches is Lightning's mean of small batches' losses, another objective where a loss compares"
    " all pairs: type trainer.accumulate=K for the exact gradient of the whole batch in K parts."
)

# What other trainers, and papers, call our keys.
WORDS = {
    "lr": "optim.lr",
    "learning_rate": "optim.lr",
    "wd": "optim.weight_decay",
    "weight_decay": "optim.weight_decay",
    "betas": "optim.betas",
    "beta1": "optim.betas",
    "beta2": "optim.betas",
    "momentum": "optim.momentum",
    "optimizer": "optim",
    "warmup": "schedule.warmup",
    "warmup_steps": "schedule.warmup",
    "batch": "data.batch_size",
    "batch_size": "data.batch_size",
    "bs": "data.batch_size",
    "global_batch_size": "data.batch_size",
    "train_data": "data.shards",
    "data_path": "data.shards",
    "dataset": "data",
    "workers": "data.workers",
    "num_workers": "data.workers",
    "epochs": "samples (pairs to train on: epochs × pairs of the set)",
    "max_epochs": "samples (pairs to train on: epochs × pairs of the set)",
    "num_epochs": "samples (pairs to train on: epochs × pairs of the set)",
    "max_steps": "trainer.max_steps",
    "steps": "trainer.max_steps",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "ngpus": "trainer.devices",
    "devices": "trainer.devices",
    "world_size": "trainer.devices",
    "precision": "trainer.precision",
    "amp": "trainer.precision",
    "fp16": "trainer.precision",
    "bf16": "trainer.precision",
    "grad_clip": "trainer.clip",
    "gradient_clip_val": "trainer.clip",
    "accum_freq": "trainer.accumulate",
    "gradient_accumulation_steps": "trainer.accumulate",
    "grad_checkpointing": "trainer.strategy.activation_checkpointing",
    "image_size": "model.image.image_size",
    "img_size": "model.image.image_size",
    "resolution": "model.image.image_size",
    "pretrained": "model.pretrained",
    "experiment": "recipe",
    "config": "recipe",
    "device": "trainer",
    "output_dir": "run_dir",
    "save_dir": "run_dir",
    "logs": "run_dir",
    "ckpt": "checkpoint",
    "model_path": "checkpoint",
    "output": "out",
    "input": "path",
}
INSTEAD = {"evaluate": {"run_dir": "out"}, "embed": {"run_dir": "out"}, "plan": {"trainer.devices": "ranks"}}


def quote(argument: str) -> str:
    """The argument with quotes where Hydra's grammar needs them and the shell has removed them: a pattern such as
    `data.shards=x/{000..003}.tar`, and a value with letters beyond ASCII."""
    key, equals, value = argument.partition("=")
    if not equals or "'" in value or "=" in value or value[:1] in ("[", '"'):
        return argument
    braces = re.search(r"(?<!\$)\{[^{}:]*(\.\.|,)[^{}:]*\}", value)
    return f"{key}='{value}'" if braces or (value[:1] != "{" and not value.isascii()) else argument


def whole_lists(argument: str) -> list[str]:
    """`data.evaluate=[…]` replaces the sets of a data config: Hydra would try to merge the two, and fail."""
    if argument.startswith("data.evaluate=["):
        return ["data.evaluate=null", argument]
    return [argument]


def wrong_override(conf: Path, command: str, arguments: Sequence[str]) -> str | None:
    """A sentence for the first override that can't be, None where each could be. conf: the folder of the configs"""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, groups, read = OverridesParser.create(), [], []
    for argument in arguments:
        if argument.startswith("-"):
            continue
        try:
            override = parser.parse_override(argument)
            key = str(override.key_or_group)
        except (HydraException, ValueError):
            return _malformed(argument)
        if not key:
            return _malformed(argument)
        if "accumulate_grad_batches" in key:
            return LIGHTNINGS_ACCUMULATION
        if override.is_sweep_override() and not {"-m", "--multirun"} & set(arguments):
            return _several(argument)
        if (conf / key).is_dir() and override.package is None:
            if wrong := _wrong_choice(conf / key, key, override):
                return wrong
            groups.append(argument)
        else:
            read.append((argument, key, override))
    if wrong := _missing_choice(conf, command, arguments):
        return wrong
    if no := next(
        (group for group in (each.split("=")[0] for each in groups) if not _in_defaults(conf, command, group)), None
    ):
        return f"{no}= is no choice of {command}: leave it out; `python src/{command}.py --help` lists what is."
    cfg = _composed(conf, command, groups)
    return next(filter(None, (_wrong_key(conf, command, cfg, *each) for each in read)), None) if cfg else None


def _malformed(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument} is no override: type KEY=VALUE, such as {argument}=VALUE, or --help."
    if not key:
        return f"{argument} names no key: type KEY={value}."
    if value.startswith("[") and _reads(f"{argument}]"):
        return f"The list of {key} has no end: type {shell(f'{argument}]')}."
    special = "=" if "=" in value else "a character that has a meaning of its own, one of ,:[](){}'\""
    quoted = _quoted(value)
    if _reads(f"{key}={quoted}"):
        return f"The value of {key} holds {special}, which Hydra reads: type {shell(f'{key}={quoted}')}."
    return (
        f"The value of {key} holds {special}, which Hydra reads: put each text that holds one in quotes, and"
        f" the whole argument in quotes of the other kind, as \"{key}={{name: 'a=b'}}\"."
    )


def _several(argument: str) -> str:
    """For a value that Hydra takes for a sweep's, where no sweep was asked for."""
    key, _, value = argument.partition("=")
    of_list, text = shell(f"{key}=[{value}]"), shell(f"{key}={hydra(value)}")
    return f"{argument} gives several values: type {of_list} for a list, {text} for one text, or add -m to sweep."


def _quoted(value: str) -> str:
    """A value that Hydra can't read as the one that was meant: of a list the elements in quotes, else the whole."""
    if value.startswith("{"):
        return value
    if not (value.startswith("[") and value.endswith("]")):
        return hydra(value)
    elements = (element.strip() for element in _elements(value[1:-1]))
    return f"[{','.join(each if _reads(f'key=[{each}]') else hydra(each) for each in elements)}]"


def _elements(text: str) -> Iterator[str]:
    """Split at the commas that stand in no quotes and no brackets."""
    depth, quote, begin = 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "," and not depth:
            yield text[begin:at]
            begin = at + 1
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
    yield text[begin:]


def _reads(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except (HydraException, ValueError):
        return False
    return True


def choices_of(group: Path) -> list[str]:
    return sorted(file.stem for file in group.glob("*.yaml"))


def _wrong_choice(folder: Path, group: str, override: Any) -> str | None:
    if override.is_delete():
        return None
    if override.is_sweep_override():
        given: list[Any] = list(override.sweep_string_iterator())
    else:
        value = override.value()
        given = value if isinstance(value, list) else [value]
    choices = choices_of(folder)
    for choice in given:
        if choice is None and group == "recipe":
            continue
        if not isinstance(choice, str) or (choice not in choices and not (folder / f"{choice}.yaml").is_file()):
            shown = "null" if choice is None else choice
            return f"{group}={shown} is unknown: take {_nearest(str(choice), choices)}."
    return None


def _nearest(choice: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(choice, choices, n=1)
    return f"{near[0]} (or one of {', '.join(choices)})" if near else f"one of {', '.join(choices)}"


def _missing_choice(conf: Path, command: str, arguments: Sequence[str]) -> str | None:
    """A sentence where the command needs a choice of a group, and has none of its own."""
    if group := _undecided(conf, command, arguments):
        return f"{group}= is missing: take one of {', '.join(choices_of(conf / group))}. {usage(conf, command)}"
    return None


def _undecided(conf: Path, command: str, arguments: Sequence[str]) -> str | None:
    """A group of which the command needs a choice that is not given."""
    text = (conf / f"{command}.yaml").read_text(encoding="utf-8")
    needed = re.findall(r"^ +- (\w+): \?\?\?", text, re.MULTILINE)
    return next((g for g in needed if not any(each.startswith(f"{g}=") for each in arguments)), None)


def usage(conf: Path, command: str) -> str:
    """How a command is typed: the comment on top of its config."""
    text = (conf / f"{command}.yaml").read_text(encoding="utf-8")
    return "Usage: " + text.partition("\n")[0].removeprefix("# ")


def short_help(conf: Path, command: str, arguments: Sequence[str]) -> str | None:
    """What `--help` prints where Hydra can't compose a config yet, since a choice is missing."""
    group = _undecided(conf, command, arguments) if {"--help", "-h"} & set(arguments) else None
    if group is None:
        return None
    return (
        f"{usage(conf, command)}\n\n{group}: {', '.join(choices_of(conf / group))}\n\n"
        f"`python src/{command}.py {group}=CHOICE --help` prints the keys of a choice."
    )


def _in_defaults(conf: Path, command: str, group: str) -> bool:
    text = (conf / f"{command}.yaml").read_text(encoding="utf-8")
    return group.startswith(("+", "~")) or "/" in group or f"- {group}: " in text


def _composed(conf: Path, command: str, groups: list[str]) -> DictConfig | None:
    os.environ.setdefault("DIPTYCH_ROOT", str(conf.parent))  # which the configs ask for
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose(command, [group for group in groups if not group.startswith("~")])
    except Exception:  # what is wrong then is said by whoever asked
        return None


def _wrong_key(conf: Path, command: str, cfg: DictConfig, argument: str, key: str, override: Any) -> str | None:
    there = key in (keys := _keys(cfg))
    if key.partition(".")[0].partition("/")[0] == "hydra":
        return None
    if override.is_add() and not override.is_force_add() and there:
        return f"{key} is there already: type {shell(argument.lstrip('+'))}, without the +."
    if override.is_add() or override.is_force_add():
        return None
    return None if there else f"The key {key} is unknown{_similar(command, key, keys)}"


def added_to_nothing(conf: Path, overrides: Sequence[str]) -> str | None:
    """A sentence for a new key at the top of a config, where nothing reads it."""
    for argument in overrides:
        key = argument.partition("=")[0].lstrip("+")
        groups = (conf / key, conf.parent / key)
        if argument.startswith("+") and re.fullmatch(r"\w+", key) and not any(map(Path.is_dir, groups)):
            return f"{key} is nothing that this command reads: leave {argument} out{_instead('', key, None)}"
    return None


def _similar(command: str, key: str, keys: list[str]) -> str:
    if known := _instead(command, key, keys):
        return known
    if "/" in key:
        return ": there is no group of that name. `--cfg job` prints every key there is."
    near = difflib.get_close_matches(key, [each for each in keys if not each.endswith("_")], n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ": `--cfg job` prints every key there is."


def _instead(command: str, key: str, keys: list[str] | None) -> str:
    word = WORDS.get(key.rpartition(".")[2].lower(), "")
    word = INSTEAD.get(command, {}).get(word, word)
    groups = ("recipe", "trainer", "optim", "data")
    if not word or (keys is not None and word.partition(" ")[0] not in (*keys, *groups)):
        return "" if keys is not None else "."
    return f": did you mean {word}?"


def _keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name in map(str, cfg):
        keys.append(f"{prefix}{name}")
        node = cfg._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += _keys(node, f"{prefix}{name}.")
    return keys
