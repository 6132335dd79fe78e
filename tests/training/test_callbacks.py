"""What a person and a script see of a run."""

from __future__ import annotations

import io
import json
import random
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from rich.console import Console

from diptych.data.sets.evalset import EvalSet
from diptych.training.callbacks import progress
from diptych.training.callbacks.checkpoints import Checkpoints, restore, states
from diptych.training.callbacks.counts import added
from diptych.training.callbacks.zeroshot import ZeroShot, choice
from diptych.training.checkpoints import CheckpointFiles
from diptych.training.loggers import MetricsFile


def test_metrics_file_has_each_step_once_also_after_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    logger = MetricsFile(file)
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": step / 2}, step)
        logger.log_metrics({"val/x": step}, step)
    logger.finalize("success")
    with file.open("a") as cut:
        cut.write('{"step": 4, "tra')
    again = MetricsFile(file, resume_from=2)
    again.log_metrics({"train/loss": 9.0}, 3)
    again.save()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [
        {"step": 1, "train/loss": 0.5, "val/x": 1},
        {"step": 2, "train/loss": 1.0, "val/x": 2},
        {"step": 3, "train/loss": 9.0},
    ]


def test_counts_add_up() -> None:
    left = {"read": 3, "skipped": {"empty caption": {"a.tar": 1}}, "retried": {"http://host": 2}}
    right = {"read": 4, "skipped": {"empty caption": {"a.tar": 2, "b.tar": 1}, "no image": {"b.tar": 5}}}
    assert added([left, right]) == {
        "read": 7,
        "skipped": {"empty caption": {"a.tar": 3, "b.tar": 1}, "no image": {"b.tar": 5}},
        "retried": {"http://host": 2},
    }


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The live bar, on a terminal of 120 columns."""
    monkeypatch.setattr(progress, "Console", lambda: Console(force_terminal=True, width=120))
    bar = progress.ProgressBar()
    trainer = L.Trainer(
        max_steps=10, callbacks=[bar], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", devices=1,
    )  # fmt: skip
    module = L.LightningModule()
    bar.on_train_start(trainer, module)
    newest = {"loss": 1.25, "pairs_per_second": 1234.0, "data_wait": 0.02, "logit_scale": 14.3}
    trainer.callback_metrics.update({f"train/{name}": number for name, number in newest.items()})
    bar.on_train_batch_end(trainer, module, None, None, 0)
    bar.on_exception(trainer, module, KeyboardInterrupt())
    out = capsys.readouterr().out
    for part in ("train", "/10", "loss 1.250", "1,234 pairs/s", "2% data wait", "scale 14.3", "left"):
        assert part in out, out


COLOURS, CARS = EvalSet("colours", ["a"], ["{}"], [], "validation"), EvalSet("cars", ["a"], ["{}"], [], "test")


@pytest.mark.parametrize(
    ("now", "said", "best"),
    [
        ([COLOURS, CARS], "", 0.5),
        (
            [COLOURS, replace(CARS, classnames=["b"])],
            "cars has other classes: .*; best.ckpt is chosen as before",
            0.5,
        ),
        ([COLOURS], "cars is not measured any more: .*; best.ckpt is chosen as before", 0.5),
        ([CARS], "colours is not measured any more: .*; best.ckpt is not chosen any more", 0.5),
        (
            [replace(COLOURS, templates=["a {}"]), CARS],
            "colours has other templates: .*; best.ckpt is chosen again",
            None,
        ),
        ([COLOURS, replace(CARS, role="validation")], "cars has the role validation in .* is chosen again", None),
    ],
)
def test_what_a_resume_says_of_its_sets(
    now: list[EvalSet], said: str, best: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, CheckpointFiles(1), 1, None, timedelta(1))
    before, after, older = ZeroShot(1), ZeroShot(1), ZeroShot(1)
    trainer = L.Trainer(
        callbacks=[checkpoints],
        logger=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    capsys.readouterr()
    before.compare(trainer, [COLOURS, CARS], choice([COLOURS, CARS], False, True))
    checkpoints.best = 0.5
    after.load_state_dict(before.state_dict())
    after.compare(trainer, now, choice(now, False, True))
    told = capsys.readouterr().err
    assert re.search(said, told) and bool(told) == bool(said) == bool(after.changes) and checkpoints.best == best
    older.load_state_dict({"pairs": {}})  # of a checkpoint of an earlier version
    older.compare(trainer, now, choice(now, False, True))
    assert capsys.readouterr().err == "" and older.state_dict()["sets"] == after.state_dict()["sets"]


def draws() -> list[float]:
    return [torch.rand(()).item(), torch.randn(()).item(), random.gauss(0, 1), float(np.random.normal())]


def test_every_generator_draws_on() -> None:
    draws()  # half a pair of normal numbers is kept by Python's and NumPy's
    file = io.BytesIO()
    torch.save(states(torch.device("cpu")), file)
    expected = [draws(), draws()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert draws() != expected[0]
    file.seek(0)
    restore(torch.load(file, weights_only=True), torch.device("cpu"))
    assert [draws(), draws()] == expected
