"""HTTP answers that lie: a server in a thread sends what the case drew, byte by byte as it is written here."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

from fuzz import mutate
from fuzz.cases import Trial
from fuzz.oracles import CANARY, Lost

from diptych.data.io.files import Files
from diptych.data.stream.index import open_index

Answer = Callable[[bytes], bytes | None]  # the request -> what is sent; None: the connection ends


class Server:
    """One thread, one connection after another, which each answer ends."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.answer: Answer = lambda request: None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            with connection, suppress(OSError):
                connection.settimeout(0.5)
                request = b""
                while b"\r\n\r\n" not in request:
                    more = connection.recv(65536)
                    if not more:
                        break
                    request += more
                said = self.answer(request)
                if said is not None:
                    connection.sendall(said)
                    connection.shutdown(socket.SHUT_WR)


@cache
def server() -> Server:
    return Server()


def right(content: bytes) -> Answer:
    """As a good server answers, one request a connection."""

    def answer(request: bytes) -> bytes:
        wanted = re.search(rb"Range: bytes=(\d+)-(\d*)", request)
        if not wanted:
            return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if first >= len(content):
            return (
                b"HTTP/1.1 416 X\r\nConnection: close\r\nContent-Length: 0\r\nContent-Range: bytes */%d\r\n\r\n"
                % len(content)
            )
        head = b"HTTP/1.1 206 X\r\nConnection: close\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
        return head % (last + 1 - first, first, last, len(content)) + content[first : last + 1]

    return answer


NUMBERS = [
    "0",
    "1",
    "-1",
    "5",
    "²",
    "١٢",
    "9" * 5000,
    "1e3",
    "0x10",
    " 7 ",
    "7, 7",
    "7,8",
    "+5",
    "1_0",
    "",
    "nan",
    "18446744073709551616",
    "99999999999",
]
STATUS = [
    "200 OK",
    "206 X",
    "416 X",
    "404 No",
    "403 No",
    "500 No",
    "503 x",
    "302 x",
    "301 x",
    "307 x",
    "308 x",
    "204 x",
    "304 x",
    "100 Continue",
    "101 x",
    "999 x",
    "0 x",
    "²00 x",
    "200",
    "20",
    "",
    "-1 x",
    "200 \x1b[2J\x1b[31m",
    "404 \x1b]0;x\x07",
    "403 \x9b31m",
    "401 x",
    "429 x",
    "200 " + "x" * 70_000,
]
PLACES = [
    "/b.tar",
    "http://[::1",
    "http://127.0.0.1:1/",
    "//x",
    "ftp://h/x",
    "file:///etc/passwd",
    "pipe:touch x",
    "",
    "\x00",
    "http://²/",
    "/\x1b[2J",
    "http://user:pw@127.0.0.1:9/",
    "https://127.0.0.1:9/",
    "http://a b/",
    "/a.tar",
    "x" * 9000,
    "http://127.0.0.1:99999/",
    "?x",
    "http:///x",
    "é",
]


