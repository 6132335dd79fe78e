"""`torchrun … src/evaluate.py`: one folder, one table, and the numbers of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diptych.base.files import ROOT

Cli = Callable[..., "object"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
FXEMOJI = "data.evaluate={_target_: diptych.data.sets.benchmark_set.benchmark_sets, path: %s}" % (
    ROOT / "data/emoji/eval/fxemoji"
)


def typed(command: list[str], *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.alone
def test_two_ranks_evaluate_as_one_process(cli: Cli, shards: Path, tmp_path: Path) -> None:
    """401 pictures, two batches: a rank each."""
    run = tmp_path / "run"
    ended = cli(
        "train", "model=vit_tiny", "logger=none", "data=webdataset", f"data.shards={shards}", "data.workers=0",
        "data.batch_size=16", "trainer.max_steps=2", f"run_dir={run}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    evaluate = str(ROOT / "src/evaluate.py")
    given = (f"checkpoint={run}", FXEMOJI)
    alone = typed([sys.executable, evaluate], *given, f"out={tmp_path / 'alone'}", cwd=tmp_path)
    shared = typed([*TORCHRUN, evaluate], *given, cwd=tmp_path)
    (folder,) = (tmp_path / "runs/evaluate").iterdir()
    assert alone.splitlines()[:-1] == shared.splitlines()[:-1] and "fxemoji" in shared
    numbers = [json.loads((out / "metrics.json").read_text()) for out in (tmp_path / "alone", folder)]
    assert numbers[0] == numbers[1] and numbers[0]["zeroshot"]["n"] == 401
    assert {f.name for f in folder.iterdir()} == {f.name for f in (tmp_path / "alone").iterdir()}

    typed([*TORCHRUN, str(ROOT / "src/embed.py")], *given, f"out={tmp_path / 'embedded'}", cwd=tmp_path)
    typed([sys.executable, str(ROOT / "src/embed.py")], *given, f"out={tmp_path / 'as_one'}", cwd=tmp_path)
    from diptych.tasks.embeddings import read_table

    left, right = (read_table(tmp_path / name / "embeddings.parquet") for name in ("embedded", "as_one"))
    assert list(left["key"]) == list(right["key"]) and len(left["key"]) == 401
    assert torch.equal(torch.as_tensor(left["image_embedding"]), torch.as_tensor(right["image_embedding"]))


@pytest.mark.slow
@pytest.mark.alone
def test_a_mistake_ends_all_ranks_with_the_sentence(tmp_path: Path) -> None:
    command = [*TORCHRUN, str(ROOT / "src/evaluate.py"), f"checkpoint={tmp_path / 'none'}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode != 0 and "diptych: " in ended.stderr
    assert "diptych/run.py" not in ended.stderr.replace(str(ROOT / "src/evaluate.py"), "")
