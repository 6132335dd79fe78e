"""Read a command line: which override is wrong, why, and what to type instead."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diptych.base.terminal import hydra, shell

PARSER = OverridesParser.create()
LIGHTNINGS_ACCUMULATION = (
    "accumulate_grad_batches is Lightning's mean of small batches' losses, another objective where a loss compares"
    " all pairs: type trainer.accumulate=K for the exact gradient of the whole batch in K parts."
)

# Our keys, and what other trainers and papers call them.
CALLED = {
    "optim": "optimizer",
    "optim.lr": "lr learning_rate",
    "optim.weight_decay": "wd weight_decay",
    "optim.betas": "betas beta1 beta2",
    "optim.momentum": "momentum",
    "schedule.warmup": "warmup warmup_steps",
    "data": "dataset",
    "data.batch_size": "batch batch_size bs global_batch_size",
    "data.shards": "train_data data_path",
    "data.workers": "workers num_workers",
    "samples (pairs to train on: epochs × pairs of the set)": "epochs max_epochs num_epochs",
    "trainer": "device",
    "trainer.max_steps": "max_steps steps",
    "trainer.devices": "gpus num_gpus ngpus devices world_size",
    "trainer.precision": "precision amp fp16 bf16",
    "trainer.clip": "grad_clip gradient_clip_val",
    "trainer.accumulate": "accum_freq gradient_accumulation_steps",
    "trainer.strategy.activation_checkpointing": "grad_checkpointing",
    "model.image.image_size": "image_size img_size resolution",
    "model.pretrained": "pretrained",
    "recipe": "experiment config",
    "run_dir": "output_dir save_dir logs",
    "checkpoint": "ckpt model_path",
    "out": "output",
    "path": "input",
}
OURS = {word: key for key, words in CALLED.items() for word in words.split()}
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
    """A sentence for the first override that is wrong, None where none is. conf: the folder of the configs"""
    groups, read = [], []
    for argument in arguments:
        if argument.startswith("-"):
            continue
        try:
            override = PARSER.parse_override(argument)
        except (HydraException, ValueError):
            return _malformed(argument)
        key = str(override.key_or_group)
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
    if group := _undecided(conf, command, arguments):
        return f"{group}= is missing: take one of {', '.join(choices_of(conf / group))}. {usage(conf, command)}"
    for group in (argument.split("=")[0] for argument in groups):
        if not _in_defaults(conf, command, group):
            return (
                f"{group}= is no choice of {command}: leave it out; `python src/{command}.py --help` lists what is."
            )
    try:
        cfg = compose_config(conf, command, [group for group in groups if not group.startswith("~")])
    except Exception:  # the caller says what is wrong then
        return None
    keys = _keys(OmegaConf.to_container(cfg))
    return next(filter(None, (_wrong_key(command, keys, *each) for each in read)), None)


# Options of Hydra's own; argparse also takes their beginnings.
OPTIONS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip


def dashed(arguments: Sequence[str]) -> str | None:
    """A sentence for the first key that is typed with dashes, as other trainers want it: `--model vit_b16`."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if re.fullmatch(r"--[a-z][\w.-]*", name) and not any(option.startswith(name) for option in OPTIONS):
            return f"{name} is no option: keys have no dashes, type {name[2:].replace('-', '_')}=VALUE."
    return None


def compose_config(conf: Path, command: str | None, overrides: list[str]) -> DictConfig:
    """Compose a config as Hydra does for a command, without a command."""
    os.environ.setdefault("DIPTYCH_ROOT", str(conf.parent))  # which the configs ask for
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose(command, overrides)


def _malformed(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument} is no override: type KEY=VALUE, such as {argument}=VALUE, or --help."
    if not key:
        return f"{argument} names no key: type KEY={value}."
    if value.startswith("[") and _reads(f"{argument}]"):
        return f"The list of {key} has no end: type {shell(f'{argument}]')}."
    special = "=" if "=" in value else "one of the characters ,:[](){}'\""
    quoted = _quoted(value)
    if _reads(f"{key}={quoted}"):
        return f"The value of {key} holds {special}, part of Hydra's grammar: type {shell(f'{key}={quoted}')}."
    return (
        f"The value of {key} holds {special}, part of Hydra's grammar: put each text that holds one in quotes, and"
        f" the whole argument in quotes of the other kind, such as \"{key}={{name: 'a=b'}}\"."
    )


