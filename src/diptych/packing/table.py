"""A table of image files and captions: CSV, TSV (with or without a header) or Parquet."""

from __future__ import annotations

import csv
import glob
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import open_regular
from diptych.base.terminal import counted, say
from diptych.packing import job
from diptych.packing.entries import OUTSIDE, Entry, LeftOut, inside
from diptych.packing.parquet import Cell, Rows, parts_of
from diptych.packing.writing import RowsJob

Column = str | int
KINDS = (".csv", ".tsv", ".parquet")
FOOTER = 1 << 20  # bytes
LARGEST_FIELD = 1 << 24  # characters; some captions' metadata is longer than the csv module's own limit
LOOKED_AT = 100  # rows that tell the number of columns if there is no header
MORE, FEWER = "more fields in the row than columns", "fewer fields in the row than columns"
QUOTES = "quotes in the row that don't match"


def pack(
    path: str | None,
    out: str | None,
    part: str | None,
    workers: int,
    shard_size: int,
    image: Column,
    caption: Column | list[Column],
    root: str | None,
) -> None:
    """Write a table's rows, in their order, as shards with an index.

    path: a .csv, a .tsv (fields between tabs, no quoting) or a .parquet; or a folder or a pattern of .parquet files
    part, workers: see `job.run`
    shard_size: rows in a shard
    image, caption: names of columns, or their numbers from 0 if the file has no header; several captions: a list
    root: the folder that image paths start from and may not leave; None for the table's folder
    Raises UserError.
    """

    def listed() -> RowsJob:
        files = files_of(path)
        table = Table(files, image, caption, Path(root) if root else files[0].parent)
        table.check()
        return RowsJob(table, shard_size)

    job.run(listed, out, part, workers)


def files_of(path: str | None) -> list[Path]:
    """A table's file, or its parts. Raises UserError."""
    file = Path(path or "")
    if path is not None and file.is_dir():
        return parts_of(file)
    matched = sorted(map(Path, glob.glob(path))) if path and any(mark in path for mark in "*?[") else []  # noqa: PTH207
    files = [file] if file.is_file() else matched
    if not files:
        raise UserError(
            f"path={path} is no file: give path=FILE, a .csv, .tsv or .parquet, or a folder of .parquet files."
        )
    for each in files:
        if each.suffix.lower() not in KINDS or (len(files) > 1 and each.suffix.lower() != ".parquet"):
            raise UserError(f"path={each} is no table that can be read: give a .csv, a .tsv or a .parquet.")
    return files


class Table:
    """The rows of a table as `writing.Rows`. Raises UserError for a missing column."""

    def __init__(self, files: list[Path], image: Column, caption: Column | Sequence[Column], root: Path) -> None:
        self.files, self.image, self.root = files, image, root
        self.captions = [caption] if isinstance(caption, str | int) else list(caption)
        if len({isinstance(column, int) for column in (image, *self.captions)}) > 1:
            raise UserError("source.image and source.caption must both be names of columns, or both be numbers.")
        self.parquet = Rows(files) if files[0].suffix.lower() == ".parquet" else None
        if self.parquet is not None:
            self._choose_columns(self.parquet)

    def __len__(self) -> int:
        """Reads a text file once."""
        return len(self.parquet) if self.parquet is not None else sum(1 for _ in self._rows(0))

    def check(self) -> None:
        """Raises UserError if no row can give a sample: one cause has probably made them all bad."""
        count, first, last = 0, "", None
        for place, row in self._rows(0):
            if not isinstance(row, LeftOut):
                return
            count, first, last = count + 1, first or place, row
        if last is None:
            raise UserError(f"{self.files[0]} holds no row: it needs one for each picture.")
        hint = "put a caption that holds a comma between quotes" if last.args[0] == MORE else "correct its rows"
        raise UserError(
            f"Every row of {self.files[0]} is bad ({counted(count, 'row')}), as {first}: {last.args[0]}: {hint}."
        )

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for file in self.files:
            with open_regular(file) as stream:
                if self.parquet is not None:  # its end holds the sizes and ranges of everything else
                    stream.seek(max(0, file.stat().st_size - FOOTER))
                while data := stream.read(FOOTER):
                    digest.update(data)
        return {"kind": "table", "sha256": digest.hexdigest(), "image": self.image, "caption": self.captions}

    def entries(self, first: int) -> Iterator[Entry | LeftOut]:
        """The rows from `first` on."""
        for place, row in self._rows(first):
            yield LeftOut(*row.args, place) if isinstance(row, LeftOut) else self._entry(row, place)

    def _rows(self, first: int) -> Iterator[tuple[str, dict[Any, Any] | LeftOut]]:
        if self.parquet is not None:
            return self.parquet.rows(first, str(self.image))
        return islice(text_rows(self.files[0], [self.image, *self.captions]), first, None)

    def _entry(self, row: dict[Any, Any], place: str) -> Entry | LeftOut:
        image, captions = row.get(self.image), [row.get(column) for column in self.captions]
        texts = [text for of in captions for text in (of if isinstance(of, list) else [of]) if isinstance(text, str)]
        rest = {str(key): row[key] for key in row if key not in (self.image, *self.captions)}
        if isinstance(image, Cell):
            return Entry(place, image, tuple(texts), rest, root=str(self.root))
        if not isinstance(image, str) or not image:
            return LeftOut("no image in the row", place)
        file = image if "://" in image else inside(str(self.root), image)
        return LeftOut(OUTSIDE, f"{image} ({place})") if file is None else Entry(image, file, tuple(texts), rest)

    def _choose_columns(self, rows: Rows) -> None:
        """Of Parquet, whose only column of pictures is used if there is none called `image`."""
        if self.image == "image" and "image" not in rows.names and len(rows.pictures) == 1:
            self.image = rows.pictures[0]
            say(f"images: the column {self.image}, the only one that holds pictures")
        _check_there(rows.files[0], rows.names, [self.image, *self.captions])
        if others := [name for name in rows.pictures if name != self.image]:
            say(f"not taken: {', '.join(others)}, which hold bytes that are no text")


