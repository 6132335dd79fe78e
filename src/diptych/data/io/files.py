"""Where the bytes of shards and indices come from: one reader for every kind of address."""

from __future__ import annotations

import io
import os
from collections import Counter
from typing import Any, BinaryIO, cast

from diptych.base.errors import UserError
from diptych.base.files import NotRegular, open_regular
from diptych.data.io.address import HTTP, fault, is_local, is_remote, local, printable, scheme, shown
from diptych.data.io.cache import Cache
from diptych.data.io.retry import Patience, Resumed, Source

__all__ = ["Files", "is_local", "local", "shown"]

SMALL = 2**27  # bytes; an index of 40,000 shards has 8 MB, so what is larger is none


class Files:
    """Opens what an index names: a path, file://, http(s)://, s3://, gs://, or, if allowed, the output of a command.

    An instance travels to the workers, so it holds settings; connections are made by the process that reads.

    retries: how often in a row, without a byte in between, a fault of a server is tried again. timeout: seconds
    without a byte that are one. backoff: seconds before the first new try; each further one waits twice as long.
    cache, cache_gb: a folder of this machine that keeps whole remote shards, and its limit in 10^9 bytes.
    allow_pipe: run `pipe:COMMAND`, which is whatever the command says.

    Raises UserError, with the address less its credentials, for what is missing, refused, changed or not reached.
    """

    def __init__(
        self,
        *,
        retries: int = 5,
        timeout: float = 30.0,
        backoff: float = 1.0,
        cache: str | None = None,
        cache_gb: float = 50.0,
        allow_pipe: bool = False,
    ) -> None:
        self.settings: dict[str, Any] = {
            "retries": retries,
            "timeout": timeout,
            "backoff": backoff,
            "cache": cache,
            "cache_gb": cache_gb,
            "allow_pipe": allow_pipe,
        }
        if retries < 0 or backoff < 0 or timeout <= 0 or cache_gb <= 0:
            raise UserError(
                f"data.files has retries={retries}, backoff={backoff}, timeout={timeout}, cache_gb={cache_gb}:"
                " the first two are at least 0, the others more."
            )
        self.timeout = timeout
        self.allow_pipe = allow_pipe
        self.patience = Patience(retries, backoff)
        self.cache = Cache(cache, cache_gb * 1e9) if cache else None
        self.sources: dict[str, Source] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.settings | {"allow_pipe": self.allow_pipe}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    def take_retries(self) -> Counter[str]:
        """What was tried again in this process since the last call: 'host: reason' -> times. Empties the count."""
        taken = Counter(self.patience.retried)
        self.patience.retried.clear()
        return taken

    def check(self, path: str, key: str = "data.shards") -> None:
        """Refuse an address that is not read at all, before anything is opened; `key` is the config's name of it."""
        if scheme(path) == "pipe" and not self.allow_pipe:
            raise UserError(
                f"{key}={shown(path)} would run a program and is refused: give the tar itself, or"
                " data.allow_pipe=true if you know the command."
            )
        wrong = fault(path)
        if wrong is not None:
            raise UserError(f"{key}={shown(path)} {wrong}.")

    def open(self, path: str, start: int = 0, stop: int | None = None, size: int | None = None) -> BinaryIO:
        """The bytes from `start` to `stop` (None: the end), to be read once from front to back: all of them, or an
        error. size: what the index says the whole file holds; a file of another size is refused."""
        self.check(path)
        if is_local(path):
            return self._part(path, _open(path), start, stop, size)
        if scheme(path) == "pipe":
            from diptych.data.io.pipe import Pipe

            return _buffered(Pipe(path, start, stop), 2**18)
        if self.cache is None:
            return self._remote(path, start, stop, size)
        whole = size if size is not None else self._length(path)
        kept = self.cache.open(path, whole, lambda: self._remote(path, 0, None, whole))
        return self._part(path, kept, start, stop, whole)

    def begin(self, path: str, length: int) -> BinaryIO:
        """The first bytes of a file, which no cache fetches whole for them."""
        return self._remote(path, 0, length) if is_remote(path) else self.open(path, 0, length)

    def read(self, path: str) -> bytes:
        """The whole of a small file, never from the cache."""
        self.check(path)
        with self._remote(path) if is_remote(path) else self.open(path) as file:
            data = bytearray()  # `read(SMALL)` would take that much memory for however small a file
            while len(data) <= SMALL and (more := file.read(2**20)):
                data += more
        if len(data) > SMALL:
            raise UserError(f"{shown(path)} has more than {SMALL} bytes and is no index: check the address.")
        return bytes(data)

    def size(self, path: str) -> int | None:
        """Its length in bytes; None where it doesn't exist."""
        if is_local(path):
            try:
                return os.stat(local(path)).st_size  # noqa: PTH116 (a Path of each of 40,000 shards costs more)
            except (OSError, ValueError):  # ValueError: a name that no file can have
                return None
        self.check(path)
        if not is_remote(path):
            raise UserError(f"{shown(path)} is the output of a command, which has no length: give the tar itself.")
        return self.patience.keep_trying(path, lambda: self._source(path).size(path))

    def _length(self, path: str) -> int:
        length = self.size(path)
        if length is None:
            raise UserError(f"{shown(path)} does not exist: restore it or index the shards again.")
        return length

    def _part(self, path: str, file: BinaryIO, start: int, stop: int | None, size: int | None) -> BinaryIO:
        length = os.fstat(file.fileno()).st_size
        if size is not None and length != size:
            file.close()
            raise UserError(
                f"{path} has {length} bytes where its index says {size}:"
                " it was cut or changed; restore it or index the shards again."
            )
        file.seek(start)
        return file if stop is None else _buffered(_Part(path, file, stop - start), 2**18)

    def _remote(self, path: str, start: int = 0, stop: int | None = None, size: int | None = None) -> BinaryIO:
        source = self._source(path)
        return _buffered(Resumed(source, self.patience, path, start, stop, size), source.chunk)

    def _source(self, path: str) -> Source:
        """The reader of the address's kind, imported when it is first needed."""
        kind = "http" if scheme(path) in HTTP else "bucket"
        if kind not in self.sources:
            if kind == "http":
                from diptych.data.io.http import Http

                self.sources[kind] = Http(self.timeout)
            else:
                from diptych.data.io.bucket import Bucket

                self.sources[kind] = Bucket(self.timeout)
        return self.sources[kind]


def _open(path: str) -> BinaryIO:
    try:
        return open_regular(local(path))
    except (NotRegular, IsADirectoryError) as error:
        raise UserError(f"{printable(path)} is a folder, a pipe or a device: give a file.") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(path)} can't be opened ({printable(str(why))}): restore it.") from error


def _buffered(raw: io.RawIOBase, length: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(raw, length))


class _Part(io.RawIOBase):
    """The next `length` bytes of a file: all of them, or an error."""

    def __init__(self, path: str, file: BinaryIO, length: int) -> None:
        self.path, self.file, self.left = path, file, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.file.read(min(len(buffer), self.left))
        if self.left and not data:
            raise UserError(f"{self.path} ends {self.left} bytes early: it was cut; restore it.")
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()
