"""A folder a class: which pictures are of which class, and what was seen there and is of none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diptych.base.errors import UserError
from diptych.data.io.address import printable
from diptych.data.sets.listing import UNREAD, list_pictures

SPLITS = {"train", "val", "valid", "validation", "dev", "test"}
Unused = dict[str, list[str]]  # reason -> names


@dataclass
class ClassFolders:
    """pictures: by class folder, in the order of their names, each a key and its file, ordered too
    unused: what is in none; remarks: sentences on what was taken that one may not expect"""

    pictures: dict[str, list[tuple[str, Path]]] = field(default_factory=dict)
    unused: Unused = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave(self, reason: str, name: str) -> None:
        self.unused.setdefault(reason, []).append(printable(name))


def class_folders(root: Path, known: Collection[str] = ()) -> ClassFolders:
    """The first level of folders below `root` are the classes; a class's pictures may be at any depth in its folder.

    known: files beside the folders that somebody reads
    A folder without a picture is no class. Raises UserError where the folders are splits, of which each has classes.
    """
    listed, found = list_pictures(root), ClassFolders()
    pictures: dict[str, list[tuple[str, Path]]] = {}
    for name in listed.pictures:
        folder, _, inside = name.partition("/")
        if inside:
            pictures.setdefault(folder, []).append((printable(name), root / name))
        else:
            found.leave("a picture in no class folder", name)
    found.pictures = {folder: pictures[folder] for folder in sorted(pictures)}
    for name in listed.others:
        if name not in known:
            unread = name.lower().endswith(UNREAD)
            found.leave("a picture of a kind that isn't read" if unread else "no picture by its name", name)
    for reason, names in listed.left_out.items():
        for name in names:
            found.leave(reason, name)
    left = {name for names in listed.left_out.values() for name in names}
    for entry in sorted(root.iterdir()):
        if entry.name not in pictures and entry.name not in left and entry.is_dir():
            found.leave("a folder without a picture", entry.name)
    keys = [key for every in found.pictures.values() for key, _ in every]
    deeper = sorted({key.rpartition("/")[0] for key in keys if key.count("/") > 1})
    if keys and SPLITS.issuperset(found.pictures) and all(key.count("/") > 1 for key in keys):
        one = next((split for split in found.pictures if split != "train"), "train")
        raise UserError(f"{root} holds splits ({', '.join(found.pictures)}), not classes: give {root}/{one}.")
    if deeper:
        found.remarks.append(f"pictures in folders within a class's count as the class's: {some(deeper)}")
    if listed.outside:
        found.remarks.append(f"links that lead out of the folder were followed: {some(listed.outside)}")
    return found


def some(names: Sequence[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - count
    return ", ".join(map(printable, names[:count])) + (f" and {more:,} more" if more > 0 else "")
