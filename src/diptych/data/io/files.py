"""Where the bytes of shards and indices come from: one reader for every kind of address."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, BinaryIO, cast

from diptych.base.errors import UserError
from diptych.base.files import NotRegular, open_regular
from diptych.data.io.address import HTTP, fault, is_local, is_remote, local, printable, scheme, shown
from diptych.data.io.cache import Cache
from diptych.data.io.retry import Patience, RawReader, Resumed, Source

SMALL = 2**27  # bytes of an index at most; one of 40,000 shards has 8 MB


@dataclass(kw_only=True, eq=False)
class Files:
    """Opens what an index names: a path, file://, http(s)://, s3://, gs://, or, if allowed, the output of a command.

    A pickled instance, as workers get it, holds the settings alone; each process makes its own connections.

    retries: how often in a row, without a byte in between, a temporary fault is tried again
    timeout: seconds without a byte that count as a fault
    backoff: seconds before the first retry; they double with each further one
    cache, cache_gb: a local folder that keeps whole remote shards, and its limit in 10^9 bytes
    allow_pipe: run `pipe:COMMAND`, a shell command

    Raises UserError, with the address but without its credentials, for what is missing, refused, changed or out of
    reach.
    """

    retries: int = 5
    timeout: float = 30.0
    backoff: float = 1.0
    cache: str | None = None
    cache_gb: float = 50.0
    allow_pipe: bool = False

    def __post_init__(self) -> None:
        if self.retries < 0 or self.backoff < 0 or self.timeout <= 0 or self.cache_gb <= 0:
            raise UserError(
                f"data.files has retries={self.retries}, backoff={self.backoff}, timeout={self.timeout},"
                f" cache_gb={self.cache_gb}: the first two must be at least 0, the others above 0."
            )
        self.patience = Patience(self.retries, self.backoff)
        self._cache = Cache(self.cache, self.cache_gb * 1e9) if self.cache else None
        self._sources: dict[tuple[int, bool], Source] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    def take_retries(self) -> Counter[str]:
        """The retries of this process since the last call: 'host: reason' -> times."""
        taken = Counter(self.patience.retried)
        self.patience.retried.clear()
        return taken

    def check(self, path: str, key: str = "data.shards") -> None:
        """Raise UserError for an address that is never opened. key: where it stands in the config"""
        if scheme(path) == "pipe" and not self.allow_pipe:
            raise UserError(
                f"{key}={shown(path)} would run a program and is refused: give the tar itself, or"
                " data.allow_pipe=true if you know the command."
            )
        wrong = fault(path)
        if wrong is not None:
            raise UserError(f"{key}={shown(path)} {wrong}.")

    def open(self, path: str, start: int = 0, stop: int | None = None, size: int | None = None) -> BinaryIO:
        """A stream of the bytes from `start` to `stop` (None: the end), all of them or an error.

        size: the length of the whole file according to the index; a file of another length is refused
        """
        self.check(path)
        if is_local(path):
            return self._part(path, _open(path), start, stop, size)
        if scheme(path) == "pipe":
            return _buffered(Pipe(path, start, stop), 2**18)
        if self._cache is None:
            return self._remote(path, start, stop, size)
        whole = size if size is not None else self._length(path)
        kept = self._cache.open(path, whole, lambda: self._remote(path, 0, None, whole))
        return self._part(path, kept, start, stop, whole)

    def begin(self, path: str, length: int) -> BinaryIO:
        """The first bytes of a file; the cache does not fetch the whole file for them."""
        return self._remote(path, 0, length) if is_remote(path) else self.open(path, 0, length)

    def read(self, path: str) -> bytes:
        """A small file whole, never from the cache."""
        self.check(path)
        with self._remote(path) if is_remote(path) else self.open(path) as file:
            data = bytearray()  # `read(SMALL)` would allocate that much for a file of any size
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
            except (OSError, ValueError):  # ValueError: an impossible file name
                return None
        self.check(path)
        if not is_remote(path):
            raise UserError(f"{shown(path)} is a command's output, whose length is unknown: give the tar itself.")
        return self.patience.keep_trying(path, lambda: self._source(path).size(path))

    def _length(self, path: str) -> int:
        length = self.size(path)
        if length is None:
            raise UserError(f"{shown(path)} does not exist: restore it, or index the shards again.")
        return length

    def _part(self, path: str, file: BinaryIO, start: int, stop: int | None, size: int | None) -> BinaryIO:
        length = os.fstat(file.fileno()).st_size
        if size is not None and length != size:
            file.close()
            raise UserError(
                f"{path} has {length} bytes where its index says {size}: it was cut or changed; restore it, or index"
                " the shards again."
            )
        file.seek(start)
        return file if stop is None else _buffered(_Part(path, file, stop - start), 2**18)

    def _remote(self, path: str, start: int = 0, stop: int | None = None, size: int | None = None) -> BinaryIO:
        source = self._source(path)
        return _buffered(Resumed(source, self.patience, path, start, stop, size), source.chunk)

    def _source(self, path: str) -> Source:
        """The reader for the address's kind, imported on first use. A fork makes its own: two processes on one socket
        would read each other's bytes."""
        kind = os.getpid(), scheme(path) in HTTP
        if kind not in self._sources:
            if scheme(path) in HTTP:
                from diptych.data.io.http import Http

                self._sources[kind] = Http(self.timeout)
            else:
                from diptych.data.io.bucket import Bucket

                self._sources[kind] = Bucket(self.timeout)
        return self._sources[kind]


