"""The one way in which files get written: whole or not at all. A kill or a full disk leaves what was there before.

The new content is written beside the file, comes to the disk, and takes the file's name in one step.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.terminal import UNSEEN

OF_THE_DISK = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO),
)
PARTIALS = ".*.partial"  # what a killed process leaves, in the folder of the file


def write(file: Path, content: str | bytes) -> None:
    """Text in UTF-8, or bytes. Makes the folder where there is none. Raises UserError, naming file and reason."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with refusing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside(file) as partial:
            partial.write_bytes(data)


def write_json(file: Path, value: Any, indent: int | None = 1) -> None:
    """As `write`. Other letters than ASCII's stay as they are, but for those that would steer a terminal: these are
    escaped, and read back the same."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    write(file, UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name in the same folder, for a file or a folder to be written under; it becomes `path` after the block, and
    goes where the block fails. A block that leaves nothing there changes nothing. Raises OSError as the disk does,
    with `path` for its file."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if partial.exists():
            _sync_all(partial)
            partial.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # a write doesn't know its file's name
        raise
    finally:
        with suppress(OSError):
            remove(partial)


def refused(error: BaseException) -> str | None:
    """One sentence for what a disk or a right refuses, wherever it was asked; None for other errors."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK and error.filename is not None:
        return f"{error.filename} can't be written or read ({error.strerror}): make room, or give the right to."
    return None


@contextmanager
def refusing(file: Path) -> Iterator[None]:
    """What the system says when it can't write there, as one sentence."""
    try:
        yield
    except OSError as error:
        place = f": {error.filename}" if error.filename not in (None, str(file)) else ""
        raise UserError(
            f"{file} can't be written ({error.strerror or error}{place}): make room, or give the right to write"
            " there, and type the command again."
        ) from error


def remove(path: Path) -> None:
    """A file, a link, or a folder with all in it; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """What a killed process left. Only for one that has the folder for itself."""
    for partial in folder.glob(PARTIALS):
        remove(partial)


def sync(file: Path) -> None:
    """The file's content is on the disk after this, not in the system's memory alone."""
    opened = os.open(file, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_folder(folder: Path) -> None:
    """What was renamed in `folder` stays so after a power cut, on file systems that can say so."""
    with suppress(OSError):
        sync(folder)


def _sync_all(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            sync(file)
