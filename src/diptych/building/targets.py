"""Which functions and classes a `_target_` may name. It could name any function on the machine, so each one is
checked, by the object that the name leads to, before it is imported or called.

Each section of a run's config (`model`, `data`, …) may build what our own configs name in that section, and what the
command line trusts: what it types, and what it lists in `allow_targets=[mine.Tower]`, or `[mine.]` for all that a
package defines.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.base.terminal import say, to_type

# The groups of configs that a training is built from.
GROUPS = ("model", "data", "loss", "optim", "schedule", "trainer", "logger", "callbacks", "recipe")
UNBUILT = ("labelled", "synonyms", "ngrams", "templates")  # keys of `data` for recipes and evaluations only
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """Allow these targets too: full names, or prefixes that end with a dot."""
    token = _trusted.set((*_trusted.get(), *names))
    try:
        yield
    finally:
        _trusted.reset(token)


@lru_cache
def known() -> dict[str, frozenset[str]]:
    """Section of a run's config -> each `_target_` that this version's configs name in it."""
    conf = ROOT / "conf"
    found: dict[str, set[str]] = {}
    for file in (conf / "train.yaml", *(file for group in GROUPS for file in sorted((conf / group).rglob("*.yaml")))):
        text = file.read_text(encoding="utf-8")
        config = plain.parse(text, str(file)) or {}
        group = file.relative_to(conf).parts[0]
        if file.parent != conf and "@package _global_" not in text:
            config = {group: config}
        for place, target in targets_in(config):
            found.setdefault(place.partition(".")[0], set()).add(target)
    return {section: frozenset(names) for section, names in found.items()}


def targets_in(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each `_target_` in a config, at any depth, after the key of its mapping. The key begins with `unbuilt` for what
    a training doesn't build."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            unbuilt = any(place == f"data.{key}" or place.startswith(f"data.{key}.") for key in UNBUILT)
            yield f"unbuilt.{place}" if unbuilt else place, node["_target_"]
        for key, value in node.items():
            yield from targets_in(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from targets_in(value, f"{place}.{number}")


def find(target: Any, place: str) -> Callable[..., Any] | None:
    """The object that a `_target_` of a run's config names; None if it is not allowed at this place.

    An unknown name may be a second name of an allowed object. It is looked up in loaded modules, and never imported.
    Raises UserError for an allowed name that can't be found.
    """
    names = known().get(place.partition(".")[0], frozenset())
    if isinstance(target, str) and target in names:
        return located(target)
    if (found := trusted(target)) is not None:
        return found
    objects = [located(name) for name in sorted(names)]
    other = _loaded(target)
    return other if other is not None and any(other is each for each in objects) else None


def trusted(target: Any) -> Callable[..., Any] | None:
    """The object of a name that the command line trusts, else None. A prefix allows only what is defined below it,
    and not what these modules import."""
    if not isinstance(target, str) or not NAME.fullmatch(target):
        return None
    names = _trusted.get()
    if target in names:
        return located(target)
    prefixes = tuple(name for name in names if name.endswith(".") and len(name) > 1)
    if prefixes and target.startswith(prefixes):
        found = located(target)
        if _defined(found).startswith(prefixes):
            return found
    objects = [located(name) for name in names if not name.endswith(".") and NAME.fullmatch(name)]
    other = _loaded(target)
    return other if other is not None and any(other is each for each in objects) else None


def _defined(found: Any) -> str:
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""


def located(name: str) -> Callable[..., Any]:
    """Import the object of a trusted name. Raises UserError where there is none."""
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:size])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue
            raise UserError(f"{name} can't be imported: {error}.") from error
        for part in parts[size:]:
            if not hasattr(found, part):
                raise UserError(f"{name} is unknown: {module} has no {'.'.join(parts[size:])}.")
            found = getattr(found, part)
        if not callable(found):
            raise UserError(f"{name} is a {type(found).__name__}, and not a class or a function.")
        return found
    raise UserError(
        f"{name} can't be imported: there is no module {parts[0]}; put the folder that holds it on PYTHONPATH."
    )


def _loaded(name: Any) -> Callable[..., Any] | None:
    """The object of a name if its module is loaded. Runs none of the module's code."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return None
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        if (module := sys.modules.get(".".join(parts[:size]))) is not None:
            found: Any = vars(module).get(parts[size]) if size == len(parts) - 1 else None
            return found if isinstance(found, type) or callable(found) else None
    return None


def foreign(config: Mapping[str, Any]) -> list[str]:
    """The targets of a run's config that are not Diptych's, sorted."""
    ours = frozenset().union(*known().values())
    return sorted({target for _, target in targets_in(config) if isinstance(target, str)} - ours)


def announce_foreign(config: Mapping[str, Any]) -> None:
    """Say, before a training, what to type later to open its run."""
    if names := foreign(config):
        say(
            f"This run builds classes that are not Diptych's: to resume it, type"
            f" {to_type('allow_targets', names)} beside resume=."
        )
    if names := foreign(config["model"]):
        say(
            f"Its model needs the same for evaluate.py, embed.py and convert.py, and diptych.load(…,"
            f" allow_targets={names}). The code must be importable there."
        )


def refuse_foreign(config: Mapping[str, Any], source: str) -> None:
    """Raises UserError for a `_target_` that is not allowed at its place, before anything is built. source: the
    folder's name in messages, `resume=DIR`"""
    refused = []
    for place, target in targets_in(config):
        if not isinstance(target, str) or not NAME.fullmatch(target):
            said = f"is {target!r}, which names" if target is not None else "is missing: null names"
            raise UserError(f"{source} can't continue: {place}._target_ in its config.yaml {said} no class.")
        if find(target, place) is None:
            refused.append(target)
    for place, key in _odd_keys(config):
        raise UserError(
            f"{source} can't continue: {place} in its config.yaml has {key}, which no run of ours writes."
        )
    if refused:
        raise UserError(
            f"{source} would call {refused[0]}, which no config of this version names there: if you know it and"
            f" trust that folder, add {to_type('allow_targets', list(dict.fromkeys(refused)))}."
        )


def _odd_keys(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Positional arguments, whose names the checks can't see."""
    if isinstance(node, Mapping):
        if "_args_" in node and trusted(node.get("_target_")) is None:
            yield place, "_args_"
        for key, value in node.items():
            yield from _odd_keys(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _odd_keys(value, f"{place}.{number}")
