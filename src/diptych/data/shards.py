"""Reading a tar's samples in order, by webdataset's rules, each by itself: damage to one leaves the others."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from webdataset.tariterators import group_by_keys, tar_file_expander

from diptych.data.files import Files, is_local
from diptych.data.headers import Offsets, after
from diptych.data.index import Index, Shard
from diptych.errors import UserError

Sample = dict[str, Any]  # extension -> bytes, and webdataset's own __key__ and __url__, which are text


@dataclass(frozen=True)
class Damaged:
    """Stands where a sample could not be read from its tar; the reason is one to count by."""

    reason: str


CUT = Damaged("cut off in the tar")
BROKEN = Damaged("damaged in the tar")


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
            yield from islice(_from_start(shard, stream), first, last)
        return
    end = None if is_local(shard.path) else int(offsets[last])
    with closing(files.open(shard.path, int(offsets[first]), end, size)) as stream:
        for number in range(first, last):
            yield parsed(_bytes(stream, int(offsets[number + 1] - offsets[number])), shard.path)


def read_whole(index: Index, files: Files | None = None) -> Iterator[Sample]:
    """Every sample of every shard. Raises UserError for the first that is damaged."""
    files = files or Files()
    for number, shard in enumerate(index.shards):
        for place, sample in enumerate(read(shard, 0, shard.samples, files, index.offsets(number, files))):
            if isinstance(sample, Damaged):
                raise UserError(f"Sample {place} of the shard {shard.path} is {sample.reason}: restore it.")
            yield sample


def _bytes(stream: BinaryIO, count: int) -> bytes | None:
    try:
        data = stream.read(count)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{stream!r} can't be read on ({error}): see to the disk, then use resume=.") from error
    return data if len(data) == count else None


def parsed(data: bytes | None, url: str) -> Sample | Damaged:
    """The one sample whose members are `data`, all of it: a header that tarfile can't read ends a tar for it without
    a word, so what it took is compared with what there was."""
    if data is None:
        return CUT
    try:
        samples = list(group_by_keys(tar_file_expander([{"url": url, "stream": io.BytesIO(data)}])))
        if len(samples) != 1:
            return BROKEN
        contents = (value for name, value in samples[0].items() if not name.startswith("__"))
        plain = sum(512 + -(-len(content) // 512) * 512 for content in contents)
        return samples[0] if plain == len(data) or _whole(data) else BROKEN
    except Exception as error:  # tarfile's, and webdataset's own ValueError
        duplicate = "duplicate file name" in str(error)
        return Damaged("two files of one name in a sample") if duplicate else BROKEN


def _whole(data: bytes) -> bool:
    """Whether the headers, also those of long names and folders, lead to the end."""
    end = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            end = after(member)
    return end == len(data)


def _from_start(shard: Shard, stream: BinaryIO) -> Iterator[Sample | Damaged]:
    """All samples of a shard. A sample is whole when another has begun; the last before an end that comes too early
    may lack files."""
    given, held, why = 0, None, CUT
    try:
        for sample in group_by_keys(tar_file_expander([{"url": shard.path, "stream": stream}])):
            if held is not None:
                yield held
                given += 1
            held = sample
        if given < shard.samples - 1:
            held = None
    except UserError:
        raise
    except Exception:  # tarfile's, gzip's, and webdataset's own ValueError
        why = BROKEN
    if held is not None:
        yield held
        given += 1
    for _ in range(given, shard.samples):
        yield why


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
        """The samples first … last-1 of shard `number`, or what became of them."""
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
                f"The shard {shard.path} is compressed, or remote and without offsets, so that each block would be"
                " read from its start: unpack it or index it with pack.py source=shards, or raise data.memory (MB)"
                " so that it is kept."
            )
        yield from read(shard, first, last, self.files, offsets)


def _unseekable(path: str) -> bool:
    return not is_local(path) or path.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst"))
