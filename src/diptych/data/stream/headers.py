"""What a tar's headers tell: how many samples it has, where each begins, what is damaged and what is no sample."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diptych.base.errors import UserError
from diptych.data.io.address import is_local, printable, shown
from diptych.data.io.files import Files
from diptych.data.stream.tar import BROKEN, Damage, Member, members, place

Offsets = NDArray[np.int64]  # [samples + 1]: the first byte of each sample, and the end of the last
OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
APART = "files of one sample that aren't neighbours in the tar"
JOINED = "end marker before more files (tars joined end to end?), where other readers stop"
BEHIND = "bytes behind the tar's end that are no file"


class Again(Enum):
    """How a key comes again in one tar, not among its neighbours.

    APART: with other files, so the rest of the same sample; ANOTHER: with files that it had before, so another sample
    of that key, as in tars that were joined
    """

    APART = "apart"
    ANOTHER = "another"


class Seen:
    """The keys of the samples that have ended, each with all the extensions that it came with."""

    def __init__(self) -> None:
        self._extensions: dict[str, set[str]] = {}

    def end(self, key: str, extensions: Collection[str]) -> Again | None:
        """Note that a sample has ended -> how its key came again; None for a new key."""
        before = self._extensions.setdefault(key, set())
        again = None if not before else Again.APART if before.isdisjoint(extensions) else Again.ANOTHER
        before.update(extensions)
        return again

    def of(self, key: str) -> Collection[str]:
        """The extensions that a key came with; none for a new key."""
        return self._extensions.get(key, ())


@dataclass
class Headers:
    """samples: groups of neighbours with one key, and damaged places, each counted once
    offsets: None for a compressed tar, which can only be read from its start; in a cut tar, the last sample ends
        after the file's end
    damaged: the number of samples known to be lost; damage: what the first damage is, and after how many samples
    left_out: entries that are part of no sample, or of half a sample: reason -> (times, name of the first)
    """

    samples: int
    bytes: int
    offsets: Offsets | None
    damaged: int = 0
    damage: str = ""
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)


def read_headers(path: str, files: Files, damaged: bool = False) -> Headers:
    """Read the headers of a local tar, or of a command's output (`pipe:`).

    Samples are grouped as in webdataset: neighbours with the same key; files without a key are left out.
    damaged: accept a damaged tar and report its damage; otherwise it is refused
    Raises UserError for a file that is missing, cut, damaged or no tar, and for a remote one.
    """
    if not path.startswith("pipe:") and not is_local(path):
        raise UserError(f"The shard {shown(path)} is remote and has no index: make one with pack.py source=shards.")
    size = None if path.startswith("pipe:") else files.size(path)
    if size is None and is_local(path):
        raise UserError(f"The shard {shown(path)} is missing: restore it, or leave it out.")
    with files.open(path) as file:
        found = _headers(path, file, size)
    if found.damage and not damaged:
        raise UserError(f"The shard {shown(path)} is cut or damaged {found.damage}: restore it or leave it out.")
    return found


def _headers(path: str, file: BinaryIO, size: int | None) -> Headers:
    unpack, reading = opener(file), _Reading()
    counted = Forward(file) if size is None else None
    if unpack is not None:
        with unpack(counted or file) as plain:
            reading.read(plain, None)
    else:
        reading.read(counted or file, size)
    if counted is not None:
        size = counted.count()
    assert size is not None
    if reading.why and not any(reading.keys):
        raise UserError(f"The shard {shown(path)} is not a whole tar ({reading.why}): restore it.")
    return reading.headers(size, unpack is not None)


def opener(file: Any) -> Callable[..., Any] | None:
    """The function that unpacks a file, according to its first bytes; None for one that isn't compressed."""
    head = file.peek(6)[:6]
    return next((of for magic, of in OPENERS.items() if head.startswith(magic)), None)


def unpacked(file: Any) -> Any:
    """A tar that may be compressed, as a stream of its unpacked bytes."""
    unpack = opener(file)
    return Forward(file) if unpack is None else unpack(Forward(file))


