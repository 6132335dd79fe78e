"""A table of image files and captions: CSV, TSV (also without a header, as CC3M's) or Parquet."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import open_regular
from diptych.base.terminal import counted, say
from diptych.packing import job
from diptych.packing.entries import OUTSIDE, Entry, LeftOut, inside
from diptych.packing.parquet import Cell, Rows, parts_of
from diptych.packing.rows import RowsJob
from diptych.packing.text_table import MORE, text_rows

Column = str | int
FOOTER = 1 << 20  # bytes
KINDS = (".csv", ".tsv", ".parquet")


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
    shard_size: rows a shard
    image, caption: names of columns, or their numbers from 0 where the file has no header; several captions: a list
    root: the folder that relative image paths start from, and that no path may leave; the table's where None
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
    if not file.is_file() and not matched:
        raise UserError(
            f"path={path} is no file: give path=FILE, a .csv, .tsv or .parquet, or a folder of .parquet files."
        )
    files = [file] if file.is_file() else matched
    for each in files:
        if each.suffix.lower() not in KINDS or (len(files) > 1 and each.suffix.lower() != ".parquet"):
            raise UserError(f"path={each} is no table that is read: give a .csv, a .tsv or a .parquet.")
    return files


class Table:
    """The rows of a table as `rows.Rows`. Raises UserError for a missing column."""

    def __init__(self, files: list[Path], image: Column, caption: Column | Sequence[Column], root: Path) -> None:
        self.files, self.image, self.root = files, image, root
        self.captions = [caption] if isinstance(caption, str | int) else list(caption)
        if len({isinstance(column, int) for column in (image, *self.captions)}) > 1:
            raise UserError("source.image and source.caption must both be names of columns, or both be numbers.")
        self.parquet = Rows(files) if files[0].suffix.lower() == ".parquet" else None
        if self.parquet is not None:
            self._check_columns(self.parquet)

    def __len__(self) -> int:
        """Costs one reading of a text file."""
        return len(self.parquet) if self.parquet is not None else sum(1 for _ in self._rows(0))

    def check(self) -> None:
        """Raises UserError where no row can give a sample, since one cause has made them all bad."""
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
                if self.parquet is not None:  # its end tells sizes and ranges of all the rest
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
            yield from self.parquet.rows(first, str(self.image))
        else:
            yield from islice(text_rows(self.files[0], [self.image, *self.captions]), first, None)

    def _entry(self, row: dict[Any, Any], place: str) -> Entry | LeftOut:
        image, captions = row.get(self.image), [row.get(column) for column in self.captions]
        texts = [text for of in captions for text in (of if isinstance(of, list) else [of]) if isinstance(text, str)]
        rest = {str(key): row[key] for key in row if key not in (self.image, *self.captions)}
        if isinstance(image, Cell):
            return Entry(place, image, tuple(texts), rest, root=str(self.root))
        if not isinstance(image, str) or not image:
            return LeftOut("no image in the row", place)
        if "://" in image:
            return Entry(image, image, tuple(texts), rest)
        file = inside(str(self.root), image)
        return LeftOut(OUTSIDE, f"{image} ({place})") if file is None else Entry(image, file, tuple(texts), rest)

    def _check_columns(self, rows: Rows) -> None:
        if self.image == "image" and "image" not in rows.names and len(rows.pictures) == 1:
            self.image = rows.pictures[0]
            say(f"images: the column {self.image}, the only one that holds pictures")
        missing = [column for column in (self.image, *self.captions) if column not in rows.names]
        if missing:
            raise UserError(
                f"{rows.files[0]} has no column {missing[0]}, it has {', '.join(rows.names[:20])}: name the right"
                " ones with source.image= and source.caption=."
            )
        if others := [name for name in rows.pictures if name != self.image]:
            say(f"not taken: {', '.join(others)}, which hold bytes that are no text")
