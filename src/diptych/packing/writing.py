"""Shards from the rows of a source: row n is sample n of the set, in shard n // shard_size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from webdataset import TarWriter

from diptych.base.errors import UserError
from diptych.base.files import beside, refusing, write
from diptych.data.stream.headers import Offsets
from diptych.packing.entries import Entry, LeftOut
from diptych.packing.job import Losses, Record

TAR: dict[str, Any] = {"mtime": 0, "user": "diptych", "group": "diptych", "encoder": False}
NAME = "train-{:06d}.tar"


class Rows(Protocol):
    """A source whose rows have positions."""

    def __len__(self) -> int: ...

    def entries(self, first: int) -> Iterator[Entry | LeftOut]:
        """The rows from position `first` on. For a row that gives none: why, and the row's name as second argument"""

    def describe(self) -> dict[str, Any]:
        """JSON that differs when the rows differ, and does not contain the source's path."""


class RowsJob:
    """A `job.Job` that writes shards. left_out: what the source itself left out, and is no row"""

    def __init__(self, rows: Rows, shard_size: int, left_out: Losses | None = None) -> None:
        if not isinstance(shard_size, int) or shard_size < 1:
            raise UserError(f"source.shard_size={shard_size} must be a whole number of at least 1.")
        self.rows, self.size = rows, shard_size
        self.settings = {"source": rows.describe(), "rows": len(rows), "shard_size": shard_size}
        self.left_out = left_out or Losses()
        self.shards = -(-len(rows) // shard_size)

    def tasks(self, numbers: Sequence[int], out: str) -> Iterator[Callable[[], Record]]:
        """One pass over the rows, whichever shards are wanted: a row is cheap, and text files can't be skipped in."""
        remove_partials(Path(out), numbers)
        if not numbers:
            return
        at = numbers[0]
        entries = self.rows.entries(at * self.size)
        for number in numbers:
            skipped = (number - at) * self.size
            of_shard = list(islice(entries, skipped, skipped + self.size))
            yield partial(write_shard, out, number, number * self.size, of_shard)
            at = number + 1


def write_shard(folder: str, number: int, first: int, entries: Sequence[Entry | LeftOut]) -> Record:
    """Write a shard and its offsets, whole or not at all. The same entries give the same bytes.

    first: the position of the shard's first row. A sample's key is its row's position, so keys are unique in a set
    """
    final = Path(folder) / NAME.format(number)
    losses, starts = Losses(), []
    with refusing(final), beside(final) as unfinished:
        with unfinished.open("wb") as file:
            hashed = _Hashed(file)
            with TarWriter(hashed, **TAR) as writer:
                for position, entry in enumerate(entries, first):
                    try:
                        if isinstance(entry, LeftOut):
                            raise entry
                        sample = entry.sample(f"{position:09d}")
                    except LeftOut as reason:
                        name = entry.name if isinstance(entry, Entry) else str(entry.args[1])
                        losses.add(str(reason.args[0]), name)
                        continue
                    starts.append(writer.tarstream.offset)
                    writer.write(sample)
                end = writer.tarstream.offset
        if starts:
            write_offsets(final, np.array([*starts, end]))
        else:
            unfinished.unlink()
    return Record(number, final.name, len(starts), hashed.bytes, hashed.digest.hexdigest(), losses.describe())


def write_offsets(shard: Path, offsets: Offsets) -> None:
    """SHARD.idx beside the shard, whole or not at all; see diptych.data.stream.index."""
    write(shard.with_name(f"{shard.name}.idx"), offsets.astype("<i8").tobytes())


def remove_partials(folder: Path, numbers: Iterable[int]) -> None:
    """What a killed process left of these shards. Other processes may be writing other shards."""
    names = {NAME.format(number) for number in numbers}
    for file in folder.glob(".train-*.partial"):  # .train-000000.tar.NOISE.partial, or of its .idx
        if f"{file.name[1:].partition('.tar')[0]}.tar" in names:
            file.unlink(missing_ok=True)


class _Hashed:
    """A file to write to, with the number of bytes written and their SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self.file.write(data)
