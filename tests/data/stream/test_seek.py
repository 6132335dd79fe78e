"""A step in the middle of 400 million pairs is reached by opening one shard a stream, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys

from diptych.base.files import ROOT


def test_seeking_at_scale_opens_one_shard_a_stream() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/seek.py"), "--json"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert (result["pairs"], result["shards"]) == (400_000_000, 40_000)
    assert result["shards that a stream opens, most of all 2,048"] == 1
    assert result["worker's peak, MB"] < 500
