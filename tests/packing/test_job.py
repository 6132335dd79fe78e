"""A packing that is killed goes on without a duplicate or a hole, and leaves no process behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import contents, write_folder

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.packing import folder

STOP = "set1/025.png"  # of the rows 20 to 39: the names of set0 come first
SLOW_DISK = """
import os, sys

def wait(event, arguments):
    if event == "open" and str(arguments[0]).endswith({stop!r}):
        os.read(os.open({pipe!r}, os.O_RDONLY), 1)

sys.addaudithook(wait)
"""  # the processes of a command import it as they start


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_and_type_again(tmp_path: Path, workers: int) -> None:
    """One picture opens when a pipe does, so the packing is known to stand in the middle of a shard when it is
    killed."""
    source, out, waits = write_folder(tmp_path / "in", 60), tmp_path / "out", tmp_path / "pipe"
    folder.pack(str(source), str(tmp_path / "whole"), None, 1, 5)
    os.mkfifo(waits)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(SLOW_DISK.format(stop=STOP, pipe=str(waits)))
    hooked = {**os.environ, "PYTHONPATH": str(tmp_path / "hook")}
    command = [sys.executable, str(ROOT / "src/pack.py"), "source=folder", f"path={source}", f"out={out}"]
    packing = subprocess.Popen(
        [*command, "source.shard_size=5", f"workers={workers}"], stderr=subprocess.PIPE, env=hooked
    )
    pipe = os.open(waits, os.O_WRONLY)  # waits until it is read
    try:
        assert list(out.glob("*.partial"))
        wait_for_lines(out / "parts/1-of-1.jsonl", 5)  # the shards before it, which another worker may still write
        with pytest.raises(UserError, match="Another process writes"):
            folder.pack(str(source), str(out), None, 1, 5)
    finally:
        packing.send_signal(signal.SIGKILL)
        packing.wait()
    watched = select.poll()
    watched.register(pipe, 0)
    assert watched.poll(20_000), "the process that wrote the shard outlived the command"
    os.close(pipe)
    done = {tar.name: tar.stat().st_mtime_ns for tar in out.glob("*.tar")}
    recorded = len((out / "parts/1-of-1.jsonl").read_text().splitlines()) - 1
    assert 4 <= recorded <= len(done) < 12 and not (out / "index.json").exists()

    folder.pack(str(source), str(out), None, 1, 5)
    assert contents(out) == contents(tmp_path / "whole")
    kept = [name for name, when in done.items() if (out / name).stat().st_mtime_ns == when]
    assert len(kept) >= recorded


def wait_for_lines(file: Path, count: int) -> None:
    """Looks at it until it has them, for 20 s at most."""
    deadline = time.monotonic() + 20
    while len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, f"{file} still has less than {count} lines"
        os.sched_yield()


def test_a_line_that_a_kill_cut_costs_its_shard_alone(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 20)
    for out in ("whole", "out"):
        folder.pack(str(source), str(tmp_path / out), None, 1, 5)
    lines = tmp_path / "out/parts/1-of-1.jsonl"
    lines.write_bytes(lines.read_bytes()[:-30])
    (tmp_path / "out/train-000001.tar.idx").unlink()
    (tmp_path / "out/index.json").unlink()
    folder.pack(str(source), str(tmp_path / "out"), None, 1, 5)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(lines.read_text().splitlines()) == sorted(
        (tmp_path / "whole/parts/1-of-1.jsonl").read_text().splitlines()
    )
