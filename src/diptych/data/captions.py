"""A sample's texts: its captions, and the fields of its `.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from unicodedata import category

from diptych.data.cleaning import mend
from diptych.data.shards import Sample
from diptych.textfile import split_lines

_SILENT = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # control and format characters (zero-width ones too), and white space
# Letters and signs that print nothing: fillers, the grapheme joiner, the blank Braille pattern, variation selectors.
_BLANK = frozenset(map(chr, (0x34F, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10))))


class BadSample(ValueError):
    """The sample gives no pair; the message is a reason to count by."""


def captions_of(sample: Sample) -> tuple[str, ...]:
    """A sample's captions, at least one: the lines of `key.txt`; where it has none, `captions` or `caption` of
    `key.json`, each a text or a list of texts. Raises BadSample."""
    if "txt" not in sample and "json" not in sample:
        raise BadSample(f"no caption: neither .txt nor .json among {extensions(sample)}")
    try:
        captions = texts(split_lines(sample["txt"].decode())) if "txt" in sample else ()
        if not captions and "json" in sample:
            captions = _captions_of_json(sample["json"])
    except ValueError as error:
        raise BadSample("caption file is not readable text") from error
    if not captions:
        raise BadSample("empty caption")
    return captions


@lru_cache(maxsize=4096)
def _captions_of_json(data: bytes) -> tuple[str, ...]:
    fields = parse_json(data)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return _texts_in(fields.get("captions")) or _texts_in(fields.get("caption"))


def field_of(sample: Sample, field: str) -> tuple[str, ...]:
    """The texts in `field` of `key.json`, at least one. Raises BadSample."""
    try:
        fields = parse_json(sample.get("json", b""))
    except ValueError as error:
        raise BadSample(f"no .json that holds {field}, the caption") from error
    found = _texts_in(fields.get(field) if isinstance(fields, dict) else None)
    if not found:
        raise BadSample(f"no {field} in its .json, which data.captions takes as the caption")
    return found


def group_of(sample: Sample, field: str) -> int:
    """The number that stands for the value, whatever it is, of `field` in `key.json`. Raises BadSample."""
    try:
        fields = parse_json(sample.get("json", b""))
        value = fields.get(field) if isinstance(fields, dict) else None
        written = json.dumps(value, sort_keys=True)
    except (ValueError, RecursionError) as error:
        raise BadSample("no .json that names the sample's group") from error
    if value is None:
        raise BadSample(f"no {field} in its .json, by which data.groups groups")
    return int.from_bytes(blake2b(written.encode(), digest_size=8).digest(), "little", signed=True)


def parse_json(data: str | bytes) -> Any:
    """JSON from outside. Raises ValueError whatever is wrong with it, also where it is nested too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def texts(lines: Iterable[object]) -> tuple[str, ...]:
    """Those of the lines that are text and say something, without the white space around them."""
    stripped = (line.strip().strip("\ufeff").strip() for line in lines if isinstance(line, str))
    return tuple(text for text in stripped if says(text))


def _texts_in(value: object) -> tuple[str, ...]:
    lines = value if isinstance(value, list) else [value]
    return texts(_without_surrogates(line) if isinstance(line, str) else line for line in lines)


def _without_surrogates(text: str) -> str:
    """JSON can hold halves of characters, which nothing can write."""
    if text.isascii() or text.isprintable():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def says(text: str) -> bool:
    """Whether anything is left of a text once it is cleaned, see `diptych.data.cleaning`."""
    if "&" in text or not text.isprintable():
        text = mend(text)
    return any(map(_prints, text))


def _prints(letter: str) -> bool:
    return (letter.isalnum() and letter < "\u0300") or (category(letter) not in _SILENT and letter not in _BLANK)


def extensions(sample: Sample) -> str:
    """The extensions of a sample's files, for messages."""
    return ", ".join(sorted(f".{name}" for name in sample if not name.startswith("__"))) or "no file"
