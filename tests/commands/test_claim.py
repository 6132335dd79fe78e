"""Folders that belong to one run, with real processes that race for one and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diptych.base.errors import UserError
from diptych.base.files import PACKAGE
from diptych.commands import claim
from diptych.commands.claim import LOCK, check_place, held, new_run, numbered_folder, results
from diptych.commands.resolvers import check_name

RACE = """
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from diptych.commands import claim
from diptych.base.errors import UserError
print("ready", flush=True)
sys.stdin.readline()
kind, folder, numbered = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "True"
try:
    with getattr(claim, kind)(folder, numbered) as taken:
        print(taken.name, flush=True)
        sys.stdin.readline()
        (taken / "config.yaml").write_text("")
except UserError as error:
    print(error, flush=True)
"""


def process(kind: str, folder: Path, numbered: bool) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", RACE, kind, str(folder), str(numbered)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert said(started) == "ready"
    return started


def said(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().rstrip("\n")


def go(*started: subprocess.Popen[str]) -> None:
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()


@pytest.mark.parametrize("kind", ["new_run", "results"])
def test_processes_that_race_for_a_name_get_a_folder_each(tmp_path: Path, kind: str) -> None:
    (tmp_path / "stamp").mkdir()  # as Hydra makes a sweep's
    racing = [process(kind, tmp_path / "stamp", True) for _ in range(3)]
    go(*racing)
    assert sorted(said(each) for each in racing) == ["stamp", "stamp-2", "stamp-3"]
    go(*racing)
    assert [each.wait() for each in racing] == [0, 0, 0]
    assert sorted(file.parent.name for file in tmp_path.glob("*/*")) == ["stamp", "stamp-2", "stamp-3"]


def test_a_folder_in_use_is_refused_with_its_process_until_that_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = process("new_run", run, False)
    go(first)
    assert said(first) == "run"
    for other in (new_run(run, numbered=False), held(run, claim.TRAINS), results(run, numbered=False)):
        with pytest.raises(UserError, match=rf"{run} is in use: process {first.pid} on \S+ trains there"), other:
            pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (run / LOCK).exists()
    with new_run(run, numbered=False) as taken:
        assert taken == run
        (run / "metrics.jsonl").write_text("")
    assert not (run / LOCK).exists()


def test_results_wait_for_another_evaluation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = process("results", out, False), process("results", out, False)
    go(first)
    assert said(first) == "out"
    go(second)
    go(first)
    assert said(second) == "out"
    go(second)
    assert first.wait() == second.wait() == 0


@pytest.mark.parametrize("name", claim.OF_A_RUN)
def test_a_folder_with_anything_of_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with (
        pytest.raises(UserError, match=rf"holds a run already \({name}\): to resume it, type resume={tmp_path}"),
        new_run(tmp_path, numbered=False),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "slurm.out").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    with new_run(tmp_path / "link", numbered=False) as run:
        assert run.samefile(tmp_path)


def test_a_mistake_before_the_first_step_frees_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match="no data"), new_run(run, numbered=False):
        (run / "checkpoints").mkdir()
        (run / "config.yaml").write_text("")
        raise UserError("no data")
    assert not run.exists()
    with pytest.raises(UserError, match="no data"), new_run(run, numbered=False):
        (run / "config.yaml").write_text("")
        (run / "metrics.jsonl").write_text("a step")
        raise UserError("no data")
    assert {file.name for file in run.iterdir()} == {"config.yaml", "metrics.jsonl"}


@pytest.mark.parametrize("kind", [new_run, results])
def test_a_refusal_leaves_no_folder_above_either(tmp_path: Path, kind: Callable[..., Any]) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="no data"), kind(tmp_path / "runs/demo/1", numbered=True) as run:
        (run / "config.yaml").write_text("")
        raise UserError("no data")
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "config.yaml").write_text("of the user")
    with pytest.raises(UserError, match="no data"), results(tmp_path, numbered=False):
        raise UserError("no data")
    assert (tmp_path / "config.yaml").is_file()


def test_a_numbered_folder_is_always_a_new_one(tmp_path: Path) -> None:
    names = [numbered_folder(tmp_path / "a/stamp").name for _ in range(3)]
    assert names == ["stamp", "stamp-2", "stamp-3"]


def test_a_place_that_can_not_be_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for place, why in (
        ("file", "is not a folder"),
        ("file/below/it", "is not a folder"),
        ("gone", "is not a folder"),
        ("a\nb", "can't be printed"),
        ("a\0b", "can't be printed"),
        ("x" * 256, "too long"),
    ):
        with pytest.raises(UserError, match=why):
            check_place(tmp_path / place, "run_dir")
    if not os.access("/proc/sys", os.W_OK):  # no one may write there, root neither
        with pytest.raises(UserError, match="no permission in"):
            check_place(Path("/proc/sys/run"), "run_dir")
    assert {file.name for file in tmp_path.iterdir()} == {"file", "gone"}


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "a/../../x", "", ".", "a//b", "-x", "a\nb", "a\0", "x" * 300, " "]
)
def test_a_name_stays_below_runs(name: str) -> None:
    with pytest.raises(UserError, match="name="):
        check_name(name)


@pytest.mark.parametrize("name", ["demo", "exp/a b", "a..b", "été", 5])
def test_other_names_are_names(name: object) -> None:
    check_name(name)
