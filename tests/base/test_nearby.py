"""A run's folder that is none: the sentence says so, and which may be meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.commands.resume import check_run
from diptych.interop.reading import read


def make_run(folder: str, when: int) -> None:
    Path(folder, "checkpoints").mkdir(parents=True)
    Path(folder, "config.yaml").write_text("")
    os.utime(folder, (when, when))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothere", "nothere does not exist: give a run's folder."),
        ("runs/dmo/1", "runs/dmo/1 does not exist: did you mean resume=runs/demo/1"),
        ("demo", "demo does not exist: did you mean resume=runs/demo/2 or resume=runs/demo/1?"),
        ("runs/demo", "runs/demo holds no config.yaml, so it is no run: did you mean resume=runs/demo/2 or"),
        ("runs/my lot/7/checkpoints", "is a part of a run: type 'resume="),
        ("my lott", "did you mean 'resume=runs/my lot/7'?"),
        ("file", "file holds no config.yaml, so it is no run: give a run's folder."),
    ],
)
def test_a_resume_of_no_run_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for when, folder in enumerate(("runs/demo/1", "runs/demo/2", "runs/my lot/7")):
        make_run(folder, when)
    Path("file").write_text("")
    with pytest.raises(UserError) as error:
        check_run(Path(given).absolute())
    assert said in str(error.value) and str(error.value).startswith(f"resume={tmp_path / given} ")


def test_a_checkpoint_of_no_run_names_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("runs/demo/1", 0)
    with pytest.raises(UserError, match="does not exist: did you mean checkpoint=runs/demo/1"):
        read("runs/demo/l")
