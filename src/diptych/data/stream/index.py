"""The index: the shards, the number of samples of each, and where in the shard each sample begins.

On disk, `index.json`: {"version": 1, "shards": [{"path", "samples", "bytes", "sha256", "offsets": true}]}, with paths
relative to it. A shard with offsets has SHARD.idx beside it: the first byte of every sample and the end of the last,
as little-endian 64-bit integers (Megatron-Energon's `.tar.idx`). It is read when the shard is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.base.errors import UserError
from diptych.base.masking import masked_value
from diptych.base.textfile import loads
from diptych.data.io.address import is_local, printable, shown
from diptych.data.io.files import Files
from diptych.data.stream.headers import Headers, Offsets, fit, read_headers
from diptych.data.stream.patterns import listed
from diptych.data.stream.tar import FOLDER

VERSION = 1
MOST_SAMPLES = 10**8  # of one shard: its offsets alone would take 0.8 GB
MOST_IN_ALL = 10**11
PER_BYTE = 3  # samples per byte, at most: each has a block of 512 bytes, which gzip can shrink to half a byte
ENTRY = {"path": str, "samples": int, "bytes": int, "offsets": bool, "sha256": str}  # fields of a shard in index.json
OPTIONAL = {"offsets": False, "sha256": ""}
KINDS = {str: "a text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: its address, its expected contents, and whether SHARD.idx is beside it.

    weight: how often an epoch takes each of its samples
    """

    path: str
    samples: int
    bytes: int
    offsets: bool = False
    weight: float = 1.0
    sha256: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Index:
    """The shards of a training set, in a fixed order.

    found: path -> offsets, of shards that were scanned
    damage: path -> (samples known to be lost, why), of shards that a scan found cut or damaged
    left_out: entries of scanned tars that are part of no sample: reason -> path -> (times, name of the first)
    held: shard -> its held-out samples, sorted (`data.validation`). The order numbers the others from 0, without
        gaps; `place` and `span` give their places in the shard
    """

    shards: tuple[Shard, ...]
    found: dict[str, Offsets | None] = field(default_factory=dict, compare=False, repr=False)
    damage: dict[str, tuple[int, str]] = field(default_factory=dict, compare=False, repr=False)
    left_out: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict, compare=False, repr=False)
    held: dict[int, NDArray[np.int64]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def counts(self) -> list[int]:
        """The number of training samples of each shard: all but the held-out ones."""
        return [shard.samples - len(self.held.get(number, ())) for number, shard in enumerate(self.shards)]

    def place(self, number: int, sample: int) -> int:
        """The place in its shard of a training sample."""
        held = self.held.get(number)
        if held is None:
            return sample
        return sample + int(np.searchsorted(held - np.arange(len(held)), sample, side="right"))

    def span(self, number: int, first: int, last: int) -> tuple[int, int, frozenset[int]]:
        """Training samples first … last-1 as a range of places in the shard, and the held-out places in it."""
        held = self.held.get(number)
        if held is None or first >= last:
            return first, last, frozenset()
        begin, end = self.place(number, first), self.place(number, last - 1) + 1
        return begin, end, frozenset(held[(held >= begin) & (held < end)].tolist())

    @cached_property
    def names(self) -> list[str]:
        """Each shard's name in counts and messages: as much of its path's end as makes all names different."""
        paths = [_told(shard.path) for shard in self.shards]  # without passwords and signatures
        depth, names = 1, [path.rsplit("/", 1)[-1] for path in paths]
        while len(set(names)) < len(set(paths)):
            depth += 1
            names = ["/".join(path.split("/")[-depth:]) for path in paths]
        if len(set(paths)) < len({shard.path for shard in self.shards}):  # they differ only in what is hidden
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        return names

    def not_taken(self) -> dict[str, dict[str, int]]:
        """Entries of the scanned tars that are part of no sample: reason -> shard's name -> times."""
        names = self._names_by_path()
        return {
            reason: {names[path]: times for path, (times, _) in by_path.items()}
            for reason, by_path in sorted(self.left_out.items())
        }

    def warnings(self) -> Iterator[str]:
        """A sentence for each damaged shard, and for each reason why entries are part of no sample."""
        names = self._names_by_path()
        for path, (lost, why) in self.damage.items():
            yield f"the shard {printable(names[path])} is cut or damaged {why}; samples known to be lost: {lost}"
        for reason, by_path in sorted(self.left_out.items()):
            path, (_, first) = next(iter(by_path.items()))
            times = sum(count for count, _ in by_path.values())
            if reason != FOLDER:
                yield f"in the tars, part of no sample: {times:,} × {reason}, as {first} in {printable(names[path])}"

    def _names_by_path(self) -> dict[str, str]:
        return dict(zip((shard.path for shard in self.shards), self.names, strict=True))

    def offsets(self, number: int, files: Files) -> Offsets | None:
        """Where the samples of a shard begin, and where the last ends. None where that is unknown: for a compressed
        shard, and for a damaged or remote one without SHARD.idx."""
        shard = self.shards[number]
        if not shard.offsets:
            if shard.path not in self.found and is_local(shard.path):
                self.found[shard.path] = _scanned(shard)
            return self.found.get(shard.path)
        name = f"{shard.path}.idx"
        data = files.read(name)
        offsets = np.frombuffer(data, dtype="<i8") if len(data) % 8 == 0 else None
        if offsets is None or not fit(offsets, shard.samples, shard.bytes):
            raise UserError(
                f"{shown(name)} does not fit its shard of {shard.samples} samples: index the shards again."
            )
        return offsets


def _told(path: str) -> str:
    return shown(path) if path.partition("://")[1] else masked_value(path)


def open_sources(sources: Mapping[str, Mapping[str, Any]], files: Files | None = None, max_bad: float = 0.0) -> Index:
    """Several sets as one: {name: {"shards": as for `open_index`, "weight": times an epoch}} -> Index.

    Raises UserError, with the source's name, as `open_index` does, and for an invalid weight.
    """
    parts: list[Index] = []
    for name, source in sources.items():
        weight = source.get("weight", 1.0)
        if unknown := set(source) - {"shards", "weight"}:
            raise UserError(f"data.sources.{name}.{min(unknown)} is unknown: a source has shards and a weight.")
        if "shards" not in source:
            raise UserError(f"data.sources.{name}.shards is missing: give an index.json or a pattern of tars.")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1000:
            raise UserError(
                f"data.sources.{name}.weight={weight} must be a number above 0 and up to 1000: it says how often"
                " an epoch takes each sample of the source."
            )
        index = _opened(source["shards"], files or Files(), f"data.sources.{name}.shards", max_bad > 0)
        parts.append(replace(index, shards=tuple(replace(shard, weight=float(weight)) for shard in index.shards)))
    if not parts:
        raise UserError("data.sources names no source: give data.sources.NAME.shards, or data.shards.")
    whole = Index(tuple(shard for part in parts for shard in part.shards))
    for part in parts:
        whole.found.update(part.found)
        whole.damage.update(part.damage)
        for reason, by_path in part.left_out.items():
            whole.left_out.setdefault(reason, {}).update(by_path)
    return _within(whole, max_bad)


def open_index(
    shards: str | Sequence[str], files: Files | None = None, key: str = "data.shards", max_bad: float = 0.0
) -> Index:
    """An index file, a pattern of tars (braces, globs), a folder, or a list of these -> Index.

    Shards without an index are scanned, their headers alone: about a second for some thousand samples.
    key: where `shards` stands in the config, for messages
    max_bad: largest share of samples known to be lost in damaged tars; 0 refuses every damage
    Raises UserError for a shard that is missing, cut or no tar, and for an invalid address.
    """
    return _within(_opened(shards, files or Files(), key, max_bad > 0), max_bad)


def _opened(shards: str | Sequence[str], files: Files, key: str, damaged: bool) -> Index:
    of_indices: list[Shard] = []
    scanned: list[Shard] = []
    index = Index(())
    if not isinstance(shards, str | Sequence):
        raise UserError(
            f"{key}={_short(repr(shards))} is not an address: give an index.json, a folder of tars, or a pattern."
        )
    for pattern in [shards] if isinstance(shards, str) else shards:
        files.check(str(pattern), key)
    for path in listed(shards, key):
        files.check(path, key)  # a pattern can contain several addresses
        if path.endswith(".json"):
            of_index = read_index(path, files, key)
            for shard in of_index:
                files.check(shard.path, f"{shown(path)}: path")
                _check(path, shard, files)
            of_indices.extend(of_index)
        else:
            scanned.append(_taken(path, read_headers(path, files, damaged), index))
    index = replace(index, shards=(*of_indices, *scanned))
    if not index.samples:
        raise UserError(f"{key}={_written(shards)} names no sample: give an index.json or a pattern of tars.")
    if index.samples > MOST_IN_ALL:
        raise UserError(
            f"{key}={_written(shards)} claims {index.samples} samples, more than {MOST_IN_ALL}: check the index."
        )
    return index


def _written(shards: str | Sequence[str]) -> str:
    if isinstance(shards, str):
        return shown(shards)
    return f"[{', '.join(shown(str(each)) for each in shards)}]"


def _taken(path: str, headers: Headers, index: Index) -> Shard:
    """A scanned shard. Its offsets, damage and left-out entries are added to the index."""
    index.found[path] = headers.offsets
    if headers.damage:
        index.damage[path] = headers.damaged, headers.damage
    for reason, seen in headers.left_out.items():
        index.left_out.setdefault(reason, {})[path] = seen
    return Shard(path, headers.samples, headers.bytes)


def _within(index: Index, max_bad: float) -> Index:
    """The index. Raises UserError if too many samples are lost; `steps.refuse_too_many` does so for later damage."""
    lost = sum(count for count, _ in index.damage.values())
    if lost > max_bad * index.samples:
        path, (_, why) = next(iter(index.damage.items()))
        raise UserError(
            f"The shard {shown(path)} is cut or damaged {why}: restore it or leave it out. {lost} lost samples of"
            f" {index.samples} are more than data.max_bad={max_bad} allows."
        )
    return index


def read_index(path: str, files: Files, key: str = "data.shards") -> list[Shard]:
    """The entries of an index.json; its shards are not opened. Raises UserError for an invalid file."""
    if path.startswith("pipe:"):  # the paths in it would become parts of commands
        raise UserError(f"{key}={shown(path)} gives an index by a command, which is refused: copy it first.")
    if files.size(path) is None:
        raise UserError(f"{key}={shown(path)} does not exist: give an index.json or a pattern of tars.")
    try:
        index = loads(files.read(path))
        entries = index["shards"]
        version = index.get("version", VERSION)
        if not isinstance(entries, list):
            raise TypeError("shards is not a list")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{key}={shown(path)} is not an index of shards ({_short(repr(error))}): make one with pack.py."
        ) from error
    if version != VERSION or isinstance(version, bool):
        raise UserError(
            f"{key}={shown(path)} is an index of version {_short(repr(version))}, but only version {VERSION} is"
            " supported: make it again with pack.py."
        )
    return _entries(path, key, entries)


