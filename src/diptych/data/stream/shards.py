"""Reading a tar's samples in order, by webdataset's rules, each by itself: damage to one leaves the others."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from diptych.base.errors import UserError
from diptych.data.io.address import is_local, shown
from diptych.data.io.files import Files
from diptych.data.stream.headers import Offsets, unpacked
from diptych.data.stream.index import Index, Shard
from diptych.data.stream.tar import BROKEN as BROKEN_BY
from diptych.data.stream.tar import LARGEST, Damage, Member, Unreadable, content, members, place

Sample = dict[str, Any]  # extension -> bytes, and webdataset's own __key__ and __url__, which are text


@dataclass(frozen=True)
class Damaged:
    """Stands where a sample could not be read from its tar; the reason is one to count by."""

    reason: str


CUT = Damaged("cut off in the tar")
BROKEN = Damaged("damaged in the tar")
TWICE = Damaged("two files of one name in a sample")
LARGE = Damaged(f"sample of more than {LARGEST} bytes in the tar")
UNPACKED, UNPACKS = 2**26, 16  # bytes that a compressed shard may always give; more: this many times its own


def read(shard: Shard, first: int, last: int, files: Files, offsets: Offsets | None) -> Iterator[Sample | Damaged]:
    """The samples first … last-1 of a shard, each or what became of it.

    With offsets, only their bytes are read, and damage to one sample leaves the others; without, the tar is read
    from its start, and what stands behind the damage is lost.
    Raises UserError when the shard can't be reached.
    """
    # A remote file of another size, or that ends early, is refused by name once trying again has not helped. What is
    # missing of a local one is counted sample by sample, so it is opened to its end, whatever that is.
    size = None if is_local(shard.path) else shard.bytes
    if offsets is None:
        with closing(files.open(shard.path, size=size)) as stream:
            yield from islice(_from_start(shard, stream, first), first, last)
        return
    end = None if is_local(shard.path) else int(offsets[last])
    with closing(files.open(shard.path, int(offsets[first]), end, size)) as stream:
        for number in range(first, last):
            length = int(offsets[number + 1] - offsets[number])
            if length > LARGEST:
                _skip(stream, length)
                yield LARGE
            else:
                yield parsed(_bytes(stream, length), shard.path)


def read_whole(index: Index, files: Files | None = None) -> Iterator[Sample]:
    """Every sample of every shard. Raises UserError for the first that is damaged."""
    files = files or Files()
    for number, shard in enumerate(index.shards):
        for at, sample in enumerate(read(shard, 0, shard.samples, files, index.offsets(number, files))):
            if isinstance(sample, Damaged):
                raise UserError(f"Sample {at} of the shard {shown(shard.path)} is {sample.reason}: restore it.")
            yield sample


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0 and (data := _bytes(stream, min(count, 2**20))):
        count -= len(data)


def _bytes(stream: BinaryIO, count: int) -> bytes | None:
    try:
        data = stream.read(count)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{stream!r} can't be read on ({error}): see to the disk, then use resume=.") from error
    return data if len(data) == count else None


def parsed(data: bytes | None, url: str) -> Sample | Damaged:
    """The one sample whose files are `data`, all of it."""
    if data is None:
        return CUT
    file = io.BytesIO(data)
    sample: Sample | None = None
    for found in members(file, len(data), whole=False):
        if isinstance(found, Damage):
            if found.lost:
                return BROKEN
            continue
        part = place(found.name, found.kind)
        if isinstance(part, str):
            continue
        if sample is None:
            sample = {"__key__": part[0], "__url__": url}
        elif sample["__key__"] != part[0]:
            return BROKEN
        if part[1] in sample:
            return TWICE
        try:
            sample[part[1]] = content(file, found)
        except Unreadable as error:
            return Damaged(str(error))
    return sample or BROKEN


def _from_start(shard: Shard, stream: BinaryIO, first: int) -> Iterator[Sample | Damaged]:
    """All samples of a shard; those before `first` without their content. A sample is whole when another has begun;
    the last before an end that comes too early may lack files."""
    given, why, most = 0, CUT, max(UNPACKED, UNPACKS * shard.bytes)
    held: _Group | None = None
    try:
        with unpacked(stream) as file:
            for found in members(file, None):
                if isinstance(found, Damage):
                    if found.lost:
                        held, why = None, CUT if found.reason.startswith("truncated") else BROKEN
                        break
                    continue
                part = place(found.name, found.kind)
                if isinstance(part, str):
                    continue
                if held is None or held.key != part[0]:
                    if held is not None:
                        yield held.sample
                        given += 1
                    held = _Group(part[0], {"__key__": part[0], "__url__": shard.path})
                if given >= first:
                    most -= found.size
                    held.take(part[1], file, found, most)
        if given < shard.samples - 1:
            held = None
    except BROKEN_BY:  # of what is compressed
        held, why = None, BROKEN
    if held is not None:
        yield held.sample
        given += 1
    for _ in range(given, shard.samples):
        yield why


@dataclass
class _Group:
    """Neighbours of one key: a sample, or what became of it."""

    key: str
    sample: Sample | Damaged

    def take(self, extension: str, file: Any, member: Member, left: int) -> None:
        """left: bytes that the shard's further files may fill"""
        if isinstance(self.sample, Damaged):
            return
        try:
            if left < 0:
                raise Unreadable(f"in a shard that unpacks to more than {UNPACKS} times its bytes")
            self.sample = TWICE if extension in self.sample else {**self.sample, extension: content(file, member)}
        except Unreadable as error:
            self.sample = Damaged(str(error))


class Shelf:
    """Shards by number; those that fit in `memory` bytes together are read once and kept, encoded.

    opened: told the shard and the sample before each read, for whoever watches
    """

    def __init__(
        self, index: Index, files: Files, memory: int, opened: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        self.index, self.files, self.room, self.opened = index, files, memory, opened
        self.kept: dict[int, list[Sample | Damaged]] = {}

    def samples(self, number: int, first: int, last: int) -> Iterator[Sample | Damaged]:
        """Of the samples of shard `number` that a training takes first … last-1, or what became of them."""
        first, last, held = self.index.span(number, first, last)
        found = self._all(number, first, last)
        return (content for place, content in enumerate(found, first) if place not in held) if held else found

    def _all(self, number: int, first: int, last: int) -> Iterator[Sample | Damaged]:
        shard = self.index.shards[number]
        if number not in self.kept and shard.bytes <= self.room:
            self.room -= shard.bytes
            self.kept[number] = list(self._read(number, 0, shard.samples))
        if number in self.kept:
            return iter(self.kept[number][first:last])
        return self._read(number, first, last)

    def _read(self, number: int, first: int, last: int) -> Iterator[Sample | Damaged]:
        self.opened(number, first)
        shard, offsets = self.index.shards[number], self.index.offsets(number, self.files)
        if offsets is None and (first, last) != (0, shard.samples) and _unseekable(shard.path):
            raise UserError(
                f"The shard {shown(shard.path)} is compressed, or remote and without offsets, so that each block"
                " would be read from its start: unpack it or index it with pack.py source=shards, or raise"
                " data.memory (MB) so that it is kept."
            )
        yield from read(shard, first, last, self.files, offsets)


def _unseekable(path: str) -> bool:
    return not is_local(path) or path.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst"))
