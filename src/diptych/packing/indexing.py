"""An index of tars that are there: where they lie under it, and the samples and offsets of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import open_regular
from diptych.base.terminal import counted
from diptych.data.io.files import Files
from diptych.data.stream.headers import read_headers
from diptych.packing.energon import Prepared
from diptych.packing.writing import Record, write_offsets


def folder_of(tars: list[str]) -> str:
    """The folder that holds all of them: where their index lies when no other is asked for."""
    return os.path.commonpath([Path(absolute(tar)).parent for tar in tars])


def absolute(tar: str) -> str:
    """A tar that is itself a link keeps its name."""
    return str(Path(tar).parent.resolve() / Path(tar).name)


def place(tar: str, base: str, out: str) -> str:
    """The tar's path under `out`, since an index names nothing outside its folder: linked there where it lies
    elsewhere. base: `folder_of` all tars. Raises UserError where it can't be linked."""
    target, folder = absolute(tar), str(Path(out).resolve())
    if os.path.commonpath([folder, base]) == folder:
        return Path(os.path.relpath(target, folder)).as_posix()
    name = Path(os.path.relpath(target, base)).as_posix()
    link = Path(out, name)
    try:
        if not link.is_symlink() or str(link.readlink()) != target:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
    except OSError as error:
        raise UserError(f"{link} can't be made a link to {target} ({error.strerror}): take another out=.") from error
    return name


class IndexJob:
    """A `job.Job` that makes no tar. known: what Energon says of each, or None"""

    def __init__(
        self,
        tars: list[str],
        sha256: bool,
        known: list[Prepared] | None,
        left_out: dict[str, Any],
        counts: dict[str, int] | None = None,
    ) -> None:
        self.tars, self.sha256, self.known, self.left_out = tars, sha256, known, left_out
        self.counts = counts or {}
        self.shards = len(tars)
        base = folder_of(tars)
        names = "\0".join(f"{os.path.relpath(absolute(tar), base)} {_size(tar)}" for tar in tars)
        digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
        self.settings = {"source": {"kind": "shards", "sha256": digest, "hashed": sha256}}

    def tasks(self, numbers: Sequence[int], out: str) -> Iterator[Callable[[], Record]]:
        base = folder_of(self.tars)
        for number in numbers:
            if self.known is not None:
                yield partial(take_index, base, out, number, self.known[number])
            else:
                tar = self.tars[number]
                yield partial(index_tar, base, out, number, tar, self.sha256, self.counts.get(tar))


def _size(tar: str) -> int:
    try:
        return Path(tar).stat().st_size
    except OSError as error:
        raise UserError(f"The shard {tar} is missing: path= names it.") from error


def index_tar(base: str, out: str, number: int, tar: str, sha256: bool, count: int | None) -> Record:
    """Find the samples of a tar, and write their offsets beside it (or beside its link).

    count: how many its maker says there are
    Raises UserError where that is another number, or the tar isn't whole.
    """
    found = read_headers(tar, Files())
    if count is not None and found.samples != count:
        raise UserError(
            f"The shard {tar} holds {counted(found.samples, 'sample')} where its maker counted {count}: restore it."
        )
    name = place(tar, base, out)
    if found.offsets is not None:
        write_offsets(Path(out, name), found.offsets)
    digest = None
    if sha256:
        with open_regular(tar) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    left_out = {
        reason: {"count": times, "examples": [f"{Path(tar).name}: {first}"]}
        for reason, (times, first) in found.left_out.items()
    }
    return Record(number, name, found.samples, found.bytes, digest, left_out, found.offsets is not None)


def take_index(base: str, out: str, number: int, known: Prepared) -> Record:
    """As `index_tar`, by Energon's word, and nothing of the tar is read."""
    size, offsets = _size(known.tar), known.offsets()
    _check_end(known.tar, int(offsets[-1]))
    name = place(known.tar, base, out)
    if not Path(out, f"{name}.idx").is_file():
        write_offsets(Path(out, name), offsets)
    return Record(number, name, known.samples, size, None, {})


def _check_end(tar: str, end: int) -> None:
    """Raises UserError where files stand behind the last sample that Energon knows, as in tars that were joined."""
    with open_regular(tar) as file:
        file.seek(end)
        while block := file.read(2**20):
            if block.strip(b"\0"):
                raise UserError(
                    f"The shard {tar} goes on behind byte {end}, where its last sample ends for Megatron-Energon (are"
                    " these tars joined end to end?): split it, then run `energon prepare` again."
                )
