"""What Megatron-Energon wrote beside its tars: counts, offsets and splits."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from webdataset.shardlists import expand_urls

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.textfile import loads, read_text
from diptych.data.stream.headers import Offsets, fit
from diptych.packing.job import Losses

META = ".nv-meta"
AGAIN = "run `energon prepare` again"


@dataclass(frozen=True)
class Prepared:
    """One shard of a set. name: its path in the set's folder; number: its own in the set's index.sqlite"""

    folder: str
    name: str
    samples: int
    number: int

    @property
    def tar(self) -> str:
        return str(Path(self.folder, self.name))

    def offsets(self) -> Offsets:
        """From SHARD.idx, else from index.sqlite. Raises UserError if both are missing, or the offsets are wrong."""
        idx, sqlite = Path(self.folder, f"{self.name}.idx"), Path(self.folder, META, "index.sqlite")
        if idx.is_file() and idx.stat().st_size % 8 == 0:
            offsets = np.fromfile(idx, dtype="<i8")
        elif sqlite.is_file():
            offsets = self._queried(sqlite)
        else:
            raise UserError(f"{self.folder} has neither {idx.name} nor {META}/index.sqlite: {AGAIN}.")
        size = Path(self.tar).stat().st_size
        if not fit(offsets, self.samples, size):
            raise UserError(f"{idx} does not fit its tar of {size} bytes and {self.samples} samples: {AGAIN}.")
        return offsets

    def _queried(self, sqlite: Path) -> Offsets:
        query = "SELECT byte_offset, byte_size FROM samples WHERE tar_file_id = ? ORDER BY sample_index"
        try:
            with closing(sqlite3.connect(f"{sqlite.resolve().as_uri()}?mode=ro", uri=True)) as base:
                rows = base.execute(query, (self.number,)).fetchall()
            starts = [int(begin) for begin, _ in rows]
            return np.array([*starts, starts[-1] + int(rows[-1][1])] if rows else [0], dtype=np.int64)
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise UserError(f"{sqlite} is not readable ({error}): {AGAIN}.") from error


def is_prepared(path: object) -> bool:
    """Whether `path` is a folder that Energon prepared."""
    return isinstance(path, str) and Path(path, META).is_dir()


def read(path: str, split: str | None) -> tuple[list[Prepared], Losses]:
    """The shards of a split, in its order, and the samples that are left out.

    split: None for train if the set is split, else for all shards
    Raises UserError if Energon's files are missing or invalid.
    """
    counts = (_fields(path, ".info.json", ".info.yaml") or {}).get("shard_counts")
    if not isinstance(counts, dict) or not counts:
        raise UserError(f"{path}/{META} has no shard_counts in .info.json or .info.yaml: {AGAIN}.")
    for name, count in counts.items():
        inside = isinstance(name, str) and not name.startswith("/") and ".." not in PurePosixPath(name).parts
        if not inside or not isinstance(count, int) or count < 0:
            raise UserError(f"{path}/{META} names the shard {name!r} with {count!r} samples, which is refused.")
    every = {name: Prepared(path, name, count, number) for number, (name, count) in enumerate(counts.items())}
    splits, losses = _fields(path, "split.yaml", "split.json"), Losses()
    if splits is None and split is None:
        return list(every.values()), losses
    wanted, excluded = _chosen(path, splits or {}, split or "train", every)
    for reason, names in (
        ("excluded by the split", [name for name in wanted if name in excluded]),
        ("of another split", [name for name in every if name not in wanted]),
    ):
        if count := sum(every[name].samples for name in names):
            losses.add(reason, *names[:5], count=count)
    return [every[name] for name in wanted if name not in excluded], losses


def _fields(path: str, *names: str) -> dict[str, Any] | None:
    """The content of the first of these files that exists."""
    for file in (Path(path, META, name) for name in names):
        if not file.is_file():
            continue
        try:
            fields = loads(read_regular(file)) if file.suffix == ".json" else plain.parse(read_text(file), str(file))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is not readable ({error}): {AGAIN}.") from error
        return fields if isinstance(fields, dict) else {}
    return None


def _chosen(path: str, splits: dict[str, Any], split: str, every: dict[str, Prepared]) -> tuple[list[str], set[str]]:
    """(shards of the split, shards that are excluded)."""
    parts = splits.get("split_parts") or {}
    if split not in parts:
        raise UserError(
            f"source.split={split} is unknown: {path}/{META} has {', '.join(map(str, parts)) or 'no split'}."
        )
    wanted = [name for pattern in parts[split] or [] for name in expand_urls(pattern)]
    excluded = {name for pattern in splits.get("exclude") or [] for name in expand_urls(pattern)}
    unknown = sorted((set(wanted) | excluded) - set(every))
    if unknown:  # a shard, or one sample of a shard, which an index can't leave out
        raise UserError(f"{path}/{META} splits or excludes {unknown[0]}, which is no shard of the set: leave it out.")
    return wanted, excluded
