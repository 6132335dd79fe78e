"""A folder of images whose captions lie beside them, or in one file of the folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.data.pairs import IMAGES
from diptych.data.sources import job
from diptych.data.sources.entries import Entry, LeftOut
from diptych.data.sources.rows import RowsJob
from diptych.data.sources.table import Table
from diptych.errors import UserError

CAPTIONS = ("captions.json", "captions.csv", "captions.tsv", "captions.parquet")


def pack(
    path: str | None,
    out: str | None,
    part: str | None,
    workers: int,
    shard_size: int,
    image: str = "image",
    caption: str | list[str] = "caption",
) -> None:
    """Write the folder's images, in the order of their names, as shards with an index.

    path: images at any depth, each with a .txt (a caption a line) or .json (`caption` or `captions`) of its name
          beside it; or one captions.json ({image: caption or captions}), .csv, .tsv or .parquet in the folder
    part, workers: see `job.run`
    shard_size: images a shard
    image, caption: columns of that .csv, .tsv or .parquet
    Raises UserError.
    """

    def listed() -> RowsJob:
        return RowsJob(Folder(existing(path), image, caption), shard_size)

    job.run(listed, out, part, workers)


def existing(path: str | None) -> Path:
    """Raises UserError where `path` is no folder."""
    if path is None or not Path(path).is_dir():
        raise UserError(f"path={path} is no folder: give path=DIR, the folder of the images.")
    return Path(path)


class Folder:
    """The images of a folder, and those that its file of captions names, as `rows.Rows`."""

    def __init__(self, path: Path, image: str = "image", caption: str | list[str] = "caption") -> None:
        self.path = path
        self.captioned = _captions(path, image, caption)
        names = {*_images(path), *self.captioned}
        if not names:
            raise UserError(f"path={path} holds no image: the names end in {', '.join(IMAGES)}.")
        self.names = sorted(names)

    def __len__(self) -> int:
        return len(self.names)

    def entries(self, first: int) -> Iterator[Entry | LeftOut]:
        for name in self.names[first:]:
            yield self.captioned.get(name) or Entry(name, str(self.path / name))

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256("\0".join(self.names).encode(errors="surrogateescape"))
        for name in sorted(self.captioned):
            digest.update(repr(self.captioned[name].captions).encode())
        return {"kind": "folder", "sha256": digest.hexdigest()}


def _images(path: Path) -> Iterator[str]:
    for folder, _, files in os.walk(path):
        inside = Path(folder).relative_to(path).as_posix()
        for name in files:
            if name.lower().endswith(IMAGES):
                yield name if inside == "." else f"{inside}/{name}"


def _captions(path: Path, image: str, caption: str | list[str]) -> dict[str, Entry]:
    """Entries by the image's name in the folder. A name's second row adds its captions to the first's."""
    found = [name for name in CAPTIONS if (path / name).is_file()]
    if len(found) > 1:
        raise UserError(f"path={path} holds {' and '.join(found)}: leave one of them there.")
    if not found:
        return {}
    file = path / found[0]
    rows = _json_entries(file) if file.suffix == ".json" else Table(file, image, caption, root=path).entries(0)
    entries: dict[str, Entry] = {}
    for number, entry in enumerate(rows, 1):
        if isinstance(entry, LeftOut):
            raise UserError(f"{file} has in row {number} no image and caption ({entry.args[0]}): mend that row.")
        name = os.path.normpath(entry.name).replace(os.sep, "/")
        if name in entries:
            entry = replace(entry, captions=(*(entries[name].captions or ()), *(entry.captions or ())))
        entries[name] = entry
    return entries


def _json_entries(file: Path) -> Iterator[Entry]:
    try:
        fields = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not readable JSON ({error}): mend it.") from error
    if not isinstance(fields, dict):
        raise UserError(f"{file} must be an object of image names: {{NAME: caption or list of captions}}.")
    for name, captions in fields.items():
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise UserError(f"{file} gives {name} no caption and no list of captions: mend that entry.")
        yield Entry(name, str(file.parent / name), tuple(captions))
