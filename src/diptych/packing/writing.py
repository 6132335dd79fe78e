"""One shard on disk, whole or not at all: a tar of webdataset's writer, and the offsets of its samples beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from webdataset import TarWriter

from diptych.base.files import beside, refusing, write
from diptych.data.io.address import printable
from diptych.data.stream.headers import Offsets
from diptych.packing.entries import Entry, LeftOut

TAR: dict[str, Any] = {"mtime": 0, "user": "diptych", "group": "diptych", "encoder": False}
EXAMPLES = 100  # names of each reason, in pack.json


@dataclass
class Losses:
    """What was left out: reason -> how many, and the first ones by name."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.merge({reason: {"count": 1, "examples": [printable(name)]}})

    def add_all(self, reason: str, names: Sequence[str]) -> None:
        self.merge({reason: {"count": len(names), "examples": [printable(name) for name in names[:EXAMPLES]]}})

    def merge(self, described: dict[str, Any]) -> None:
        for reason, of in described.items():
            self.counts[reason] = self.counts.get(reason, 0) + of["count"]
            names = self.examples.setdefault(reason, [])
            names.extend(of["examples"][: EXAMPLES - len(names)])

    def describe(self) -> dict[str, Any]:
        """In the order of reasons, so that it does not depend on who came first."""
        return {r: {"count": self.counts[r], "examples": self.examples[r]} for r in sorted(self.counts)}


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard: its line in the part's file, and most of it in the index.

    path: relative to the index's folder; no tar is written for a shard without samples
    """

    number: int
    path: str
    samples: int
    bytes: int
    sha256: str | None
    left_out: dict[str, Any]
    offsets: bool = True


def shard_name(number: int) -> str:
    return f"train-{number:06d}.tar"


def write_shard(folder: str, number: int, first: int, entries: Sequence[Entry | LeftOut]) -> Record:
    """Shard `number` of the set, whose first row stands at position `first`: the position is a sample's key, so no
    two samples of a set share one. The same entries give the same bytes.

    entries: or why there is none, with the row's name as second argument
    """
    name = shard_name(number)
    final = Path(folder) / name
    losses, starts = Losses(), []
    with refusing(final), beside(final) as partial:
        with partial.open("wb") as file:
            hashed = _Hashed(file)
            with TarWriter(hashed, **TAR) as writer:
                for position, entry in enumerate(entries, first):
                    try:
                        sample = _sample(entry, f"{position:09d}")
                    except LeftOut as reason:
                        losses.add(str(reason.args[0]), _name(entry))
                        continue
                    starts.append(writer.tarstream.offset)
                    writer.write(sample)
                end = writer.tarstream.offset
        if starts:
            write_offsets(final, np.array([*starts, end]))
        else:
            partial.unlink()
    return Record(number, name, len(starts), hashed.bytes, hashed.digest.hexdigest(), losses.describe())


def _sample(entry: Entry | LeftOut, key: str) -> dict[str, str | bytes]:
    if isinstance(entry, LeftOut):
        raise entry
    return entry.sample(key)


def _name(entry: Entry | LeftOut) -> str:
    return str(entry.args[1]) if isinstance(entry, LeftOut) else entry.name


def write_offsets(shard: Path, offsets: Offsets) -> None:
    """SHARD.idx beside the shard, whole or not at all; see diptych.data.stream.index."""
    write(shard.with_name(f"{shard.name}.idx"), offsets.astype("<i8").tobytes())


def remove_partials(folder: Path, numbers: Iterable[int]) -> None:
    """What a killed process left of these shards."""
    names = {shard_name(number) for number in numbers}
    for partial in folder.glob(".train-*.partial"):
        if partial.name[1 : 1 + len(shard_name(0))] in names:
            partial.unlink(missing_ok=True)


class _Hashed:
    """A file that is written to, its length, and the SHA-256 of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self.file.write(data)
