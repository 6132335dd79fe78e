"""Where our classes and functions are now that an earlier version named otherwise.

A `_target_` of ours stands in the config of every run, in every checkpoint and export, and in what users have written
in their own configs. Whoever moves or renames one adds a line here; nothing is ever taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A module, a class or a function, as an earlier version named it -> as this one does.
MOVED: dict[str, str] = {}


def current(name: str) -> str:
    """The name of today for a `_target_`; a name that never moved is its own."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        if (now := MOVED.get(".".join(parts[:size]))) is not None:
            return ".".join([now, *parts[size:]])
    return name


def first(name: str) -> str:
    """The name that a `_target_` had before it moved: it stays the same when the next version moves it again."""
    parts = name.split(".")
    before = {now: old for old, now in MOVED.items()}
    for size in range(len(parts), 0, -1):
        if (old := before.get(".".join(parts[:size]))) is not None:
            return ".".join([old, *parts[size:]])
    return name


def renamed(node: Any) -> Any:
    """A stored config, nested mappings and lists of plain data, with today's name at each `_target_`."""
    if isinstance(node, Mapping):
        return {
            key: current(value) if key == "_target_" and isinstance(value, str) else renamed(value)
            for key, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [renamed(value) for value in node]
    return node
