"""Output of img2dataset: its tars get an index, its files become shards, what it could not get is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.textfile import loads
from diptych.packing import job
from diptych.packing.folder import Folder, apart, existing
from diptych.packing.job import Losses
from diptych.packing.parquet import parts_of
from diptych.packing.shards import IndexJob, folder_of
from diptych.packing.table import Table
from diptych.packing.writing import RowsJob


def pack(path: str | None, out: str | None, part: str | None, workers: int, shard_size: int, sha256: bool) -> None:
    """Index img2dataset's `webdataset` output, or write shards from its `files` or `parquet` output.

    path: its output folder, of tars, of sub-folders or of .parquet files, with the _stats.json of each
    out: the folder of the index; if there are tars, None for `path`
    part, workers: see `job.run`
    shard_size: samples in a shard, if shards are written
    sha256: whether the index gets the hashes of existing tars
    Raises UserError, also for a tar that holds more or fewer samples than img2dataset counted.
    """
    folder = existing(path)
    tars = sorted(map(str, folder.glob("*.tar")))
    stats = {file: _stats(file) for file in sorted(folder.glob("*_stats.json"))}
    failed = Losses()
    for file, of in stats.items():
        for status, count in of["status"].items():
            if status != "success" and int(count):
                failed.add(f"img2dataset: {status}", f"rows of {file.name}", count=int(count))

    def rows_of_files() -> RowsJob:
        own = {file.name for pattern in ("*_stats.json", "*.parquet") for file in folder.glob(pattern)}
        source = Folder(folder, out=apart(path, out), own=own)
        source.left_out.merge(failed.describe())
        return RowsJob(source, shard_size, source.left_out)

    if tars:
        counts = {str(f).replace("_stats.json", ".tar"): of["successes"] for f, of in stats.items()}
        job.run(lambda: IndexJob(tars, sha256, failed, counts=counts), out or folder_of(tars), part, workers)
    elif not any(each.is_dir() for each in folder.glob("[0-9]*")) and any(folder.glob("*.parquet")):
        # Rows that it could not get are in the table too, without a picture: they are counted there.
        job.run(lambda: RowsJob(Table(parts_of(folder), "image", "caption", folder), shard_size), out, part, workers)
    else:
        job.run(rows_of_files, out, part, workers)


def _stats(file: Path) -> dict[str, Any]:
    try:
        stats = loads(read_regular(file))
        return {"successes": int(stats["successes"]), "status": dict(stats["status_dict"])}
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise UserError(
            f"{file} is not img2dataset's ({error!r}): let it finish that shard, or restore it."
        ) from error
