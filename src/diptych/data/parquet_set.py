"""Labelled evaluation sets in Parquet, as Hugging Face's hub stores them; pictures are read a row group at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diptych.data import benchmarks
from diptych.data.evalset import EvalSet, Item, lines
from diptych.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One picture: a file's row group and the row in it."""

    file: str
    group: int
    row: int
    column: str

    def read_bytes(self) -> bytes:
        value = _pictures(self.file, self.group, self.column)[self.row]
        return (value.get("bytes") if isinstance(value, dict) else value) or b""


def parquet_set(
    path: str, classes: str, image: str = "image", label: str = "label", name: str | None = None
) -> list[EvalSet]:
    """`path`: a file, or a folder of files taken in the order of their names.

    classes: a benchmark whose class names and templates are pinned, or a folder with classnames.txt and templates
    image: the column of encoded pictures, bytes or {bytes, path}; label: that of class numbers
    Raises UserError for a missing file or column, or a label without a class.
    """
    files = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    if not files or not files[0].is_file():
        raise UserError(f"data.path={path} is neither a Parquet file nor a folder of some: give it one.")
    names, templates = _pinned(classes)
    items: list[Item] = [item for file in files for item in _items(file, image, label, len(names))]
    return [EvalSet(name or Path(path).stem, names, templates, items)]


def _items(file: Path, image: str, label: str, classes: int) -> list[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            there = table.schema_arrow.names
            for key, column in (("image", image), ("label", label)):
                if column not in there:
                    raise UserError(
                        f"{file} has no column {column!r}: say data.{key}=NAME, one of {', '.join(there)}."
                    )
            groups = [
                table.read_row_group(group, [label]).column(label).to_pylist()
                for group in range(table.num_row_groups)
            ]
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a readable Parquet file: fetch it again.") from error
    items: list[Item] = []
    for group, labels in enumerate(groups):
        for row, value in enumerate(labels):
            if not isinstance(value, int) or not 0 <= value < classes:
                raise UserError(
                    f"{file}: row {row} of row group {group} has the label {value!r}, outside the {classes} classes"
                    f" 0…{classes - 1}: the labels and the class names are not of one set."
                )
            items.append((f"{file.stem}/{group}/{row}", Cell(str(file), group, row, image), value, ""))
    return items


@lru_cache(maxsize=2)  # rows come in order, so this holds the group being read
def _pictures(file: str, group: int, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        return table.read_row_group(group, [column]).column(column).to_pylist()


def _pinned(classes: str) -> tuple[list[str], list[str]]:
    folder = Path(classes)
    if not folder.is_dir():
        return benchmarks.class_names(classes), benchmarks.templates(classes)
    for needed in (folder / benchmarks.NAMES, folder / benchmarks.TEMPLATES):
        if not needed.is_file():
            raise UserError(f"{needed} is missing: data.classes={classes} needs class names and templates.")
    return lines(folder / benchmarks.NAMES), [
        each.replace("{c}", "{}") for each in lines(folder / benchmarks.TEMPLATES)
    ]
