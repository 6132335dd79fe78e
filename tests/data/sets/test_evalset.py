"""Evaluation sets: two layouts read, what can't be read named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diptych.base.errors import UserError
from diptych.data.sets.evalset import benchmark_sets, folder_set
from samples import COLOURS, benchmark


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
