"""What takes a file's place after it was listed is no data: nobody waits for a pipe, or reads a device."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diptych.base.errors import UserError
from diptych.base.regular import NotRegular, open_regular, read_regular
from diptych.data.io.files import Files
from diptych.data.sets.evalset import folder_set
from diptych.packing.checking import check_shard
from diptych.packing.entries import Entry, LeftOut
from diptych.packing.text_table import text_rows
from samples import picture


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
