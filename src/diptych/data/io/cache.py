"""A local folder of whole remote files: the first process that needs one fetches it, all others read the copy.

A file is fetched into NAME.partial, under a lock on that file, and renamed when it is complete: a crash leaves a
.partial, which no reader opens, and frees the lock. The least recently opened files are removed to make room.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from diptych.base.errors import UserError
from diptych.data.io.address import shown

OURS = re.compile(r"[0-9a-f]{32}-")  # other files in the folder are never removed
Fetch = Callable[[], BinaryIO]


class Cache:
    """A folder of at most `limit` bytes that all processes of a machine share. It should be on a local disk."""

    def __init__(self, folder: str, limit: float) -> None:
        self.folder, self.limit = Path(folder), int(limit)

    def open(self, url: str, size: int, fetch: Fetch) -> BinaryIO:
        """The file at `url` of `size` bytes; `fetch` opens it at its server where the folder lacks it."""
        if size > self.limit:
            raise UserError(
                f"{shown(url)} of {size / 1e9:.3g} GB is more than data.files.cache_gb={self.limit / 1e9:g}:"
                " raise it."
            )
        path = self.folder / _name(url, size)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while (file := _hit(path, size)) is None:
                self._fetch(path, size, fetch)
        except OSError as error:
            raise UserError(
                f"data.files.cache={self.folder} can't hold {shown(url)} ({error.strerror}):"
                " free some space or name another folder."
            ) from error
        return file

    def _fetch(self, path: Path, size: int, fetch: Fetch) -> None:
        partial = path.with_name(f"{path.name}.partial")
        with _locked(partial) as target:
            if target is None:  # another process has fetched it
                return
            if path.exists():  # the same, and this .partial is new and empty
                partial.unlink()
                return
            try:
                self._make_room(size, target)
                with fetch() as source:
                    left = size + 1  # one byte more shows that it is another file
                    while left and (data := source.read(min(left, 2**20))):
                        left -= len(data)
                        target.write(data if left else data[:-1])
                if left != 1:
                    came = "more bytes than" if not left else f"{size + 1 - left} bytes where"
                    raise UserError(f"{path.name} came with {came} the {size} that were expected: try again.")
                target.flush()
                os.fsync(target.fileno())
                partial.rename(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def _make_room(self, size: int, target: BinaryIO) -> None:
        """Remove the least recently opened files until `size` bytes fit. `target` gets that length at once, so that
        the next process to make room counts it. A removed file that is being read stays readable until it is closed
        (Linux)."""
        with _held(self.folder):
            target.truncate(0)
            ours = [
                (file, status) for file in self.folder.iterdir() if OURS.match(file.name) and (status := _stat(file))
            ]
            total = sum(status.st_size for _, status in ours)
            for file, status in sorted(ours, key=lambda found: found[1].st_mtime_ns):
                if total + size <= self.limit:
                    break
                if _remove(file):
                    total -= status.st_size
            target.truncate(size)
            free = shutil.disk_usage(self.folder).free
            if free < size:
                raise OSError(errno.ENOSPC, f"{size / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB free")


def _name(url: str, size: int) -> str:
    """A hash, so that no address chooses a path, and the address's last part, for people who look into the folder."""
    digest = hashlib.sha256(f"{size} {url}".encode()).hexdigest()[:32]
    last = re.sub(r"[^A-Za-z0-9._-]", "_", shown(url).rpartition("/")[2])
    return f"{digest}-{last[-80:]}"


def _hit(path: Path, size: int) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if os.fstat(file.fileno()).st_size != size:  # changed by someone else, or by a faulty disk
        file.close()
        path.unlink(missing_ok=True)
        return None
    with suppress(FileNotFoundError):
        os.utime(path)
    return file


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO | None]:
    """The .partial file, locked for this process; None where it was renamed or removed while this one waited."""
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        there = _stat(partial)
        yield file if there and there.st_ino == os.fstat(file.fileno()).st_ino else None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _remove(file: Path) -> bool:
    """Whether the file is gone now. A locked .partial is being fetched, and stays."""
    if file.suffix == ".partial":
        try:
            with file.open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
        except OSError:
            return False
    file.unlink(missing_ok=True)
    return True


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None
