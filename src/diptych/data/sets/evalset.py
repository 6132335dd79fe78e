"""Evaluation sets: pictures with labels or captions, read when they are asked for, whatever layout they are stored
in.

An identity says what a set is, so that a resume can tell whether its scores are still of the same pictures and
labels. No picture is read for it: a picture is its key and its length, or that of the file that it is in. One that
was changed in place, at the same length, goes unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.templates import OWN
from diptych.base.terminal import counted
from diptych.data.io.address import printable
from diptych.data.pixels.image import BadImage, eval_image

Unused = dict[str, list[str]]  # reason -> names
Identity = dict[str, str]
PARTS = ("role", "number", "pictures", "labels", "captions", "classes", "templates")


class Readable(Protocol):
    """An encoded picture that is read when its turn comes: a file (a Path), or a place in one.

    A place says with `held_in` what it is in: the path of a file, or the length in bytes of a shard that may be
    anywhere.
    """

    def read_bytes(self) -> bytes: ...


Item = tuple[str, bytes | Readable, int, str]
"""key, encoded picture, label, caption: several on lines of their own, "" for none"""


def encoded_bytes(data: bytes | Readable) -> bytes:
    """An item's encoded picture. Raises OSError."""
    if isinstance(data, bytes):
        return data
    return read_regular(data) if isinstance(data, Path) else data.read_bytes()


@dataclass
class Labelled:
    """images: uint8 [B, 3, size, size]; labels: int64 [B]; a key and a caption each ("" where there is none); places:
    of the pictures among the set's items"""

    images: Tensor
    labels: Tensor
    keys: list[str]
    captions: list[str]
    places: list[int]


@dataclass
class EvalSet:
    """One set: classes, templates with `{}`, and encoded pictures. `skipped` counts what could not be read.

    role: what its number is for: "validation", "shift", "redrawn", "unseen", or "test"
    border: pixels that are cut off every side of a picture
    prompts: whose the templates are
    unused: files that are not pictures of the set, by reason; remarks: sentences on how it was read
    """

    name: str
    classnames: list[str]
    templates: list[str]
    items: list[Item]
    role: str = "test"
    note: str = ""
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> keys
    border: int = 0
    prompts: str = OWN
    unused: Unused = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, count: int) -> EvalSet:
        """At most `count` pictures, drawn by a fixed rule; the note says so."""
        if count >= len(self.items):
            return self
        chosen = sorted(seeding.permutation(len(self.items), 0)[:count].tolist())
        note = f"{self.note + '; ' if self.note else ''}a sample of {count} of {counted(len(self.items), 'picture')}"
        return replace(self, items=[self.items[i] for i in chosen], note=note, skipped={})

    def hashes(self) -> dict[str, str]:
        """SHA-256 of what the numbers depend on beside the model: class names, templates, and the pictures' keys with
        their labels, in order."""
        pictures = [f"{key} {label}" for key, _, label, _ in self.items]
        texts = {"classnames": self.classnames, "templates": self.templates, "pictures": pictures}
        return {name: sha256("\n".join(lines).encode()).hexdigest() for name, lines in texts.items()}

    def batches(self, batch_size: int, size: int) -> Iterator[Labelled]:
        """All pictures in order; one that can't be read is left out and named in `skipped`."""
        self.skipped.clear()
        for start in range(0, len(self.items), batch_size):
            images, labels, keys, captions, places = [], [], [], [], []
            for place, (key, data, label, caption) in enumerate(self.items[start : start + batch_size], start):
                try:
                    encoded = encoded_bytes(data)
                    images.append(eval_image(encoded, size, self.border))
                except (BadImage, OSError) as error:
                    reason = f"can't be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                    self.skipped.setdefault(reason, []).append(key)
                    continue
                labels.append(label)
                keys.append(key)
                captions.append(caption)
                places.append(place)
            if images:
                yield Labelled(torch.stack(images), torch.tensor(labels), keys, captions, places)


