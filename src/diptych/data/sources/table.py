"""A table of image files and captions: CSV, TSV (also without a header, as CC3M's) or Parquet."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from diptych.data.sources import job
from diptych.data.sources.entries import Entry, LeftOut
from diptych.data.sources.rows import RowsJob
from diptych.errors import UserError

Column = str | int
LARGEST_FIELD = 1 << 24  # characters; the csv module's own limit is below some captions' metadata
FOOTER = 1 << 20  # bytes


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

    path: a .csv, a .tsv (fields between tabs, no quoting) or a .parquet
    part, workers: see `job.run`
    shard_size: rows a shard
    image, caption: names of columns, or their numbers from 0 where the file has no header; several captions: a list
    root: the folder that relative image paths start from; the table's where None
    Raises UserError.
    """

    def listed() -> RowsJob:
        if path is None or not Path(path).is_file():
            raise UserError(f"path={path} is no file: give path=FILE, a .csv, .tsv or .parquet.")
        table = Table(Path(path), image, caption, Path(root) if root else Path(path).parent)
        return RowsJob(table, shard_size)

    job.run(listed, out, part, workers)


class Table:
    """The rows of a table as `rows.Rows`. Raises UserError for a kind that isn't read, or a missing column."""

    def __init__(self, file: Path, image: Column, caption: Column | Sequence[Column], root: Path) -> None:
        self.file, self.image, self.root = file, image, root
        self.captions = [caption] if isinstance(caption, str | int) else list(caption)
        if file.suffix not in (".csv", ".tsv", ".parquet"):
            raise UserError(f"path={file} is no table that is read: give a .csv, a .tsv or a .parquet.")
        if len({isinstance(column, int) for column in (image, *self.captions)}) > 1:
            raise UserError("source.image and source.caption must both be names of columns, or both be numbers.")

    def __len__(self) -> int:
        """Costs one reading of a text file."""
        if self.file.suffix == ".parquet":
            return int(_parquet(self.file).metadata.num_rows)
        return sum(1 for _ in self._text_rows())

    def describe(self) -> dict[str, Any]:
        with self.file.open("rb") as file:
            if self.file.suffix == ".parquet":  # its end tells sizes and ranges of all the rest
                file.seek(max(0, self.file.stat().st_size - FOOTER))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"kind": "table", "sha256": digest, "image": self.image, "caption": self.captions}

    def entries(self, first: int) -> Iterator[Entry | LeftOut]:
        """The rows from `first` on."""
        rows = self._parquet_rows(first) if self.file.suffix == ".parquet" else islice(self._text_rows(), first, None)
        for number, row in enumerate(rows, first):
            yield self._entry(row, f"{self.file.name}, row {number + 1}")

    def _entry(self, row: dict[Column, Any], where: str) -> Entry | LeftOut:
        image, captions = row.get(self.image), [row.get(column) for column in self.captions]
        if not isinstance(image, str) or not image:
            return LeftOut("no image in the row", where)
        texts = [text for of in captions for text in (of if isinstance(of, list) else [of]) if isinstance(text, str)]
        rest = {str(key): row[key] for key in row if key not in (self.image, *self.captions)}
        return Entry(image, image if "://" in image else str(self.root / image), tuple(texts), rest)

    def _text_rows(self) -> Iterator[dict[Column, Any]]:
        """Bytes that are no UTF-8 pass as surrogates, so that they cost their row and not the file."""
        csv.field_size_limit(LARGEST_FIELD)
        tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        with self.file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, **(tabs if self.file.suffix == ".tsv" else {}))
            try:
                names: list[Any] | None = None if isinstance(self.image, int) else next(reader, [])
                if names is not None:
                    self._check(names)
                for row in filter(None, reader):
                    yield dict(zip(range(len(row)) if names is None else names, row, strict=False))
            except csv.Error as error:
                raise UserError(f"{self.file}, line {reader.line_num}: {error}; mend that line.") from error

    def _parquet_rows(self, first: int) -> Iterator[dict[Column, Any]]:
        """Groups before `first` are not read."""
        table = _parquet(self.file)
        self._check(table.schema_arrow.names)
        groups, skipped = list(range(table.num_row_groups)), first
        while groups and skipped >= table.metadata.row_group(groups[0]).num_rows:
            skipped -= table.metadata.row_group(groups.pop(0)).num_rows
        for batch in table.iter_batches(1024, row_groups=groups):
            rows = batch.to_pylist()
            yield from rows[skipped:]
            skipped = max(0, skipped - len(rows))

    def _check(self, names: list[Any]) -> None:
        missing = [column for column in (self.image, *self.captions) if column not in names]
        if missing:
            raise UserError(
                f"{self.file} has no column {missing[0]}, it has {', '.join(map(str, names[:20]))}: name the right"
                " ones with source.image= and source.caption=, or by number where there is no header."
            )


def _parquet(file: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{file} is read with pyarrow: install it with pip install 'diptych[study]'.") from error
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is no readable Parquet file ({error}): restore it.") from error