def _entries(path: str, key: str, entries: list[Any]) -> list[Shard]:
    folder, shards, seen = path.rpartition("/")[0], list[Shard](), set[str]()
    for number, entry in enumerate(entries):
        wrong = _wrong(entry)
        if wrong is not None:
            raise UserError(
                f"{key}={shown(path)} is not an index of shards (entry {number} of shards {wrong}): make one with"
                " pack.py."
            )
        shard = _entry(path, folder, entry)
        if shard.path in seen:
            raise UserError(
                f"{shown(path)} names the shard {_short(entry['path'])} twice: leave one out, or give it a weight in"
                " data.sources."
            )
        seen.add(shard.path)
        shards.append(shard)
    return shards


def _wrong(entry: Any) -> str | None:
    """What is wrong with one entry of an index, as the end of a sentence."""
    if not isinstance(entry, dict):
        return f"is {_short(repr(entry))}"
    for name, kind in ENTRY.items():
        if name not in entry and name not in OPTIONAL:
            return f"has no {name}"
        value = entry.get(name, OPTIONAL.get(name))
        if type(value) is not kind and (name, value) != ("sha256", None):
            return f"has {name} {_short(repr(value))}, which is not {KINDS[kind]}"
    return None if entry["path"] else "has an empty path"


def _short(text: str) -> str:
    return printable(text if len(text) <= 80 else f"{text[:80]} …")


