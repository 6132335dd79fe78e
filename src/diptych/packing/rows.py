"""Shards from rows that a source lists: row n of the source is sample n of the set, in shard n // shard_size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol

from diptych.base.errors import UserError
from diptych.packing.entries import Entry, LeftOut
from diptych.packing.writing import Record, write_shard


class Rows(Protocol):
    """A source by position."""

    def __len__(self) -> int: ...

    def entries(self, first: int) -> Iterator[Entry | LeftOut]:
        """The rows from `first` on."""

    def describe(self) -> dict[str, Any]:
        """JSON that differs where the rows do, and doesn't say where they lie."""


class RowsJob:
    """A `job.Job` that writes shards. left_out: rows that the source lost before, see `Losses.describe`"""

    def __init__(self, rows: Rows, shard_size: int, left_out: dict[str, Any] | None = None) -> None:
        if not isinstance(shard_size, int) or shard_size < 1:
            raise UserError(f"source.shard_size={shard_size} must be a whole number of at least 1.")
        self.rows, self.size = rows, shard_size
        self.settings = {"source": rows.describe(), "rows": len(rows), "shard_size": shard_size}
        self.left_out = left_out or {}
        self.shards = -(-len(rows) // shard_size)

    def tasks(self, numbers: Sequence[int], out: str) -> Iterator[Callable[[], Record]]:
        """One walk over the rows, whatever shards are wanted: a row is cheap, and a text file can't be jumped in."""
        if not numbers:
            return
        at = numbers[0]
        entries = self.rows.entries(at * self.size)
        for number in numbers:
            skipped = (number - at) * self.size
            of_shard = list(islice(entries, skipped, skipped + self.size))
            yield partial(write_shard, out, number, number * self.size, of_shard)
            at = number + 1
