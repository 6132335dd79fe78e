"""Labelled evaluation sets: CLIP_benchmark's webdataset layout, and a folder a class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from diptych.data import seeding
from diptych.data.image import BadImage, eval_image
from diptych.data.index import open_index
from diptych.data.pairs import IMAGES
from diptych.data.shards import Sample, read_whole
from diptych.errors import UserError

TEMPLATES = "zeroshot_classification_templates.txt"
MARKS = ("classnames.txt", "dataset_type.txt")  # a folder with one of them is a set


class Readable(Protocol):
    """An encoded picture that is read when its turn comes: a file, or a place in one."""

    def read_bytes(self) -> bytes: ...


Item = tuple[str, bytes | Readable, int, str]
"""key, encoded picture, label, caption: several on lines of their own, "" for none"""


@dataclass
class Labelled:
    """images: uint8 [B, 3, size, size]; labels: int64 [B]; a key and a caption each ("" where there is none)."""

    images: Tensor
    labels: Tensor
    keys: list[str]
    captions: list[str]


@dataclass
class EvalSet:
    """One set: classes, templates with `{}`, and encoded pictures. `skipped` counts what could not be read.

    role: what its number stands for: "validation", "shift", "redrawn", "unseen", or "test"
    border: pixels that are cut off every side of a picture
    """

    name: str
    classnames: list[str]
    templates: list[str]
    items: list[Item]
    role: str = "test"
    note: str = ""
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> keys
    border: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, count: int) -> EvalSet:
        """At most `count` pictures, drawn by a fixed rule; the note says so."""
        if count >= len(self.items):
            return self
        chosen = sorted(seeding.permutation(len(self.items), 0)[:count].tolist())
        note = f"{self.note + '; ' if self.note else ''}a sample of {count} of {len(self.items)} pictures"
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
            images, labels, keys, captions = [], [], [], []
            for key, data, label, caption in self.items[start : start + batch_size]:
                try:
                    encoded = data if isinstance(data, bytes) else data.read_bytes()
                    images.append(eval_image(encoded, size, self.border))
                except BadImage as error:
                    self.skipped.setdefault(str(error), []).append(key)
                    continue
                labels.append(label)
                keys.append(key)
                captions.append(caption)
            if images:
                yield Labelled(torch.stack(images), torch.tensor(labels), keys, captions)


def folder_set(path: str, name: str | None = None) -> list[EvalSet]:
    """One sub-folder a class, its name the class name; an optional file of templates beside them.

    Raises UserError when there is no such folder or no picture in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"data.path={path} is not a folder: give one with a sub-folder of pictures a class.")
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    items: list[Item] = [
        (f"{folder.name}/{file.name}", file, label, "")
        for label, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in IMAGES
    ]
    if not items:
        raise UserError(f"data.path={path} holds no picture: give a folder with a sub-folder a class.")
    templates = lines(root / TEMPLATES) if (root / TEMPLATES).is_file() else ["a photo of a {}."]
    return [EvalSet(name or root.name, [folder.name for folder in classes], templates, items)]


def benchmark_sets(
    path: str, templates: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> list[EvalSet]:
    """CLIP_benchmark's webdataset layout: `path` is one set, or a folder of sets (with an optional `sets.json`
    that says each one's role and note, and their order).

    templates: in the place of each set's own; names: the sets to take, of a folder's
    Raises UserError for what is missing or damaged.
    """
    sets = _sets(Path(path), path, names)
    return sets if templates is None else [replace(each, templates=list(templates)) for each in sets]


def joined(sets: Mapping[str, Sequence[EvalSet] | None], roles: Mapping[str, str]) -> list[EvalSet]:
    """What several readers give, as one list. roles: reader -> what its numbers stand for; None leaves one out"""
    if unknown := sorted(set(roles).difference(sets)):
        raise UserError(f"data.evaluate.roles names {unknown[0]}, which is none of {', '.join(sets)}.")
    return [replace(each, role=roles.get(name, each.role)) for name, found in sets.items() for each in found or ()]


def _sets(root: Path, path: str, chosen: Sequence[str] | None) -> list[EvalSet]:
    if any((root / file).is_file() for file in MARKS):
        return [tar_set(root, {})]
    described = json.loads((root / "sets.json").read_text()) if (root / "sets.json").is_file() else {}
    names = list(described) or sorted({each.parent.name for file in MARKS for each in root.glob(f"*/{file}")})
    if not names:
        raise UserError(f"data.path={path} holds no evaluation set: classnames.txt is missing there.")
    if missing := sorted(set(chosen or ()).difference(names)):
        raise UserError(f"data.path={path} has no set {missing[0]!r}: take some of {', '.join(names)}.")
    names = [name for name in names if chosen is None or name in chosen]
    return [tar_set(root / name, described.get(name, {})) for name in names]


def tar_set(root: Path, described: dict, split: str = "test") -> EvalSet:
    """One set of CLIP_benchmark's layout. described: its `role` and `note`; split: the folder of its tars"""
    kind = root / "dataset_type.txt"
    captioned = (
        kind.is_file() and kind.read_text().strip().lower() == "retrieval"
    )  # pictures with captions, no classes
    for needed in () if captioned else (root / "classnames.txt", root / TEMPLATES):
        if not needed.is_file():
            raise UserError(f"{needed} is missing: an evaluation set needs its class names and templates.")
    names = [] if captioned else lines(root / "classnames.txt")
    items: list[Item] = []
    for tar in sorted((root / split).glob("*.tar"), key=lambda tar: (len(tar.name), tar.name)):
        for sample in read_whole(open_index(str(tar))):
            image = next((data for ext, data in sample.items() if f".{ext}".endswith(IMAGES)), None)
            key = f"{root.name}/{_text(sample, '__key__')}"
            label = "0" if captioned else _text(sample, "cls")
            if captioned and image is not None and _text(sample, "txt"):
                items.append((key, image, 0, _text(sample, "txt")))
                continue
            if image is None or not label.isdecimal() or int(label) >= len(names):
                raise UserError(f"{key} in {tar} has no image or no class below {len(names)} (.cls): mend the set.")
            caption = json.loads(sample["json"]).get("caption", "") if "json" in sample else ""
            items.append((key, image, int(label), caption or _text(sample, "txt")))
    if not items:
        raise UserError(f"{root / split} holds no sample: the set has class names but no pictures.")
    templates = [] if captioned else [line.replace("{c}", "{}") for line in lines(root / TEMPLATES)]
    return EvalSet(root.name, names, templates, items, described.get("role", "test"), described.get("note", ""))


def _text(sample: Sample, name: str) -> str:
    value = sample.get(name, b"")
    return value if isinstance(value, str) else value.decode(errors="replace").strip()


def lines(path: Path) -> list[str]:
    """A file's lines, stripped, without empty ones."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]
