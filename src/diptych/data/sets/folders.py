"""Pictures in folders, a folder a class; everything else that is there is listed with a reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.templates import CLIPS, OWN, PLAIN, read_templates
from diptych.base.textfile import own
from diptych.data.io.address import printable
from diptych.data.sets.benchmarks import TEMPLATES
from diptych.data.sets.evalset import EvalSet, Item, Unused, base, some
from diptych.data.stream.pairs import IMAGES

SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store")
UNREAD = (
    *(".heic", ".heif", ".svg", ".jp2", ".j2k", ".jxl", ".psd", ".eps", ".ico", ".ppm", ".pgm", ".tga"),
    *(".raw", ".dng", ".cr2", ".nef", ".arw", ".exr", ".hdr", ".npy"),
)  # pictures of kinds that are not read
SPLITS = {"train", "val", "valid", "validation", "dev", "test"}


def folder_set(path: str, name: str | None = None) -> list[EvalSet]:
    """One sub-folder a class, its name the class name, its pictures at any depth; an optional file of templates
    beside them.

    Raises UserError when there is no such folder or no picture in it.
    """
    root = Path(str(path))  # a folder's name may be a number
    if not root.is_dir():
        raise UserError(f"data.path={path} is not a folder: give one with a sub-folder of pictures a class.")
    found = class_folders(root, known=(TEMPLATES,))
    if not found.pictures:
        raise UserError(
            f"data.path={path} holds no picture{_seen(found.unused)}: give a folder with a sub-folder a class."
        )
    if odd := next((each for each in found.pictures if printable(each) != each), None):
        raise UserError(f"{root} has the class folder {printable(odd)}, whose name is not text: rename it.")
    items: list[Item] = [
        (key, file, label, "") for label, files in enumerate(found.pictures.values()) for key, file in files
    ]
    brings = (root / TEMPLATES).exists()
    templates, prompts = (read_templates(own(root / TEMPLATES, root)), OWN) if brings else ([PLAIN], CLIPS)
    made = EvalSet(name or base(path), list(found.pictures), templates, items, prompts=prompts)
    return [replace(made, unused=found.unused, remarks=found.remarks)]


def _seen(unused: Unused) -> str:
    seen = [f"{reason}: {some(names)}" for reason, names in unused.items()]
    return f" ({'; '.join(seen)})" if seen else ""


def train_folder(path: str | None) -> EvalSet:
    """One sub-folder a class, as `folder_set` reads it. Raises UserError without a path."""
    if path is None:
        raise UserError(
            "data.train_path= is missing: give a folder of labelled training pictures, or type task.train=null for a"
            " task that can do without (fewshot, quality, robustness)."
        )
    (found,) = folder_set(path, "train")
    found.role = "train"
    return found


@dataclass
class ClassFolders:
    """pictures: class folder -> key and file of each picture, both in the order of their names
    unused: what is of no class, by reason; remarks: sentences on how the folders were read"""

    pictures: dict[str, list[tuple[str, Path]]] = field(default_factory=dict)
    unused: Unused = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave(self, reason: str, name: str) -> None:
        self.unused.setdefault(reason, []).append(printable(name))


def class_folders(root: Path, known: Collection[str] = ()) -> ClassFolders:
    """The first level of folders below `root` are the classes; a class's pictures may be at any depth in its folder.

    known: files beside the folders that the caller reads
    A folder without a picture is not a class. Raises UserError where the folders are splits, each with classes.
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


@dataclass
class Listing:
    """Names relative to the folder, with "/" between folders; each list in order.

    others: files whose names are not those of pictures: captions and the like, which the caller accounts for
    left_out: reason -> names of files, folders and links
    outside: links (to pictures or folders) that lead out of the folder; they are followed
    """

    pictures: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)


def is_picture(name: str) -> bool:
    """By its extension, in upper or lower case."""
    return name.lower().endswith(IMAGES)


def no_picture(name: str) -> str:
    """The reason why a file of `others` is not used."""
    kind = name.lower().endswith(UNREAD)
    return "a picture of a kind that isn't read" if kind else "neither a picture nor a caption"


def list_pictures(root: str | Path, but: Path | None = None) -> Listing:
    """Everything below `root`, at any depth. but: a folder that is skipped

    Links are followed, but a folder (by its device and inode) is entered once, under its own name if it has one below
    `root`; so no link makes a loop or lists a picture twice. Hidden folders and macOS's copies are not entered.
    """
    walk = _Walk(Path(root), but)
    found = walk.found
    for names in (found.pictures, found.others, found.outside, *found.left_out.values()):
        names.sort()
    return found


class _Walk:
    """links: links to folders, which are entered after all folders that are not links"""

    def __init__(self, root: Path, but: Path | None) -> None:
        self.root, self.real = root, root.resolve()
        self.but = _identity(but.stat()) if but is not None and but.is_dir() else None
        self.found, self.entered, self.links = Listing(), set[tuple[int, int]](), [""]
        while self.links:
            folders = [self.links.pop(0)]
            while folders:
                folders += self._enter(folders.pop())

    def _enter(self, folder: str) -> list[str]:
        """Record what is in a folder; returns the folders there."""
        here, inner = self.root / folder, list[str]()
        try:
            identity = _identity(here.stat())
            if identity == self.but:
                return []
            if identity in self.entered:
                self.found.leave_out("a folder that is listed already, reached by a link", folder)
                return []
            self.entered.add(identity)
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if self._take(entry, name):
                        inner.append(name)
        except OSError:
            self.found.leave_out("a folder that can't be read", folder or ".")
        return inner

    def _take(self, entry: os.DirEntry[str], name: str) -> bool:
        """Record an entry; returns whether it is a folder to enter next."""
        if reason := _unwanted(entry.name) or _unreadable(entry):
            self.found.leave_out(reason, name)
            return False
        linked, folder = entry.is_symlink(), entry.is_dir()
        if linked and not Path(entry.path).resolve().is_relative_to(self.real):
            self.found.outside.append(name)
        if linked and folder:
            self.links.append(name)
        elif not folder:
            (self.found.pictures if is_picture(entry.name) else self.found.others).append(name)
        return folder and not linked


def _identity(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino


def _unreadable(entry: os.DirEntry[str]) -> str | None:
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
        return None
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "a link that leads nowhere"
    return None if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else "neither a file nor a folder"


def _unwanted(name: str) -> str | None:
    if name == "__MACOSX" or name.startswith("._"):
        return "macOS's copies (__MACOSX, ._NAME)"
    if name.lower() in SYSTEM:
        return "a system's own file (.DS_Store, Thumbs.db)"
    return "hidden: its name begins with a dot" if name.startswith(".") else None