def _entry(index: str, folder: str, entry: dict[str, Any]) -> Shard:
    written = entry["path"]
    # These would leave the folder, on disk or in a URL: an absolute path, "..", also escaped, another host.
    odd = any(mark in written for mark in ("\\", "%", "?", "#", "://", "\0")) or written.startswith("pipe:")
    if odd or written.startswith("/") or ".." in PurePosixPath(written).parts:
        raise UserError(f"{shown(index)} names the shard {_short(written)} outside its own folder, which is refused.")
    place = PurePosixPath(written).as_posix()
    shard = Shard(
        f"{folder}/{place}" if folder else place,
        entry["samples"],
        entry["bytes"],
        entry.get("offsets", False),
        sha256=entry.get("sha256"),
    )
    if shard.samples < 0 or shard.bytes < 0:
        raise UserError(f"{shown(index)} gives the shard {_short(written)} a negative size: index the shards again.")
    if shard.bytes >= 2**63 or shard.samples > MOST_SAMPLES:
        raise UserError(
            f"{shown(index)} gives the shard {_short(written)} {_short(str(shard.samples))} samples and"
            f" {_short(str(shard.bytes))} bytes, more than any tar can hold: index the shards again."
        )
    return shard


def _check(index: str, shard: Shard, files: Files) -> None:
    """Check that a local shard is there and has its full length. A remote one is checked when it is read: 40,000
    requests before the first step would take too long."""
    if shard.samples > PER_BYTE * shard.bytes:
        raise UserError(
            f"{shown(index)} gives the shard {shown(shard.path)} {shard.samples} samples in {shard.bytes} bytes,"
            " which no tar can hold: index the shards again."
        )
    if not is_local(shard.path):
        return
    size = files.size(shard.path)
    if size is None:
        raise UserError(
            f"The shard {printable(shard.path)}, named in {index}, is missing: restore it, or pack the set again."
        )
    if size != shard.bytes:
        raise UserError(
            f"The shard {printable(shard.path)} has {size} bytes where {index} says {shard.bytes}: it was cut or"
            " changed; restore it, or pack the set again."
        )


def _scanned(shard: Shard) -> Offsets | None:
    try:
        found, offsets = scan(shard.path)
    except UserError:  # damage is counted sample by sample, when it is read
        return None
    return offsets if found.samples == shard.samples else None


def scan(path: str, files: Files | None = None) -> tuple[Shard, Offsets | None]:
    """A tar without an index, from its headers; see `read_headers` for what is counted and refused."""
    headers = read_headers(path, files or Files())
    return Shard(path, headers.samples, headers.bytes), headers.offsets