class _Reading:
    """The state of reading one tar's headers. starts: where each sample begins; keys: its key, "" for damage"""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.keys: list[str] = []
        self.seen = Seen()  # the samples that have ended
        self.parts: set[str] = set()  # of the sample that is being read
        self.end = 0
        self.gap: int | None = None  # where damage begins that belongs to no sample yet
        self.spoiled: set[int] = set()  # the numbers of samples known to be lost
        self.before, self.why = 0, ""  # the number of samples before the first damage, and what it is
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def read(self, file: Any, size: int | None) -> None:
        try:
            for found in members(file, size):
                if isinstance(found, Damage):
                    self._damaged(found)
                else:
                    self._take(found, size)
        except BROKEN as error:  # of a compressed tar, or of the disk
            self._damaged(Damage(f"truncated or damaged ({str(error) or type(error).__name__})", self.end, self.end))
        if self.gap is not None and size is not None:
            self._count_gap()
        self._close()

    def _take(self, found: Member, size: int | None) -> None:
        part = place(found.name, found.kind)
        self.end = found.end
        if isinstance(part, str):
            self._leave_out(part, found.name)
        else:
            if not self.keys or part[0] != self.keys[-1]:
                if self.gap is not None:
                    self._count_gap()
                self._sample(part[0], found.begin)
            elif self.gap is not None:
                self.spoiled.add(len(self.starts) - 1)
            self.gap = None
            self.parts.add(part[1])
        if size is not None and found.end > size:
            if isinstance(part, str):
                self._sample("", found.begin if self.gap is None else self.gap)
                self.gap = None
            self._say(len(self.starts) - 1, f"truncated within {found.name}")
            self.end = size + 1
            self.spoiled.add(len(self.starts) - 1)

    def _sample(self, key: str, begin: int) -> None:
        self._close()
        self.starts.append(begin)
        self.keys.append(key)

    def _count_gap(self) -> None:
        """Count the damage as part of the sample before it if that one lacks files, else as another sample."""
        assert self.gap is not None
        if not self._lacks():
            self._sample("", self.gap)
        self.spoiled.add(len(self.starts) - 1)

    def _lacks(self) -> bool:
        """Whether the last sample has fewer files than the one before it, or only one: a pair has two or more. Its
        caption may be in the damage behind it."""
        before = self.seen.of(self.keys[-2]) if len(self.keys) > 1 else ()
        return 0 < len(self.parts) < max(2, len(before))

    def _close(self) -> None:
        """Note that the current sample has ended."""
        if self.parts:
            if self.seen.end(self.keys[-1], self.parts) is Again.APART:
                self._leave_out(APART, self.keys[-1])
            self.parts = set()

    def _damaged(self, found: Damage) -> None:
        if not found.lost:
            self._leave_out(JOINED if found.end > found.begin else BEHIND, f"byte {found.begin}")
            return
        self._say(len(self.starts) - self._lacks(), found.reason)
        self.gap = found.begin if self.gap is None else self.gap
        self.end = found.end + found.reason.startswith("truncated")  # behind the file's end, so that it counts as cut

    def _say(self, before: int, why: str) -> None:
        if not self.why:
            self.before, self.why = before, printable(why)

    def _leave_out(self, reason: str, name: str) -> None:
        self.left_out[reason] += 1
        self.first.setdefault(reason, printable(name))

    def headers(self, size: int, packed: bool) -> Headers:
        if self.why and not self.spoiled:  # of a stream: its last sample may be incomplete
            self.spoiled.add(len(self.starts) - 1)
        offsets = None if packed else np.array([*self.starts, self.end], dtype=np.int64)
        left_out = {reason: (self.left_out[reason], self.first[reason]) for reason in sorted(self.left_out)}
        damage = f"after {self.before} samples ({self.why})" if self.why else ""
        return Headers(len(self.starts), size, offsets, len(self.spoiled), damage, left_out)


class Forward:
    """A stream that only reads forward, and counts its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.given = file, 0

    def read(self, length: int = -1) -> bytes:
        data = self.file.read(length)
        self.given += len(data)
        return data

    def seek(self, place: int) -> int:
        while self.given < place and self.read(min(place - self.given, 2**20)):
            pass
        return self.given

    def seekable(self) -> bool:
        """bz2 and xz ask before they unpack up to a later place."""
        return True

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, *_: object) -> None:
        """The opener of the file closes it."""

    def count(self) -> int:
        """The number of all bytes; it reads the rest."""
        while self.read(2**20):
            pass
        return self.given


def fit(offsets: Offsets, samples: int, size: int) -> bool:
    """Whether these can be the offsets of a tar with so many samples and bytes."""
    inside = len(offsets) == samples + 1 and offsets[0] >= 0 and offsets[-1] <= size
    return bool(inside and (np.diff(offsets) > 0).all())
