"""A folder of images, with captions beside them or in one file of the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.terminal import counted, say, to_type
from diptych.base.textfile import read_json
from diptych.data.io.address import printable
from diptych.data.sets.evalset import some
from diptych.data.sets.folders import Listing, list_pictures, no_picture
from diptych.data.stream.pairs import IMAGES
from diptych.packing import job
from diptych.packing.entries import OUTSIDE, Entry, LeftOut, inside
from diptych.packing.job import Losses
from diptych.packing.table import Table
from diptych.packing.writing import RowsJob

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
    shard_size: images in a shard
    image, caption: columns of that .csv, .tsv or .parquet
    Raises UserError.
    """

    def listed() -> RowsJob:
        source = Folder(existing(path), image, caption, apart(path, out))
        return RowsJob(source, shard_size, source.left_out)

    job.run(listed, out, part, workers)


def apart(path: str | None, out: str | None) -> Path:
    """The folder of the shards. Raises UserError if it is that of the images, where it would be listed with them."""
    if out is not None and Path(out).exists() and Path(out).samefile(existing(path)):
        raise UserError(f"out={out} is the folder of the images: give another one for the shards.")
    return Path(out or "")


def existing(path: str | None) -> Path:
    """Raises UserError if `path` is no folder."""
    if path is None or not Path(path).is_dir():
        raise UserError(f"path={path} is no folder: give path=DIR, the folder of the images.")
    return Path(path)


class Folder:
    """The images of a folder, and those that its file of captions names, as `writing.Rows`.

    out: the folder of the shards, which is not listed
    own: names of files that belong to the program that wrote the folder
    left_out: what else is in the folder, and the rows of that file that give no caption
    """

    def __init__(
        self,
        path: Path,
        image: str = "image",
        caption: str | list[str] = "caption",
        out: Path | None = None,
        own: Collection[str] = (),
    ) -> None:
        self.path, self.left_out = path, Losses()
        listing = list_pictures(path, out)
        if listing.outside:
            first = printable(listing.outside[0])
            say(f"links that lead out of {path}: {len(listing.outside)}, as {first}; they are followed")
        for reason, names in listing.left_out.items():
            self.left_out.add(reason, *names)
        self.captioned = self._captions(image, caption)
        self.beside = self._beside(listing, own)
        self.names = sorted({*listing.pictures, *self.captioned})
        if not self.names:
            raise UserError(f"path={path} holds no image: the names end in {', '.join(IMAGES)}.{self._others()}")
        if not self.captioned and not any(self.beside.values()):
            raise UserError(f"path={path} holds {self._uncaptioned()}{self._others()}")

    def __len__(self) -> int:
        return len(self.names)

    def entries(self, first: int) -> Iterator[Entry | LeftOut]:
        for name in self.names[first:]:
            beside = self.beside.get(name, ())
            yield self.captioned.get(name) or Entry(name, str(self.path / name), beside=beside)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256("\0".join(self.names).encode(errors="surrogateescape"))
        for name in sorted(self.captioned):
            digest.update(repr(self.captioned[name].captions).encode())
        return {"kind": "folder", "sha256": digest.hexdigest()}

    def _uncaptioned(self) -> str:
        """What the folder looks like, and what to do with it."""
        there, folders = counted(len(self.names), "image"), dict.fromkeys(n.partition("/")[0] for n in self.names)
        how = "write NAME.txt, a caption a line, beside each image, or a captions.json into the folder"
        if len(folders) < 2 or not all("/" in name for name in self.names):
            return f"{there} and no caption: {how}."
        path = to_type("data.path", self.path)
        return (
            f"{there} in {len(folders):,} folders ({some(list(folders))}) and no caption, as a set with a folder a"
            f" class: to evaluate on it, type python src/evaluate.py checkpoint=RUN_DIR data=folder {path}; to train"
            f" on it, {how}."
        )

    def _others(self) -> str:
        found = self.left_out.describe()
        return "".join(f" Left out: {of['count']:,} × {reason}." for reason, of in found.items())

    def _captions(self, image: str, caption: str | list[str]) -> dict[str, Entry]:
        """Image -> its entry, from the folder's file of captions. All rows of one image give their captions."""
        found = [name for name in CAPTIONS if (self.path / name).is_file()]
        if len(found) > 1:
            raise UserError(f"path={self.path} holds {' and '.join(found)}: leave one of them there.")
        if not found:
            return {}
        file = self.path / found[0]
        rows = _json_entries(file) if file.suffix == ".json" else Table([file], image, caption, self.path).entries(0)
        entries: dict[str, Entry] = {}
        for entry in rows:
            if isinstance(entry, LeftOut):
                self.left_out.add(f"{found[0]}: {entry.args[0]}", str(entry.args[1]))
                continue
            name = entry.name
            if isinstance(entry.image, str) and "://" not in name:
                name = os.path.relpath(entry.image, os.path.abspath(self.path)).replace(os.sep, "/")  # noqa: PTH100
            if name in entries:
                entry = replace(entry, captions=(*(entries[name].captions or ()), *(entry.captions or ())))
            entries[name] = entry
        return entries

    def _beside(self, listing: Listing, own: Collection[str]) -> dict[str, tuple[tuple[str, str], ...]]:
        """Image -> the files of its captions. Files that belong to no image are left out by name."""
        by_stem: dict[str, dict[str, str]] = {}
        for name in listing.others:
            stem, dot, extension = name.rpartition(".")
            kind = extension.lower()
            if name in CAPTIONS or name in own:
                continue
            if not dot or kind not in ("txt", "json"):
                self.left_out.add(no_picture(name), name)
                continue
            kinds = by_stem.setdefault(stem, {})
            if kind in kinds:  # a.TXT is listed before a.txt, which is the usual one
                self.left_out.add("a second caption file of an image", kinds[kind])
            kinds[kind] = name
        files: dict[str, tuple[tuple[str, str], ...]] = {}
        stems = {name: name.rpartition(".")[0] for name in listing.pictures}
        for name, stem in stems.items():
            found = by_stem.get(stem, {})
            files[name] = tuple((kind, str(self.path / found[kind])) for kind in ("txt", "json") if kind in found)
        for stem in sorted(by_stem.keys() - set(stems.values())):
            self.left_out.add("a caption without an image", *by_stem[stem].values())
        return files


def _json_entries(file: Path) -> Iterator[Entry | LeftOut]:
    for name, captions in read_json(file).items():
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise UserError(f"{file} gives {name} neither a caption nor a list of captions: correct that entry.")
        place = inside(str(file.parent), name)
        yield LeftOut(OUTSIDE, name) if place is None else Entry(name, place, tuple(captions))
