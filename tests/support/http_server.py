"""A real HTTP server on loopback, with ranges, kept connections, and faults that a test queues."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """files: path -> bytes. Each request gets the next of `faults`; without one it is served normally."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: deque[Fault] = deque()
        self.asked: list[tuple[str, str | None]] = []  # path and Range of every request
        self.headers: list[dict[str, str]] = []  # by lower-case names
        self.connections = 0
        self.reached, self.release = threading.Event(), threading.Event()  # an answer hangs; it may continue

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: Any) -> None:
        """Ignores clients that disconnect: the tests do that."""

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((path, self.headers.get("Range")))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        fault = self.server.faults.popleft() if self.server.faults else serve
        data = self.server.files.get(path)
        if data is None and fault is serve:
            return status(404)(self, b"")
        return fault(self, data or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def start(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def part(self, data: bytes) -> bytes:
        """Sends the head of the answer to a range, or to the whole; gives its body."""
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.start(200, Content_Length=len(data), ETag=tag)
            return data
        first = int(wanted[1])
        last = min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self.start(416, Content_Length=0, Content_Range=f"bytes */{len(data)}")
            return b""
        extent = f"bytes {first}-{last}/{len(data)}"
        self.start(206, Content_Length=last + 1 - first, Content_Range=extent, ETag=tag)
        return data[first : last + 1]


Fault = Callable[[Handler, bytes], None]


def serve(handler: Handler, data: bytes) -> None:
    body = handler.part(data)
    if handler.command == "GET":
        handler.wfile.write(body)


def status(code: int, **headers: object) -> Fault:
    return lambda handler, _: handler.start(code, Content_Length=0, **headers)


def redirect(to: str) -> Fault:
    return status(302, Location=to)


def drop(after: int, reset: bool = False) -> Fault:
    """Sends the head and `after` bytes of the body, then closes the connection: normally, or with a reset."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.wfile.write(handler.part(data)[:after])
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        handler.close_connection = True

    return fault


def hang(after: int) -> Fault:
    """Sends `after` bytes of the body, then nothing until the test releases it."""

    def fault(handler: Handler, data: bytes) -> None:
        body = handler.part(data)
        handler.wfile.write(body[:after])
        handler.server.reached.set()
        handler.server.release.wait(60)
        handler.wfile.write(body[after:])

    return fault


def plain(handler: Handler, data: bytes) -> None:
    """Answers like a server without ranges."""
    handler.start(200, Content_Length=len(data))
    handler.wfile.write(data)


def chunked(cut: int | None = None) -> Fault:
    """Sends the whole file in chunks, without its length; `cut`: only so many bytes, without an end."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.start(200, Transfer_Encoding="chunked")
        body = data[:cut]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if cut is None:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return fault


def endless(handler: Handler, data: bytes) -> None:
    """Sends no length and no chunks: the body ends with the connection, so a cut looks like the end."""
    handler.start(200, Connection="close")
    handler.wfile.write(data)
    handler.close_connection = True


@contextmanager
def serving(certificate: str | None = None) -> Iterator[Server]:
    """Runs the server in a thread of this process; with TLS if a file with key and certificate is given."""
    server = Server()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
