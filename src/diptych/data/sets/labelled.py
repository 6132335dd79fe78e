"""Labelled training pictures, for probes: from pair shards, CLIP_benchmark's layout, or folders."""

from __future__ import annotations

from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.templates import CLIPS, PLAIN
from diptych.base.textfile import read_lines
from diptych.data.sets.evalset import EvalSet, Item, folder_set, tar_set
from diptych.data.stream.index import open_index
from diptych.data.stream.pairs import IMAGES, value_of
from diptych.data.stream.shards import read_whole

VARIANT = "~"  # in a picture's name: a training picture that was made from another one


def labelled_pairs(shards: str, classes: str) -> EvalSet:
    """The pictures of training pairs whose KEY.json has a `label`, each drawing one; those made from another
    (`KEY.NAME~VARIANT.webp`) are left out.

    classes: the file of class names that gives the labels their numbers
    Samples of other labels, or of none, are in `skipped`. Raises UserError where nothing is left.
    """
    names = read_lines(classes)
    numbers = {name: label for label, name in reversed(list(enumerate(names)))}  # of two of one name the first
    items: list[Item] = []
    skipped: dict[str, list[str]] = {}
    for sample in read_whole(open_index(shards)):
        key, label = str(sample["__key__"]), value_of(sample, "label")
        if not isinstance(label, str) or label not in numbers:
            skipped.setdefault(f"the label is not in {Path(classes).name}", []).append(key)
            continue
        for name, data in sample.items():
            if f".{name}".endswith(IMAGES) and VARIANT not in name and isinstance(data, bytes):
                items.append((f"{key}.{name}", data, numbers[label], ""))
    if not items:
        raise UserError(f"No sample of {shards} has a label that is in {classes}: the two are not of one set.")
    return EvalSet("train", names, [PLAIN], items, role="train", skipped=skipped, prompts=CLIPS)


def train_split(path: str) -> EvalSet:
    """`path/train/*.tar` beside `path/test` in CLIP_benchmark's layout. Raises UserError where there is none."""
    if not (Path(path) / "train").is_dir():
        raise UserError(f"{path}/train is missing: a probe needs labelled training pictures, in tars like test/'s.")
    return tar_set(Path(path), {"role": "train"}, "train")


def train_folder(path: str | None) -> EvalSet:
    """One sub-folder a class, as `folder_set` reads it. Raises UserError without a path."""
    if path is None:
        raise UserError("data.train_path= is missing: a probe needs a folder of labelled training pictures.")
    (found,) = folder_set(path, "train")
    found.role = "train"
    return found
