"""One sample of a tar in CLIP_benchmark's layout -> its picture, label and captions; what doesn't fit is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.base.errors import UserError
from diptych.base.textfile import parse_json, split_lines
from diptych.data.io.address import printable
from diptych.data.sets.class_folders import Unused
from diptych.data.stream.pairs import IMAGES
from diptych.data.stream.shards import Sample

if TYPE_CHECKING:
    from diptych.data.sets.evalset import Item


def labelled(sample: Sample, key: str, tar: Path, classes: int, unused: Unused) -> Item:
    """A picture with its class, and the caption in its .json or .txt where it has one. Raises UserError for a label
    that is none of the classes."""
    image, label = _image(sample, key, tar, unused), text_of(sample, "cls")
    if not re.fullmatch("[0-9]{1,9}", label) or int(label) >= classes:
        what = f"the label {label!r:.40}" if "cls" in sample else "no label (.cls)"
        raise UserError(f"{key} in {tar} has {what}, and no class below {classes}: labels are 0…{classes - 1}.")
    caption = ""
    if "json" in sample:
        caption = parse_json(sample["json"], f"{key}.json in {tar}").get("caption") or ""
        if not isinstance(caption, str):
            raise UserError(f"{key}.json in {tar} has a caption that is no text: {caption!r:.60}.")
        caption = " ".join(caption.split())
    return key, image, int(label), caption or "\n".join(_captions(sample, key, tar))


def captioned(sample: Sample, key: str, tar: Path, unused: Unused) -> Item:
    """A picture with its captions, one a line. Raises UserError where it lacks one of the two."""
    image, captions = _image(sample, key, tar, unused), _captions(sample, key, tar)
    if not captions:
        raise UserError(f"{key} in {tar} has no caption (.txt): a retrieval set needs one for every picture.")
    return key, image, 0, "\n".join(captions)


def _image(sample: Sample, key: str, tar: Path, unused: Unused) -> bytes:
    names = [name for name in sample if f".{name}".endswith(IMAGES)]
    if not names:
        raise UserError(f"{key} in {tar} has no image: its files end in {', '.join(_endings(sample)) or 'nothing'}.")
    if names[1:]:
        unused.setdefault("second image of a sample", []).extend(f"{key}.{name}" for name in names[1:])
    return sample[names[0]]


def _endings(sample: Sample) -> list[str]:
    return [f".{printable(name)}" for name in sample if not name.startswith("__")]


def _captions(sample: Sample, key: str, tar: Path) -> list[str]:
    try:
        return list(filter(None, split_lines(sample.get("txt", b"").decode("utf-8-sig"))))
    except UnicodeDecodeError as error:
        raise UserError(f"{key}.txt in {tar} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error


def text_of(sample: Sample, name: str) -> str:
    """A short file of the sample, or its key, as text."""
    value = sample.get(name, b"")
    return value if isinstance(value, str) else value.decode(errors="replace").strip()
