"""Labelled sets in Parquet, written as Hugging Face's `datasets` lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diptych.base.errors import UserError
from diptych.data.sets import benchmarks
from diptych.data.sets.folders import folder_set
from diptych.data.sets.parquet_set import parquet_set
from samples import COLOURS


def write(folder: Path, pictures: list[Any], labels: list[Any]) -> str:
    table = pa.table({"img": pictures, "fine_label": labels})
    half = len(table) // 2
    folder.mkdir()
    for number, part in enumerate((table[:half], table[half:])):
        pq.write_table(part, folder / f"test-{number:05d}.parquet", row_group_size=2)
    return str(folder)


@pytest.fixture
def classes(tmp_path: Path) -> str:
    (tmp_path / "classnames.txt").write_text("\n".join(sorted(COLOURS)) + "\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c} square.\n")
    return str(tmp_path)


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_pictures_of_a_folder_in_parquet(class_folder: Path, classes: str, tmp_path: Path, wrapped: bool) -> None:
    (plain,) = folder_set(str(class_folder))
    data = [file.read_bytes() for _, file, *_ in plain.items]  # type: ignore[union-attr]
    column = [{"bytes": each, "path": None} for each in data] if wrapped else data
    path = write(tmp_path / "set", column, [label for *_, label, _ in plain.items])
    (found,) = parquet_set(path, classes, image="img", label="fine_label")
    assert (found.name, found.templates, found.classnames) == ("set", ["a {} square."], plain.classnames)
    ours, theirs = next(found.batches(99, 16)), next(plain.batches(99, 16))
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
    assert len(set(ours.keys)) == len(found)


def test_pinned_names(tmp_path: Path) -> None:
    path = write(tmp_path / "set", [b"", b"x"], [0, 101])
    (found,) = parquet_set(path, "flowers", image="img", label="fine_label")
    assert found.classnames == benchmarks.class_names("flowers")
    assert not list(found.batches(2, 8))
    assert found.skipped == {"image of zero bytes": ["test-00000/0/0"], "not a readable image": ["test-00001/0/0"]}


def test_what_does_not_fit_is_said(classes: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a Parquet file nor a folder of some"):
        parquet_set(str(tmp_path / "none"), classes)
    path = write(tmp_path / "set", [b"x", b"x", b"x"], [0, 4, None])
    with pytest.raises(UserError, match=r"has no column 'image': give data.image=NAME, one of img, fine_label"):
        parquet_set(path, classes)
    with pytest.raises(UserError, match=r"test-00001.parquet: row 0 of row group 0 has the label 4, outside the 4"):
        parquet_set(path, classes, image="img", label="fine_label")
    with pytest.raises(UserError, match=r"benchmark 'nothing' has no pinned classnames.txt"):
        parquet_set(path, "nothing", image="img", label="fine_label")
    (tmp_path / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"classnames.txt is missing: data.classes="):
        parquet_set(path, classes)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        parquet_set(str(tmp_path / "bad.parquet"), "flowers")


def test_nulls_and_other_columns_are_said(class_folder: Path, classes: str, tmp_path: Path) -> None:
    (plain,) = folder_set(str(class_folder))
    data = [file.read_bytes() for _, file, *_ in plain.items[:3]]  # type: ignore[union-attr]
    path = write(tmp_path / "set", [{"bytes": data[0], "path": None}, {"bytes": None, "path": "x"}, None], [0, 1, 2])
    (Path(path) / "._test-00000.parquet").write_bytes(b"macOS")
    (Path(path) / "README.md").write_text("about")
    (found,) = parquet_set(path, classes, image="img", label="fine_label")
    assert [len(batch.keys) for batch in found.batches(9, 16)] == [1]
    assert found.skipped == {"no picture in the row (null)": ["test-00001/0/0", "test-00001/0/1"]}
    assert found.unused == {"file or folder beside the Parquet files": ["._test-00000.parquet", "README.md"]}
    with pytest.raises(UserError, match=r"the column 'fine_label' holds int64, not encoded pictures"):
        parquet_set(path, classes, image="fine_label", label="fine_label")
    for spoiled, message in ((None, "None"), (-1, "-1"), (1.5, "1.5"), (2**40, str(2**40)), ("red", "'red'")):
        other = write(tmp_path / f"set{message}", [data[0]] * 2, [spoiled, None if spoiled == "red" else spoiled])
        with pytest.raises(UserError, match=rf"row 0 of row group 0 has the label {message}, outside"):
            parquet_set(other, classes, image="img", label="fine_label")
    empty = write(tmp_path / "empty", pa.array([], pa.binary()), pa.array([], pa.int64()))
    with pytest.raises(UserError, match="holds no row"):
        parquet_set(empty, classes, image="img", label="fine_label")
    for split in ("test", "train"):
        (Path(path) / f"test-0000{split == 'train':d}.parquet").rename(Path(path) / f"{split}-00000-of-00001.parquet")
    with pytest.raises(UserError, match="holds the splits test, train: give a folder, or a file, of one"):
        parquet_set(path, classes, image="img", label="fine_label")


def test_a_damaged_row_group_is_counted(classes: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "set", [b"x", b"y"], [0, 1]))
    file = path / "test-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + b"\xff" * 20 + whole[24:])  # the header of the first page of pictures
    (found,) = parquet_set(str(path), classes, image="img", label="fine_label")
    assert not list(found.batches(2, 8))
    assert set(found.skipped) == {"not a readable image", "row group that can't be read"}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["Blue", "green!", "red", "white"], None),
        (["azure", "grass", "red", "snow"], None),
        (
            ["green", "blue", "red", "white"],
            "label 0 is 'green', and data.classes has that name at 1 and 'blue' at 0",
        ),
        (["red", "azure", "grass", "snow"], "label 0 is 'red', and data.classes has that name at 2"),
        (["blue", "green"], "has 2 classes and data.classes 4"),
    ],
)
def test_classes_that_the_file_numbers_in_another_way_are_refused(
    tmp_path: Path, names: list[str], sentence: str | None
) -> None:
    (tmp_path / "classnames.txt").write_text("blue\ngreen\nred\nwhite\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c} square.\n")
    told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], {"huggingface": json.dumps(told)})
    pq.write_table(pa.table([[b"x"], [1]], schema=schema), tmp_path / "test.parquet")
    if sentence is None:
        assert len(parquet_set(str(tmp_path / "test.parquet"), str(tmp_path))[0]) == 1
    else:
        with pytest.raises(UserError, match=sentence):
            parquet_set(str(tmp_path / "test.parquet"), str(tmp_path))
