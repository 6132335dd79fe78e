"""S3 against a real server that speaks it (moto), in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import http_server as http
import pytest

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.index import open_index, scan

DATA = os.urandom(9_000_000)  # three requests


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto is not installed: pip install -e '.[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # it says so once it listens
        if "Running on" in line:
            break
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket named 'set' with the object x.tar; its file system, to write more."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    if not system.exists("set"):
        system.mkdir("set")
    system.pipe_file("set/x.tar", DATA)
    yield system
    s3fs.S3FileSystem.clear_instance_cache()


def test_parts_sizes_and_missing_objects(bucket: Any) -> None:
    files = Files(backoff=0.001)
    assert files.size("s3://set/x.tar") == len(DATA) and files.size("s3://set/none") is None
    for start, stop in [(0, None), (8_999_999, None), (1000, 5_000_000), (3, 3)]:
        with files.open("s3://set/x.tar", start, stop, len(DATA)) as part:
            assert part.read() == DATA[start:stop]
    with pytest.raises(UserError, match=r"s3://set/none does not exist"):
        files.read("s3://set/none")
    with pytest.raises(UserError, match=r"s3://set/x\.tar has 9000000 bytes where its index says 7"):
        files.open("s3://set/x.tar", 0, 5, 7).read()
    assert not files.take_retries()


def test_an_index_in_a_bucket_with_its_shards(bucket: Any, shards: Path, tmp_path: Path) -> None:
    for file in shards.parent.iterdir():
        bucket.pipe_file(f"set/train/{file.name}", file.read_bytes())
    files = Files(cache=str(tmp_path / "cache"))
    index = open_index("s3://set/train/index.json", files)
    assert index.samples == 80
    shard = index.shards[1]
    with files.open(shard.path, size=shard.bytes) as file:
        (tmp_path / "copy.tar").write_bytes(file.read())
    assert scan(str(tmp_path / "copy.tar"))[0].samples == 8
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_object_that_changes_is_never_mixed(bucket: Any) -> None:
    with Files(backoff=0.001).open("s3://set/x.tar") as file:
        assert file.read(1000) == DATA[:1000]
        bucket.pipe_file("set/x.tar", DATA[::-1])
        with pytest.raises(UserError, match=r"s3://set/x\.tar changed on the server while it was read"):
            file.read()


def test_faults_are_tried_again_by_us_alone(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that fails in between: each fault is counted once, and the packages' own retries don't multiply it."""
    import s3fs

    with http.serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url(""))
        s3fs.S3FileSystem.clear_instance_cache()
        server.files["/set/x"] = DATA
        files = Files(backoff=0.001, retries=3)
        server.faults += [http.serve, http.status(503), http.serve, http.drop(1_000_000)]
        with files.open("s3://set/x") as file:
            assert file.read() == DATA
        assert sum(files.take_retries().values()) == 2
        server.faults += [http.status(500)] * 4
        before = len(server.asked)
        with pytest.raises(UserError, match=r"s3://set/x could not be read: failed with .*, after 4 tries"):
            files.read("s3://set/x")
        assert len(server.asked) == before + 4
        server.faults.append(http.status(403))
        with pytest.raises(UserError, match=r"s3://set/x is refused by its server"):
            files.read("s3://set/x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://set/x needs the package gcsfs: pip install 'diptych\[remote\]'"):
        Files().read("gs://set/x")
