"""Artificial packages in the npm packages' layout, small enough to build from in a test."""

from __future__ import annotations

from typing import Any

from emoji_pairs.concepts import Concept
from emoji_pairs.packages import Contents, Package
from emoji_pairs.splits import REDRAWN, SHIFTS, TRAIN

GROUPS = {"1": "people-body", "3": "animals-nature", "2": "component", "9": "flags"}


def concept(
    key: str = "1f42e", label: str = "cow face", tags: tuple[str, ...] = ("farm", "moo"), **other: Any
) -> Concept:
    return Concept(key, label, tags, **{"group": "animals-nature", "unicode_name": "", **other})


def names(count: int) -> Contents:
    """emojibase's files with `count` animals, a person, and entries that are not concepts."""
    entries: list[dict[str, Any]] = [
        {
            "hexcode": f"1F4{number:02X}",
            "label": f"animal {number}",
            "tags": ["wild"],
            "group": 3,
            "order": number,
        }
        for number in range(count)
    ]
    entries.append({"hexcode": "1F9D1", "label": "person", "tags": [], "group": 1, "order": 900})
    entries.append({"hexcode": "1F3FB", "label": "light skin tone", "group": 2, "order": 901})
    entries.append({"hexcode": "1F1E6", "label": "regional indicator A"})
    return {"en/data.json": entries, "meta/groups.json": {"groups": GROUPS}, "meta/unicode-names.json": {}}


def styles(count: int) -> list[tuple[Package, Contents]]:
    """A package for every style. Each concept is a square with its own colour and position."""
    made = []
    for hue, style in enumerate((*TRAIN, *SHIFTS, REDRAWN)):
        icons = {
            f"animal-{number}": {"body": _square(number, f"#{hue:01x}{number:02x}0{number:02x}")}
            for number in range(count)
        }
        icons["person"] = {"body": '<circle r="8" fill="currentColor"/>'}
        pin = Package(f"@made/{style}", "1.0.0", ("icons.json",), "", style, "", "", "", style)
        contents = {"icons.json": {"icons": icons, "width": 32, "height": 32}, "chars.json": {}}
        made.append((pin, contents))
    return made


def _square(number: int, colour: str) -> str:
    return f'<path fill="{colour}" d="M{number % 7} {number % 5}h20v{8 + number}h-20z"/>'
