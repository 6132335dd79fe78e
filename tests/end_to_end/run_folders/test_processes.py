"""Several processes at one run's folder: kills, signals, two at once, and a disk that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_folder import SMALL, Cli, lines, refused

from diptych.base.files import ROOT

HOOK = """
import os, sys
sys.path.insert(0, {src!r})
from pathlib import Path
from diptych.commands import cli, train
sys.argv[1:] = {arguments!r}
made = train.report
def report(*given):
    print("reports", flush=True)
    sys.stdin.readline()
    made(*given)
train.report = report
cli.main("train")
"""


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`python src/train.py …`, which waits for a line before it makes the report."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        code = HOOK.format(src=str(ROOT / "src"), arguments=[*arguments])
        pipe = subprocess.PIPE
        given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=given
            )
        )
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()


def until(started: subprocess.Popen[str], line: str) -> None:
    assert started.stdout is not None
    for each in started.stdout:
        if each.startswith(line):
            return
    raise AssertionError(started.communicate()[1])


@pytest.mark.slow
@pytest.mark.alone
def test_two_resumes_at_once_and_ctrl_c_in_the_last_evaluation(
    cli: Cli, run: Path, typed: Callable[..., subprocess.Popen[str]]
) -> None:
    first = typed(f"resume={run}")
    until(first, "reports")
    refused(cli("train", f"resume={run}"), f"{run} is in use: process {first.pid} on ", "trains there")
    (run / "report.html").unlink()
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    said = first.stderr.read()
    assert "Traceback" not in said
    assert "SIGINT while the report was made: the training is complete; to make its report, type python src" in said
    ended = cli("train", f"resume={run}")
    assert ended.code == 0 and (run / "report.html").is_file(), ended.err


@pytest.mark.slow
@pytest.mark.alone
def test_a_kill_frees_the_folder_and_two_new_runs_do_not_share_one(
    cli: Cli, run: Path, shards: Path, typed: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    new = (*SMALL, f"data.shards={shards}", "trainer.max_steps=2", f"run_dir={tmp_path / 'race'}")
    racing = [typed(*new), typed(*new)]
    deadline = time.monotonic() + 120
    while all(each.poll() is None for each in racing):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (lost,) = [each for each in racing if each.poll() is not None]
    (won,) = [each for each in racing if each is not lost]
    said = lost.communicate()[1]
    assert lost.returncode == 2 and said.count("\n") == 1
    assert f"is in use: process {won.pid}" in said or "holds a run already" in said
    until(won, "reports")
    won.kill()
    won.wait()
    ended = cli("train", f"resume={tmp_path / 'race'}")
    assert ended.code == 0 and "This run is complete: 2 of 2 steps." in ended.out, ended.err
    assert [line["step"] for line in lines(tmp_path / "race")] == [1, 2]


@pytest.mark.slow
@pytest.mark.alone
def test_results_on_a_full_and_on_a_read_only_disk(run: Path, class_folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for options, said in (
        ("size=16k", "metrics.json can't be written (No space left on device)"),
        ("ro", f"out={disk}/out can't be written: no permission in {disk}"),
    ):
        mount = f"mount -t tmpfs -o {options} tmpfs {disk}"
        if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        command = [sys.executable, str(ROOT / "src/evaluate.py"), f"checkpoint={run}", "data=folder"]
        command += [f"data.path={class_folder}", f"out={disk}/out"]
        fill = f"mkdir {disk}/out && head -c 14000 /dev/zero >{disk}/filled; " if "size" in options else ""
        ended = subprocess.run(
            ["unshare", "-rm", "sh", "-c", f'{mount} && {fill}"$@"', "sh", *command], capture_output=True, text=True
        )
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
        assert "can't be written" in ended.stderr and str(disk) in ended.stderr
        if "ro" in options:
            assert said in ended.stderr
