"""Reading from the test server, with short timeouts."""

from __future__ import annotations

import os

import http_server as http

from diptych.data.io.files import Files

DATA = os.urandom(1_500_000)

URL = "/set/x.tar"

LONG = "9" * 5000


def patient(**changes: float) -> Files:
    return Files(**{"retries": 3, "timeout": 5.0, "backoff": 0.001} | changes)  # type: ignore[arg-type]


def whole(files: Files, url: str, start: int = 0, stop: int | None = None, size: int | None = None) -> bytes:
    with files.open(url, start, stop, size) as file:
        return file.read()


def saying(code: int = 200, body: bytes | None = None, reason: str | None = None, **headers: object) -> http.Fault:
    """An answer with these headers, true or not."""

    def fault(handler: http.Handler, data: bytes) -> None:
        handler.send_response(code, reason)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(data if body is None else body)
        handler.close_connection = True

    return fault
