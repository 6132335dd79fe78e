"""Concepts and their drawings: which icon of which package draws which emoji."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Groups of emojibase whose concepts are classes. Left out: people-body (skin tones and genders of one
# drawing), component, symbols and flags.
CORE_GROUPS = frozenset({"smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects"})
CLOCK_FACES = frozenset(f"{code:x}" for code in range(0x1F550, 0x1F568))  # twelve o'clock … eleven-thirty
TRANSFORMS = ("hFlip", "vFlip", "rotate")  # of an alias: it is another drawing then, and is left out


@dataclass(frozen=True)
class Concept:
    """One emoji: key (emojibase's hexcode, lower case), label, tags, group, and Unicode's own name or ""."""

    key: str
    label: str
    tags: tuple[str, ...]
    group: str
    unicode_name: str

    @property
    def core(self) -> bool:
        return self.group in CORE_GROUPS and self.key not in CLOCK_FACES


def concepts(entries: list[dict[str, Any]], groups: Mapping[str, str], names: Mapping[str, str]) -> list[Concept]:
    """emojibase's data, group names and Unicode names -> concepts in emojibase's order.

    Entries without a group (single regional indicators) and components (a skin tone, a hair style) are skipped.
    """
    found = []
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        group = groups.get(str(entry.get("group")))
        if group in (None, "component"):
            continue
        code = entry["hexcode"]
        name = names.get(code) or names.get(code.replace("-FE0F", "")) or ""
        label = plain(entry["label"])
        tags = tuple(plain(tag).lower() for tag in entry.get("tags", ()))
        found.append(Concept(code.lower(), label, tags, group, name))
    return found


def plain(text: str) -> str:
    """The text with straight quotes instead of typographic ones."""
    return text.translate(str.maketrans("’“”", '\'""'))


def code_points(code: str) -> str:
    """A hexcode without the variation selector, which some packages leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def slug(name: str) -> str:
    """A name's letters and digits: some packages hyphenate names, others don't."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", ascii_name.lower().replace("&", "and"))


def join(known: list[Concept], icons: Mapping[str, Any], chars: Mapping[str, str]) -> dict[str, str]:
    """Concept key -> name of the icon that draws it; a concept without one is left out.

    known: all concepts
    icons: the package's icons.json ("icons", "aliases")
    chars: code points -> icon name; empty for a package that has names only, and is matched by name
    """
    if not chars:
        return _by_name(known, icons)
    by_code: dict[str, str] = {}
    for code, name in chars.items():
        by_code.setdefault(code_points(code), name)
    found = ((concept.key, _resolve(icons, by_code.get(code_points(concept.key)))) for concept in known)
    return {key: icon for key, icon in found if icon}


def _by_name(known: list[Concept], icons: Mapping[str, Any]) -> dict[str, str]:
    """Labels come before Unicode's names, and icons' own names before aliases. An icon is used for one concept
    only: an old alias calls the game "cricket", and the insect must not get that icon."""
    labels = {concept.key: concept.label for concept in known}
    unicode_names = {concept.key: concept.unicode_name for concept in known}
    joined: dict[str, str] = {}
    for names in (labels, unicode_names):
        for pool in (icons["icons"], icons.get("aliases", {})):
            by_slug = {slug(name): _resolve(icons, name) for name in pool}
            taken = set(joined.values())
            for key, wanted in _unambiguous((key, slug(name)) for key, name in names.items() if key not in joined):
                icon = by_slug.get(wanted)
                if icon and icon not in taken:
                    joined[key] = icon
                    taken.add(icon)
    return joined


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    listed = [(key, name) for key, name in pairs if name]
    counts = Counter(name for _, name in listed)
    return [(key, name) for key, name in listed if counts[name] == 1]


def _resolve(icons: Mapping[str, Any], name: str | None) -> str | None:
    """The icon that a name or an alias stands for; None when it is turned, mirrored or missing."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        return None if any(alias.get(turn) for turn in TRANSFORMS) else _resolve(icons, alias["parent"])
    return name if name in icons["icons"] else None
