"""What is wrong with one shard: every file is read, every image decoded, nothing is written to disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.base.files import open_regular
from diptych.base.terminal import counted
from diptych.data.pixels.image import BadImage, decode
from diptych.data.stream.headers import Again, Seen
from diptych.data.stream.pairs import IMAGES, BadSample, captions_of, source_of
from diptych.data.stream.shards import CUT
from diptych.data.stream.tar import FOLDER, META, Damage, place
from diptych.packing.formats import fits, image_format
from diptych.packing.tars import File, walk


class Finding(NamedTuple):
    """key: None where it is of the whole shard or can't be read; kind: what to count by"""

    shard: str
    key: str | None
    kind: str
    detail: str = ""
    source: str = ""

    @property
    def said(self) -> str:
        """The detail, and what the sample was before it was packed, where that is known."""
        return ", ".join(filter(None, (self.detail, self.source and f"packed from {self.source}")))

    def describe(self) -> dict[str, str | None]:
        return {"shard": self.shard, "key": self.key, "reason": ": ".join(filter(None, (self.kind, self.said)))}


@dataclass(frozen=True)
class Expected:
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
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class _Group:
    """Neighbouring files of one key: what readers take for a sample. texts: those that may hold captions
    first: how many findings there were before its own"""

    key: str
    begin: int
    first: int
    extensions: set[str] = field(default_factory=set)
    texts: dict[str, bytes] = field(default_factory=dict)
    cut: bool = False
    before_damage: bool = False


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
    lacking = chain.from_iterable(checking.lacking.values())
    hashes = np.array([key_hash(key) for key in checking.keys], dtype=np.uint64)
    return Checked(shard, [*checking.findings, *lacking], len(checking.keys), hashes, checking.left_out)


class _Checking:
    """The walk through one shard. lacking: findings by key that a later part of the same sample would explain"""

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
        self.findings.append(Finding(self.shard, key, kind, detail))

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
            self.group = _Group(key, file.member.begin, len(self.findings))
        elif extension in self.group.extensions:
            self.find(key, "duplicate key", f"two files .{extension} in the sample")
        self.group.extensions.add(extension)
        if file.data is None:
            self.group.cut = True
            cut = file.why == CUT.reason
            self.find(key, "damaged tar", f"truncated within .{extension}" if cut else f".{extension}: {file.why}")
        elif not file.data and extension != "txt":  # captions may stand in .json: see `_lacks`
            self.find(key, "zero bytes", f".{extension}")
        elif f".{extension}".endswith(IMAGES):
            self.findings += [Finding(self.shard, key, *wrong) for wrong in _wrong_image(extension, file.data)]
        if extension in ("txt", "json"):
            self.group.texts[extension] = file.data or b""

    def close(self) -> None:
        """The sample is over, unless more of its files stand further on."""
        group, self.group = self.group, None
        if group is None:
            return
        self.keys.append(group.key)
        self.begins.append(group.begin)
        again = self.seen.end(group.key, group.extensions)
        if again is None:
            self.lacking[group.key] = [Finding(self.shard, group.key, *lack) for lack in _lacks(group)]
        elif again is Again.ANOTHER:
            self.find(group.key, "duplicate key", "twice in the shard")
        else:
            self.find(group.key, "key split over files", "they are not neighbours, so readers see two samples")
            self.lacking.pop(group.key, None)
        self._name_source(group)

    def _name_source(self, group: _Group) -> None:
        """The group's findings get the name that its maker knew the sample by."""
        of_group = self.findings[group.first :], self.lacking.get(group.key, [])
        if any(of_group) and (source := source_of(dict(group.texts))):
            for findings in of_group:
                findings[:] = [each._replace(source=source) if each.key == group.key else each for each in findings]
            self.findings[group.first :] = of_group[0]

    def compare(self, expected: Expected | None) -> None:
        """With the offsets beside the shard, and with what the index says."""
        for detail in _differing_offsets(Path(f"{self.shard}.idx"), self.begins):
            self.find(None, "index disagrees", detail)
        if expected is None:
            return
        if expected.samples != len(self.keys):
            self.find(
                None,
                "index disagrees",
                f"{counted(expected.samples, 'sample')} in the index, {len(self.keys)} in the tar",
            )
        size = Path(self.shard).stat().st_size
        if expected.bytes is not None and expected.bytes != size:
            self.find(None, "index disagrees", f"{expected.bytes} bytes in the index, {size} in the tar")
        elif expected.sha256:
            with open_regular(self.shard) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    self.find(None, "index disagrees", "the tar has another SHA-256")


def _lacks(group: _Group) -> Iterator[tuple[str, str]]:
    if group.cut:
        return
    lacks = list(_lacking(group))
    if lacks and group.before_damage:
        yield "damaged tar", "the rest of the sample may lie in the damage behind it"
    else:
        yield from lacks


def _lacking(group: _Group) -> Iterator[tuple[str, str]]:
    if not any(f".{extension}".endswith(IMAGES) for extension in group.extensions):
        yield "missing image", f"among {', '.join(sorted(f'.{extension}' for extension in group.extensions))}"
    try:
        captions_of({**dict.fromkeys(group.extensions, b""), **group.texts})
    except BadSample as error:
        yield "missing caption", str(error)


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
    if found is not None and not fits(extension, found):
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
    """64 bits. Among 400 million keys, two different ones share a hash with a chance of 0.4 %; the keys tell."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest(), "little")
