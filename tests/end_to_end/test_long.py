"""The long proofs: the demo in short, its notebook, a real kill, and ViT-B/16 on two ranks as typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from fits import same
from nbclient import NotebookClient

from diptych.base.files import ROOT
from samples import write_shards

pytestmark = pytest.mark.slow


def run(entry: str, *arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command as typed, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / f"src/{entry}.py"), *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert not check or ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def test_demo_in_short_then_its_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """recipe=demo on the embedded pairs learns, is evaluated, embedded, and read by the notebook."""
    demo = tmp_path / "demo"
    run("train", "recipe=demo", "trainer.max_steps=60", "logger=none", f"run_dir={demo}", cwd=tmp_path)
    zeroshot = json.loads((demo / "metrics.json").read_text())["zeroshot"]
    assert set(zeroshot["sets"]) >= {"heldout", "fluent-flat", "fluent-3d", "fxemoji", "openmoji", "unseen"}
    assert zeroshot["sets"]["unseen"]["classes"] == 120
    first, *_, last = [json.loads(line) for line in (demo / "metrics.jsonl").read_text().splitlines()]
    assert last["train/loss"] < first["train/loss"] - 0.5
    run("evaluate", f"checkpoint={demo}", "task=zeroshot", f"out={tmp_path / 'again'}", cwd=tmp_path)
    again = json.loads((tmp_path / "again/metrics.json").read_text())["zeroshot"]
    assert again == zeroshot
    run("embed", f"checkpoint={demo}", "data=emoji", f"out={tmp_path / 'embeddings'}", cwd=tmp_path)
    monkeypatch.setenv("DIPTYCH_EMBEDDINGS", str(tmp_path / "embeddings"))
    book = nbformat.read(ROOT / "notebooks/01_embedding_space.ipynb", as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [o for c in book.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 2


@pytest.mark.alone
@pytest.mark.parametrize("layout", [("trainer=cpu",), ("trainer=ddp", "trainer.accelerator=cpu", "data.workers=2")])
def test_kill_nine_then_resume_equals_never_stopped(tmp_path: Path, layout: tuple[str, ...]) -> None:
    """SIGKILL between two checkpoints; no rank outlives its parent; what follows is bit for bit the same."""
    index = write_shards(tmp_path / "shards", [32, 8, 24, 16])
    arguments = (
        "model=rn_tiny", "logger=none", "trainer.precision=32-true", "data.batch_size=16", "trainer.log_every=1",
        "data=webdataset", f"data.shards={index}", "data.workers=0", "trainer.max_steps=12",
        "trainer.checkpoint_every=4", "trainer.keep=9", *layout,
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("train", *arguments, f"run_dir={whole}", cwd=tmp_path)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "src/train.py"), *arguments, f"run_dir={killed}", "callbacks.progress.seconds=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 9/"):  # the save at step 8 waited for that at step 4
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.read()  # ends only when every rank that held the pipe has ended
    steps = {int(f.stem.removeprefix("step=")) for f in (killed / "checkpoints").glob("step=*.ckpt")}
    assert 4 in steps and 12 not in steps
    run("train", f"resume={killed}", cwd=tmp_path)
    left, right = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, killed)
    )
    assert [x["step"] for x in left] == [x["step"] for x in right] == list(range(1, 13))
    assert [x["train/loss"] for x in left] == [x["train/loss"] for x in right]
    ours, theirs = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in (whole, killed)
    )
    assert same(ours, theirs) and "model.logit_scale" in ours


@pytest.mark.alone
def test_vit_b16_on_two_ranks_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python src/train.py model=vit_b16 trainer=ddp` on a quarter of the default batch, stopped after two steps."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # the report's evaluation is one process, on all cores
    ended = run("train", "model=vit_b16", "trainer=ddp", "data.batch_size=16", "trainer.max_steps=2", cwd=tmp_path)
    (folder,) = (tmp_path / "runs/vit_b16").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())["zeroshot"]
    if not torch.cuda.is_available():
        assert metrics["sets"] and all("a sample of" in row["note"] for row in metrics["sets"].values())
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps[:2] == [1, 2]
    assert (folder / "checkpoints/last.ckpt").is_file() and (folder / "report.html").is_file()
    if not torch.cuda.is_available():
        assert "recipe=demo" in ended.stdout


def test_no_environment_is_needed(tmp_path: Path) -> None:
    """src/ is on the path: the entry points run without an installed package, and without HOME."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "src/train.py"), "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert ended.returncode == 0 and "max_steps" in ended.stdout, ended.stderr
