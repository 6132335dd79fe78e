"""Labelled training pictures from three layouts; what has no class is counted."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.data.sets.benchmark_set import train_split
from diptych.data.sets.folders import train_folder
from diptych.data.sets.pair_set import labelled_pairs
from samples import COLOURS, benchmark, picture

EMOJI = ROOT / "data/emoji"


def test_the_embedded_pairs_without_redrawn_variants() -> None:
    classes = EMOJI / "eval/heldout/classnames.txt"
    found = labelled_pairs(str(EMOJI / "train/core.json"), str(classes))
    assert found.role == "train" and found.classnames == classes.read_text().splitlines() and not found.skipped
    assert len(found) == 3134 and not any("~" in key for key, *_ in found.items)
    assert torch.bincount(torch.tensor([label for *_, label, _ in found.items]), minlength=888).min() >= 1


def write_pairs(path: Path, labels: list[object]) -> str:
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            fields = {} if label is None else {"label": label}
            members = {"a.png": picture(number), "a~line.png": picture(number), "json": json.dumps(fields).encode()}
            for name, data in members.items():
                info = tarfile.TarInfo(f"{number:03d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_labels_that_are_no_class_are_named(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cow\npig\n")
    path = write_pairs(tmp_path / "0.tar", ["pig", "cow", "dog", None, "pig"])
    found = labelled_pairs(path, str(tmp_path / "names.txt"))
    assert [(key, label) for key, _, label, _ in found.items] == [
        ("000.a.png", 1),
        ("001.a.png", 0),
        ("004.a.png", 1),
    ]
    assert found.skipped == {"the label is not in names.txt": ["002", "003"]}
    (tmp_path / "names.txt").write_text("hen\n")
    with pytest.raises(UserError, match="the two are not of one set"):
        labelled_pairs(path, str(tmp_path / "names.txt"))


def test_labels_of_any_kind_and_names_that_are_there_twice(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcow\r\npig\r\ncow\r\n")
    path = write_pairs(tmp_path / "0.tar", ["cow", ["pig"], {"a": 1}, 3, "pig"])
    found = labelled_pairs(path, str(tmp_path / "names.txt"))
    assert found.classnames == ["cow", "pig", "cow"]
    assert [(key, label) for key, _, label, _ in found.items] == [("000.a.png", 0), ("004.a.png", 1)]
    assert found.skipped == {"the label is not in names.txt": ["001", "002", "003"]}


def test_a_train_split_and_a_folder(class_folder: Path, tmp_path: Path) -> None:
    root = benchmark(tmp_path / "set")
    with pytest.raises(UserError, match=r"set/train is missing: a probe needs labelled training pictures"):
        train_split(str(root))
    (root / "test").rename(root / "train")
    found = train_split(str(root))
    assert (found.role, len(found), found.classnames) == ("train", 6, list(COLOURS))
    folder = train_folder(str(class_folder))
    assert (folder.role, len(folder)) == ("train", 12)
    with pytest.raises(UserError, match=r"data.train_path= is missing"):
        train_folder(None)
