"""Parquet tables, also with the pictures in them, as Hugging Face's hub and img2dataset write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.terminal import to_type
from diptych.data.io.address import printable

PART = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]{16})?\.parquet")  # SPLIT-00003-of-00012.parquet
BUFFER = 1 << 20  # bytes
BATCH = 64  # pictures that are held in memory


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of one picture: small enough to be sent to another process, which reads the picture later."""

    file: str
    group: int
    row: int
    column: str

    def read(self) -> Any:
        """Bytes, or {bytes, path} as the hub has it, or None."""
        return _column(self.file, self.group, self.column).value(self.row)


class _Column:
    """A column of a row group, read forward; for an earlier row it starts again."""

    def __init__(self, file: str, group: int, column: str) -> None:
        self.file, self.group, self.column = file, group, column
        self._begin()

    def _begin(self) -> None:
        self.batches = _batches(opened(Path(self.file)), self.file, self.group, [self.column], BATCH)
        self.first, self.values = 0, list[dict[str, Any]]()

    def value(self, row: int) -> Any:
        if row < self.first:
            self._begin()
        while row >= self.first + len(self.values):
            self.first += len(self.values)
            self.values = next(self.batches, [])
            if not self.values:
                raise UserError(f"{self.file} holds fewer rows than it says: restore it.")
        return self.values[row - self.first][self.column]


_column = lru_cache(maxsize=1)(_Column)  # rows come in order


class Rows:
    """The rows of some files, as one table.

    names: of all columns; pictures: of those that hold bytes, or {bytes, path}; paths: of those that hold a path too
    labels: column -> the names that its numbers stand for
    Raises UserError for files that differ in their columns, or have two columns of one name.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        schema = opened(files[0]).schema_arrow
        self.names: list[str] = schema.names
        for file in files[1:]:
            if (names := opened(file).schema_arrow.names) != self.names:
                raise UserError(
                    f"{file} has the columns {', '.join(names)}, and {files[0].name} {', '.join(self.names)}: pack"
                    " tables of one kind together."
                )
        self.pictures = [field.name for field in schema if _holds_bytes(field.type)]
        self.paths = [name for name in self.pictures if _has_path(schema.field(name).type)]
        self.labels = _class_names(schema.metadata or {})

    def __len__(self) -> int:
        return sum(int(opened(file).metadata.num_rows) for file in self.files)

    def rows(self, first: int, image: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, row) from row `first` on. Pictures are not read: in the column `image` there is a `Cell`."""
        columns = [name for name in self.names if name not in self.pictures]
        for file in self.files:
            table = opened(file)
            number = 0
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                if first >= count:
                    first, number = first - count, number + count
                    continue
                wanted = columns + ([f"{image}.path"] if image in self.paths else [])
                nothing: list[dict[str, Any]] = [{} for _ in range(count)]
                batches = _batches(table, file, group, wanted, 1024) if wanted else [nothing]
                for at, row in enumerate(chain.from_iterable(batches)):
                    if at >= first:
                        yield self._row(file, group, at, number + at, image, row)
                first, number = 0, number + count

    def _row(
        self, file: Path, group: int, at: int, number: int, image: str, row: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        for name, names in self.labels.items():
            value = row.get(name)
            if isinstance(value, int):
                row[name] = names[value] if 0 <= value < len(names) else None
        place = f"{file.name}, row {number + 1}"
        if image in self.pictures:
            named = row.get(image)
            path = named.get("path") if isinstance(named, dict) else None
            row[image] = Cell(str(file), group, at, image)
            return (f"{path} ({place})" if path else place), row
        return place, row


def _batches(
    table: Any, file: Path | str, group: int, columns: list[str], size: int
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a row group, at most `size` at a time. Raises UserError for damage."""
    batches = table.iter_batches(size, row_groups=[group], columns=columns)
    while True:
        with readable(file):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        yield rows


def parts_of(path: Path) -> list[Path]:
    """The .parquet files of a folder, in order. Raises UserError if there is none, if parts are missing, and for
    several splits."""
    files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith("."))
    if not files:
        raise UserError(f"path={path} holds no .parquet: give a folder of some, or a .csv, a .tsv or a .parquet.")
    splits: dict[str, set[int]] = {}
    totals: dict[str, int] = {}
    for file in files:
        if match := PART.fullmatch(file.name):
            split = (file.parent.relative_to(path) / match[1]).as_posix()
            splits.setdefault(split, set()).add(int(match[2]))
            totals[split] = int(match[3])
    if len(splits) > 1:
        names = sorted(splits)
        raise UserError(
            f"path={path} holds the splits {', '.join(names)}: give one, as"
            f" {to_type('path', f'{path}/{names[0]}-*.parquet')}."
        )
    for split, there in splits.items():
        if missing := sorted(set(range(totals[split])) - there):
            raise UserError(
                f"path={path} lacks {len(missing)} of {totals[split]} parts of {split}, as the one numbered"
                f" {missing[0]}: fetch them, or give {to_type('path', f'{path}/{split}-*.parquet')} to pack what"
                " is there."
            )
    return files


@contextmanager
def readable(file: Path | str) -> Iterator[None]:
    """Raises UserError for what pyarrow can't read in the block, and if pyarrow is not installed."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UserError(f"{file} is read with pyarrow: install it with pip install 'diptych[study]'.") from error
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        why = printable(" ".join(str(error).split()))
        raise UserError(f"{file} is not a readable Parquet file ({why}): restore it.") from error


def opened(file: Path) -> Any:
    """pyarrow's file, with a small buffer. Raises UserError."""
    with readable(file):
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file, buffer_size=BUFFER)
        names = table.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{file} has two columns {twice[0]}: rename one, or only the last would be kept.")
    return table


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(each.name == "bytes" and _holds_bytes(each.type) for each in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _has_path(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and any(each.name == "path" for each in kind)


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names that its numbers stand for, as the hub writes them into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            str(name): [str(each) for each in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
