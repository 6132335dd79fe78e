"""What img2dataset downloaded: its tars as they are, or its folders of files; what it failed to get is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.textfile import loads
from diptych.packing import job
from diptych.packing.folder import Folder, apart, existing
from diptych.packing.indexing import IndexJob, folder_of
from diptych.packing.parquet import parts_of
from diptych.packing.rows import RowsJob
from diptych.packing.table import Table
from diptych.packing.writing import Losses


def pack(path: str | None, out: str | None, part: str | None, workers: int, shard_size: int, sha256: bool) -> None:
    """Index img2dataset's `webdataset` output, or write shards from its `files` or `parquet` output.

    path: its output folder, of tars, of sub-folders or of .parquet files, with the _stats.json of each
    out: the folder of the index; without it, `path`, where tars lie there
    part, workers: see `job.run`
    shard_size: samples a shard, where shards are written
    sha256: whether the index gets the hashes of tars that are there
    Raises UserError, also for a tar that holds another number of samples than img2dataset counted.
    """
    folder = existing(path)
    tars = sorted(map(str, folder.glob("*.tar")))
    stats = {file: _stats(file) for file in sorted(folder.glob("*_stats.json"))}
    failed = _failed(stats)
    if tars:
        counts = {str(f).replace("_stats.json", ".tar"): int(of["successes"]) for f, of in stats.items()}
        job.run(lambda: IndexJob(tars, sha256, None, failed, counts), out or folder_of(tars), part, workers)
    elif not any(each.is_dir() for each in folder.glob("[0-9]*")) and any(folder.glob("*.parquet")):
        # rows that it couldn't get are there, without a picture
        job.run(lambda: RowsJob(Table(parts_of(folder), "image", "caption", folder), shard_size), out, part, workers)
    else:
        own = {file.name for pattern in ("*_stats.json", "*.parquet") for file in folder.glob(pattern)}

        def listed() -> RowsJob:
            source = Folder(folder, out=apart(path, out), own=own)
            source.left_out.merge(failed)
            return RowsJob(source, shard_size, source.left_out.describe())

        job.run(listed, out, part, workers)


def _stats(file: Path) -> dict[str, Any]:
    try:
        stats = loads(read_regular(file))
        return {"successes": int(stats["successes"]), "status": dict(stats["status_dict"])}
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise UserError(
            f"{file} is not img2dataset's ({error!r}): let it finish that shard, or restore it."
        ) from error


def _failed(stats: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """Rows that img2dataset could not get, by its reason; see `Losses.describe`."""
    losses = Losses()
    for file, of in stats.items():
        for status, count in of["status"].items():
            if status != "success" and int(count):
                losses.merge({f"img2dataset: {status}": {"count": int(count), "examples": [f"rows of {file.name}"]}})
    return losses.describe()
