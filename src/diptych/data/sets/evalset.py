"""Labelled evaluation sets: CLIP_benchmark's webdataset layout, and a folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.templates import CLIPS, OWN, PLAIN, read_templates
from diptych.base.terminal import counted
from diptych.base.textfile import own, read_json, read_lines, read_text
from diptych.data.io.address import printable
from diptych.data.pixels.image import BadImage, eval_image
from diptych.data.sets.class_folders import Unused, class_folders, some
from diptych.data.sets.samples import captioned, labelled, text_of
from diptych.data.stream.index import open_index
from diptych.data.stream.shards import read_whole

TEMPLATES = "zeroshot_classification_templates.txt"
MARKS = ("classnames.txt", "dataset_type.txt")  # a folder with one of them is a set
ROLES = ("validation", "shift", "redrawn", "unseen", "test", "train")
KINDS = ("classification", "retrieval")  # of dataset_type.txt


class Readable(Protocol):
    """An encoded picture that is read when its turn comes: a file, or a place in one."""

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

    role: what its number stands for: "validation", "shift", "redrawn", "unseen", or "test"
    border: pixels that are cut off every side of a picture
    prompts: whose the templates are
    unused: what was seen beside the pictures and is none of them, by reason; remarks: sentences on how it was read
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


def folder_set(path: str, name: str | None = None) -> list[EvalSet]:
    """One sub-folder a class, its name the class name, its pictures at any depth; an optional file of templates
    beside them.

    Raises UserError when there is no such folder or no picture in it.
    """
    root = Path(str(path))  # a folder's name may be a number
    if not root.is_dir():
        raise UserError(f"data.path={path} is not a folder: give one with a sub-folder of pictures a class.")
    found = class_folders(root, known=(TEMPLATES,))
    if not found.pictures:
        raise UserError(
            f"data.path={path} holds no picture{_seen(found.unused)}: give a folder with a sub-folder a class."
        )
    if odd := next((each for each in found.pictures if printable(each) != each), None):
        raise UserError(f"{root} has the class folder {printable(odd)}, whose name is no text: rename it.")
    items: list[Item] = [
        (key, file, label, "") for label, files in enumerate(found.pictures.values()) for key, file in files
    ]
    brings = (root / TEMPLATES).exists()
    templates, prompts = (read_templates(own(root / TEMPLATES, root)), OWN) if brings else ([PLAIN], CLIPS)
    made = EvalSet(name or base(path), list(found.pictures), templates, items, prompts=prompts)
    return [replace(made, unused=found.unused, remarks=found.remarks)]


def base(path: str | Path) -> str:
    """What a set is called after its folder or file, also where that is given as `.`"""
    whole = Path(str(path))
    whole = whole.resolve() if whole.name in ("", "..") else whole
    return printable(whole.stem if whole.is_file() else whole.name)


def _seen(unused: Unused) -> str:
    seen = [f"{reason}: {some(names)}" for reason, names in unused.items()]
    return f" ({'; '.join(seen)})" if seen else ""


def benchmark_sets(
    path: str, templates: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> list[EvalSet]:
    """CLIP_benchmark's webdataset layout: `path` is one set, or a folder of sets (with an optional `sets.json`
    that says each one's role and note, and their order).

    templates: in the place of each set's own; names: the sets to take, of a folder's
    Raises UserError for what is missing or damaged.
    """
    sets = _sets(Path(str(path)), str(path), names)
    return sets if templates is None else [replace(each, templates=list(templates), prompts="given") for each in sets]


def joined(sets: Mapping[str, Sequence[EvalSet] | None], roles: Mapping[str, str]) -> list[EvalSet]:
    """What several readers give, as one list. roles: reader -> what its numbers stand for; None leaves one out
    Raises UserError for a role of no reader, and for two sets of one name, of which one number would be lost.
    """
    if unknown := sorted(set(roles).difference(sets)):
        raise UserError(f"data.evaluate.roles names {unknown[0]}, which is none of {', '.join(sets)}.")
    found = [replace(each, role=roles.get(name, each.role)) for name, own in sets.items() for each in own or ()]
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"data.evaluate.sets has two sets of the name {twice!r}: give one another name.")
    return found


def _sets(root: Path, path: str, chosen: Sequence[str] | None) -> list[EvalSet]:
    if any((root / file).is_file() for file in MARKS):
        return [tar_set(root, {})]
    listed = (root / "sets.json").exists()
    there = sorted({each.parent.name for file in MARKS for each in root.glob(f"*/{file}")})
    described = _described(own(root / "sets.json", root)) if listed else {name: {} for name in there}
    names = list(described)
    if not names:
        raise UserError(f"data.path={path} holds no evaluation set: classnames.txt is missing there.")
    if missing := sorted(set(chosen or ()).difference(names)):
        raise UserError(f"data.path={path} has no set {missing[0]!r}: take some of {', '.join(names)}.")
    if gone := next((name for name in names if not (root / name).is_dir()), None):
        raise UserError(f"{root}/sets.json names the set {gone!r}, and there is no such folder: leave it out.")
    sets = [tar_set(root / name, described[name], top=root) for name in names if chosen is None or name in chosen]
    if not sets:
        raise UserError(f"data.evaluate.names= takes none of the sets of {path}: take some of {', '.join(names)}.")
    if more := [name for name in there if name not in described]:
        sets[0].unused["set that sets.json does not name"] = list(map(printable, more))
    return sets


def _described(file: Path) -> dict[str, dict[str, Any]]:
    """`sets.json`: name of a folder beside it -> its role and note. Raises UserError for anything else."""
    found = read_json(file)
    for name, told in found.items():
        if name in ("", ".", "..") or printable(name) != name or set(name) & set("/\\"):
            raise UserError(f"{file} names the set {name!r}: a set is a folder beside it, so give the folder's name.")
        if not isinstance(told, dict):
            raise UserError(f'{file} says {told!r:.60} of {name}: write {{"{name}": {{"role": "shift"}}}}, or {{}}.')
        if told.get("role", "test") not in ROLES:
            raise UserError(f"{file} gives {name} the role {told['role']!r:.60}: take one of {', '.join(ROLES)}.")
        if not isinstance(told.get("note", ""), str):
            raise UserError(f"{file} gives {name} a note that is no text: {told['note']!r:.60}.")
    return found


def tar_set(root: Path, described: Mapping[str, Any], split: str = "test", top: Path | None = None) -> EvalSet:
    """One set of CLIP_benchmark's layout. described: its `role` and `note`; split: the folder of its tars
    top: the folder of sets that it is one of, within which its text files may be links

    A blank class name keeps its place, since the labels are places: CLEVR's distances have one, and are evaluated
    with it. Blank names at the end, of which there is no picture, are left out.
    """
    top = top or root
    retrieval = _kind(own(root / "dataset_type.txt", top)) == "retrieval"  # pictures with captions, no classes
    for needed in () if retrieval else (root / "classnames.txt", root / TEMPLATES):
        if not needed.exists():
            raise UserError(f"{needed} is missing: an evaluation set needs its class names and templates.")
    name = base(root)
    names = [] if retrieval else read_lines(own(root / "classnames.txt", top))
    templates = [] if retrieval else read_templates(own(root / TEMPLATES, top))
    unused: Unused = {}
    items: list[Item] = []
    for tar in _tars(root / split, unused):
        for sample in read_whole(open_index(str(tar))):
            key = f"{name}/{printable(text_of(sample, '__key__'))}"
            if retrieval:
                items.append(captioned(sample, key, tar, unused))
            else:
                items.append(labelled(sample, key, tar, len(names), unused))
    if not items:
        raise UserError(f"{root / split} holds no sample: the set has class names but no pictures.")
    used = max(label for _, _, label, _ in items)
    while len(names) > used + 1 and not names[-1]:
        names.pop()
    role, note = described.get("role", "test"), described.get("note", "")
    return EvalSet(name, names, templates, items, role, note, unused=unused)


def _kind(file: Path) -> str:
    kind = read_text(file).strip().lower() if file.exists() else KINDS[0]
    if kind not in KINDS:
        raise UserError(f"{file} says {kind!r:.60}: a set is one of {' or '.join(KINDS)} here.")
    return kind


def _tars(folder: Path, unused: Unused) -> list[Path]:
    """A split's tars, 2 before 10. Raises UserError where there are other than its nshards.txt says."""
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.suffix == ".tar" and not entry.name.startswith("."):
            found.append(entry)
        elif entry.name != "nshards.txt":
            unused.setdefault(f"file in {folder.name}/ that is no .tar", []).append(printable(entry.name))
    if (folder / "nshards.txt").exists():
        said = read_text(own(folder / "nshards.txt", folder.parent)).strip()
        if said != str(len(found)):
            raise UserError(f"{folder}/nshards.txt says {said!r:.60}, and {len(found)} tars are there: restore them.")
    return sorted(found, key=lambda tar: (len(tar.name), tar.name))