def _open(path: str) -> BinaryIO:
    try:
        return open_regular(local(path))
    except (NotRegular, IsADirectoryError) as error:
        raise UserError(f"{printable(path)} is a folder, a pipe or a device: give a file.") from error
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(path)} can't be opened ({printable(str(why))}): restore it.") from error


def _buffered(raw: io.RawIOBase, length: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(raw, length))


class _Part(RawReader):
    """The next `length` bytes of a local file: all of them, or an error."""

    def __init__(self, path: str, file: BinaryIO, length: int) -> None:
        self.path, self.file, self.left = path, file, length

    def take(self, most: int) -> bytes:
        data = self.file.read(min(most, self.left))
        if self.left and not data:
            raise UserError(f"{self.path} ends {self.left} bytes early: it was cut; restore it.")
        self.left -= len(data)
        return data

    def close(self) -> None:
        self.file.close()
        super().close()


class Pipe(RawReader):
    """The bytes `start` to `stop` of a shell command's output. Raises UserError, with its last line, if it fails."""

    def __init__(self, path: str, start: int, stop: int | None) -> None:
        self.path, self.at, self.start, self.stop = path, 0, start, stop
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe could fill up and block the command)
        self.process = subprocess.Popen(
            path.removeprefix("pipe:"),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )

    def take(self, most: int) -> bytes:
        while self.at < self.start:
            if not self._read(min(self.start - self.at, 2**18)):
                raise UserError(f"{shown(self.path)} ends at byte {self.at} where {self.start} was asked for.")
        return self._read(most if self.stop is None else min(most, self.stop - self.at))

    def _read(self, most: int) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read1(most) if most else b""  # type: ignore[attr-defined]
        self.at += len(data)
        if most and not data:
            self._check_end()
        return data

    def _check_end(self) -> None:
        """At the end of the output: the exit code says whether it is complete, `stop` whether it is enough."""
        code = self.process.wait()
        self.errors.seek(0)
        said = printable(" ".join(self.errors.read().decode(errors="replace").strip().splitlines()[-1:])[:200])
        if code:
            raise UserError(f"{shown(self.path)} failed with exit code {code} ({said}): fix the command.")
        if self.stop is not None:
            raise UserError(f"{shown(self.path)} ends at byte {self.at} where {self.stop} were asked for.")

    def close(self) -> None:
        if not self.closed:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process.wait()
            self.errors.close()
        super().close()
