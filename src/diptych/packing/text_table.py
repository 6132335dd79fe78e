"""The rows of a .csv or .tsv: each line that holds something is a row, or is named with the reason why it is none."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import open_regular
from diptych.packing.entries import LeftOut

LARGEST_FIELD = 1 << 24  # characters; the csv module's own limit is below some captions' metadata
LOOKED_AT = 100  # rows by which the number of columns is told where no header says it
MORE, FEWER = "more fields in the row than columns", "fewer fields in the row than columns"
QUOTES = "quotes in the row that don't match"

Row = dict[Any, Any]


def text_rows(file: Path, used: list[Any]) -> Iterator[tuple[str, Row | LeftOut]]:
    """(place, row by column, or why it is none). Bytes that are no UTF-8 pass as surrogates, so that they cost their
    row and not the file.

    used: the columns that are needed: names in the header, or numbers from 0 where there is none
    Raises UserError for a file that is empty, of another encoding, or without these columns.
    """
    _check_encoding(file)
    csv.field_size_limit(LARGEST_FIELD)
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with TextIOWrapper(open_regular(file), "utf-8-sig", "surrogateescape", newline="") as stream:
        reader = csv.reader(stream, strict=True, **(tabs if file.suffix.lower() == ".tsv" else {}))
        records = _records(reader)
        names: list[Any]
        if isinstance(used[0], int):
            head = list(islice(records, LOOKED_AT))
            widths = Counter(len(row) for _, row in head if row is not None)
            names = list(range(widths.most_common(1)[0][0] if widths else 0))
            records = chain(head, records)
        else:
            names = _header(file, records)
        if not names:
            raise UserError(f"{file} is empty: it needs a row for each picture.")
        _check_columns(file, names, used)
        for line, row in records:
            yield f"{file.name}, line {line}", _row(names, row)


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


def _header(file: Path, records: Iterator[tuple[int, list[str] | None]]) -> list[Any]:
    line, header = next(records, (1, []))
    if header is None:
        raise UserError(f"{file}, line {line}: the quotes of the header don't match: correct them.")
    return [name.strip() for name in header]


def _check_columns(file: Path, names: list[Any], used: list[Any]) -> None:
    if missing := [column for column in used if column not in names]:
        raise UserError(
            f"{file} has no column {missing[0]}, it has {', '.join(map(str, names[:20]))}: name the right"
            " ones with source.image= and source.caption=, or by number where there is no header."
        )
    if twice := [column for column in used if names.count(column) > 1]:
        numbers = " and ".join(str(number) for number, name in enumerate(names, 1) if name == twice[0])
        raise UserError(f"{file} has two columns {twice[0]}, the {numbers}. ones: rename those that aren't meant.")
    seen: set[Any] = set()
    for number, name in enumerate(names):
        if name in seen:  # of no use here, but kept in the sample's JSON
            names[number] = f"{name} (column {number + 1})"
        seen.add(name)


def _row(names: list[Any], row: list[str] | None) -> Row | LeftOut:
    if row is None:
        return LeftOut(QUOTES)
    if len(row) < len(names):
        return LeftOut(FEWER)
    if any(row[len(names) :]):  # but separators behind the last field add nothing
        return LeftOut(MORE)
    return dict(zip(names, row, strict=False))


def _check_encoding(file: Path) -> None:
    with open_regular(file) as stream:
        head = stream.read(4096)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[1:2] == b"\0" or head[:1] == b"\0":
        raise UserError(f"{file} is not UTF-8 but UTF-16 or UTF-32: save it as UTF-8.")
