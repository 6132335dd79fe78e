"""What is wrong with one shard. Every file is read and every image decoded; nothing is written to disk."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.base.files import open_regular
from diptych.base.terminal import counted
from diptych.data.pixels.image import BadImage, decode
from diptych.data.stream.headers import Again, Seen, opener
from diptych.data.stream.pairs import IMAGES, BadSample, captions_of, source_of
from diptych.data.stream.shards import CUT
from diptych.data.stream.tar import BROKEN, FOLDER, META, Damage, Member, Unreadable, content, members, place
from diptych.packing.entries import image_format

SAME = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"}  # extensions of one format


class Finding(NamedTuple):
    """key: None if it is of the whole shard or can't be read; kind: what to count by; source: what the sample was
    before it was packed, if that is known"""

    shard: str
    key: str | None
    kind: str
    detail: str = ""
    source: str = ""

    @property
    def said(self) -> str:
        return ", ".join(filter(None, (self.detail, self.source and f"packed from {self.source}")))

    def describe(self) -> dict[str, str | None]:
        return {"shard": self.shard, "key": self.key, "reason": ": ".join(filter(None, (self.kind, self.said)))}


class Expected(NamedTuple):
    """What an index says of a shard."""

    samples: int
    bytes: int | None = None
    sha256: str | None = None


@dataclass
class Checked:
    """samples: groups of neighbours with one key, as readers see them; keys: a hash of each group's key
    left_out: what is part of no sample, and no fault: reason -> entries
    """

    shard: str
    findings: list[Finding]
    samples: int
    keys: NDArray[np.uint64]
    left_out: Counter[str]


class File(NamedTuple):
    """An entry of a tar. data: its content, None if it can't be read; why: the reason"""

    member: Member
    data: bytes | None
    why: str = ""


def walk(path: str) -> Iterator[File | Damage]:
    """The entries of a tar and its damage, from front to back, also behind damage; holds one file at a time.

    A compressed tar is read up to the place where it can't be unpacked. Raises OSError if the tar can't be opened.
    """
    with open_regular(path) as raw:
        unpack = opener(raw)
        size, end = os.fstat(raw.fileno()).st_size if unpack is None else None, 0
        with nullcontext(raw) if unpack is None else unpack(raw) as file:
            try:
                for found in members(file, size):
                    end = found.end
                    read = found if isinstance(found, Damage) else _read(file, found)
                    yield read
                    if isinstance(read, File) and read.data is not None and size is not None and end > size:
                        yield Damage("truncated: it has no end marker", size, size)  # cut in a whole file's padding
            except BROKEN as error:  # of a compressed tar
                yield Damage(f"truncated or damaged ({str(error) or type(error).__name__})", end, end)


def _read(file: object, member: Member) -> File:
    try:
        return File(member, content(file, member))
    except Unreadable as error:
        return File(member, None, str(error))


def check_shard(shard: str, expected: Expected | None) -> Checked:
    """All findings of a local tar. Memory: one file of it, and its keys."""
    checking = _Checking(shard)
    try:
        for found in walk(shard):
            checking.damage(found) if isinstance(found, Damage) else checking.take(found)
        checking.close()
    except OSError as error:
        checking.find(None, "missing shard", error.strerror or str(error))
    else:
        checking.compare(expected)
    findings = [*checking.findings, *chain.from_iterable(checking.lacking.values())]
    hashes = np.array([key_hash(key) for key in checking.keys], dtype=np.uint64)
    return Checked(shard, findings, len(checking.keys), hashes, checking.left_out)


@dataclass
class _Group:
    """Neighbouring files of one key: what readers take for a sample. texts: those that may hold captions"""

    key: str
    begin: int
    findings: list[Finding] = field(default_factory=list)
    extensions: set[str] = field(default_factory=set)
    texts: dict[str, bytes] = field(default_factory=dict)
    cut: bool = False
    before_damage: bool = False

    def lacks(self) -> Iterator[tuple[str, str]]:
        """(kind, detail) of what is missing and not explained by a cut."""
        if self.cut:
            return
        lacks = []
        if not any(map(_is_image, self.extensions)):
            lacks.append(("missing image", f"among {', '.join(sorted(f'.{name}' for name in self.extensions))}"))
        try:
            captions_of({**dict.fromkeys(self.extensions, b""), **self.texts})
        except BadSample as error:
            lacks.append(("missing caption", str(error)))
        if lacks and self.before_damage:
            lacks = [("damaged tar", "the rest of the sample may be in the damage behind it")]
        yield from lacks

    def sourced(self, findings: list[Finding]) -> list[Finding]:
        """Findings of this sample with the name that its maker knew it by."""
        if not findings or not (source := source_of(dict(self.texts))):
            return findings
        return [each._replace(source=source) if each.key == self.key else each for each in findings]


