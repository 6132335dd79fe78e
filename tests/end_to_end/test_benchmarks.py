"""Programs of benchmarks/ that no machine here can run in earnest still run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from diptych.base.files import ROOT

GPU = [sys.executable, str(ROOT / "benchmarks/gpu.py")]


@pytest.mark.slow
def test_the_gpu_program_on_a_cpu() -> None:
    command = [*GPU, "vit_tiny", "--device", "cpu", "--batch", "16", "--rounds", "2", "--steps", "40"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("gradient apart by 0.0e+00") == 2
    assert "open_clip is not available, only ours is timed: it has no vit_tiny" in ended.stdout
    assert "from tars: " in ended.stdout and "training from tars failed" not in ended.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    ended = subprocess.run(GPU, capture_output=True, text=True)
    assert ended.returncode == 1 and "No GPU was found" in ended.stderr and "Traceback" not in ended.stderr


def in_benchmarks(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT / "benchmarks", capture_output=True, text=True)


def test_contenders_are_processes_of_their_own_that_take_turns() -> None:
    ended = in_benchmarks(
        "import os; from contender import Contender, alternating\n"
        "with Contender(int, dict, {'much': bytearray(10**8).copy}) as one, \\\n"
        "     Contender(int, dict, {'little': dict}) as two:\n"
        "    print(len({os.getpid(), one.process.pid, two.process.pid}))\n"
        "    asked = {'one': lambda: one.seconds('much'), 'two': lambda: two.seconds('little')}\n"
        "    print(all(s[0] > s[1] > 0 for s in zip(*alternating(asked, 3).values())))\n"
        "    print(5e7 < one.memory() < 4e8, two.memory() < 5e7)\n"
    )
    assert ended.stdout.split("\n") == ["3", "True", "True True", ""], ended.stdout + ended.stderr


def test_a_contender_that_can_not_be_made_ends_the_program() -> None:
    ended = in_benchmarks("from contender import Contender; Contender(int, open, 'no such file')")
    assert ended.returncode == 1
    assert ended.stderr.endswith("open's process ended before it was ready: what it said is above.\n")
    assert "No such file" in ended.stderr


@pytest.mark.slow
def test_our_row_of_the_table_of_orders() -> None:
    """One sequence over six layouts, also with damaged samples, none lost, and a resume on another layout exact."""
    command = [sys.executable, str(ROOT / "benchmarks/order.py"), "ours"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "| 1 of 6 | 1 of 6 | 25 | 0 | exact |" in ended.stdout
