"""What a tar's headers say: how many samples it holds, where each begins, and whether the tar is whole."""

from __future__ import annotations

import re
import tarfile
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from webdataset.tariterators import base_plus_ext

from diptych.data.files import Files, is_local, shown
from diptych.errors import UserError

Offsets = NDArray[np.int64]  # [samples + 1]: the first byte of each sample, and the end of the last
META = re.compile(r"__[^/]*__($|/)")  # what webdataset leaves out by name


class Headers(NamedTuple):
    """offsets: None for a compressed tar, which can only be read from its start."""

    samples: int
    bytes: int
    offsets: Offsets | None


def read_headers(path: str, files: Files) -> Headers:
    """Walk the headers of a local tar, or of what a command (`pipe:`) prints.

    Samples are counted as webdataset groups them: neighbours with the same key, files without one left out.
    Raises UserError for a tar that is missing, cut, damaged or none, and for a remote one.
    """
    if path.startswith("pipe:"):
        with files.open(path) as printed:
            return _printed(path, printed)
    if not is_local(path):
        raise UserError(f"The shard {shown(path)} is remote and has no index: make one with pack.py source=shards.")
    size = files.size(path)
    if size is None:
        raise UserError(f"The shard {path} is missing: restore it, or leave it out.")
    with files.open(path) as file:
        starts, end, packed = _walk(path, file, "r:*")
        file.seek(end)
        # Two empty blocks end a whole tar: without them a writer was killed, the copy was cut, or a header is
        # damaged, which tarfile takes for the end. A compressed tar that was cut could not have been walked.
        if not packed and (end + 1024 > size or file.read(1024) != bytes(1024)):
            raise UserError(
                f"The shard {path} is cut or damaged after {len(starts)} samples: restore it or leave it out."
            )
    return Headers(len(starts), size, None if packed else np.array([*starts, end], dtype=np.int64))


def _printed(path: str, printed: BinaryIO) -> Headers:
    counted = _Counted(printed)
    starts, end, packed = _walk(path, counted, "r|*")
    size = counted.count()
    if size < end + 1024 and not packed:
        raise UserError(f"The shard {shown(path)} is cut after {len(starts)} samples: restore it or leave it out.")
    return Headers(len(starts), size, None if packed else np.array([*starts, end], dtype=np.int64))


def _walk(path: str, file: Any, mode: Any) -> tuple[list[int], int, bool]:
    """Where samples begin, where the last member ends, and whether the tar is compressed."""
    starts: list[int] = []
    last, end = None, 0
    try:
        with tarfile.open(fileobj=file, mode=mode) as tar:
            for member in tar:
                key, _ = base_plus_ext(member.name)
                begin, end = end, after(member)
                if not member.isfile() or key is None or META.match(member.name):
                    continue
                if key != last:
                    starts.append(begin)
                last = key
            stream = "|" in mode
            packed = getattr(tar.fileobj, "comptype", "tar") != "tar" if stream else tar.fileobj is not file
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"The shard {shown(path)} is not a whole tar ({error}): restore it.") from error
    return starts, end, packed


class _Counted:
    """A stream that knows how many bytes it gave."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.given = file, 0

    def read(self, length: int) -> bytes:
        data = self.file.read(length)
        self.given += len(data)
        return data

    def count(self) -> int:
        """All bytes there are: what tarfile left unread is read too."""
        while self.read(2**20):
            pass
        return self.given


def fit(offsets: Offsets, samples: int, size: int) -> bool:
    """Whether these can be the offsets of a tar of so many samples and bytes."""
    inside = len(offsets) == samples + 1 and offsets[0] >= 0 and offsets[-1] <= size
    return bool(inside and (np.diff(offsets) > 0).all())


def after(member: tarfile.TarInfo) -> int:
    """The first byte after a member: its content is padded to whole blocks of 512."""
    return member.offset_data + -(-member.size // 512) * 512 if member.isreg() else member.offset_data