class _Checking:
    """The walk through one shard. lacking: findings by key that later files of the same sample would explain"""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.findings: list[Finding] = []
        self.lacking: dict[str, list[Finding]] = {}
        self.seen = Seen()
        self.keys: list[str] = []
        self.begins: list[int] = []
        self.group: _Group | None = None
        self.left_out: Counter[str] = Counter()

    def find(self, key: str | None, kind: str, detail: str = "") -> None:
        findings = self.findings if self.group is None else self.group.findings
        findings.append(Finding(self.shard, key, kind, detail))

    def damage(self, damage: Damage) -> None:
        after = f", after {self.group.key}" if self.group else ""
        if self.group and damage.lost:
            self.group.before_damage = True
        self.find(None, "damaged tar", f"{damage.reason}{after}")

    def take(self, file: File) -> None:
        """The next entry of the tar."""
        name = file.member.name
        part = place(name, file.member.kind)
        if part in (FOLDER, META):
            self.left_out[part] += 1
            return
        if isinstance(part, str):
            self.find(name, "no key", f"{part}, which readers leave out")
            return
        key, extension = part
        if self.group is None or key != self.group.key:
            self.close()
            self.group = _Group(key, file.member.begin)
        elif extension in self.group.extensions:
            self.find(key, "duplicate key", f"two files .{extension} in the sample")
        self.group.extensions.add(extension)
        if file.data is None:
            self.group.cut = True
            cut = file.why == CUT.reason
            self.find(key, "damaged tar", f"truncated within .{extension}" if cut else f".{extension}: {file.why}")
        elif not file.data and extension != "txt":  # captions may be in .json instead: see `lacks`
            self.find(key, "zero bytes", f".{extension}")
        elif _is_image(extension):
            for kind, detail in _wrong_image(extension, file.data):
                self.find(key, kind, detail)
        if extension in ("txt", "json"):
            self.group.texts[extension] = file.data or b""

    def close(self) -> None:
        """The sample is over, unless more of its files come later."""
        if (group := self.group) is None:
            return
        self.keys.append(group.key)
        self.begins.append(group.begin)
        again = self.seen.end(group.key, group.extensions)
        if again is None:
            self.lacking[group.key] = group.sourced([Finding(self.shard, group.key, *lack) for lack in group.lacks()])
        elif again is Again.ANOTHER:
            self.find(group.key, "duplicate key", "twice in the shard")
        else:
            self.find(group.key, "key split over files", "they are not neighbours, so readers see two samples")
            self.lacking.pop(group.key, None)
        self.findings += group.sourced(group.findings)
        self.group = None

    def compare(self, expected: Expected | None) -> None:
        """With the offsets beside the shard, and with what the index says."""
        details = list(_differing_offsets(Path(f"{self.shard}.idx"), self.begins))
        if expected is not None:
            there = len(self.keys)
            if expected.samples != there:
                details.append(f"{counted(expected.samples, 'sample')} in the index, {there} in the tar")
            size = Path(self.shard).stat().st_size
            if expected.bytes is not None and expected.bytes != size:
                details.append(f"{expected.bytes} bytes in the index, {size} in the tar")
            elif expected.sha256:
                with open_regular(self.shard) as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                        details.append("the tar has another SHA-256")
        for detail in details:
            self.find(None, "index disagrees", detail)


def _is_image(extension: str) -> bool:
    return f".{extension}".endswith(IMAGES)


def _wrong_image(extension: str, data: bytes) -> Iterator[tuple[str, str]]:
    found = image_format(data)
    try:
        decode(data)
    except BadImage as error:
        if "decode safely" in str(error) or "as long as wide" in str(error):
            yield "decompression bomb", f".{extension}: {error}"
        elif found is None:
            yield "not an image", f".{extension}"
        else:
            yield "damaged image", f".{extension}: {error}"
            return
    last = extension.rpartition(".")[2]
    if found is not None and SAME.get(last, last) != found:
        yield "wrong extension", f".{extension} holds {found}"


def _differing_offsets(idx: Path, begins: list[int]) -> Iterator[str]:
    if not idx.is_file():
        return
    if idx.stat().st_size % 8:
        yield f"{idx.name} is cut"
        return
    told = np.fromfile(idx, dtype="<i8")[:-1].tolist()
    there = set(begins)
    for number, begin in enumerate(told):
        if begin not in there:
            yield f"sample {number}, at byte {begin} by {idx.name}, does not begin there"
    if more := len(there - set(told)):
        yield f"not in {idx.name}: {counted(more, 'sample')} of the tar"


def key_hash(key: str) -> int:
    """64 bits. Among 400 million keys, two different ones have the same hash with a chance of 0.4 %; then the keys
    themselves are compared."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest(), "little")
