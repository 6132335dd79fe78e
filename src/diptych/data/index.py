"""The index: which shards there are and how many samples each holds. Written by `pack.py`, or by a scan."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from diptych.errors import UserError


@dataclass(frozen=True)
class Shard:
    """One tar: where it is and what it should hold."""

    path: str
    samples: int
    bytes: int

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class Index:
    """The shards of a training set, in a fixed order."""

    shards: tuple[Shard, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


def open_index(shards: str | Sequence[str]) -> Index:
    """An index file, a brace pattern, or a list of either -> Index.

    Shards without an index are scanned: headers only, so a second for some thousand samples.
    Raises UserError for a shard that is missing, cut or no tar, and for a URL that would run a program.
    """
    paths: list[str] = []
    found: list[Shard] = []
    for pattern in [shards] if isinstance(shards, str) else shards:
        _refuse_remote(pattern)
        if pattern.endswith(".json"):
            found.extend(_read(Path(pattern)))
        else:
            paths.extend(expand_urls(pattern))
    found.extend(scan(Path(path)) for path in paths)
    if not found or not sum(shard.samples for shard in found):
        raise UserError(f"data.shards={shards} names no sample: give an index.json or a pattern of tars.")
    return Index(tuple(found))


def _refuse_remote(pattern: str) -> None:
    if pattern.startswith("pipe:"):
        raise UserError(f"data.shards={pattern} would run a program and is refused: give the tar itself.")
    if "://" in pattern and not pattern.startswith("file://"):
        raise UserError(f"data.shards={pattern} is remote, which is not read yet: give a local path.")


def _read(path: Path) -> list[Shard]:
    if not path.is_file():
        raise UserError(f"data.shards={path} does not exist: give an index.json or a pattern of tars.")
    try:
        entries = json.loads(path.read_text())["shards"]
        shards = [
            Shard(str(path.parent / entry["path"]), int(entry["samples"]), int(entry["bytes"])) for entry in entries
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data.shards={path} is not an index of shards ({error!r}): make one with pack.py."
        ) from error
    for entry, shard in zip(entries, shards, strict=True):
        _check(path, entry["path"], shard)
    return shards


def _check(index: Path, written: str, shard: Shard) -> None:
    if Path(written).is_absolute() or ".." in Path(written).parts:
        raise UserError(f"{index} names the shard {written} outside its own folder, which is refused.")
    there = Path(shard.path)
    if not there.is_file():
        raise UserError(f"The shard {there}, named in {index}, is missing: restore it or pack the set again.")
    if there.stat().st_size != shard.bytes:
        raise UserError(
            f"The shard {there} has {there.stat().st_size} bytes where {index} says {shard.bytes}:"
            " it was cut or changed; restore it or pack the set again."
        )


def scan(path: Path) -> Shard:
    """Count the samples of a tar by its headers, and see that it is whole.

    Samples are counted as webdataset groups them: neighbours with the same key, files without one left out.
    """
    if not path.is_file():
        raise UserError(f"The shard {path} is missing: data.shards names it.")
    size, samples, last, end = path.stat().st_size, 0, None, 0
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                end = member.offset_data + member.size
                key, _ = base_plus_ext(member.name)
                if not member.isfile() or key is None or member.name.startswith("__"):
                    continue
                samples += key != last
                last = key
            packed = not isinstance(tar.fileobj, io.BufferedReader)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"The shard {path} is not a whole tar ({error}): restore it.") from error
    # A whole tar ends in two empty blocks; without them a writer was killed or the copy was cut. A compressed
    # one that was cut could not have been read to its end.
    if size < end + 1024 and not packed:
        raise UserError(f"The shard {path} is cut after {samples} samples: restore it or leave it out.")
    return Shard(str(path), samples, size)
