"""Labelled evaluation sets in Parquet, as Hugging Face's hub stores them; pictures are read a row group at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.templates import read_templates
from diptych.base.textfile import own, parse_json, read_lines
from diptych.data.io.address import printable
from diptych.data.pixels.image import BadImage
from diptych.data.sets import benchmarks
from diptych.data.sets.evalset import EvalSet, Item, Unused, base

SPLIT = re.compile(r"(\w+?)-\d+(-of-\d+)?\.parquet$")  # test-00000-of-00002.parquet, as the hub names them


@dataclass(frozen=True)
class Cell:
    """One picture: a file's row group and the row in it."""

    file: str
    group: int
    row: int
    column: str

    @property
    def held_in(self) -> str:
        return self.file

    def read_bytes(self) -> bytes:
        import pyarrow as pa

        try:
            value = _pictures(self.file, self.group, self.column)[self.row]
        except (pa.ArrowException, OSError) as error:
            raise BadImage("row group that can't be read") from error
        found = value.get("bytes") if isinstance(value, dict) else value
        if found is None:
            raise BadImage("no picture in the row (null)")
        return found


def parquet_set(
    path: str, classes: str, image: str = "image", label: str = "label", name: str | None = None
) -> list[EvalSet]:
    """`path`: a file, or a folder of files taken in the order of their names.

    classes: a benchmark whose class names and templates are pinned, or a folder with classnames.txt and templates
    image: the column of encoded pictures, bytes or {bytes, path}; label: that of class numbers
    Raises UserError for a missing file or column, or a label without a class.
    """
    unused: Unused = {}
    files = _files(Path(path), unused)
    names, templates = _pinned(classes)
    items: list[Item] = [item for file in files for item in _items(file, image, label, names)]
    if not items:
        raise UserError(f"data.path={path} holds no row: give it a Parquet file with pictures and labels.")
    return [EvalSet(name or base(path), names, templates, items, unused=unused)]


def _files(path: Path, unused: Unused) -> list[Path]:
    if not path.is_dir():
        files = [path] if path.is_file() else []
    else:
        there = sorted(path.iterdir())
        files = [each for each in there if each.suffix == ".parquet" and each.is_file() and each.name[0] != "."]
        if others := [printable(each.name) for each in there if each not in files]:
            unused["file or folder beside the Parquet files"] = others
    if not files:
        raise UserError(f"data.path={path} is neither a Parquet file nor a folder of some: give it one.")
    splits = dict.fromkeys(found[1] for each in files if (found := SPLIT.match(each.name)))
    if len(splits) > 1:
        raise UserError(f"data.path={path} holds the splits {', '.join(splits)}: give a folder, or a file, of one.")
    return files


def _items(file: Path, image: str, label: str, names: list[str]) -> list[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            there = schema.names
            for key, column in (("image", image), ("label", label)):
                if column not in there:
                    raise UserError(
                        f"{file} has no column {column!r}: give data.{key}=NAME, one of {', '.join(there)}."
                    )
            if not _encoded(schema.field(image).type):
                raise UserError(
                    f"{file}: the column {image!r} holds {schema.field(image).type}, not encoded pictures (binary, or"
                    " a struct with `bytes`): give data.image=NAME."
                )
            _check_names(file, _own_names(schema.metadata or {}, label, file), names)
            groups = [
                table.read_row_group(group, [label]).column(label).to_pylist()
                for group in range(table.num_row_groups)
            ]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a readable Parquet file: fetch it again.") from error
    items: list[Item] = []
    classes = len(names)
    for group, labels in enumerate(groups):
        for row, value in enumerate(labels):
            if not isinstance(value, int) or not 0 <= value < classes:
                raise UserError(
                    f"{file}: row {row} of row group {group} has the label {value!r}, outside the {classes} classes"
                    f" 0…{classes - 1}: the labels and the class names are not of one set."
                )
            items.append(
                (f"{printable(file.stem)}/{group}/{row}", Cell(str(file), group, row, image), int(value), "")
            )
    return items


def _own_names(metadata: Mapping[bytes, bytes], label: str, file: Path) -> list[str]:
    """The class names of the column of labels in the hub's metadata; [] where there are none."""
    if b"huggingface" not in metadata:
        return []
    found: Any = parse_json(metadata[b"huggingface"], f"{file}, its metadata huggingface")
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return [str(name) for name in found] if isinstance(found, list) else []


def _check_names(file: Path, there: list[str], names: list[str]) -> None:
    """Raises UserError where the file numbers its classes in another way than `names`; other words for a class are
    allowed, since templates need readable ones."""
    if there and len(there) != len(names):
        raise UserError(
            f"{file} has {len(there)} classes and data.classes {len(names)}: the labels and the class names are not"
            " of one set."
        )
    places = {_plain(name): place for place, name in enumerate(names)}
    for place, name in enumerate(there):
        elsewhere = places.get(_plain(name), place)
        if elsewhere != place and _plain(names[place]) != _plain(name):
            raise UserError(
                f"{file} says that label {place} is {name!r:.80}, and data.classes has that name at {elsewhere} and"
                f" {names[place]!r:.80} at {place}: give the class names in the file's order."
            )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def _encoded(column: Any) -> bool:
    """Whether a column's type is bytes, or {bytes, …}."""
    import pyarrow.types as kinds

    if kinds.is_struct(column):
        return any(field.name == "bytes" and _encoded(field.type) for field in column)
    return kinds.is_binary(column) or kinds.is_large_binary(column)


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
    return read_lines(own(folder / benchmarks.NAMES, folder)), read_templates(
        own(folder / benchmarks.TEMPLATES, folder)
    )
