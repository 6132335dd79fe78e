"""Files: where this project's own are, how any file is opened, and how any file is written.

Opening: only regular files, and never waiting. To open a pipe waits until somebody writes to it, perhaps for ever. To
check a name first and open it afterwards leaves time to put a pipe there, so the file is opened without waiting and
checked then.

Writing: a file is written whole or not at all. The new content is written beside the file, synced to the disk, and
renamed to the file's name in one step, so that a kill or a full disk leaves the earlier file as it was.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.terminal import UNSEEN

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parents[1] if (PACKAGE.parents[1] / "conf").is_dir() else PACKAGE  # of a checkout, or of a wheel

OF_THE_DISK = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO),
)
PARTIALS = ".*.partial"  # what a killed process leaves, in the folder of the file


class NotRegular(OSError):
    """The path is a pipe, a device or a socket. (A folder raises IsADirectoryError.)"""


def open_regular(path: str | Path) -> BufferedReader:
    """Like `open(path, "rb")`; links are followed. Raises OSError, also for a path that is not a regular file, and
    ValueError for an impossible name."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that isn't there
            raise _not_regular(path) from error
        raise
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise _not_regular(path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_regular(path: str | Path) -> bytes:
    """All bytes of a file, opened with `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _not_regular(path: str | Path) -> NotRegular:
    return NotRegular(errno.EINVAL, "a pipe, a device or a socket", str(path))


def write(file: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes, and make the folder if it is missing. Raises UserError with file and reason."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with refusing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside(file) as partial:
            partial.write_bytes(data)


def write_json(file: Path, value: Any, indent: int | None = 1) -> None:
    """Like `write`. Letters outside ASCII stay as they are, except those that control a terminal: these are escaped,
    and are the same again when the file is read."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    write(file, UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Gives a name in the same folder, under which the block writes a file or a folder. After the block it is renamed
    to `path`; if the block fails, it is removed. If the block writes nothing, nothing changes. Raises the disk's
    OSError, with `path` as its file."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if partial.exists():
            _sync_all(partial)
            partial.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # a failed write doesn't know its file's name
        raise
    finally:
        with suppress(OSError):
            remove(partial)


def refused(error: BaseException) -> str | None:
    """One sentence where the disk or a missing permission stopped us, whatever code met it; None for other errors."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK and error.filename is not None:
        return (
            f"{error.filename} can't be written or read ({error.strerror}): free disk space, or fix its permissions."
        )
    return None


@contextmanager
def refusing(file: Path) -> Iterator[None]:
    """Raises UserError, one sentence, where the system can't write `file`."""
    try:
        yield
    except OSError as error:
        place = f": {error.filename}" if error.filename not in (None, str(file)) else ""
        raise UserError(
            f"{file} can't be written ({error.strerror or error}{place}): free disk space, or change the permissions"
            " there, and run the command again."
        ) from error


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove what a killed process left. Only call it when no other process writes into the folder."""
    for partial in folder.glob(PARTIALS):
        remove(partial)


def sync(file: Path) -> None:
    """Make sure that the file's content is on the disk, not only in memory."""
    opened = os.open(file, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut, on file systems that support it."""
    with suppress(OSError):
        sync(folder)


def _sync_all(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            sync(file)
