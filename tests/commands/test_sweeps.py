"""What Hydra itself writes and prints of a command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diptych.base.files import ROOT

SECRET = "hunter2pass"
OFFLINE = ("trainer=cpu", "trainer.max_steps=1", "logger=none", "data=webdataset", "data.files.retries=0")
ADDRESS = f"data.shards=http://bob:{SECRET}@127.0.0.1:9/index.json"


@pytest.mark.parametrize(
    "jobs",
    ["model=vit_tiny,nosuch", "seed=1,2"],
    ids=["refused before the first job", "refused in the first job"],
)
def test_a_sweep_keeps_no_secret_in_its_record(cli: Callable[..., Any], tmp_path: Path, jobs: str) -> None:
    typed = (*OFFLINE, ADDRESS, "data.batch_size=32", "data.evaluate=null", f"+data.files.token={SECRET}")
    ended = cli("train", "-m", jobs, *typed, "run_dir=sweep")
    record = (tmp_path / "sweep/multirun.yaml").read_text(encoding="utf-8")
    assert ended.code == 2 and "<hidden>@127.0.0.1" in record and "token=<hidden>" in record
    written = [file for file in (tmp_path / "sweep").rglob("*") if file.is_file()]
    assert written and not [file for file in written if SECRET.encode() in file.read_bytes()]


def test_what_is_printed_of_a_config_has_no_secret() -> None:
    """Of what Hydra prints `--cfg` shows the most; the line of each job is in tests/base/test_masking.py."""
    command = [sys.executable, str(ROOT / "src/train.py"), "--cfg", "all", ADDRESS, f"+data.files.token={SECRET}"]
    ended = subprocess.run([*command, *OFFLINE], capture_output=True, text=True)
    said = ended.stdout + ended.stderr
    assert SECRET not in said and "token: <hidden>" in said and "<hidden>@127.0.0.1" in said


def test_a_second_sweep_does_not_replace_the_first_ones_record(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/multirun.yaml").write_text("of the first", encoding="utf-8")
    ended = cli("train", "-m", "seed=1,2", *OFFLINE, ADDRESS, "run_dir=sweep")
    assert ended.code == 2 and "sweep holds a sweep already: give another folder" in ended.err
    assert (tmp_path / "sweep/multirun.yaml").read_text(encoding="utf-8") == "of the first"
