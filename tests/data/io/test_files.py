"""Addresses: what is read, what is refused, what messages print; local files, commands, and an index by HTTP."""

from __future__ import annotations

import json
import os
import pickle
import select
from collections.abc import Iterator
from pathlib import Path

import http_server
import numpy as np
import pytest

from diptych.base.errors import UserError
from diptych.data.io.address import is_local, local, shown
from diptych.data.io.files import Files
from diptych.data.stream.index import open_index, scan
from samples import write_shards


@pytest.fixture
def server() -> Iterator[http_server.Server]:
    with http_server.serving() as server:
        yield server


def test_a_local_file_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "with a space.tar"
    path.write_bytes(data := os.urandom(300_000))
    files = Files()
    for address in (str(path), f"file://{path}"):
        assert is_local(address) and local(address) == str(path)
        assert files.size(address) == len(data)
        assert files.read(address) == data
        for start, stop in [(0, None), (5, None), (7, 280_000), (300_000, None), (9, 9)]:
            with files.open(address, start, stop, size=len(data)) as part:
                assert part.read() == data[start:stop]
    assert files.size(str(tmp_path / "none")) is None


def test_a_local_file_that_is_missing_cut_or_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"0123456789")
    with pytest.raises(UserError, match=r"none\.tar can't be opened"):
        Files().open(str(tmp_path / "none.tar"))
    with pytest.raises(UserError, match=r"x\.tar has 10 bytes where its index says 11"):
        Files().open(str(path), size=11)
    with Files().open(str(path), 4, 12) as part, pytest.raises(UserError, match=r"x\.tar ends 2 bytes early"):
        part.read()


@pytest.mark.parametrize(
    "address, why",
    [
        ("file://host/x.tar", "names a host"),
        ("file:relative://x.tar", "unknown scheme"),
        ("file:///a%2fb.tar", "escaped"),
        ("http://host/a b.tar", "space"),
        ("http://host/a\nHost: evil/x.tar", "control character"),
        ("/a\0b.tar", "control character"),
        ("http://host/a\\b.tar", "backslash"),
        ("http:///x.tar", "no host"),
        ("http://x.json", "no file on its host"),
        ("s3://index.json", "no file on its host"),
        ("http://host:port/x.tar", "is not a valid URL"),
        ("http://[::1/x.tar", "is not a valid URL"),
        ("http://host/x.tar#part", "has a '#'"),
        ("ftp://host/x.tar", "unknown scheme"),
        ("sftp://host/x.tar", "unknown scheme"),
        ("hdfs://host/x.tar", "unknown scheme"),
        ("simplecache::s3://bucket/x.tar", "unknown scheme"),
        ("reference://x", "unknown scheme"),
        ("github://org:repo@main/x.tar", "unknown scheme"),
        ("local:///etc/passwd", "unknown scheme"),
        ("s3://bucket/x.zip::file:///etc/passwd", "chains"),
        ("pipe:cat x.tar", "would run a program"),
    ],
)
def test_addresses_that_are_refused(address: str, why: str) -> None:
    files = Files()
    with pytest.raises(UserError, match=why) as error:
        files.check(address, "data.val")
    assert str(error.value).startswith("data.val=")
    for use in (files.open, files.read):
        with pytest.raises(UserError, match=why):
            use(address)


def test_addresses_that_are_taken() -> None:
    paths = ["x.tar", "/a b/{000..003}.tar", "file:///x.tar"]
    urls = ["http://host/{0..3}.tar", "https://u:p@host:8/x", "http://[::1]:80/x.tar", "HTTP://host/x"]
    for address in [*paths, *urls, "s3://bucket/x.tar", "gs://bucket/x", "gcs://bucket/x"]:
        Files().check(address)
    Files(allow_pipe=True).check("pipe:cat x")