def lying(rng: Random, content: bytes, port: int) -> Answer:
    """An answer whose head and body don't go together."""

    def number() -> str:
        return rng.choice(NUMBERS) if rng.random() < 0.6 else str(len(content) + rng.choice([0, 0, -3, 4, 1000]))

    status = rng.choice(STATUS) if rng.random() < 0.6 else "200 OK"
    headers = []
    for _ in range(rng.randint(0, 5)):
        way = rng.randrange(9)
        if way <= 2:
            headers.append(f"Content-Length: {number()}")
        elif way == 3:
            headers.append(f"Content-Range: bytes {number()}-{number()}/{number()}")
        elif way == 4:
            headers.append(f"Content-Range: {rng.choice(['bytes */*', 'bytes x', '', 'bytes 0-/5', 'items 0-1/2'])}")
        elif way == 5:
            headers.append(
                f"Transfer-Encoding: {rng.choice(['chunked', 'gzip', 'chunked, chunked', 'x', 'Chunked '])}"
            )
        elif way == 6:
            place = rng.choice(PLACES)
            headers.append(f"Location: {place}")
        elif way == 7:
            headers.append(
                f"Retry-After: {rng.choice([*NUMBERS, 'Wed, 21 Oct 2015 07:28:00 GMT', 'Wed, 99 Foo', 'x'])}"
            )
        else:
            headers.append(
                rng.choice(
                    [
                        "Content-Encoding: gzip",
                        "ETag: \x00",
                        ": x",
                        "no colon",
                        "X: " + "y" * 70_000,
                        "Set-Cookie: a=b",
                        " folded: x",
                        "Connection: close",
                        "Last-Modified: x",
                    ]
                )
            )
    if rng.random() < 0.03:
        headers += ["A: b"] * 200
    chunks = [
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content),
        b"\xb2\r\nx",
        b"-5\r\nxxxxx\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nx",
        b"5\r\nab",
        b"1;" + b"x" * 70_000 + b"\r\na\r\n0\r\n\r\n",
        b"3\r\nabc\r\n" * 3000,
    ]
    body = rng.choice(
        [content, content, content[: len(content) // 2], content * 2, b"", rng.choice(chunks), rng.choice(chunks)]
    )
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{header}\r\n" for header in headers) + "\r\n"
    raw = head.encode("latin-1", "replace") + body
    if rng.random() < 0.1:
        raw = mutate.data(raw, rng)
    if rng.random() < 0.03:
        raw = rng.choice(
            [
                b"",
                b"\r\n\r\n",
                b"HTTP/9.9 200 OK\r\n\r\n",
                b"ICY 200 OK\r\n\r\n",
                b"\x16\x03\x01",
                b"HTTP/1.1 200 OK",
                b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
            ]
        )
    return lambda request: raw


def servers(rng: Random, folder: Path) -> Trial:
    """A file, or an index and its shard, read with its length known or not, through the cache or not."""
    content = rng.randbytes(rng.choice([10, 700, 3000]))
    here = server()
    good = right(content)
    answers = [lying(rng, content, here.port) if rng.random() < 0.6 else good for _ in range(4)]
    lies = [answer is not good for answer in answers]
    asked = iter(answers)
    here.answer = lambda request: (next(asked, good))(request)
    user = rng.choice(["", f"user:{CANARY}@"])
    url = f"http://{user}127.0.0.1:{here.port}/a.tar{rng.choice(['', f'?sig={CANARY}'])}"
    cache_folder = str(folder / "cache") if rng.random() < 0.4 else None
    what = rng.randrange(5)

    def call() -> object:
        files = Files(retries=rng.choice([0, 2]), timeout=0.4, backoff=0.0, cache=cache_folder, cache_gb=1e-5)
        if what == 0:
            size = files.size(url)
            if not any(lies) and size != len(content):
                raise Lost("http: another size than the server's", size)
            return size
        if what == 1:
            return open_index(url.replace("a.tar", "index.json"), files).samples
        if what == 2:
            data = files.read(url)
        elif what == 3:
            with files.open(url, size=len(content)) as file:
                data = file.read()
            if len(data) != len(content):
                raise Lost("http: other bytes than the index says", len(data), len(content))
        else:
            first, last = sorted(rng.sample(range(len(content) + 1), 2))
            with files.open(url, first, last, len(content)) as file:
                data = file.read()
            if len(data) != last - first:
                raise Lost("http: other bytes than were asked for", len(data), last - first)
            if not any(lies) and data != content[first:last]:
                raise Lost("http: other bytes than the file's")
        if cache_folder and sum(f.stat().st_size for f in Path(cache_folder).rglob("*") if f.is_file()) > 1e4:
            raise Lost("http: the cache holds more than its limit")
        return len(data), dict(files.take_retries())

    return Trial(call, port=here.port)
