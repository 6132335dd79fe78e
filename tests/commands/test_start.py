"""How a command starts: in an environment that lacks its packages, and with an output that somebody takes away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.base.files import ROOT
from samples import write_shards

COMMANDS = ("train", "evaluate", "embed", "pack", "convert", "plan")


@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_packages_a_command_says_what_to_type(command: str) -> None:
    """`-S`: a Python that knows no installed package, as the system's own does before `.venv` is active."""
    asked = [sys.executable, "-S", str(ROOT / "src" / f"{command}.py")]
    ended = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, env={"PATH": os.environ["PATH"]})
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"diptych: {command}.py: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert "is not installed for" in ended.stderr and "activate`" in ended.stderr and "bin/python" in ended.stderr


PRINTS = """
import sys
from diptych.launch.output import keep_output
keep_output()
for _ in range(3):
    print("2 × 2: \\ud83d\\ude00 \\udcff", flush=True)
    sys.stdout.flush()
print("ended", file=sys.stderr)
"""


def printed(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that prints signs, started by `shell` as `$run`."""
    run = f"'{sys.executable}' -c '{PRINTS}'"
    given = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    command = ["bash", "-c", shell.replace("RUN", run)]
    return subprocess.run(command, capture_output=True, encoding="latin-1", env=given)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_signs_that_the_output_lacks_are_escaped(encoding: str) -> None:
    ended = printed("RUN", PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, "ended\n")
    assert ended.stdout.count("\n") == 3 and "\\udcff" in ended.stdout


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("RUN >/dev/full", "diptych: can't print to stdout any more (No space left on device): continuing.\n"),
        ("set -o pipefail; RUN | true", ": continuing.\n"),
        ("RUN >&-", ""),
    ],
    ids=["full", "broken pipe", "closed"],
)
def test_an_output_that_is_lost_is_said_once_and_ends_nothing(shell: str, said: str) -> None:
    ended = printed(shell)
    assert ended.returncode == 0 and ended.stderr.endswith("ended\n"), ended.stderr
    assert said in ended.stderr and ended.stderr.count("\n") <= 2
    assert printed("RUN >&- 2>&-").returncode == 0 and printed("RUN 2>&-").stderr == ""


def test_a_closed_output_does_not_print_into_the_next_file(tmp_path: Path) -> None:
    code = "from diptych.launch.output import keep_output; keep_output(); f = open('a', 'w'); print(1, flush=True)"
    ended = printed(f"cd '{tmp_path}'; '{sys.executable}' -c \"{code}\" >&-")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "a").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ("set -o pipefail; TRAIN | head -1", {"PYTHONIOENCODING": "ascii"}),
        ("TRAIN >&-", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ],
    ids=["ascii, broken pipe", "C, closed"],
)
def test_no_output_ends_a_training(tmp_path: Path, shell: str, environment: dict[str, str]) -> None:
    index = write_shards(tmp_path / "shärds", [32])
    train = (
        f"'{sys.executable}' '{ROOT}/src/train.py' model=vit_tiny logger=none trainer=cpu data=webdataset"
        f" data.shards='{index}' data.workers=0 data.batch_size=16"
        f" trainer.max_steps=2 callbacks.progress.seconds=0 run_dir=rün"
    )
    given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    ended = subprocess.run(
        ["bash", "-c", shell.replace("TRAIN", train)], capture_output=True, text=True, cwd=tmp_path, env=given
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert (tmp_path / "rün/report.html").stat().st_size > 0
