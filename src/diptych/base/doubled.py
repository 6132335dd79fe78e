"""One rule for a key that stands twice in one object of JSON or YAML: the object is refused.

Readers keep the last of the two values, so the other one would be lost in silence. (A field that stands twice in a
tar's extended header is another case: POSIX says that the last one holds.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


class DoubledKey(ValueError):
    """The message is a phrase that says which key."""

    def __init__(self, key: Any) -> None:
        super().__init__(f"the key {key!r} twice in one object")


def put(found: dict[Any, Any], key: Any, value: Any) -> None:
    """Add one entry. Raises DoubledKey."""
    if key in found:
        raise DoubledKey(key)
    found[key] = value


def loads(text: str | bytes) -> Any:
    """As `json.loads`. Raises DoubledKey, a ValueError as its other errors are."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        put(found, key, value)
    return found
