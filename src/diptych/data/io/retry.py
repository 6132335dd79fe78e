"""Retries: after a temporary fault, reading continues from the byte that it had reached, and the fault is counted.

A source (HTTP, bucket) returns a `Body` that starts at a given byte. It raises `Fault` for what a retry may cure and
UserError for everything else.
"""

from __future__ import annotations

import io
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from diptych.base.errors import UserError
from diptych.data.io.address import host, shown

T = TypeVar("T")
LONGEST = 60.0  # seconds between two tries at most, whatever the backoff or a server's Retry-After says


class Fault(Exception):
    """A temporary fault. asked: seconds to wait, from the server's Retry-After"""

    def __init__(self, reason: str, asked: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.asked = reason, asked


class Body(Protocol):
    """One answer of a server.

    total: bytes of the whole file, if known; version: changes when the file does (ETag, generation)
    skipped: bytes that were fetched and thrown away because the server ignores ranges
    """

    total: int | None
    version: str | None
    skipped: int

    def read(self, most: int) -> bytes:
        """The next bytes, at most `most`; none at the end."""
        ...

    def close(self, finished: bool) -> None: ...


class Source(Protocol):
    chunk: int

    def connect(self, url: str, start: int, stop: int | None) -> Body: ...

    def size(self, url: str) -> int | None: ...


def delay(address: str, tries: int, backoff: float, asked: float = 0.0) -> float:
    """Seconds to wait after the `tries`-th failure: they double, and each address gets its own factor of 0.5–1.5, so
    that the workers don't all ask a recovering server at once."""
    spread = 0.5 + zlib.crc32(f"{address} {tries}".encode()) / 2**32
    return min(max(backoff * 2.0 ** (tries - 1) * spread, asked), LONGEST)


@dataclass
class Patience:
    """Retries at most `retries` times in a row. retried: 'host: reason' -> number of retries so far"""

    retries: int
    backoff: float
    retried: Counter[str] = field(default_factory=Counter)

    def keep_trying(self, address: str, call: Callable[[], T]) -> T:
        """The result of `call`. Raises UserError, with address, reason and tries, after too many faults in a row."""
        tries = 0
        while True:
            try:
                return call()
            except Fault as fault:
                tries += 1
                if tries > self.retries:
                    raise UserError(
                        f"{shown(address)} could not be read: {fault.reason}, after {tries} tries in a row;"
                        " check the server or raise data.files.retries."
                    ) from fault
                self.retried[f"{host(address)}: {fault.reason}"] += 1
                time.sleep(delay(address, tries, self.backoff, fault.asked))


class RawReader(io.RawIOBase):
    """A raw stream whose subclasses define one method, `take`."""

    def take(self, most: int) -> bytes:
        """The next bytes, at most `most`; none at the end."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Resumed(RawReader):
    """The bytes `start` to `stop` of a remote file, all of them or an error.

    size: the length of the whole file according to the index. Another length, or a file that changes between two
    tries, is refused: the stream would return half of one file and half of another.
    """

    def __init__(
        self, source: Source, patience: Patience, url: str, start: int, stop: int | None, size: int | None
    ) -> None:
        self.source, self.patience, self.url = source, patience, url
        self.at, self.stop, self.size = start, stop, size
        self.end = stop
        self.body: Body | None = None
        self.seen: tuple[int | None, str | None] | None = None

    def readall(self) -> bytes:
        """RawIOBase's own asks for 8 kB at a time, and a bucket would get one request for each."""
        return b"".join(iter(lambda: self.take(self.source.chunk), b""))

    def take(self, most: int) -> bytes:
        data = self.patience.keep_trying(self.url, lambda: self._next(most))
        self.at += len(data)
        return data

    def _next(self, most: int) -> bytes:
        """The next bytes; none at the end. After a fault the next call connects again."""
        if self.at == self.end:
            self._see_the_end()
            return b""
        try:
            body = self.body = self.body or self._connect()
            left = most if self.end is None else min(most, self.end - self.at)
            data = body.read(left) if left else b""
        except Fault:
            self._drop()
            raise
        if data or self.at == self.end:
            return data
        if self.end is None:  # a chunked answer, which ended properly
            self.end = self.at
            return b""
        self._drop()
        raise Fault("ended early")

    def _see_the_end(self) -> None:
        """Refuse a file that is longer than its index says."""
        more = b""
        if self.stop is None and self.body is not None and self.body.total is None:
            with suppress(Fault):  # all bytes of the file have arrived
                more = self.body.read(1)
        if more:
            raise UserError(
                f"{shown(self.url)} has more than the {self.size} bytes that its index says: restore it, or index the"
                " shards again."
            )

    def _connect(self) -> Body:
        body = self.source.connect(self.url, self.at, self.stop)
        if body.skipped:
            self.patience.retried[f"{host(self.url)}: ignored a range"] += 1
        try:
            self._agree(body)
        except UserError:
            body.close(finished=False)
            raise
        return body

    def _agree(self, body: Body) -> None:
        name = shown(self.url)
        if self.size is not None and body.total not in (None, self.size):
            raise UserError(
                f"{name} has {body.total} bytes where its index says {self.size}: it was cut or changed; restore it,"
                " or index the shards again."
            )
        if self.seen is None:
            self.seen = body.total, body.version
        elif self.seen[1] != body.version or (None not in (self.seen[0], body.total) and self.seen[0] != body.total):
            raise UserError(f"{name} changed on the server while it was read: restore it, or index the shards again.")
        if body.total is None:  # a chunked answer: the index says how much of it to read
            self.end = self.size if self.stop is None else self.stop
            return
        if max(self.at, self.stop or 0) > body.total:
            raise UserError(
                f"{name} ends at byte {body.total} where {max(self.at, self.stop or 0)} were asked for:"
                " restore it, or index the shards again."
            )
        self.end = body.total if self.stop is None else self.stop

    def _drop(self) -> None:
        if self.body is not None:
            self.body.close(finished=False)
            self.body = None

    def close(self) -> None:
        if self.body is not None:
            self.body.close(finished=self.at == self.end)
            self.body = None
        super().close()
