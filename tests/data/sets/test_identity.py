"""What tells an evaluation set from one that takes its place: over real folders, tars, Parquet and pairs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.base.errors import UserError
from diptych.data.sets.evalset import benchmark_sets, folder_set
from diptych.data.sets.identity import changes, describe, noted
from diptych.data.sets.opening import sets_at
from diptych.data.sets.parquet_set import parquet_set
from samples import COLOURS, benchmark, picture, write_shards


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
