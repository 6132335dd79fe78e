"""The one way in which files of data from elsewhere are opened: only regular files, and never waiting.

To open a pipe waits until somebody writes to it, for ever if nobody does. To ask first what a name stands for leaves
time to put a pipe there, so the file is opened without waiting and asked itself.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


class NotRegular(OSError):
    """There is a pipe, a device or a socket. (A folder raises IsADirectoryError.)"""


def open_regular(path: str | Path) -> BufferedReader:
    """As `open(path, "rb")`, links followed. Raises OSError, also for what is no regular file; and ValueError for a
    name that no file can have."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that isn't there
            raise _other(path) from error
        raise
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise _other(path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_regular(path: str | Path) -> bytes:
    """All bytes of a file, as `open_regular` opens it."""
    with open_regular(path) as file:
        return file.read()


def _other(path: str | Path) -> NotRegular:
    return NotRegular(errno.EINVAL, "a pipe, a device or a socket", str(path))
