"""What checkpoints are called in their folder, files and folders alike: there is always a whole one under a name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from diptych.base.files import sync_folder


def settle(checkpoint: Path, names: Sequence[str], keep: int) -> None:
    """Give a whole checkpoint its further names, and drop all steps but the newest `keep`."""
    for name in names:
        give_name(checkpoint, checkpoint.with_name(name))
    sync_folder(checkpoint.parent)
    for old in step_checkpoints(checkpoint.parent)[keep:]:
        remove(old)


def replace(partial: Path, path: Path) -> None:
    """Give a whole checkpoint its name."""
    make_way(partial, path)
    partial.replace(path)


def make_way(partial: Path, path: Path) -> None:
    """So that a whole checkpoint can take its name. What is there was left by a run that was killed before it could
    call it `last.ckpt`; and neither a file replaces a folder nor a folder a file."""
    if path.is_dir():
        shutil.rmtree(path)
    elif partial.is_dir():
        path.unlink(missing_ok=True)


def remove(checkpoint: Path) -> None:
    """A checkpoint, file or folder; not a folder that still has another name."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        checkpoint.unlink()
    elif not any(link.is_symlink() and link.samefile(checkpoint) for link in checkpoint.parent.iterdir()):
        shutil.rmtree(checkpoint)


def give_name(checkpoint: Path, name: Path) -> None:
    """Give a checkpoint a second name at once: there is no moment without a whole one under it."""
    partial = name.with_name(f".{name.name}.partial")
    partial.unlink(missing_ok=True)
    if checkpoint.is_dir():
        partial.symlink_to(checkpoint.name)
    else:
        os.link(checkpoint, partial)
    partial.replace(name)
    partial.unlink(missing_ok=True)  # where `name` was a name of this very file, the system renamed nothing


def step_checkpoints(folder: Path) -> list[Path]:
    """`step=N.ckpt` in `folder`, the newest first."""
    found = (path for path in folder.glob("step=*.ckpt") if path.stem.removeprefix("step=").isdecimal())
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step=")), reverse=True)
