"""Law 1: a run of 2 ranks × 2 workers, killed twenty times at random moments, ends as one that never was.

Ranks and workers are real processes that run what `src/train.py` runs; only their imports are done once, in the fork
server that starts them. Kills of whole commands: test_long.py and test_kill_matrix.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diptych.base.files import ROOT
from diptych.commands import stored
from diptych.commands.rank import end_rank
from diptych.commands.resolvers import register_resolvers
from diptych.commands.resume import recover
from samples import write_shards

pytestmark = [pytest.mark.slow, pytest.mark.alone]

RANKS, STEPS, KILLS = 2, 40, 20
KINDS = ("step", "save", "saved", "saved")  # when a kill comes: some steps on, during a save, right after one


def rank_process(run_dir: Path, environment: dict[str, str], resume: bool) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    end_rank(stored.read(run_dir, str(run_dir)), run_dir, resume)


def started(run_dir: Path) -> list[BaseProcess]:
    """The ranks of the run, from its newest whole checkpoint, as `src/train.py resume=` starts them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diptych.commands.train", "diptych.training.trainer", "lightning", "witness"])
    resume = recover(run_dir) is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(RANKS)}
    common |= {"LOCAL_WORLD_SIZE": str(RANKS), "WITNESS": str(run_dir / "witness.jsonl")}
    ranks = []
    for rank in range(RANKS):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=rank_process, args=(run_dir, environment, resume))
        process.start()
        ranks.append(process)
    return ranks


def until(happened: Callable[[], bool], ranks: list[BaseProcess], seconds: float = 120) -> None:
    """Watches closely: what is waited for may be over in milliseconds."""
    deadline = time.monotonic() + seconds
    while not happened() and any(process.exitcode is None for process in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def kill(ranks: list[BaseProcess], run_dir: Path) -> None:
    """All ranks at once; their workers end by themselves."""
    for process in ranks:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in ranks:
        process.join()
    deadline = time.monotonic() + 30
    while left_behind(run_dir):
        assert time.monotonic() < deadline, left_behind(run_dir)
        time.sleep(0.01)


def newest_checkpoint(run_dir: Path) -> int:
    names = [file.stem.removeprefix("step=") for file in (run_dir / "checkpoints").glob("step=*.ckpt")]
    return max(map(int, names), default=0)


def left_behind(run_dir: Path) -> list[str]:
    """Processes that a rank of this run has started: its workers and their server."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(run_dir).encode() in environ.read_bytes() and int(environ.parent.name) != os.getpid():
                found.append(environ.parent.name)
        except OSError:  # it has ended, or is another user's
            continue
    return found


def seen(run_dir: Path) -> list[dict[str, Any]]:
    file = run_dir / "witness.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Every leaf of two checkpoints that is not the same, bit for bit."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() | theirs.keys():
            yield from differences(ours.get(key), theirs.get(key), f"{path}/{key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        for number, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(left, right, f"{path}/{number}")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if not torch.equal(ours, theirs) or ours.dtype != theirs.dtype:
            yield path
    elif ours != theirs:
        yield path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with the same config: a run that goes through, and one to be killed."""
    folder = tmp_path_factory.mktemp("kills")
    index = write_shards(folder / "shards", [32, 8, 24, 16])
    overrides = [
        "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=ddp", "trainer.accelerator=cpu",
        "trainer.devices=2", "trainer.precision=32-true", "logger=none", "data=webdataset", f"data.shards={index}",
        "data.batch_size=16", "data.streams=8", "data.block=7", "data.workers=2", f"trainer.max_steps={STEPS}",
        "trainer.checkpoint_every=2", "trainer.log_every=1", "callbacks=ema", "callbacks.ema.decay=0.9",
        "+callbacks.witness._target_=witness.Witness", "name=killed", "run_dir=unused",
    ]  # fmt: skip
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_yaml(compose("train", overrides), resolve=True)
    made = []
    for name in ("whole", "killed"):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "config.yaml").write_text(config)
        made.append(folder / name)
    return made[0], made[1]


def test_twenty_kills_leave_no_difference(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    whole, killed = runs
    ranks = started(whole)
    until(lambda: False, ranks)
    assert [process.exitcode for process in ranks] == [0, 0]
    rng, moments, watched = random.Random(7), [], 0
    for number in range(KILLS):
        newest = newest_checkpoint(killed)
        ranks, before = started(killed), len(seen(killed))
        kind = "step" if number < 2 else rng.choice(KINDS)
        if kind == "step":  # the first two: before the first step, and after it
            steps = number if number < 2 else rng.randrange(4)
            until(lambda before=before, steps=steps: len(seen(killed)) >= before + RANKS * steps, ranks)
        elif kind == "save":
            until(lambda: any((killed / "checkpoints").glob(".*.partial")), ranks)
        else:
            until(lambda newest=newest: newest_checkpoint(killed) > newest, ranks)
        time.sleep(0 if kind == "save" else rng.uniform(0, 0.1))
        in_save = any((killed / "checkpoints").glob(".*.partial"))
        watched += bool(left_behind(killed))
        at_step = max((line["step"] for line in seen(killed)[before:]), default=-1)
        kill(ranks, killed)
        moments.append(f"{at_step}{'s' if in_save else ''}")
    ranks = started(killed)
    until(lambda: False, ranks)
    assert [process.exitcode for process in ranks] == [0, 0]
    with capsys.disabled():
        print(f"\nkilled in steps (counted from 0; -1: before one, s: during a save) {' '.join(moments)}")

    expected = {(line["step"], line["rank"]): line for line in seen(whole)}
    assert len(expected) == RANKS * STEPS
    again = seen(killed)
    assert {(line["step"], line["rank"]) for line in again} == expected.keys()
    assert [line for line in again if line != expected[line["step"], line["rank"]]] == []
    times = ("train/pairs_per_second", "train/data_wait")
    curves = [
        [{k: v for k, v in json.loads(line).items() if k not in times} for line in file.read_text().splitlines()]
        for file in (whole / "metrics.jsonl", killed / "metrics.jsonl")
    ]
    assert [line["step"] for line in curves[0]] == list(range(1, STEPS + 1))
    assert curves[0] == curves[1]
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in runs]
    assert {"state_dict", "optimizer_states", "lr_schedulers", "generators", "callbacks", "samples"} <= states[
        0
    ].keys()
    assert list(differences(*states)) == []
    assert watched >= 3  # `left_behind` sees what a kill is to end
    assert sum(moment.endswith("s") for moment in moments) >= 3 and len(set(moments)) >= 8, moments
    assert (whole / "samples.json").read_text() == (killed / "samples.json").read_text()
