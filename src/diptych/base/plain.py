"""YAML as plain data: mappings, lists, text and numbers, which are the same after writing and reading.

Anything else that an untrusted file could contain is refused before an object is built: tags that build objects,
aliases (a few lines of them can fill any memory), very deep nesting, and keys given twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.textfile import DoubledKey, put

DEEPEST = 64  # levels of nesting: configs have about eight
LARGEST = 2**26  # bytes: a config with a hundred thousand phrases has a few million
# In C if PyYAML has it, since a config with all phrases of a tower has megabytes.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Out: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

# YAML 1.1's rule reads 1e-4 as text. Dates stay text: JSON and Hydra have no dates.
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
    r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_DROPPED = ("float", "timestamp", "merge", "value")


_Wrong = yaml.constructor.ConstructorError


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    kept = {
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in _DROPPED]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+0123456789.":
        kept[first] = [*kept.get(first, ()), ("tag:yaml.org,2002:float", _FLOAT)]
    return kept


class _Loader(_Base):
    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Wrong(None, None, f"the key {key!r} is not text", key_node.start_mark)
            try:
                put(found, key, self.construct_object(value_node, deep=True))
            except DoubledKey as error:
                raise _Wrong(None, None, str(error), key_node.start_mark) from error
        return found

    def _plain_map(self, node: yaml.MappingNode) -> dict[Any, Any]:
        return self.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader._plain_map)


class _Dumper(_Out):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse(text: str, name: str) -> Any:
    """The plain data in a YAML text. Raises UserError for anything else. name: of the file, for messages"""
    try:
        for problem in _problems(text):
            raise UserError(f"{name} is refused: {problem}.")
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{name} is refused: not plain data ({what}{where}).") from error


def _problems(text: str) -> Iterator[str]:
    """What isn't plain data, found in the parser's events: nothing is built, and nothing recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            yield "it has aliases, which can grow without bound"
        tag = getattr(event, "tag", None)
        if tag is not None:
            yield f"line {event.start_mark.line + 1} has the tag {tag}, which plain data doesn't need"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            yield f"it is nested more than {DEEPEST} deep"


def text_of(path: Path, largest: int = LARGEST) -> str:
    """A config file's text. Raises UserError if it can't be read or has more than `largest` bytes."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise UserError(f"{path} is refused: a config of {size:,} bytes.")
        return read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}.") from error


def read(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """A YAML file's mapping. Raises UserError for anything else, and for more than `largest` bytes."""
    found = parse(text_of(path, largest), str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} is refused: not a mapping of plain data but a {type(found).__name__}.")
    return found


def dump(data: Any) -> str:
    """Plain data as YAML, which `parse` reads as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested mappings and lists, each with its path: `data.sources.own.shards`."""
    parts = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else None
    if parts is None:
        yield path, node
        return
    for key, value in parts:
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def same(left: Any, right: Any) -> bool:
    """Whether plain data is equal in value, type and order of keys; NaN equals NaN."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right
