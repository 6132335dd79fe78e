"""Reading a tar's samples in order, grouped as in webdataset. Damage to one sample does not affect the others."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from diptych.base.errors import UserError
from diptych.base.files import open_regular
from diptych.data.io.address import is_local, local, shown
from diptych.data.io.files import Files
from diptych.data.stream.headers import Offsets, unpacked
from diptych.data.stream.index import Index, Shard
from diptych.data.stream.tar import BROKEN as BROKEN_BY
from diptych.data.stream.tar import LARGEST, Damage, Member, Unreadable, content, members, place

Sample = dict[str, Any]  # extension -> bytes; and webdataset's __key__ and __url__, which are str


@dataclass(frozen=True)
class Damaged:
    """In place of a sample that could not be read from its tar. Samples are counted by the reason."""

    reason: str


CUT = Damaged("cut off in the tar")
BROKEN = Damaged("damaged in the tar")
TWICE = Damaged("two files of one name in a sample")
LARGE = Damaged(f"sample of more than {LARGEST} bytes in the tar")
UNPACKED, UNPACKS = 2**26, 16  # a compressed shard unpacks to at most so many bytes, or so many times its own


def read(shard: Shard, first: int, last: int, files: Files, offsets: Offsets | None) -> Iterator[Sample | Damaged]:
    """The samples first … last-1 of a shard, or Damaged in place of one.

    With offsets, only their bytes are read, and damage to one sample does not affect the others; without, the tar is
    read from its start, and everything behind the damage is lost.
    Raises UserError if the shard can't be opened or read.
    """
    # A remote file that has another size or ends early is refused, once retries have not helped. A local one is
    # opened to its end, wherever that is, and what is missing is counted sample by sample.
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
        raise UserError(
            f"{stream!r} can't be read further ({error}): check the disk, then use resume=RUN."
        ) from error
    return data if len(data) == count else None


def _files_in(file: Any, size: int | None, whole: bool = True) -> Iterator[tuple[str, str, Member] | Damage]:
    """(key, extension, entry) of each file that is part of a sample, and each damage that may have lost files."""
    for found in members(file, size, whole):
        if isinstance(found, Damage):
            if found.lost:
                yield found
        elif not isinstance(part := place(found.name, found.kind), str):
            yield (*part, found)


def _with(sample: Sample | Damaged, extension: str, file: Any, member: Member) -> Sample | Damaged:
    """The same sample with one more of its files, or Damaged."""
    if isinstance(sample, Damaged):
        return sample
    if extension in sample:
        return TWICE
    try:
        sample[extension] = content(file, member)
    except Unreadable as error:
        return Damaged(str(error))
    return sample


def parsed(data: bytes | None, url: str) -> Sample | Damaged:
    """The one sample whose files make up `data`."""
    if data is None:
        return CUT
    file = io.BytesIO(data)
    sample: Sample | None = None
    for found in _files_in(file, len(data), whole=False):
        if isinstance(found, Damage):
            return BROKEN
        key, extension, member = found
        sample = sample or {"__key__": key, "__url__": url}
        if sample["__key__"] != key:
            return BROKEN
        more = _with(sample, extension, file, member)
        if isinstance(more, Damaged):
            return more
    return sample or BROKEN


def _from_start(shard: Shard, stream: BinaryIO, first: int) -> Iterator[Sample | Damaged]:
    """All samples of a shard; those before `first` without their content. A sample is complete when another has
    begun; the last before an early end may lack files."""
    given, why, left = 0, CUT, max(UNPACKED, UNPACKS * shard.bytes)
    key: str | None = None
    sample: Sample | Damaged | None = None
    try:
        with unpacked(stream) as file:
            for found in _files_in(file, None):
                if isinstance(found, Damage):
                    sample, why = None, CUT if found.reason.startswith("truncated") else BROKEN
                    break
                if found[0] != key:
                    if sample is not None:
                        yield sample
                        given += 1
                    key = found[0]
                    sample = {"__key__": key, "__url__": shard.path}
                if given >= first:
                    left -= found[2].size
                    if left < 0 and not isinstance(sample, Damaged):
                        sample = Damaged(f"in a shard that unpacks to more than {UNPACKS} times its bytes")
                    assert sample is not None
                    sample = _with(sample, found[1], file, found[2])
        if given < shard.samples - 1:
            sample = None
    except BROKEN_BY:  # raised by what unpacks the tar
        sample, why = None, BROKEN
    if sample is not None:
        yield sample
        given += 1
    for _ in range(given, shard.samples):
        yield why


def keys(index: Index, number: int, files: Files) -> list[str | None]:
    """The keys of a local shard's samples, in order; None for one that can't be read. With offsets it reads only the
    512 bytes of a header for each."""
    shard, offsets = index.shards[number], index.offsets(number, files)
    if offsets is None:  # compressed or damaged: read it from its start
        return [_key(sample) for sample in read(shard, 0, shard.samples, files, None)]
    path = local(shard.path)
    found: list[str | None] = []
    with open_regular(Path(path)) as file:
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            file.seek(begin)
            key = _key_in_header(file.read(512))
            if key is None and end - begin <= LARGEST:  # first a long name, a folder or a file that has no key
                file.seek(begin)
                key = _key(parsed(file.read(end - begin), path))
            found.append(key)
    return found


def _key(sample: Sample | Damaged) -> str | None:
    return None if isinstance(sample, Damaged) else str(sample["__key__"])


def _key_in_header(block: bytes) -> str | None:
    """The key of a plain file with a plain name."""
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    part = place(member.name, member.type)
    return None if isinstance(part, str) else part[0]


class Shelf:
    """Shards by number. Those that together fit into `memory` bytes are read once and kept, encoded.

    opened: called with the shard and the sample before each read, for the watchdog
    """

    def __init__(
        self, index: Index, files: Files, memory: int, opened: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        self.index, self.files, self.room, self.opened = index, files, memory, opened
        self.kept: dict[int, list[Sample | Damaged]] = {}

    def samples(self, number: int, first: int, last: int) -> Iterator[Sample | Damaged]:
        """Samples first … last-1 of a shard, or Damaged in place of one. Held-out samples are not counted."""
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
