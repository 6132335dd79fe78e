"""CLIP_benchmark's webdataset layout: folders of tars with class names and templates beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.templates import read_templates
from diptych.base.textfile import own, parse_json, read_json, read_lines, read_text, split_lines
from diptych.data.io.address import printable
from diptych.data.sets.benchmarks import NAMES, TEMPLATES
from diptych.data.sets.evalset import EvalSet, Item, Unused, base
from diptych.data.stream.index import open_index
from diptych.data.stream.pairs import IMAGES
from diptych.data.stream.shards import Sample, read_whole

MARKS = (NAMES, "dataset_type.txt")  # a folder with one of them is a set
ROLES = ("validation", "shift", "redrawn", "unseen", "test", "train")
KINDS = ("classification", "retrieval")  # of dataset_type.txt


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


def train_split(path: str) -> EvalSet:
    """`path/train/*.tar` beside `path/test` in CLIP_benchmark's layout. Raises UserError where there is none."""
    if not (Path(path) / "train").is_dir():
        raise UserError(
            f"{path}/train is missing: a probe needs labelled training pictures, in tars like test/'s."
            " For a task that can do without (fewshot, quality, robustness) type task.train=null."
        )
    return tar_set(Path(path), {"role": "train"}, "train")


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
        raise UserError(f"{root}/sets.json names the set {gone!r}, but there is no such folder: remove the entry.")
    sets = [tar_set(root / name, described[name], top=root) for name in names if chosen is None or name in chosen]
    if not sets:
        raise UserError(
            f"data.evaluate.names= is empty, so no set of {path} is left: take some of {', '.join(names)}."
        )
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
            raise UserError(f"{file} gives {name} a note that is not text: {told['note']!r:.60}.")
    return found


def tar_set(root: Path, described: Mapping[str, Any], split: str = "test", top: Path | None = None) -> EvalSet:
    """One set of CLIP_benchmark's layout. described: its `role` and `note`; split: the folder of its tars
    top: the folder of sets that it is one of, within which its text files may be links

    A blank class name keeps its place, since the labels are places: CLEVR's distances have one, and are evaluated
    with it. Blank names at the end, of which there is no picture, are left out.
    """
    top = top or root
    retrieval = _kind(own(root / "dataset_type.txt", top)) == "retrieval"  # pictures with captions, no classes
    for needed in () if retrieval else (root / NAMES, root / TEMPLATES):
        if not needed.exists():
            raise UserError(f"{needed} is missing: an evaluation set needs its class names and templates.")
    name = base(root)
    names = [] if retrieval else read_lines(own(root / NAMES, top))
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
    """A split's tars, 2 before 10. Raises UserError where nshards.txt gives another number."""
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.suffix == ".tar" and not entry.name.startswith("."):
            found.append(entry)
        elif entry.name != "nshards.txt":
            unused.setdefault(f"file in {folder.name}/ that is not a .tar", []).append(printable(entry.name))
    if (folder / "nshards.txt").exists():
        said = read_text(own(folder / "nshards.txt", folder.parent)).strip()
        if said != str(len(found)):
            raise UserError(
                f"{folder}/nshards.txt says {said!r:.60}, but there are {len(found)} tars: restore the folder."
            )
    return sorted(found, key=lambda tar: (len(tar.name), tar.name))


def labelled(sample: Sample, key: str, tar: Path, classes: int, unused: Unused) -> Item:
    """A picture with its class, and the caption in its .json or .txt where it has one. Raises UserError for a label
    that is not a class."""
    image, label = _image(sample, key, tar, unused), text_of(sample, "cls")
    if not re.fullmatch("[0-9]{1,9}", label) or int(label) >= classes:
        what = f"the label {label!r:.40}" if "cls" in sample else "no label (.cls)"
        raise UserError(f"{key} in {tar} has {what}, and no class below {classes}: labels are 0…{classes - 1}.")
    caption = ""
    if "json" in sample:
        caption = parse_json(sample["json"], f"{key}.json in {tar}").get("caption") or ""
        if not isinstance(caption, str):
            raise UserError(f"{key}.json in {tar} has a caption that is not text: {caption!r:.60}.")
        caption = " ".join(caption.split())
    return key, image, int(label), caption or "\n".join(_captions(sample, key, tar))


def captioned(sample: Sample, key: str, tar: Path, unused: Unused) -> Item:
    """A picture with its captions, one a line. Raises UserError where it lacks one of the two."""
    image, captions = _image(sample, key, tar, unused), _captions(sample, key, tar)
    if not captions:
        raise UserError(f"{key} in {tar} has no caption (.txt): a retrieval set needs a caption for every picture.")
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
