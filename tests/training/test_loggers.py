"""Runs of Weights & Biases, read from their own files, and what becomes of a training where W&B fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.base.files import ROOT
from diptych.training.loggers import wandb_logger

Cli = Callable[..., "object"]
SHORT = (
    "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=cpu", "trainer.precision=32-true",
    "trainer.log_every=1", "trainer.max_steps=3", "data=webdataset", "data.workers=0", "data.batch_size=16",
    "data.evaluate=null",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user without an account of W&B, and a process that has not used it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")  # both, so that what a command sets is put back
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    import wandb

    wandb.teardown()


def records(file: Path) -> Iterator[object]:
    """W&B's file: a header of seven bytes, then LevelDB's log: blocks of 32 KB of pieces with a header each."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


def run_of(file: Path) -> dict:
    """A run's id, seed and learning rate as its config has them, the steps that it logged, and its exit code."""
    read: dict = {"steps": [], "exit": None}
    for record in records(file):
        if record.HasField("run"):
            read["id"] = record.run.run_id
            read |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("exit"):
            read["exit"] = record.exit.exit_code
        if record.HasField("history"):
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            read["steps"] += [items["trainer/global_step"]] if "train/loss" in items else []
    return read


def runs(folder: Path) -> list[dict]:
    found = sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    return [run_of(file) for file in found]


def test_a_logger_is_a_run_that_it_begins_and_finishes(tmp_path: Path) -> None:
    """Two in one process, as two jobs of a sweep; the second's folder, taken again, goes on with its run."""
    for job, seed in (("a", 1), ("b", 2), ("b", 3)):
        (tmp_path / job).mkdir(exist_ok=True)
        logger = wandb_logger(str(tmp_path / job), "name", config={"seed": seed})
        assert logger is not None
        logger.log_metrics({"train/loss": 1.0}, seed)
        logger.finalize("failed" if seed == 3 else "success")
        logger.finalize("failed")  # finished already
        logger.log_metrics({"train/loss": 1.0}, 9)
    (first,), (second, again) = runs(tmp_path / "a"), runs(tmp_path / "b")
    assert first["id"] != second["id"] == again["id"]
    assert [(r["seed"], r["steps"], r["exit"]) for r in (first, second, again)] == [
        (1, [1], 0),
        (2, [2], 0),
        (3, [3], 1),
    ]


@pytest.mark.slow
def test_each_job_of_a_sweep_is_a_run_of_its_own(cli: Cli, shards: Path, tmp_path: Path) -> None:
    """README's sweep of four: each with its config, its steps alone, and finished; a resume keeps its run's id."""
    sweep = tmp_path / "sweep"
    ended = cli("train", "-m", *SHORT, f"data.shards={shards}", "optim.lr=1e-3,3e-3", "seed=1,2", f"run_dir={sweep}")
    assert ended.code == 0, ended.err
    jobs = [runs(sweep / str(job)) for job in range(4)]
    assert [len(job) for job in jobs] == [1, 1, 1, 1]
    read = [job[0] for job in jobs]
    assert len({run["id"] for run in read}) == 4
    assert [(run["optim"]["lr"], run["seed"]) for run in read] == [(1e-3, 1), (1e-3, 2), (3e-3, 1), (3e-3, 2)]
    assert all(run["steps"] == [1, 2, 3] and run["exit"] == 0 for run in read)

    (sweep / "0/checkpoints/last.ckpt").unlink()
    assert cli("train", f"resume={sweep / '0'}").code == 0
    again = runs(sweep / "0")
    assert len(again) == 2 and again[0]["id"] == again[1]["id"] == read[0]["id"] and again[1]["exit"] == 0


@pytest.mark.slow
def test_a_job_that_fails_finishes_its_run(cli: Cli, shards: Path, tmp_path: Path) -> None:
    fault = ("+callbacks.fault._target_=faults.RaiseAt", "+callbacks.fault.step=2", "+callbacks.fault.rank=0")
    with pytest.raises(ArithmeticError):
        cli("train", *SHORT, *fault, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}")
    (read,) = runs(tmp_path / "run")
    assert read["exit"] == 1 and read["steps"][0] == 1


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ({"WANDB_API_KEY": "abc"}, [], "W&B can't use its API key: WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": "  "}, [], "API key cannot start or end with whitespace"),
        ({}, ["logger.project=a/b"], "W&B refuses logger.project=a/b: UsageError: Invalid project name 'a/b'"),
        ({"WANDB_MODE": "sometimes"}, [], "WANDB_MODE=sometimes"),
        ({"WANDB_MODE": "online"}, [], "WANDB_MODE=online needs an API key"),
    ],
    ids=["short key", "blank key", "project", "mode", "no key"],
)
def test_what_wandb_would_refuse_is_one_sentence_before_training(
    cli: Cli,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict,
    arguments: list,
    message: str,
) -> None:
    import wandb

    wandb.teardown()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = cli("train", *SHORT, f"data.shards={shards}", *arguments, f"run_dir={tmp_path / 'run'}")
    assert ended.code == 2 and message in ended.err, ended.err
    assert ended.err.startswith("diptych: ") and ended.err.count("\n") == 1, ended.err
    assert not (tmp_path / "run/config.yaml").exists()


@pytest.mark.slow
def test_a_server_that_is_not_there_leaves_the_run_offline(
    cli: Cli, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:  # a port that nobody listens on, once it is closed
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    import wandb

    wandb.teardown()
    ended = cli("train", *SHORT, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}")
    assert ended.code == 0 and ended.err.count("diptych: ") == 1 and "W&B is offline" in ended.err, ended.err
    (read,) = runs(tmp_path / "run")
    assert read["steps"] == [1, 2, 3] and read["exit"] == 0


@pytest.mark.slow
def test_a_folder_that_wandb_can_not_have_is_said(cli: Cli, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/wandb").write_text("a file in its place")
    ended = cli("train", *SHORT, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}")
    assert ended.code == 0 and ended.err.count("\n") == 1, ended.err
    assert "W&B can't start with WANDB_MODE=offline (" in ended.err and "run/wandb" in ended.err, ended.err
    assert (tmp_path / "run/report.html").is_file()


@pytest.mark.slow
def test_a_training_goes_on_when_wandbs_service_is_killed(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "src/train.py"), *SHORT, f"data.shards={shards}", "run_dir=run"]
    process = subprocess.Popen(
        [*command, "trainer.max_steps=150", "trainer.checkpoint_every=100", "callbacks.progress.seconds=0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"step\D*[1-9]", line):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (service,) = [int(pid) for pid in children if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(service, signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 0 and "Traceback" not in err, err
    assert err.count("W&B's service has failed") == 1 and err.count("\n") == 1, err
    assert [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").open()] == list(range(1, 151))
    assert (tmp_path / "run/checkpoints/step=150.ckpt").is_file() and (tmp_path / "run/report.html").is_file()
