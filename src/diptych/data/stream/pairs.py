"""From one sample of a shard to one image–text pair: its images, captions and group, and the draws among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple
from unicodedata import category

import torch
from torch import Tensor

from diptych.base import seeding
from diptych.base.masking import masked_text
from diptych.base.textfile import DoubledKey, loads, split_lines
from diptych.data.io.address import printable
from diptych.data.pixels.image import BadImage
from diptych.data.stream.shards import Sample
from diptych.data.text.cleaning import repair

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
_IMAGE, _CAPTION, _CROP = 11, 12, 13  # names of the draws from a sample's seed
_SILENT = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # control and format characters (also of zero width), white space
# Letters and signs that print nothing: fillers, the grapheme joiner, the blank Braille pattern, variation selectors.
_BLANK = frozenset(map(chr, (0x34F, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10))))


class BadSample(ValueError):
    """The sample gives no pair. The message is a reason under which samples are counted."""


class Pair(NamedTuple):
    """image uint8 [3, size, size], tokens int64 [L], and the number of the sample's group, if there are groups"""

    image: Tensor
    tokens: Tensor
    group: int | None = None


class Pairs:
    """Makes pairs: (sample, seed) -> Pair.

    A sample may have several images (`key.A.jpg`, `key.B.jpg`) and several captions (lines of `key.txt`, a list in
    `key.json`, see `captions_of`). The seed draws one of each.

    image: (encoded bytes, seed) -> uint8 [3, size, size]
    tokenizer: texts -> int64 [N, L]
    captions: the field of `key.json` with the caption or captions, instead of the usual ones
    groups: the field of `key.json` whose value groups samples, for losses that count all of a group's texts as right
        for all of its images; None for no groups
    """

    def __init__(
        self,
        image: Callable[[bytes, int], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        groups: str | None = None,
        captions: str | None = None,
    ) -> None:
        self.image, self.tokenizer, self.groups, self.captions = image, tokenizer, groups, captions

    def __call__(self, sample: Sample, seed: int) -> Pair:
        """Raises BadSample."""
        captions = captions_of(sample) if self.captions is None else field_of(sample, self.captions)
        text = captions[int(seeding.uniform_one(seed, _CAPTION) * len(captions))]
        group = None if self.groups is None else group_of(sample, self.groups)
        names = images_of(sample)
        name = names[int(seeding.uniform_one(seed, _IMAGE) * len(names))]
        try:
            image = self.image(sample[name], seeding.mix_one(seed, _CROP))
        except BadImage as error:
            raise BadSample(f"{error} (.{name.rsplit('.', 1)[-1]})") from error
        return Pair(image, self.tokenizer([text])[0], group)


def images_of(sample: Sample) -> tuple[str, ...]:
    """The names of a sample's images, at least one. Raises BadSample."""
    names = _images(tuple(sample))
    if not names:
        raise BadSample(f"no image among {extensions(sample)}")
    return names


@lru_cache(maxsize=4096)
def _images(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of images, sorted. It is cached: most samples of a set have the same names."""
    return tuple(sorted(name for name in names if f".{name}".endswith(IMAGES)))


def stack(pairs: list[Pair]) -> tuple[Tensor, Tensor, list[int]]:
    """Pairs -> (images uint8 [B, 3, H, W], tokens int64 [B, L], groups B or none)."""
    groups = [pair.group for pair in pairs if pair.group is not None]
    return torch.stack([pair.image for pair in pairs]), torch.stack([pair.tokens for pair in pairs]), groups


def captions_of(sample: Sample) -> tuple[str, ...]:
    """A sample's captions, at least one: the lines of `key.txt`, or else `captions` or `caption` in `key.json`, each
    a text or a list of texts. Raises BadSample."""
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
    """Why neither the .txt nor the .json has a caption."""
    fields = parse_json(sample["json"]) if "json" in sample else {}
    held = [name for name in ("captions", "caption") if name in fields]
    if not held and "txt" not in sample:
        return "no caption: neither caption nor captions in its .json"
    return next(filter(None, (_no_text(name, fields[name]) for name in held)), "empty caption")


def _no_text(name: str, value: object) -> str:
    """Why a field has no text; "" where it has text, but only blank."""
    if isinstance(value, list):
        if not value:
            return f"{name} in its .json is an empty list"
        return "" if any(isinstance(each, str) for each in value) else f"{name} in its .json is a list without text"
    return "" if isinstance(value, str) else f"{name} in its .json is {_kind(value)}, not text"


def _kind(value: object) -> str:
    """The kind of a JSON value."""
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
    """A 64-bit hash of the value of `field` in `key.json`, whatever its kind. Raises BadSample."""
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
    """The value of `field` in `key.json`; None without that field, or without a readable JSON object."""
    try:
        fields = parse_json(sample.get("json", b"{}"))
    except ValueError:  # BadSample is one too
        return None
    return fields.get(field) if isinstance(fields, dict) else None


def source_of(sample: Sample) -> str:
    """The file or table row that a sample was packed from, which `pack.py` stores in `key.json`; "" if unknown."""
    source = value_of(sample, "source")
    return masked_text(printable(source[:200])) if isinstance(source, str) else ""


def parse_json(data: str | bytes) -> Any:
    """JSON from outside. Raises ValueError for anything invalid, also for one that is nested too deep, and BadSample
    for a key that is there twice."""
    try:
        return loads(data)
    except DoubledKey as error:
        raise BadSample(f".json has {error}") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def texts(lines: Iterable[object]) -> tuple[str, ...]:
    """The lines that are text and not blank, without the white space around them."""
    stripped = (line.strip().strip("\ufeff").strip() for line in lines if isinstance(line, str))
    return tuple(text for text in stripped if says(text))


def _texts_in(value: object) -> tuple[str, ...]:
    lines = value if isinstance(value, list) else [value]
    return texts(_without_surrogates(line) if isinstance(line, str) else line for line in lines)


def _without_surrogates(text: str) -> str:
    """JSON can contain halves of characters, which can't be encoded."""
    if text.isascii() or text.isprintable():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def says(text: str) -> bool:
    """Whether anything visible is left of a text once it is cleaned, see `diptych.data.text.cleaning`."""
    if "&" in text or not text.isprintable():
        text = repair(text)
    return any(map(_prints, text))


def _prints(letter: str) -> bool:
    return (letter.isalnum() and letter < "\u0300") or (category(letter) not in _SILENT and letter not in _BLANK)


def extensions(sample: Sample) -> str:
    """The extensions of a sample's files, for messages."""
    return ", ".join(sorted(f".{name}" for name in sample if not name.startswith("__"))) or "no file"