@pytest.mark.parametrize(
    "address, printed",
    [
        ("https://user:secret@host:8443/a@b/x.tar?X-Amz-Signature=secret#secret", "https://host:8443/a@b/x.tar"),
        ("https://user:sec/ret@host/x.tar", "https://…"),
        ("s3://key:secret@bucket/x.tar", "s3://bucket/x.tar"),
        ("pipe:curl -H 'Authorization: secret' https://x", "pipe:curl …"),
        ("/a?b#c@d", "/a?b#c@d"),
        ("file://host/x.tar?sig=secret", "file://host/x.tar"),
        ("file://user:secret@host/x.tar", "file://host/x.tar"),
        ("file:///x/a b.tar", "file:///x/a b.tar"),
        ("x.org/x.tar?sig=secret", "x.org/x.tar?…"),
        ("gs://a/b://user:secret@host/x", "gs://…"),
        ("gs://a://user:secret@host/x", "gs://…"),
        ("PIPE:cat secret", "PIPE:cat …"),
    ],
)
def test_messages_never_print_a_secret(address: str, printed: str) -> None:
    assert shown(address) == printed


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    for path in (tmp_path / "a.tar", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="is a folder, a pipe or a device"):
            Files().open(str(path))
    assert Files().size(f"{tmp_path}/\ud800.tar") is None
    with pytest.raises(UserError, match="can't be opened"):
        Files().open(f"{tmp_path}/\ud800.tar")


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"retries": -1}, {"timeout": 0.0}, {"backoff": -1.0}, {"cache_gb": 0.0}):
        with pytest.raises(UserError, match=r"data\.files has"):
            Files(**wrong)


def test_settings_travel_and_connections_do_not(server: http_server.Server) -> None:
    server.files["/x"] = b"abc"
    files = Files(retries=7, allow_pipe=True, backoff=0.001)
    server.faults.append(http_server.status(503))
    assert files.read(server.url("/x")) == b"abc"
    other = pickle.loads(pickle.dumps(files))
    assert other.__getstate__() == files.__getstate__() and other.patience.retries == 7
    assert sum(files.take_retries().values()) == 1 and not other.take_retries() and not files.take_retries()
    before = server.connections
    assert other.read(server.url("/x")) == b"abc" and server.connections == before + 1


def test_after_a_fork_nobody_reads_on_the_connections_of_another(server: http_server.Server) -> None:
    """A pool that a forked worker inherits holds sockets of its parent."""
    server.files["/x"] = b"abc"
    files = Files()
    assert files.read(server.url("/x")) == b"abc"
    child = os.fork()
    if child == 0:
        os._exit(0 if files.read(server.url("/x")) == b"abc" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert files.read(server.url("/x")) == b"abc"
    assert server.connections == 2  # the parent's, used twice, and the child's


def test_a_command_is_read_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data := os.urandom(700_000))
    files = Files(allow_pipe=True)
    for start, stop in [(0, None), (300_000, None), (5, 600_000), (0, 10), (3, 3)]:
        with files.open(f"pipe:cat {path}", start, stop) as part:
            assert part.read() == data[start:stop]
    for command, why in [
        (
            f"pipe:cat {path}; echo first >&2; echo no bucket >&2; exit 3",
            r"pipe:cat … failed with exit code 3 \(no b",
        ),
        (f"pipe:head -c 9 {path}", r"ends at byte 9 where 10 were asked for"),
    ]:
        with files.open(command, 0, 10 if "head" in command else None) as part, pytest.raises(UserError, match=why):
            part.read()


def test_a_command_that_is_left_ends_with_its_children(tmp_path: Path) -> None:
    # Each of its processes holds the fifo open until it ends. A process group would still be there while its dead
    # wait for init to reap them, which on some machines nobody does.
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    part = Files(allow_pipe=True).open(f"pipe:exec 9>{fifo}; echo started; yes | cat")
    assert part.readline() == b"started\n"
    assert select.select([reader], [], [], 0)[0] == []
    part.close()
    assert select.select([reader], [], [], 30)[0] == [reader] and os.read(reader, 1) == b""
    os.close(reader)


def test_shards_by_command_are_counted_as_files_are(shards: Path) -> None:
    tar = shards.parent / "train-000000.tar"
    files = Files(allow_pipe=True)
    ours, theirs = scan(f"pipe:cat {tar}", files), scan(str(tar))
    assert (ours[0].samples, ours[0].bytes) == (theirs[0].samples, theirs[0].bytes)
    assert np.array_equal(ours[1], theirs[1])  # type: ignore[arg-type]
    zipped = scan(f"pipe:gzip -c {tar}", files)
    assert zipped[0].samples == 32 and zipped[1] is None
    (shards.parent / "cut.tar").write_bytes(tar.read_bytes()[:20000])
    for cut in (f"pipe:head -c 20000 {tar}", str(shards.parent / "cut.tar")):
        with pytest.raises(UserError, match=r"is cut or damaged after 2 samples"):
            scan(cut, files)
    with pytest.raises(UserError, match="an index by a command"):
        open_index(f"pipe:cat {shards}", files)


