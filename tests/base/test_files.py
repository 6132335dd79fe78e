"""Files are written whole or not at all, under real kills and on a full disk; only regular files are opened, and no
opening waits for a pipe."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diptych.base import files
from diptych.base.errors import UserError
from diptych.base.files import PACKAGE, NotRegular, open_regular, read_regular
from diptych.base.terminal import visible
from diptych.data.io.files import Files
from diptych.data.sets.folders import folder_set
from diptych.packing.checking import check_shard
from diptych.packing.entries import Entry, LeftOut
from diptych.packing.table import text_rows
from diptych.training.loggers import MetricsFile
from samples import picture

LIMIT = 1000


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow past LIMIT bytes, which the system says as it says a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_json_holds_nothing_that_steers_a_terminal(tmp_path: Path) -> None:
    value = {"\x1b[31mÄrger\x7f\x9b": "犬\u202e\t\n\ud800"}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == visible(text) and "Ärger" in text and "犬" in text and json.loads(text) == value


def test_a_file_and_its_folder_are_made(tmp_path: Path) -> None:
    file = tmp_path / "a/b/c.json"
    files.write_json(file, {"name": "Ärger \udc80"})
    files.write_json(file, {"n": 1})
    assert file.read_text() == '{\n "n": 1\n}\n'
    assert [each.name for each in file.parent.iterdir()] == ["c.json"]
    assert oct(file.stat().st_mode & 0o777) == oct(0o666 & ~umask())


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_what_a_full_disk_refuses_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    files.write(file, "before")
    with full_disk(), pytest.raises(UserError, match=r"metrics\.json can't be written \(File too large\)"):
        files.write(file, "x" * 2 * LIMIT)
    assert file.read_text() == "before" and [each.name for each in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no") as raised, files.beside(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "half").write_text("")
        raise OSError(28, "no room")
    assert raised.value.filename == str(tmp_path / "out") and not list(tmp_path.iterdir())
    with files.beside(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "whole").write_text("")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["whole"]


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"metrics\.json can't be written \(File exists: .*/file\)"):
        files.write(tmp_path / "file/metrics.json", "")


def test_lines_of_a_run_that_went_on_are_cut_off_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = "".join(f'{{"step": {step}, "x": {"1" * 90}}}\n' for step in range(1, 31))
    file.write_text(lines)
    with full_disk(), pytest.raises(UserError, match="File too large"):
        MetricsFile(file, resume_from=20)
    assert file.read_text() == lines
    MetricsFile(file, resume_from=5)
    assert file.read_text() == "".join(lines.splitlines(keepends=True)[:5])


def test_nothing_is_written_where_no_line_goes(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n')
    before = file.stat().st_ino
    MetricsFile(file, resume_from=2)
    assert file.stat().st_ino == before
    file.write_text('{"step": 1}\n{"step": 2')  # cut by a crash
    MetricsFile(file, resume_from=2)
    assert file.read_text() == '{"step": 1}\n'


KILLED = """
import os, signal, sys
from pathlib import Path
from diptych.base import files
with files.beside(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "index.json"
    file.write_text("old")
    path = str(PACKAGE.parent)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file)], env={**os.environ, "PYTHONPATH": path})
    assert ended.returncode == -signal.SIGKILL
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    files.remove_partials(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["index.json"]


@pytest.fixture(autouse=True)
def _no_wait() -> Iterator[None]:
    """A test that waits for a writer fails."""

    def fail(*_: object) -> None:
        raise AssertionError("it waits for somebody to write into the pipe")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name may have a hundred letters
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for path in ("pipe", "socket", "/dev/null"):
            with pytest.raises(NotRegular, match="a pipe, a device or a socket"):
                open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    Path("file").write_bytes(b"data")
    Path("link").symlink_to("file")
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert read_regular("link") == b"data"
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def swap(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def test_a_picture_that_became_a_pipe_is_counted(tmp_path: Path) -> None:
    (tmp_path / "set/cat").mkdir(parents=True)
    for n in range(2):
        (tmp_path / f"set/cat/{n}.png").write_bytes(picture(n))
    (found,) = folder_set(str(tmp_path / "set"))
    swap(tmp_path / "set/cat/0.png")
    (batch,) = found.batches(4, 8)
    assert batch.keys == ["cat/1.png"]
    assert found.skipped == {"can't be read (a pipe, a device or a socket)": ["cat/0.png"]}


def test_a_row_whose_file_became_a_pipe_is_left_out(tmp_path: Path) -> None:
    whole, pipe = tmp_path / "a.png", str(swap(tmp_path / "pipe"))
    whole.write_bytes(picture(0))
    with pytest.raises(LeftOut, match="image file is none, but a pipe"):
        Entry("a", pipe, ("a",)).sample("0")
    with pytest.raises(LeftOut, match="the caption's file can't be read"):
        Entry("a", str(whole), beside=(("txt", pipe),)).sample("0")


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda file: Files().open(str(file)), UserError),
        (lambda file: list(text_rows(file, ["a"])), NotRegular),
    ],
)
def test_a_file_that_became_a_pipe_is_refused(tmp_path: Path, read: Callable[[Path], Any], error: type) -> None:
    with pytest.raises(error, match="pipe"):
        read(swap(tmp_path / "file"))


def test_a_shard_that_became_a_pipe_is_a_finding(tmp_path: Path) -> None:
    (finding,) = check_shard(str(swap(tmp_path / "a.tar")), None).findings
    assert finding.kind == "missing shard" and "pipe" in finding.detail
