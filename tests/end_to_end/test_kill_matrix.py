"""Law 1, with real processes: after `kill -9` in mid-epoch any layout goes on with the same batches and pixels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from witness import seen

from diptych.base.files import ROOT
from samples import write_shards

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def command(folder: Path, witness: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT / "tests/support"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "src/train.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "WITNESS": str(witness)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def layout(ranks: int, workers: int) -> list[str]:
    return [f"trainer.devices={ranks}", f"data.workers={workers}"]


def spoil(number: int, sample: dict) -> dict:
    return sample | {"png": b"<html>404</html>"} if number in (3, 33, 70) else sample


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `whole.jsonl`, what one process trains on in 14 steps, and `run`, killed on 2 ranks × 2 workers
    after step 9 with its last checkpoint at step 7: both in the middle of an epoch of 5."""
    folder = tmp_path_factory.mktemp("kill")
    index = write_shards(folder / "shards", [32, 8, 24, 16], spoil)
    arguments = [
        "model=rn_tiny", "trainer=cpu", "trainer.precision=32-true", "logger=none", "data=webdataset",
        f"data.shards={index}", "data.batch_size=16", "data.streams=8", "data.block=7", "data.max_bad=0.1",
        "data.validation=0", "trainer.max_steps=14", "trainer.checkpoint_every=7", "trainer.log_every=1",
        "+callbacks.witness._target_=witness.Witness", "callbacks.progress.seconds=0",
    ]  # fmt: skip
    whole = command(folder, folder / "whole.jsonl", *arguments, *layout(1, 0), f"run_dir={folder / 'whole'}")
    output = whole.communicate()[0]
    assert whole.returncode == 0, output
    run = command(folder, folder / "before.jsonl", *arguments, *layout(2, 2), f"run_dir={folder / 'run'}")
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("step 9/"):
            os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = seen(folder / "before.jsonl")
    assert 8 in before and 12 not in before
    return folder


@pytest.mark.parametrize(("ranks", "workers"), [(2, 2), (1, 0), (4, 1)])
def test_every_later_batch_is_the_same(killed: Path, tmp_path: Path, ranks: int, workers: int) -> None:
    whole, before = seen(killed / "whole.jsonl"), seen(killed / "before.jsonl")
    assert sorted(whole) == list(range(14))
    assert all(before[step] == whole[step] for step in range(9))
    run = tmp_path / "run"
    shutil.copytree(killed / "run", run)
    resumed = command(
        tmp_path,
        tmp_path / "after.jsonl",
        f"resume={run}",
        "allow_targets=[witness.Witness]",
        *layout(ranks, workers),
    )
    output = resumed.communicate()[0]
    assert resumed.returncode == 0, output
    after = seen(tmp_path / "after.jsonl")
    assert sorted(after) == list(range(7, 14))
    assert all(after[step] == whole[step] for step in after)
    counts, expected = (json.loads((folder / "samples.json").read_text()) for folder in (run, killed / "whole"))
    assert counts == expected
    # One bad sample in each of three shards, met in both whole epochs of 5 steps and perhaps in 4 steps of a third.
    skipped = expected["skipped"]["not a readable image (.png)"]
    assert sorted(skipped) == ["train-000000.tar", "train-000001.tar", "train-000003.tar"]
    assert set(skipped.values()) <= {2, 3}
    losses = [
        {line["step"]: line["train/loss"] for line in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())}
        for f in (run, killed / "whole")
    ]
    assert losses[0].keys() == losses[1].keys() == set(range(1, 15))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
