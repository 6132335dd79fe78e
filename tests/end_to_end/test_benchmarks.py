"""Programs of benchmarks/ that no machine here can run in earnest still run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from diptych.config import ROOT

GPU = [sys.executable, str(ROOT / "benchmarks/gpu.py")]


@pytest.mark.slow
def test_the_gpu_program_on_a_cpu() -> None:
    command = [*GPU, "vit_tiny", "--device", "cpu", "--batch", "16", "--rounds", "2", "--steps", "40"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("gradient apart by 0.0e+00") == 2
    assert "open_clip is not to be had, and ours is timed alone: it has no vit_tiny" in ended.stdout
    assert "from tars: " in ended.stdout and "training from tars failed" not in ended.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    ended = subprocess.run(GPU, capture_output=True, text=True)
    assert ended.returncode == 1 and "No GPU is to be seen here" in ended.stderr and "Traceback" not in ended.stderr
