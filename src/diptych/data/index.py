"""The index: which shards there are, how many samples each holds, and where in the shard each sample begins.

On disk, `index.json`: {"version": 1, "shards": [{"path", "samples", "bytes", "sha256", "offsets": true}]}, paths
relative to it. Beside a shard with offsets lies SHARD.idx: the first byte of every sample and the end of the last,
as little-endian 64-bit integers (Megatron-Energon's `.tar.idx`); it is read only when the shard is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from webdataset.shardlists import expand_urls

from diptych.data.files import Files, is_local, shown
from diptych.data.headers import Offsets, fit, read_headers
from diptych.errors import UserError


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: where it is, what it should hold, and whether SHARD.idx lies beside it.

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
    """The shards of a training set, in a fixed order. found: the offsets of shards that were scanned, by path."""

    shards: tuple[Shard, ...]
    found: dict[str, Offsets | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def names(self) -> list[str]:
        """What each shard is called in counts and messages: as much of its path's end as tells it from the others."""
        depth, names = 1, [shard.path.rsplit("/", 1)[-1] for shard in self.shards]
        while len(set(names)) < len({shard.path for shard in self.shards}):
            depth += 1
            names = ["/".join(shard.path.split("/")[-depth:]) for shard in self.shards]
        return names

    def offsets(self, number: int, files: Files) -> Offsets | None:
        """Where the samples of a shard begin, and the last ends; None where that can't be known: of a compressed
        shard, of a damaged one that has no SHARD.idx, and of a remote one without."""
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


def open_sources(sources: Mapping[str, Mapping[str, Any]], files: Files | None = None) -> Index:
    """Several sets as one: {name: {"shards": as for `open_index`, "weight": times an epoch}} -> Index.

    Raises UserError, with the source's name, as `open_index` does, and for a weight that takes nothing.
    """
    listed: list[Shard] = []
    found: dict[str, Offsets | None] = {}
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
        index = open_index(source["shards"], files, key=f"data.sources.{name}.shards")
        listed.extend(replace(shard, weight=float(weight)) for shard in index.shards)
        found.update(index.found)
    if not listed:
        raise UserError("data.sources names no source: give data.sources.NAME.shards, or data.shards.")
    return Index(tuple(listed), found)


def open_index(shards: str | Sequence[str], files: Files | None = None, key: str = "data.shards") -> Index:
    """An index file, a brace pattern, or a list of either -> Index.

    Shards without an index are scanned: headers only, so a second for some thousand samples.
    key: the config's name of `shards`, for messages
    Raises UserError for a shard that is missing, cut or no tar, and for an address that is not read.
    """
    files = files or Files()
    paths: list[str] = []
    listed: list[Shard] = []
    found: dict[str, Offsets | None] = {}
    for pattern in [shards] if isinstance(shards, str) else shards:
        files.check(pattern, key)
        if pattern.endswith(".json"):
            of_index = read_index(pattern, files, key)
            for shard in of_index:
                files.check(shard.path, f"{shown(pattern)}: path")
                _check(pattern, shard, files)
            listed.extend(of_index)
        else:
            paths.extend(expand_urls(pattern))
    for path in paths:
        files.check(path, key)  # a pattern can hold several addresses
        shard, offsets = scan(path, files)
        listed.append(shard)
        found[path] = offsets
    if not listed or not sum(shard.samples for shard in listed):
        raise UserError(f"{key}={shards} names no sample: give an index.json or a pattern of tars.")
    return Index(tuple(listed), found)


def read_index(path: str, files: Files, key: str = "data.shards") -> list[Shard]:
    """What an index.json says, without a look at its shards. Raises UserError for what is none."""
    if path.startswith("pipe:"):  # the names in it would be parts of commands
        raise UserError(f"{key}={shown(path)} gives an index by a command, which is refused: copy it first.")
    if files.size(path) is None:
        raise UserError(f"{key}={shown(path)} does not exist: give an index.json or a pattern of tars.")
    folder = path.rpartition("/")[0]
    try:
        entries = json.loads(files.read(path))["shards"]
        return [_entry(path, folder, entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{key}={shown(path)} is not an index of shards ({error!r}): make one with pack.py."
        ) from error


def _entry(index: str, folder: str, entry: dict[str, Any]) -> Shard:
    written = entry["path"]
    # What would leave the folder, on disk or in a URL: an absolute path, a step up (also escaped), another host.
    odd = any(mark in written for mark in ("\\", "%", "?", "#", "://", "\0")) or written.startswith("pipe:")
    if odd or written.startswith("/") or ".." in PurePosixPath(written).parts:
        raise UserError(f"{shown(index)} names the shard {written} outside its own folder, which is refused.")
    shard = Shard(
        f"{folder}/{written}" if folder else written,
        int(entry["samples"]),
        int(entry["bytes"]),
        bool(entry.get("offsets", False)),
        sha256=entry.get("sha256"),
    )
    if shard.samples < 0 or shard.bytes < 0:
        raise UserError(f"{shown(index)} gives the shard {written} a negative size: index the shards again.")
    return shard


def _check(index: str, shard: Shard, files: Files) -> None:
    """See that a local shard is there, whole. A remote one is looked at when it is read: 40,000 questions to a
    server before the first step would be a stall of their own."""
    if not is_local(shard.path):
        return
    size = files.size(shard.path)
    if size is None:
        raise UserError(f"The shard {shard.path}, named in {index}, is missing: restore it or pack the set again.")
    if size != shard.bytes:
        raise UserError(
            f"The shard {shard.path} has {size} bytes where {index} says {shard.bytes}:"
            " it was cut or changed; restore it or pack the set again."
        )


def _scanned(shard: Shard) -> Offsets | None:
    try:
        found, offsets = scan(shard.path)
    except UserError:  # damage is counted sample by sample, where it is read
        return None
    return offsets if found.samples == shard.samples else None


def scan(path: str, files: Files | None = None) -> tuple[Shard, Offsets | None]:
    """A tar without an index, by its headers; see `read_headers` for what is counted and refused."""
    samples, size, offsets = read_headers(path, files or Files())
    return Shard(path, samples, size), offsets
