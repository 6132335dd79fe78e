"""A sample's texts: its captions, and the fields of its `.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from unicodedata import category

from diptych.base.masking import masked_text
from diptych.base.textfile import DoubledKey, loads, split_lines
from diptych.data.io.address import printable
from diptych.data.stream.shards import Sample
from diptych.data.text.cleaning import mend

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
        if not captions:
            raise BadSample(_why_none(sample))
    except BadSample:
        raise
    except ValueError as error:
        raise BadSample("caption file is not readable text") from error
    return captions


@lru_cache(maxsize=4096)
def _captions_of_json(data: bytes) -> tuple[str, ...]:
    fields = parse_json(data)
    if not isinstance(fields, dict):
        raise BadSample(f".json holds {_kind(fields)}, not an object")
    return _texts_in(fields.get("captions")) or _texts_in(fields.get("caption"))


def _why_none(sample: Sample) -> str:
    """Why there is no caption in a .txt and no `captions` or `caption` in a .json."""
    fields = parse_json(sample["json"]) if "json" in sample else {}
    held = [name for name in ("captions", "caption") if name in fields]
    if not held and "txt" not in sample:
        return "no caption: neither caption nor captions in its .json"
    return next(filter(None, (_no_text(name, fields[name]) for name in held)), "empty caption")


def _no_text(name: str, value: object) -> str:
    """Why a field holds no text at all; "" where it holds some that says nothing."""
    if isinstance(value, list):
        if not value:
            return f"{name} in its .json is an empty list"
        return "" if any(isinstance(each, str) for each in value) else f"{name} in its .json is a list without text"
    return "" if isinstance(value, str) else f"{name} in its .json is {_kind(value)}, not text"


def _kind(value: object) -> str:
    """What JSON calls a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def field_of(sample: Sample, field: str) -> tuple[str, ...]:
    """The texts in `field` of `key.json`, at least one. Raises BadSample."""
    try:
        fields = parse_json(sample.get("json", b""))
    except BadSample:
        raise
    except ValueError as error:
        raise BadSample(f"no .json that holds {field}, the caption") from error
    found = _texts_in(fields.get(field) if isinstance(fields, dict) else None)
    if not found:
        if not isinstance(fields, dict) or field not in fields:
            raise BadSample(f"no {field} in its .json, which data.captions takes as the caption")
        raise BadSample(_no_text(field, fields[field]) or "empty caption")
    return found


def group_of(sample: Sample, field: str) -> int:
    """The number that stands for the value, whatever it is, of `field` in `key.json`. Raises BadSample."""
    try:
        fields = parse_json(sample.get("json", b""))
        value = fields.get(field) if isinstance(fields, dict) else None
        written = json.dumps(value, sort_keys=True)
    except BadSample:
        raise
    except (ValueError, RecursionError) as error:
        raise BadSample("no .json that names the sample's group") from error
    if value is None:
        raise BadSample(f"no {field} in its .json, by which data.groups groups")
    return int.from_bytes(blake2b(written.encode(), digest_size=8).digest(), "little", signed=True)


def value_of(sample: Sample, field: str) -> Any:
    """What `field` of `key.json` holds; None where there is no such field, or no readable JSON object."""
    try:
        fields = parse_json(sample.get("json", b"{}"))
    except ValueError:  # BadSample too: it is not what is looked for here
        return None
    return fields.get(field) if isinstance(fields, dict) else None


def source_of(sample: Sample) -> str:
    """What a sample was before it was packed, a file or a table's row, which `pack.py` keeps in `key.json`; "" where
    that is not known."""
    source = value_of(sample, "source")
    return masked_text(printable(source[:200])) if isinstance(source, str) else ""


def parse_json(data: str | bytes) -> Any:
    """JSON from outside. Raises ValueError whatever is wrong with it, also where it is nested too deep; BadSample
    for a key that stands twice."""
    try:
        return loads(data)
    except DoubledKey as error:
        raise BadSample(f".json has {error}") from error
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
    """Whether anything is left of a text once it is cleaned, see `diptych.data.text.cleaning`."""
    if "&" in text or not text.isprintable():
        text = mend(text)
    return any(map(_prints, text))


def _prints(letter: str) -> bool:
    return (letter.isalnum() and letter < "\u0300") or (category(letter) not in _SILENT and letter not in _BLANK)


def extensions(sample: Sample) -> str:
    """The extensions of a sample's files, for messages."""
    return ", ".join(sorted(f".{name}" for name in sample if not name.startswith("__"))) or "no file"
