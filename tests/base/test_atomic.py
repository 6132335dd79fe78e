"""Whole or not at all: real kills, a full disk by the system's own limit, and a folder that can't be written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diptych.base import atomic
from diptych.base.errors import UserError
from diptych.base.paths import PACKAGE
from diptych.base.terminal import visible
from diptych.training.loggers import MetricsFile

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
    atomic.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == visible(text) and "Ärger" in text and "犬" in text and json.loads(text) == value


def test_a_file_and_its_folder_are_made(tmp_path: Path) -> None:
    file = tmp_path / "a/b/c.json"
    atomic.write_json(file, {"name": "Ärger \udc80"})
    atomic.write_json(file, {"n": 1})
    assert file.read_text() == '{\n "n": 1\n}\n'
    assert [each.name for each in file.parent.iterdir()] == ["c.json"]
    assert oct(file.stat().st_mode & 0o777) == oct(0o666 & ~umask())


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_what_a_full_disk_refuses_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    atomic.write(file, "before")
    with full_disk(), pytest.raises(UserError, match=r"metrics\.json can't be written \(File too large\)"):
        atomic.write(file, "x" * 2 * LIMIT)
    assert file.read_text() == "before" and [each.name for each in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no") as raised, atomic.beside(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "half").write_text("")
        raise OSError(28, "no room")
    assert raised.value.filename == str(tmp_path / "out") and not list(tmp_path.iterdir())
    with atomic.beside(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "whole").write_text("")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["whole"]


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"metrics\.json can't be written \(File exists: .*/file\)"):
        atomic.write(tmp_path / "file/metrics.json", "")


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
from diptych.base import atomic
with atomic.beside(Path(sys.argv[1])) as partial:
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
    atomic.remove_partials(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["index.json"]
