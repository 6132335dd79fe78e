"""A server on loopback with one file."""

from __future__ import annotations

from collections.abc import Iterator

import http_server as http
import pytest
from http_reading import DATA, URL


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serving() as server:
        server.files[URL] = DATA
        yield server
