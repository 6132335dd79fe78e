"""Tars that are there already: an index of them, or a check; the tars stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.data.io.address import is_local, local, shown
from diptych.data.stream import patterns
from diptych.packing import energon, job
from diptych.packing.checking import Expected
from diptych.packing.energon import Prepared
from diptych.packing.indexing import IndexJob, absolute, folder_of
from diptych.packing.verify import check, indexed


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

    path: a brace pattern or a list of them, a folder of tars, or one that Megatron-Energon prepared, whose own
          counts and offsets are then taken without reading a tar
    out: the folder of the index; without it the one that holds the tars. In a folder that does not hold them, the
         tars are linked.
    part, workers: see `job.run`
    verify: check instead, see `verify.check`; verify.json goes to `out`, without it into the current folder
    sha256: whether the index gets the tars' hashes, which costs reading them whole; Energon's tars get none
    split: of an Energon set: train where it is split and this is None
    Raises UserError.
    """
    known: list[Prepared] | None = None
    left_out: dict[str, Any] = {}
    if energon.is_prepared(path):
        known, left_out = energon.read(str(path), split)
        tars = [of.tar for of in known]
    elif split is not None:
        raise UserError(f"source.split={split} is for a set that Megatron-Energon prepared: path={path} is none.")
    else:
        tars = listed(path)
    if verify:
        check(tars, _expected(path, tars, known), Path(out or "."), workers)
        return
    job.run(lambda: IndexJob(tars, sha256, known, left_out), out or folder_of(tars), part, workers)


def _expected(path: object, tars: list[str], known: list[Prepared] | None) -> dict[str, Expected]:
    """What is said of the tars: by Energon, by the index that is `path`, or by an index.json in their folders."""
    if known is not None:
        return {of.tar: Expected(of.samples) for of in known}
    if str(path).endswith(".json"):
        return indexed(Path(str(path)))
    folders = {str(Path(tar).parent) for tar in tars}
    folders |= {folder_of(tars)}
    said: dict[str, Expected] = {}
    for index in (Path(folder, "index.json") for folder in sorted(folders)):
        if index.is_file():
            said |= {absolute(tar): of for tar, of in indexed(index).items()}
    return {tar: said[absolute(tar)] for tar in tars if absolute(tar) in said}


def listed(path: str | list[str] | None) -> list[str]:
    """Patterns, folders of tars, or indices -> the tars' paths. Raises UserError when there is none."""
    if path is None:
        raise UserError("path= is missing: give tars as path='DIR/{000..003}.tar', or a folder of them as path=DIR.")
    for pattern in [path] if isinstance(path, str) else path:
        if pattern.startswith("pipe:") or not is_local(pattern):
            raise UserError(f"path={shown(pattern)} is not on this machine: index or check tars where they lie.")
    tars: list[str] = []
    for found in patterns.listed(path, "path", indices=False):
        tars += indexed(Path(local(found))) if found.endswith(".json") else [local(found)]
    return tars