def published(server: http_server.Server, shards: Path) -> None:
    """The folder of shards on the server, each with its offsets."""
    index = json.loads(shards.read_text())
    for entry in index["shards"]:
        tar = shards.parent / entry["path"]
        offsets = scan(str(tar))[1]
        assert offsets is not None
        entry["offsets"] = True
        server.files[f"/set/{entry['path']}"] = tar.read_bytes()
        server.files[f"/set/{entry['path']}.idx"] = offsets.astype("<i8").tobytes()
    server.files["/set/index.json"] = json.dumps(index).encode()


def test_an_index_with_its_offsets_is_read_by_http(server: http_server.Server, shards: Path) -> None:
    published(server, shards)
    files = Files(backoff=0.001)
    server.faults += [http_server.status(503), http_server.serve, http_server.drop(20)]
    index = open_index(server.url("/set/index.json", user="me:secret@"), files)
    assert [shard.samples for shard in index.shards] == [32, 8, 24, 16]
    offsets = index.offsets(2, files)
    assert offsets is not None and np.array_equal(offsets, scan(str(shards.parent / "train-000002.tar"))[1])  # type: ignore[arg-type]
    shard = index.shards[2]
    with files.open(shard.path, int(offsets[3]), int(offsets[5]), shard.bytes) as part:
        assert part.read() == server.files["/set/train-000002.tar"][offsets[3] : offsets[5]]
    assert {header["authorization"] for header in server.headers} == {"Basic bWU6c2VjcmV0"}
    assert sum(files.take_retries().values()) == 2

    server.files["/set/train-000001.tar.idx"] += b"123"
    with pytest.raises(UserError, match=r"//127[^@]*train-000001\.tar\.idx does not fit its shard"):
        index.offsets(1, files)


@pytest.mark.parametrize(
    "entry",
    ["http://127.0.0.1:9/x.tar", "../x.tar", "a/../../x.tar", "%2e%2e/x.tar", "a/%2E%2E/%2e%2e/x.tar", "//host/x.tar",
     "/x.tar", "..\\x.tar", "\\\\host\\x.tar", "x.tar?y", "x.tar#y", "pipe:touch x", "file:///etc/passwd",
     "s3://bucket/x.tar", "a b.tar", "a\r\nHost: evil.tar", "a\0.tar"],
)  # fmt: skip
def test_an_index_names_only_what_lies_beside_it(server: http_server.Server, tmp_path: Path, entry: str) -> None:
    written = json.dumps({"version": 1, "shards": [{"path": entry, "samples": 1, "bytes": 1}]})
    server.files["/set/index.json"] = written.encode()
    with pytest.raises(UserError, match=r"outside its own folder|space or a backslash|control character"):
        open_index(server.url("/set/index.json"), Files(allow_pipe=True))
    assert {path for path, _ in server.asked} == {"/set/index.json"}
    (tmp_path / "index.json").write_text(written)  # a local one: no remote shards either
    with pytest.raises(UserError, match=r"outside its own folder|control character|is missing"):
        open_index(str(tmp_path / "index.json"), Files(allow_pipe=True))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"shards": [{"path": "x", "bytes": 1, "samples": 1e999}]}', b"\xff\xfe", b"<html>"]
)
def test_an_index_that_is_none_is_refused(server: http_server.Server, body: bytes) -> None:
    server.files["/index.json"] = body
    with pytest.raises(UserError, match="is not an index of shards"):
        open_index(server.url("/index.json"))


def test_an_index_that_never_ends_is_refused(server: http_server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.io.files.SMALL", 1000)
    server.files["/index.json"] = b" " * 1001
    with pytest.raises(UserError, match="more than 1000 bytes and is no index"):
        open_index(server.url("/index.json"))


def test_patterns_are_checked_after_they_are_expanded(tmp_path: Path) -> None:
    write_shards(tmp_path, [2], index=False)
    for hidden in ("pipe:touch sentinel", "ftp://host/x.tar"):
        with pytest.raises(UserError, match=r"refused|unknown scheme"):
            open_index(f"{{{tmp_path}/train-000000.tar,{hidden}}}")