def _several(argument: str) -> str:
    """For several values without -m."""
    key, _, value = argument.partition("=")
    of_list, text = shell(f"{key}=[{value}]"), shell(f"{key}={hydra(value)}")
    return f"{argument} gives several values: type {of_list} for a list, {text} for one text, or add -m to sweep."


def _quoted(value: str) -> str:
    """A value that Hydra can't parse, with quotes: around the elements of a list, or around the whole."""
    if value.startswith("{"):
        return value
    if not (value.startswith("[") and value.endswith("]")):
        return hydra(value)
    elements = (element.strip() for element in _elements(value[1:-1]))
    return f"[{','.join(each if _reads(f'key=[{each}]') else hydra(each) for each in elements)}]"


def _elements(text: str) -> Iterator[str]:
    """Split at the commas outside of quotes and brackets."""
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
    try:
        PARSER.parse_override(argument)
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


def _undecided(conf: Path, command: str, arguments: Sequence[str]) -> str | None:
    """The first group that needs a choice and has none."""
    text = (conf / f"{command}.yaml").read_text(encoding="utf-8")
    needed = re.findall(r"^ +- (\w+): \?\?\?", text, re.MULTILINE)
    return next((g for g in needed if not any(each.startswith(f"{g}=") for each in arguments)), None)


def usage(conf: Path, command: str) -> str:
    """How to type a command: the first line of its config, a comment."""
    text = (conf / f"{command}.yaml").read_text(encoding="utf-8")
    return "Usage: " + text.partition("\n")[0].removeprefix("# ")


def short_help(conf: Path, command: str, arguments: Sequence[str]) -> str | None:
    """The text of `--help` where Hydra can't compose a config, since a choice is missing; otherwise None."""
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


def _wrong_key(command: str, keys: list[str], argument: str, key: str, override: Any) -> str | None:
    if key.partition(".")[0].partition("/")[0] == "hydra":
        return None
    if override.is_add() or override.is_force_add():
        if override.is_force_add() or key not in keys:
            return None
        return f"{key} is there already: type {shell(argument.lstrip('+'))}, without the +."
    return None if key in keys else f"The key {key} is unknown{_similar(command, key, keys)}"


def added_to_nothing(conf: Path, overrides: Sequence[str]) -> str | None:
    """A sentence for a new top-level key, as `+lr=1`, which nothing would read."""
    for argument in overrides:
        key = argument.partition("=")[0].lstrip("+")
        groups = (conf / key, conf.parent / key)
        if argument.startswith("+") and re.fullmatch(r"\w+", key) and not any(map(Path.is_dir, groups)):
            return f"{key} is unknown to this command: leave {argument} out{_instead('', key, None)}"
    return None


def _similar(command: str, key: str, keys: list[str]) -> str:
    if known := _instead(command, key, keys):
        return known
    if "/" in key:
        return ": there is no group of that name. `--cfg job` prints every key there is."
    near = difflib.get_close_matches(key, [each for each in keys if not each.endswith("_")], n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ": `--cfg job` prints every key there is."


def _instead(command: str, key: str, keys: list[str] | None) -> str:
    word = OURS.get(key.rpartition(".")[2].lower(), "")
    word = INSTEAD.get(command, {}).get(word, word)
    groups = ("recipe", "trainer", "optim", "data")
    if not word or (keys is not None and word.partition(" ")[0] not in (*keys, *groups)):
        return "" if keys is not None else "."
    return f": did you mean {word}?"


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Every key of a config, with dots: of sections and of values."""
    keys = []
    for name, value in node.items():
        keys += [f"{prefix}{name}", *(_keys(value, f"{prefix}{name}.") if isinstance(value, dict) else ())]
    return keys
