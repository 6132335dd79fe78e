"""The keys of a shard's samples, by the headers at their offsets: a block of 512 bytes each."""

from __future__ import annotations

import tarfile
from pathlib import Path

from diptych.base.files import open_regular
from diptych.data.io.address import local
from diptych.data.io.files import Files
from diptych.data.stream.headers import Offsets
from diptych.data.stream.index import Index
from diptych.data.stream.shards import Damaged, parsed, read
from diptych.data.stream.tar import LARGEST, place


def keys(index: Index, number: int, files: Files) -> list[str | None]:
    """Of all samples of a local shard, in their order; None for one that can't be read."""
    shard, offsets = index.shards[number], index.offsets(number, files)
    if offsets is None:  # compressed, or damaged: it has to be read from its start
        samples = read(shard, 0, shard.samples, files, None)
        return [None if isinstance(sample, Damaged) else str(sample["__key__"]) for sample in samples]
    return _at(Path(local(shard.path)), shard.samples, offsets)


def _at(path: Path, samples: int, offsets: Offsets) -> list[str | None]:
    found: list[str | None] = []
    with open_regular(path) as file:
        for n in range(samples):
            file.seek(int(offsets[n]))
            key = _of_header(file.read(512))
            length = int(offsets[n + 1] - offsets[n])
            if key is None and length <= LARGEST:  # a long name, a folder or a file that gives no key comes first
                file.seek(int(offsets[n]))
                sample = parsed(file.read(length), str(path))
                key = None if isinstance(sample, Damaged) else str(sample["__key__"])
            found.append(key)
    return found


def _of_header(block: bytes) -> str | None:
    """The key of a plain file with a plain name."""
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    part = place(member.name, member.type)
    return None if isinstance(part, str) else part[0]
