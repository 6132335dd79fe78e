"""The cache: one download for all processes of a machine, nothing half taken for whole, a limit that holds."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import http_server as http
import pytest

from diptych.base.errors import UserError
from diptych.data.io.files import Files

URL = "/set/x.tar"
SIZE = 200_000
READER = """
import sys
from diptych.data.io.files import Files
files = Files(cache=sys.argv[1], cache_gb=1, backoff=0.001)
print("ready", flush=True)
sys.stdin.readline()
for url in sys.argv[2:]:
    with files.open(url, 1000) as part:
        print(len(part.read()), flush=True)
"""


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serving() as server:
        for number in range(9):
            server.files[f"/set/{number}.tar"] = os.urandom(SIZE)
        server.files[URL] = os.urandom(SIZE)
        yield server


def cached(folder: Path, **changes: float) -> Files:
    return Files(**{"cache": str(folder), "backoff": 0.001} | changes)  # type: ignore[arg-type]


def reader(folder: Path, *urls: str) -> subprocess.Popen[str]:
    """A process that reads through the cache once it gets a line."""
    command = [sys.executable, "-c", READER, str(folder), *urls]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def read(files: Files, url: str, size: int | None = SIZE) -> bytes:
    with files.open(url, size=size) as file:
        return file.read()


def test_a_shard_is_fetched_once_and_read_in_parts(server: http.Server, tmp_path: Path) -> None:
    files = cached(tmp_path / "cache")
    for start, stop in [(0, None), (5, 90), (100_000, None), (7, 7)]:
        with files.open(server.url(URL), start, stop, SIZE) as part:
            assert part.read() == server.files[URL][start:stop]
    assert server.asked == [(URL, None)]
    [kept] = (tmp_path / "cache").iterdir()
    assert kept.name.endswith("-x.tar") and kept.read_bytes() == server.files[URL]


def test_small_files_are_never_kept(server: http.Server, tmp_path: Path) -> None:
    files = cached(tmp_path / "cache")
    assert files.read(server.url(URL)) == server.files[URL]
    assert not (tmp_path / "cache").exists()


def test_without_an_index_the_server_says_the_size(server: http.Server, tmp_path: Path) -> None:
    assert read(cached(tmp_path), server.url(URL), None) == server.files[URL]
    with pytest.raises(UserError, match=r"none\.tar does not exist"):
        read(cached(tmp_path), server.url("/none.tar"), None)


def test_faults_are_tried_again_and_a_wrong_size_is_named(server: http.Server, tmp_path: Path) -> None:
    files = cached(tmp_path)
    server.faults += [http.drop(50_000), http.status(503)]
    assert read(files, server.url(URL)) == server.files[URL]
    assert sum(files.take_retries().values()) == 2
    for fault, found in ((http.serve, "200000 bytes where its"), (http.chunked(), "more than the 7 bytes that its")):
        server.faults.append(fault)
        with pytest.raises(UserError, match=rf"0\.tar has {found} index says"):
            read(files, server.url("/set/0.tar"), 7)
    assert len(list(tmp_path.iterdir())) == 1


def test_several_processes_fetch_it_once(server: http.Server, tmp_path: Path) -> None:
    server.faults.append(http.hang(SIZE // 2))
    processes = [reader(tmp_path, server.url(URL)) for _ in range(3)]
    for process in processes:
        go(process)
    assert server.reached.wait(30)
    server.release.set()
    for process in processes:
        assert process.communicate(timeout=30)[0] == f"{SIZE - 1000}\n"
    # Each asks for the size, which no index said; the shard itself is asked for once.
    assert [wanted for _, wanted in server.asked].count(None) + server.asked.count((URL, "bytes=0-0")) == 4
    assert [wanted for _, wanted in server.asked].count(None) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_kill_leaves_nothing_that_is_taken_for_whole(server: http.Server, tmp_path: Path) -> None:
    server.faults += [http.serve, http.hang(SIZE // 2)]
    process = reader(tmp_path, server.url(URL))
    go(process)
    assert server.reached.wait(30)
    [left] = tmp_path.iterdir()
    assert left.suffix == ".partial"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.release.set()
    assert [file.suffix for file in tmp_path.iterdir()] == [".partial"]
    assert read(cached(tmp_path), server.url(URL)) == server.files[URL]
    assert [file.suffix for file in tmp_path.iterdir()] == [".tar"]


@pytest.mark.slow
def test_who_waits_for_a_process_that_is_killed_fetches_it_itself(server: http.Server, tmp_path: Path) -> None:
    server.faults += [http.serve, http.hang(SIZE // 2)]
    first, second = (reader(tmp_path, server.url(URL)) for _ in range(2))
    go(first)
    assert server.reached.wait(30)
    go(second)
    first.kill()
    first.communicate()
    assert second.communicate(timeout=30)[0] == f"{SIZE - 1000}\n"


def test_the_least_recently_used_make_room(server: http.Server, tmp_path: Path) -> None:
    files = cached(tmp_path, cache_gb=3.5 * SIZE / 1e9)
    (tmp_path / "notes.txt").write_bytes(b"x" * SIZE * 4)
    reading = files.open(server.url("/set/0.tar"), size=SIZE)
    for number in (0, 1, 2, 0, 3):  # 3 makes 1 go: 0 was used since
        age(tmp_path)
        assert read(files, server.url(f"/set/{number}.tar")) == server.files[f"/set/{number}.tar"]
    assert names(tmp_path) == ["0.tar", "2.tar", "3.tar"]
    for number in (4, 5, 6):
        age(tmp_path)
        read(files, server.url(f"/set/{number}.tar"))
    assert names(tmp_path) == ["4.tar", "5.tar", "6.tar"]
    assert reading.read() == server.files["/set/0.tar"]  # removed while it was read
    assert (tmp_path / "notes.txt").exists()  # not ours


def age(folder: Path) -> None:
    """Everything is a second older: so the order of use is told by clocks of any grain."""
    for file in folder.iterdir():
        os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))


def names(folder: Path) -> list[str]:
    return sorted(file.name.partition("-")[2] for file in folder.iterdir() if "-" in file.name)


@pytest.mark.slow
def test_what_dead_processes_left_makes_room_and_what_is_being_fetched_stays(
    server: http.Server, tmp_path: Path
) -> None:
    server.faults += [http.serve, http.hang(SIZE // 2)]
    process = reader(tmp_path, server.url(URL))
    go(process)
    assert server.reached.wait(30)
    (tmp_path / f"{'0' * 32}-dead.tar.partial").write_bytes(b"x" * SIZE)
    files = cached(tmp_path, cache_gb=2.5 * SIZE / 1e9)
    for number in (0, 1):
        age(tmp_path)
        read(files, server.url(f"/set/{number}.tar"))
    assert names(tmp_path) == ["1.tar", "x.tar.partial"]  # the one being fetched counts in full
    server.release.set()
    assert process.communicate(timeout=30)[0] == f"{SIZE - 1000}\n"
    assert names(tmp_path) == ["1.tar", "x.tar"]


def test_a_shard_above_the_limit_is_named(server: http.Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.tar of 0\.0002 GB is more than data\.files\.cache_gb=0\.0001"):
        read(cached(tmp_path, cache_gb=0.0001), server.url(URL))
    assert not server.asked


def test_a_file_that_a_hand_changed_is_fetched_again(server: http.Server, tmp_path: Path) -> None:
    files = cached(tmp_path)
    read(files, server.url(URL))
    next(tmp_path.iterdir()).write_bytes(b"short")
    assert read(files, server.url(URL)) == server.files[URL]


def test_no_address_chooses_a_path(server: http.Server, tmp_path: Path) -> None:
    for path in ("/set/..%2F..%2Fevil", "/set/" + "x" * 300):
        server.files[path] = os.urandom(SIZE)
        read(cached(tmp_path / "cache"), server.url(path))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]


def test_a_full_or_forbidden_folder_is_named(server: http.Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.files\.cache=.*file can't hold .*x\.tar \(File exists\)"):
        read(cached(tmp_path / "file"), server.url(URL))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=os.strerror(errno.EFBIG)):
            read(cached(tmp_path / "small"), server.url(URL))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "small").iterdir())
