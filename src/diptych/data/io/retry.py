"""Reading on after a fault: what may pass by itself is tried again from the byte that was reached, and counted.

A source (HTTP, bucket) gives a `Body` from a byte on and raises `Fault` for what may pass, UserError for what won't.
"""

from __future__ import annotations

import io
import itertools
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
LONGEST = 60.0  # seconds; neither our doubling nor a server's Retry-After makes a worker wait longer at once


class Fault(Exception):
    """What may pass by itself; asked: the seconds that the server wants to be left alone."""

    def __init__(self, reason: str, asked: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.asked = reason, asked


class Body(Protocol):
    """One answer of a server. total: bytes of the whole file; version: what changes when the file does; skipped:
    bytes that were fetched only to be thrown away, since the server does not know ranges."""

    total: int | None
    version: str | None
    skipped: int

    def read(self, most: int) -> bytes:
        """Some bytes, at most `most`; none at the end."""
        ...

    def close(self, finished: bool) -> None: ...


class Source(Protocol):
    chunk: int

    def connect(self, url: str, start: int, stop: int | None) -> Body: ...

    def size(self, url: str) -> int | None: ...


def delay(address: str, tries: int, backoff: float, asked: float = 0.0) -> float:
    """Seconds to wait after the `tries`-th failure: doubling, and spread by address so that many workers whose
    server went away don't come back all at once."""
    spread = 0.5 + zlib.crc32(f"{address} {tries}".encode()) / 2**32
    return min(max(backoff * 2.0 ** (tries - 1) * spread, asked), LONGEST)


@dataclass
class Patience:
    """How often a fault is tried again, and the count of those that were: 'host: reason' -> times."""

    retries: int
    backoff: float
    retried: Counter[str] = field(default_factory=Counter)

    def keep_trying(self, address: str, call: Callable[[], T]) -> T:
        """What `call` gives. Raises UserError, with address, reason and tries, after `retries` faults in a row."""
        for tries in itertools.count(1):
            try:
                return call()
            except Fault as fault:
                if tries > self.retries:
                    raise UserError(
                        f"{shown(address)} could not be read: {fault.reason}, after {tries} tries in a row;"
                        " check the server or raise data.files.retries."
                    ) from fault
                self.retried[f"{host(address)}: {fault.reason}"] += 1
                time.sleep(delay(address, tries, self.backoff, fault.asked))
        raise AssertionError("unreachable")


class Resumed(io.RawIOBase):
    """The bytes `start` to `stop` of a remote file, all of them or an error.

    size: what the index says the whole file holds; another size, or a file that changes between two tries, is
    refused: half of one file and half of another would be a lie.
    """

    def __init__(
        self, source: Source, patience: Patience, url: str, start: int, stop: int | None, size: int | None
    ) -> None:
        self.source, self.patience, self.url = source, patience, url
        self.at, self.stop, self.size = start, stop, size
        self.end = stop
        self.body: Body | None = None
        self.seen: tuple[int | None, str | None] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """io's own would ask for 8 kB at a time, each a request to a bucket."""
        return b"".join(iter(lambda: self._take(self.source.chunk), b""))

    def _take(self, most: int) -> bytes:
        data = self.patience.keep_trying(self.url, lambda: self._next(most))
        self.at += len(data)
        return data

    def _next(self, most: int) -> bytes:
        """Some bytes; none at the end. After a fault the next call connects anew."""
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
        if self.end is None:  # an answer in chunks that ended as it should
            self.end = self.at
            return b""
        self._drop()
        raise Fault("ended early")

    def _see_the_end(self) -> None:
        """A file that goes on behind the size its index gives is another one."""
        more = b""
        if self.stop is None and self.body is not None and self.body.total is None:
            with suppress(Fault):  # every byte of the file is here
                more = self.body.read(1)
        if more:
            raise UserError(
                f"{shown(self.url)} has more than the {self.size} bytes that its index says: restore it or index the"
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
                f"{name} has {body.total} bytes where its index says {self.size}:"
                " it was cut or changed; restore it or index the shards again."
            )
        if self.seen is None:
            self.seen = body.total, body.version
        elif self.seen[1] != body.version or (None not in (self.seen[0], body.total) and self.seen[0] != body.total):
            raise UserError(f"{name} changed on the server while it was read: restore it or index the shards again.")
        if body.total is None:  # an answer in chunks: no more of it than the index says, however long it goes on
            self.end = self.size if self.stop is None else self.stop
            return
        if max(self.at, self.stop or 0) > body.total:
            raise UserError(
                f"{name} ends at byte {body.total} where {max(self.at, self.stop or 0)} were asked for:"
                " restore it or index the shards again."
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
