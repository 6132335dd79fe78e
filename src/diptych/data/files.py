"""Where the bytes of shards and indices come from: one reader for every kind of address."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from diptych.errors import UserError


class Files:
    """Opens what an index names. An instance travels to the workers, so it holds settings and no connection.

    Raises UserError, with the address, for what is missing, refused or not reached.
    """

    def __init__(self, *, allow_pipe: bool = False) -> None:
        self.allow_pipe = allow_pipe

    def take_retries(self) -> Counter[str]:
        """What was tried again in this process since the last call: address -> times."""
        return Counter()

    def check(self, path: str, key: str = "data.shards") -> None:
        """Refuse an address that is not read at all, before anything is opened; `key` is the config's name of it."""
        if path.startswith("pipe:"):
            raise UserError(f"{key}={path} would run a program and is refused: give the tar itself.")
        if not is_local(path):
            raise UserError(f"{key}={path} is remote, which is not read yet: give a local path.")

    def open(self, path: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        """The bytes from `start` to `stop` (None: the end), to be read once from front to back."""
        try:
            file = open(local(path), "rb")  # noqa: SIM115, PTH123 (the caller closes it)
        except OSError as error:
            raise UserError(f"{path} can't be opened ({error.strerror}): restore it.") from error
        file.seek(start)
        return file if stop is None else io.BufferedReader(_Part(file, stop - start))

    def read(self, path: str) -> bytes:
        """The whole of a small file."""
        with self.open(path) as file:
            return file.read()

    def size(self, path: str) -> int | None:
        """Its length in bytes; None where it doesn't exist."""
        try:
            return os.stat(local(path)).st_size  # noqa: PTH116 (a Path of each of 40,000 shards costs more)
        except OSError:
            return None


class _Part(io.RawIOBase):
    """The next `length` bytes of a file."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self.file, self.left = file, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.file.read(min(len(buffer), self.left))
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith("file://")


def local(path: str) -> Path | str:
    return path.removeprefix("file://")