def joined(sets: Mapping[str, Sequence[EvalSet] | None], roles: Mapping[str, str]) -> list[EvalSet]:
    """The sets of several readers, as one list; None is left out. roles: reader -> role of its sets
    Raises UserError for a role without a reader, and for two sets of the same name, since one number would be lost.
    """
    if unknown := sorted(set(roles).difference(sets)):
        raise UserError(f"data.evaluate.roles names {unknown[0]}, which is not one of {', '.join(sets)}.")
    found = [replace(each, role=roles.get(name, each.role)) for name, own in sets.items() for each in own or ()]
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"data.evaluate.sets has two sets named {twice!r}: rename one.")
    return found


def base(path: str | Path) -> str:
    """The name of a set: that of its folder or file, also where the path is `.`"""
    whole = Path(str(path))
    whole = whole.resolve() if whole.name in ("", "..") else whole
    return printable(whole.stem if whole.is_file() else whole.name)


def some(names: Sequence[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - count
    return ", ".join(map(printable, names[:count])) + (f" and {more:,} more" if more > 0 else "")


def describe(sets: Sequence[EvalSet]) -> dict[str, Identity]:
    """Name -> plain data for a checkpoint: a digest of each thing that a score depends on beside the model."""
    return {each.name: _of(each) for each in sets}


def noted(found: Any) -> dict[str, Identity] | None:
    """What `describe` gave, from a checkpoint that may come from anywhere; None where it notes nothing. Raises
    UserError for anything else."""
    if found is None:
        return None
    whole = isinstance(found, dict) and all(
        isinstance(name, str)
        and isinstance(of, dict)
        and all(isinstance(of.get(part), str) for part in PARTS)
        and re.fullmatch("[0-9]{1,18}", of["number"])
        for name, of in found.items()
    )
    if not whole:
        raise UserError(
            "The checkpoint does not say as our runs do which sets it was validated on: put back the file that the"
            " run wrote, or start a new run from its weights with model.pretrained=PATH."
        )
    return found


def _of(evalset: EvalSet) -> Identity:
    size = cache(_size)

    def of(picture: bytes | Readable) -> int:
        if isinstance(picture, bytes):
            return len(picture)
        held_in: Any = getattr(picture, "held_in", picture)
        return size(held_in)

    captions = [] if evalset.classnames else [caption for *_, caption in evalset.items]  # used where no class is
    return {
        "role": evalset.role,
        "number": str(len(evalset)),
        "pictures": _digest(f"{of(picture)} {key}" for key, picture, _, _ in evalset.items),
        "labels": _digest(str(label) for _, _, label, _ in evalset.items),
        "captions": _digest(captions),
        "classes": _digest(evalset.classnames),
        "templates": _digest(evalset.templates),
    }


def _size(held_in: Any) -> int:
    """Bytes of what a picture is in: a file, or a shard's length as it is."""
    try:
        return held_in if isinstance(held_in, int) else Path(held_in).stat().st_size
    except OSError:  # whoever reads the picture reports it
        return 0


def _digest(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def changes(before: Mapping[str, Identity], now: Mapping[str, Identity]) -> list[str]:
    """How each set has changed, as "NAME has other labels"; empty where none has."""
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        if name not in before:
            found.append(f"{name} is new")
        elif name not in now:
            found.append(f"{name} is not measured any more")
        elif said := _change(before[name], now[name]):
            found.append(f"{name} {said}")
    return found


def _change(before: Identity, now: Identity) -> str:
    parts = [f"the role {now['role']} in place of {before['role']}"] if before["role"] != now["role"] else []
    more = before["number"] != now["number"]
    if more:
        parts.append(f"{counted(int(now['number']), 'picture')} in place of {int(before['number']):,}")
    kinds = ("classes", "templates") if more else ("pictures", "labels", "captions", "classes", "templates")
    if others := [kind for kind in kinds if before[kind] != now[kind]]:
        parts.append(f"other {' and '.join(others)}")
    return f"has {' and '.join(parts)}" if parts else ""
