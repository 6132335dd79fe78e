"""The pictures below a folder, and a reason for everything else in it: nothing that was seen goes unnamed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from diptych.data.stream.pairs import IMAGES

SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store")
UNREAD = (
    *(".heic", ".heif", ".svg", ".jp2", ".j2k", ".jxl", ".psd", ".eps", ".ico", ".ppm", ".pgm", ".tga"),
    *(".raw", ".dng", ".cr2", ".nef", ".arw", ".exr", ".hdr", ".npy"),
)  # what people call a picture, and what isn't read here under that name


@dataclass
class Listing:
    """Names from the folder on, with "/" between folders; each list in order.

    others: files that are no picture by their names: captions and the like, for the caller to account for
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
    """The reason for a file of `others` that nobody wants."""
    kind = name.lower().endswith(UNREAD)
    return "a picture of a kind that isn't read" if kind else "neither a picture nor a caption"


def list_pictures(root: str | Path, but: Path | None = None) -> Listing:
    """Everything below `root`, at any depth. but: a folder that isn't looked at

    Links are followed, but a folder (by its device and inode) is entered once, under its own name if it has one below
    `root`; so no link makes a loop or lists a picture twice. Hidden folders and macOS's copies are not entered.
    """
    walk = _Walk(Path(root), but)
    found = walk.found
    for names in (found.pictures, found.others, found.outside, *found.left_out.values()):
        names.sort()
    return found


class _Walk:
    """links: links to folders, which wait until all folders that are none have been entered"""

    def __init__(self, root: Path, but: Path | None) -> None:
        self.root, self.real = root, root.resolve()
        self.but = _identity(but.stat()) if but is not None and but.is_dir() else None
        self.found, self.entered, self.links = Listing(), set[tuple[int, int]](), [""]
        while self.links:
            folders = [self.links.pop(0)]
            while folders:
                folders += self._enter(folders.pop())

    def _enter(self, folder: str) -> list[str]:
        """The folders in a folder."""
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
        """Puts an entry where it belongs; whether it is a folder to enter next."""
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