def _check_there(file: Path, names: Sequence[Column], used: Sequence[Column]) -> None:
    if missing := [column for column in used if column not in names]:
        raise UserError(
            f"{file} has no column {missing[0]}, it has {', '.join(map(str, names[:20]))}: name the right ones with"
            " source.image= and source.caption=, or by number if there is no header."
        )


def text_rows(file: Path, used: Sequence[Column]) -> Iterator[tuple[str, dict[Any, Any] | LeftOut]]:
    """The rows of a .csv or .tsv: (place, row by column, or why the row can't be used). Blank lines are no rows.

    Bytes that are not UTF-8 become surrogates, so that only their row is lost and not the file.
    used: the columns that are needed: names in the header, or numbers from 0 if there is none
    Raises UserError for a file that is empty, in another encoding, or without these columns.
    """
    _check_encoding(file)
    csv.field_size_limit(LARGEST_FIELD)
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with TextIOWrapper(open_regular(file), "utf-8-sig", "surrogateescape", newline="") as stream:
        records = _records(csv.reader(stream, strict=True, **(tabs if file.suffix.lower() == ".tsv" else {})))
        names: list[Any]
        if isinstance(used[0], int):
            head = list(islice(records, LOOKED_AT))
            widths = Counter(len(row) for _, row in head if row is not None)
            names = list(range(widths.most_common(1)[0][0] if widths else 0))
            records = chain(head, records)
        else:
            line, header = next(records, (1, []))
            if header is None:
                raise UserError(f"{file}, line {line}: the quotes of the header don't match: correct them.")
            names = [name.strip() for name in header]
        if not names:
            raise UserError(f"{file} is empty: it needs a row for each picture.")
        _check_there(file, names, used)
        names = _distinct(file, names, used)
        for line, row in records:
            yield f"{file.name}, line {line}", _row(names, row)


def _check_encoding(file: Path) -> None:
    with open_regular(file) as stream:
        head = stream.read(4096)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[1:2] == b"\0" or head[:1] == b"\0":
        raise UserError(f"{file} is not UTF-8 but UTF-16 or UTF-32: save it as UTF-8.")


def _records(reader: Any) -> Iterator[tuple[int, list[str] | None]]:
    """(number of its first line, fields); None for each line in which quotes don't match."""
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield from ((line, None) for line in range(begin, reader.line_num + 1))
            continue
        if row:
            yield begin, row


def _distinct(file: Path, names: list[Any], used: Sequence[Column]) -> list[Any]:
    """The columns' names; one that comes again gets its number. Raises UserError if it is one that is used."""
    if twice := [column for column in used if names.count(column) > 1]:
        numbers = " and ".join(str(number) for number, name in enumerate(names, 1) if name == twice[0])
        raise UserError(f"{file} has two columns {twice[0]}, the {numbers}. ones: rename those that aren't meant.")
    first = {name: at for at, name in reversed(list(enumerate(names)))}
    return [name if first[name] == at else f"{name} (column {at + 1})" for at, name in enumerate(names)]


def _row(names: list[Any], row: list[str] | None) -> dict[Any, Any] | LeftOut:
    if row is None:
        return LeftOut(QUOTES)
    if len(row) < len(names):
        return LeftOut(FEWER)
    if any(row[len(names) :]):  # separators behind the last field add nothing
        return LeftOut(MORE)
    return dict(zip(names, row, strict=False))
