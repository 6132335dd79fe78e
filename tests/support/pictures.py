"""Folders of real pictures with captions, as users have them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from samples import caption, picture


def write_folder(folder: Path, count: int, captions: bool = True) -> Path:
    """Writes `count` PNGs in three sub-folders, each with a caption file."""
    for number in range(count):
        place = folder / f"set{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03d}.png").write_bytes(picture(number))
        if captions:
            (place / f"{number:03d}.txt").write_text(caption(number))
    return folder


def contents(out: Path) -> dict[str, str]:
    """The hash of every file of a packed set, except the records of its parts."""
    files = (file for file in sorted(out.rglob("*")) if file.is_file() and "parts" not in file.parts)
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
