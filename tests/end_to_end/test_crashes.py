"""What goes wrong in a run, as its user sees it: signals, a full disk, a damaged checkpoint, a foreign folder."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fits import same
from found import found
from omegaconf import OmegaConf

from diptych.base.files import ROOT
from diptych.data.stream.order import EDITION
from diptych.training.checkpoints import write

Cli = Callable[..., "object"]
SMALL = (
    "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=cpu", "trainer.precision=32-true",
    "logger=none", "data=webdataset", "data.workers=0", "data.validation=0", "data.batch_size=16",
    "trainer.log_every=1",
    "trainer.max_steps=6", "trainer.keep=9",
)  # fmt: skip


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def at(fault: str, **arguments: object) -> list[str]:
    """The fault of tests/support/faults.py as a callback of the run."""
    return [f"+callbacks.fault._target_=faults.{fault}", *(f"+callbacks.fault.{k}={v}" for k, v in arguments.items())]


@pytest.fixture
def whole(cli: Cli, shards: Path, tmp_path: Path) -> Path:
    """A run of six steps with three checkpoints."""
    run = tmp_path / "whole"
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.checkpoint_every=2", f"run_dir={run}")
    assert ended.code == 0 and len(lines(run)) == 6, ended.err
    return run


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on(
    cli: Cli, shards: Path, tmp_path: Path, whole: Path, name: str, code: int
) -> None:
    run = tmp_path / "run"
    arguments = (*SMALL, f"data.shards={shards}", "trainer.checkpoint_every=100", f"run_dir={run}")
    ended = cli("train", *arguments, *at("SignalAt", step=3, name=name))
    assert ended.code == code
    assert f"{name} at step 3: saved; to resume, type python src/train.py resume={run}" in ended.err
    assert "Traceback" not in ended.err and len(lines(run)) == 3
    ended = cli("train", f"resume={run}", "allow_targets=[faults.SignalAt]")
    assert ended.code == 0, ended.err
    assert [x["train/loss"] for x in lines(run)] == [x["train/loss"] for x in lines(whole)]


def test_slurm_requeues_and_the_same_command_goes_on(
    cli: Cli, shards: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`scontrol` is a real program on PATH that writes down what it was told."""
    program, told = tmp_path / "bin/scontrol", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    run = tmp_path / "run"
    command = (*SMALL, f"data.shards={shards}", f"run_dir={run}", *at("SignalAt", step=3, name="SIGUSR1"))
    ended = cli("train", *command)
    assert ended.code == 75 and "SLURM's job 77 is requeued" in ended.err
    assert told.read_text().splitlines() == ["show job 77", "requeue 77"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    ended = cli("train", *command, "allow_targets=[faults.SignalAt]")
    assert ended.code == 0, ended.err
    assert [x["step"] for x in lines(run)] == list(range(1, 7))
    assert [x["train/loss"] for x in lines(run)] == [x["train/loss"] for x in lines(whole)]


def test_a_cancelled_job_is_not_requeued(
    cli: Cli, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = show ] && echo JobId=77 JobState=CANCELLED && exit\necho "no: $@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    ended = cli("train", *SMALL, f"data.shards={shards}", *at("SignalAt", step=1, name="SIGTERM"))
    assert ended.code == 75 and "requeue" not in ended.err


@pytest.fixture
def unlimited() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_checkpoints_and_no_steps(cli: Cli, shards: Path, tmp_path: Path, unlimited: None) -> None:
    run = tmp_path / "run"
    arguments = (*SMALL, f"data.shards={shards}", "trainer.checkpoint_every=1", f"run_dir={run}")
    ended = cli("train", *arguments, *at("FullDisk", first=3, last=4, size=2**20))
    assert ended.code == 0, ended.err
    assert ended.err.count("a checkpoint could not be written (File too large") == 2
    names = {file.name for file in (run / "checkpoints").iterdir()}
    assert names == {"last.ckpt", *(f"step={step}.ckpt" for step in (1, 2, 5, 6))}
    assert [line["step"] for line in lines(run)] == list(range(1, 7))
    assert max(line.get("checkpoint/failed", 0) for line in lines(run)) == 2


def test_a_full_disk_at_the_end_is_an_error(cli: Cli, shards: Path, tmp_path: Path, unlimited: None) -> None:
    run = tmp_path / "run"
    arguments = (*SMALL, f"data.shards={shards}", "trainer.checkpoint_every=3", f"run_dir={run}")
    ended = cli("train", *arguments, *at("FullDisk", first=4, last=9, size=2**20))
    assert ended.code == 2
    assert "The last checkpoint could not be written (File too large" in ended.err and "Traceback" not in ended.err
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"last.ckpt", "step=3.ckpt"}


