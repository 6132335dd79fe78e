"""Existing tars: makes an index of them, or checks them. The tars stay as they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.files import open_regular
from diptych.base.terminal import counted
from diptych.data.io.address import is_local, local, shown
from diptych.data.io.files import Files
from diptych.data.stream import patterns
from diptych.data.stream.headers import read_headers
from diptych.packing import energon, job
from diptych.packing.energon import Prepared
from diptych.packing.job import Losses, Record
from diptych.packing.verify import Expected, check, indexed
from diptych.packing.writing import write_offsets


def pack(
    path: str | list[str] | None,
    out: str | None,
    part: str | None,
    workers: int,
    verify: bool,
    sha256: bool,
    split: str | None,
) -> None:
    """Write the index of existing tars, or check them.

    path: a brace pattern or a list of them, a folder of tars, or one that Megatron-Energon prepared: its counts and
        offsets are used, and no tar is read
    out: the folder of the index; None for the one that holds the tars. In another folder the tars are linked
    part, workers: see `job.run`
    verify: check instead, see `verify.check`. verify.json goes to `out`, or to the current folder
    sha256: whether the index gets the tars' hashes, for which they are read whole. Energon's tars get none
    split: of an Energon set; None for train if it is split
    Raises UserError.
    """
    known: list[Prepared] | None = None
    left_out = Losses()
    if energon.is_prepared(path):
        known, left_out = energon.read(str(path), split)
        tars = [of.tar for of in known]
    elif split is not None:
        raise UserError(
            f"source.split={split} is only for a set that Megatron-Energon prepared, and path={path} is not one."
        )
    else:
        tars = listed(path)
    if verify:
        check(tars, _expected(path, tars, known), Path(out or "."), workers)
    else:
        job.run(lambda: IndexJob(tars, sha256, left_out, known=known), out or folder_of(tars), part, workers)


def listed(path: str | list[str] | None) -> list[str]:
    """Patterns, folders of tars, or indices -> the tars' paths. Raises UserError when there is none."""
    if path is None:
        raise UserError("path= is missing: give tars as path='DIR/{000..003}.tar', or a folder of them as path=DIR.")
    for pattern in [path] if isinstance(path, str) else path:
        if pattern.startswith("pipe:") or not is_local(pattern):
            raise UserError(f"path={shown(pattern)} is not on this machine: run this command where the tars are.")
    tars: list[str] = []
    for found in patterns.listed(path, "path", indices=False):
        tars += indexed(Path(local(found))) if found.endswith(".json") else [local(found)]
    return tars


def _expected(path: object, tars: list[str], known: list[Prepared] | None) -> dict[str, Expected]:
    """What Energon says of the tars, or the index that is `path`, or the index.json files in their folders."""
    if known is not None:
        return {of.tar: Expected(of.samples) for of in known}
    if str(path).endswith(".json"):
        return indexed(Path(str(path)))
    said: dict[str, Expected] = {}
    for folder in sorted({folder_of(tars), *(str(Path(tar).parent) for tar in tars)}):
        index = Path(folder, "index.json")
        if index.is_file():
            said |= {absolute(tar): of for tar, of in indexed(index).items()}
    return {tar: said[absolute(tar)] for tar in tars if absolute(tar) in said}


def folder_of(tars: list[str]) -> str:
    """The folder that holds all of them: their index goes there if no other folder is given."""
    return os.path.commonpath([Path(absolute(tar)).parent for tar in tars])


def absolute(tar: str) -> str:
    """A tar that is a link keeps its own name."""
    return str(Path(tar).parent.resolve() / Path(tar).name)


class IndexJob:
    """A `job.Job` that makes no tar.

    sha256: whether to hash the tars
    known: what Energon says of each tar
    counts: how many samples a tar's maker says it holds, by path
    """

    def __init__(
        self,
        tars: list[str],
        sha256: bool,
        left_out: Losses,
        known: list[Prepared] | None = None,
        counts: dict[str, int] | None = None,
    ) -> None:
        self.tars, self.sha256, self.left_out, self.known, self.counts = tars, sha256, left_out, known, counts or {}
        self.shards = len(tars)
        self.base = folder_of(tars)
        names = "\0".join(f"{os.path.relpath(absolute(tar), self.base)} {_size(tar)}" for tar in tars)
        digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
        self.settings = {"source": {"kind": "shards", "sha256": digest, "hashed": sha256}}

    def tasks(self, numbers: Sequence[int], out: str) -> Iterator[Callable[[], Record]]:
        for number in numbers:
            if self.known is not None:
                yield partial(take_index, self.base, out, number, self.known[number])
            else:
                tar = self.tars[number]
                yield partial(index_tar, self.base, out, number, tar, self.sha256, self.counts.get(tar))


def _size(tar: str) -> int:
    try:
        return Path(tar).stat().st_size
    except OSError as error:
        raise UserError(f"The shard {tar} is missing: path= names it.") from error


def index_tar(base: str, out: str, number: int, tar: str, sha256: bool, count: int | None) -> Record:
    """Find the samples of a tar, and write their offsets beside it (or beside its link).

    count: how many its maker says there are
    Raises UserError if there are more or fewer, or the tar isn't whole.
    """
    found = read_headers(tar, Files())
    if count is not None and found.samples != count:
        raise UserError(
            f"The shard {tar} holds {counted(found.samples, 'sample')} where its maker counted {count}: restore it."
        )
    name = _placed(tar, base, out)
    if found.offsets is not None:
        write_offsets(Path(out, name), found.offsets)
    digest = None
    if sha256:
        with open_regular(tar) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    losses = Losses()
    for reason, (times, first) in found.left_out.items():
        losses.add(reason, f"{Path(tar).name}: {first}", count=times)
    return Record(number, name, found.samples, found.bytes, digest, losses.describe(), found.offsets is not None)


def take_index(base: str, out: str, number: int, known: Prepared) -> Record:
    """As `index_tar`, with Energon's counts and offsets. Of the tar only what is behind its last sample is read."""
    size, offsets = _size(known.tar), known.offsets()
    _check_end(known.tar, int(offsets[-1]))
    name = _placed(known.tar, base, out)
    if not Path(out, f"{name}.idx").is_file():
        write_offsets(Path(out, name), offsets)
    return Record(number, name, known.samples, size, None, {})


def _check_end(tar: str, end: int) -> None:
    """Raises UserError for files behind the last sample that Energon knows, as in tars that were joined."""
    with open_regular(tar) as file:
        file.seek(end)
        while block := file.read(2**20):
            if block.strip(b"\0"):
                raise UserError(
                    f"The shard {tar} has files behind byte {end}, where its last sample ends for Megatron-Energon"
                    " (are these tars joined end to end?): split it, then run `energon prepare` again."
                )


def _placed(tar: str, base: str, out: str) -> str:
    """The tar's path under `out`, because an index names only files below its folder. A tar elsewhere is linked.

    base: `folder_of` all tars
    Raises UserError if the link can't be made.
    """
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
        raise UserError(f"{link} can't be made a link to {target} ({error.strerror}): give another out=.") from error
    return name
