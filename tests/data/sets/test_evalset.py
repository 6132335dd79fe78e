"""Evaluation sets: two layouts are read, what cannot be read is named, and a set is told from one that takes its
place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diptych.base.errors import UserError
from diptych.data.sets.benchmark_set import benchmark_sets
from diptych.data.sets.evalset import changes, describe, noted
from diptych.data.sets.folders import folder_set
from diptych.data.sets.opening import sets_at
from diptych.data.sets.parquet_set import parquet_set
from samples import COLOURS, benchmark, picture, write_shards


def test_benchmark_layout(tmp_path: Path) -> None:
    benchmark(tmp_path / "sets/one")
    benchmark(tmp_path / "sets/two")
    (one,) = benchmark_sets(str(tmp_path / "sets/one"))
    assert (one.name, len(one), one.role) == ("one", 6, "test")
    assert one.templates == ["a {} square.", "{}"]
    (first, second) = one.batches(4, 20)
    assert first.images.shape == (4, 3, 20, 20) and first.images.dtype == torch.uint8
    assert torch.cat([first.labels, second.labels]).tolist() == [0, 1, 2, 3, 0, 1]
    assert second.keys == ["one/004", "one/005"] and second.captions == ["square", "square"]
    both = tmp_path / "sets"
    assert [s.name for s in benchmark_sets(str(both))] == ["one", "two"]
    (both / "sets.json").write_text('{"two": {"role": "shift", "note": "n"}}')
    (described,) = benchmark_sets(str(both))
    assert (described.name, described.role, described.note) == ("two", "shift", "n")


def test_folder_layout(class_folder: Path) -> None:
    (found,) = folder_set(str(class_folder))
    assert found.classnames == sorted(COLOURS) and len(found) == 12
    assert found.templates == ["a photo of a {}."]
    (class_folder / "zeroshot_classification_templates.txt").write_text("{} !\n")
    (found,) = folder_set(str(class_folder), "mine")
    assert (found.name, found.templates) == ("mine", ["{} !"])


def test_unreadable_pictures_are_named_not_dropped(class_folder: Path) -> None:
    (class_folder / "red/0.png").write_bytes(b"no picture")
    (found,) = folder_set(str(class_folder))
    assert sum(len(batch.keys) for batch in found.batches(5, 16)) == 11
    assert found.skipped == {"not a readable image": ["red/0.png"]}


def test_a_sample_is_drawn_by_rule_and_says_so(class_folder: Path) -> None:
    (found,) = folder_set(str(class_folder))
    small = found.sample(5)
    assert len(small) == 5 and small.note == "a sample of 5 of 12 pictures" and len(found) == 12
    assert [item[0] for item in small.items] == [item[0] for item in found.sample(5).items]
    assert found.sample(12) is found


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [({"png": b""}, "one/002"), ({"cls": b"9"}, "no class below 4"), ({"cls": b"red"}, "no class below 4")],
)
def test_a_damaged_set_is_refused(tmp_path: Path, spoiled: dict, message: str) -> None:
    benchmark(tmp_path / "one", **spoiled)
    with pytest.raises(UserError, match=message):
        benchmark_sets(str(tmp_path / "one"))


def test_missing_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=.*not a folder"):
        folder_set(str(tmp_path / "no"))
    with pytest.raises(UserError, match="holds no picture"):
        folder_set(str(tmp_path))
    with pytest.raises(UserError, match=r"classnames\.txt is missing"):
        benchmark_sets(str(tmp_path))
    root = benchmark(tmp_path / "one")
    (root / "zeroshot_classification_templates.txt").unlink()
    with pytest.raises(UserError, match="templates"):
        benchmark_sets(str(root))
    root = benchmark(tmp_path / "two")
    (root / "test/0.tar").unlink()
    with pytest.raises(UserError, match="holds no sample"):
        benchmark_sets(str(root))


def test_each_change_of_a_set_is_named(tmp_path: Path) -> None:
    before = describe(benchmark_sets(str(benchmark(tmp_path / "set"))))
    assert changes(before, describe(benchmark_sets(str(shutil.copytree(tmp_path / "set", tmp_path / "b/set"))))) == []
    said = {
        "labels": {"cls": b"3"},
        "pictures": {"png": picture(9)},
    }
    for number, (kind, spoiled) in enumerate(said.items()):
        other = describe(benchmark_sets(str(benchmark(tmp_path / f"{number}" / "set", **spoiled))))
        assert changes(before, other) == [f"set has other {kind}"]
    (tmp_path / "set/zeroshot_classification_templates.txt").write_text("one {c}\n")
    (tmp_path / "set/classnames.txt").write_text("\n".join(reversed(COLOURS)))
    assert changes(before, describe(benchmark_sets(str(tmp_path / "set")))) == ["set has other classes and templates"]


def test_a_role_a_number_and_sets_that_come_and_go(tmp_path: Path, class_folder: Path) -> None:
    (one,) = folder_set(str(class_folder))
    before = describe([one])
    one.role = "validation"
    assert changes(before, describe([one])) == ["classes has the role validation in place of test"]
    moved = class_folder.rename(tmp_path / "others")
    assert changes(before, describe(folder_set(str(moved)))) == [
        "others is new",
        "classes is not measured any more",
    ]
    next(moved.rglob("*.png")).unlink()
    fewer = describe(folder_set(str(moved.rename(class_folder))))
    assert changes(before, fewer) == ["classes has 11 pictures in place of 12"]


def test_pictures_in_larger_files_are_told_by_these(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "pairs", [8])
    before = describe(sets_at(str(index)))
    assert changes(before, describe(sets_at(str(index)))) == []
    write_shards(tmp_path / "pairs", [8], lambda number, sample: sample | {"txt": b"a word"})
    assert changes(before, describe(sets_at(str(index)))) == ["pairs has other captions"]

    file = tmp_path / "test-00000-of-00001.parquet"
    found = []
    for size in (10, 20):
        pq.write_table(pa.table({"image": [bytes(size)], "label": [0]}), file)
        benchmark(tmp_path / f"classes{size}")
        found.append(describe(parquet_set(str(file), classes=str(tmp_path / "classes10"), name="set")))
    assert changes(found[0], found[1]) == ["set has other pictures"]


@pytest.mark.parametrize("name", ["gone.png", "\udcff.png"])
def test_a_picture_that_is_gone_is_no_error(class_folder: Path, name: str) -> None:
    (one,) = folder_set(str(class_folder))
    _, _, label, caption = one.items[0]
    one.items[0] = (name, class_folder / name, label, caption)
    assert changes(describe([one]), describe(folder_set(str(class_folder)))) == ["classes has other pictures"]


def test_a_note_of_a_checkpoint_from_elsewhere_is_read_as_data(class_folder: Path) -> None:
    told = describe(folder_set(str(class_folder)))
    assert noted(told) == told and noted({}) == {} and noted(None) is None
    (own,) = told.values()
    for odd in (7, ["a"], {1: own}, {"a": None}, {"a": {}}, {"a": own | {"number": "²"}}, {"a": own | {"role": 3}}):
        with pytest.raises(UserError, match="which sets it was validated on"):
            noted(odd)