@pytest.mark.slow
def test_a_disk_of_24_megabytes(shards: Path, tmp_path: Path) -> None:
    """Really full, metrics and counts on it too: two checkpoints of 10 MB fit."""
    run = tmp_path / "disk/run"
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=24m tmpfs {run.parent}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    train = [sys.executable, str(ROOT / "src/train.py"), *SMALL, f"data.shards={shards}", f"run_dir={run}"]
    script = f'{mount} && "$@"; code=$?; cp -r {run} {tmp_path}/kept; exit $code'
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *train, "trainer.checkpoint_every=1"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("a checkpoint could not be written (No space left on device") == 3, ended.stderr
    assert ended.stderr.count("The last checkpoint could not be written (No space left on device") == 1
    assert {f.name for f in (tmp_path / "kept/checkpoints").iterdir()} == {"last.ckpt", "step=1.ckpt", "step=2.ckpt"}
    assert [line["step"] for line in lines(tmp_path / "kept")] == list(range(1, 7))


def test_a_damaged_last_checkpoint_falls_back(cli: Cli, whole: Path, tmp_path: Path) -> None:
    before = [line["train/loss"] for line in lines(whole)]
    run = tmp_path / "damaged"
    shutil.copytree(whole, run)
    for name in ("last.ckpt", "step=6.ckpt"):
        file = run / "checkpoints" / name
        file.write_bytes(file.read_bytes()[:-1000])
    ended = cli("train", f"resume={run}")
    assert ended.code == 0, ended.err
    assert "step=6.ckpt is damaged" in ended.err and "the run continues from step=4.ckpt" in ended.err
    assert [line["step"] for line in lines(run)] == list(range(1, 7))
    assert [line["train/loss"] for line in lines(run)] == before
    left, right = (torch.load(r / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for r in (run, whole))
    assert same(left, right) and "model.logit_scale" in left
    for file in found(run / "checkpoints", "*.ckpt"):
        file.write_bytes(b"nothing")
    ended = cli("train", f"resume={run}")
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert all(f"step={step}.ckpt (" in ended.err for step in (6, 4, 2))


def test_a_run_of_another_order_does_not_go_on(cli: Cli, whole: Path) -> None:
    """As a version with another order of samples would have left it: its next batches would not be the run's own."""
    file = whole / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    assert content["diptych"].pop("order") == EDITION
    for name in (file, whole / "checkpoints/step=6.ckpt"):
        write(content, name)
    before = {file: file.stat().st_mtime_ns for file in whole.iterdir() if file.is_file()}
    ended = cli("train", f"resume={whole}")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert f"was begun with edition 1 of the order of samples, this version has edition {EDITION}" in ended.err


def test_a_run_without_any_checkpoint_starts_again(cli: Cli, whole: Path) -> None:
    before = [line["train/loss"] for line in lines(whole)]
    shutil.rmtree(whole / "checkpoints")
    ended = cli("train", f"resume={whole}")
    assert ended.code == 0, ended.err
    assert "No checkpoint was written yet: the run starts again from step 0." in ended.out
    assert [line["train/loss"] for line in lines(whole)] == before


def test_minutes_save_too(cli: Cli, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = (*SMALL, f"data.shards={shards}", "trainer.checkpoint_every=100", f"run_dir={run}")
    assert cli("train", *arguments, "trainer.checkpoint_minutes=1e-9").code == 0
    assert len(list((run / "checkpoints").glob("step=*.ckpt"))) == 6


@pytest.mark.parametrize("target", ["os.mkdir", "diptych.commands.cli.sys.exit", "subprocess.run"])
def test_a_resumed_folder_can_not_bring_a_function(cli: Cli, whole: Path, tmp_path: Path, target: str) -> None:
    """Law 4: a config from elsewhere names a function; it is not called, and a command line can allow it by name."""
    sentinel = tmp_path / "sentinel"
    config = OmegaConf.load(whole / "config.yaml")
    config.callbacks.extra = {"deep": [{"_target_": target, "path": str(sentinel)}]}
    config.allow_targets = [target]  # what the folder says of it does not count
    OmegaConf.save(config, whole / "config.yaml")
    ended = cli("train", f"resume={whole}")
    assert ended.code == 2 and f"would call {target}, which no config of this version names" in ended.err
    assert not sentinel.exists()
