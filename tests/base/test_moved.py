"""What earlier versions wrote names classes where they were then; it still opens, evaluates and resumes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.base import moved
from diptych.base.files import ROOT
from diptych.building.targets import located
from diptych.commands import experiment

KEPT = ROOT / "tests/golden/kept.tar.gz"  # see make_kept_run.py beside it
OF_THE_HOUR = ("train/pairs_per_second", "train/data_wait")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What the version of 2026-11-28 wrote, as the folder in which commands run."""
    with tarfile.open(KEPT) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_every_class_that_a_config_ever_named_is_there(kept: Path) -> None:
    names = json.loads((kept / "expected.json").read_text(encoding="utf-8"))["targets"]
    assert len(names) > 50
    for name in names:
        assert callable(located(moved.current(name))), name
    for name in moved.MOVED.values():
        assert _is_module(name) or callable(located(name)), name


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what stands before the last dot is a module, not a package
        return False


def test_a_run_of_then_goes_on_with_the_numbers_of_then(kept: Path, cli: Callable[..., Any]) -> None:
    """Loss, gradient norms, validation and the average of the weights, to six digits: another machine's kernels."""
    expected = json.loads((kept / "expected.json").read_text(encoding="utf-8"))
    ended = cli("train", "resume=run", "trainer.max_steps=4")
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in (kept / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(expected["metrics"]) == 4
    for line, was in zip(lines, expected["metrics"], strict=True):
        numbers = {key: value for key, value in line.items() if key not in OF_THE_HOUR}
        assert numbers == pytest.approx({k: v for k, v in was.items() if k not in OF_THE_HOUR}, rel=1e-5)
    ended = cli("evaluate", "checkpoint=run", "data=benchmark", "data.path=set", "out=evaluated")
    assert ended.code == 0, ended.err
    told = json.loads((kept / "evaluated/metrics.json").read_text(encoding="utf-8"))["zeroshot"]["sets"]["set"]
    was = expected["evaluation"]["sets"]["set"]
    assert told["top1"] == was["top1"] and told["hashes"] == was["hashes"]
    assert told["ece"] == pytest.approx(was["ece"], rel=1e-4)


def test_an_export_of_then_is_the_model_of_then(kept: Path) -> None:
    exported, saved = diptych.load(kept / "export"), diptych.load(kept / "run")
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(exported.model.encode_image(pictures), saved.model.encode_image(pictures))


def test_a_name_that_moved_is_read_and_does_not_make_another_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    was = {"model": {"_target_": "diptych.towers.clip.CLIP", "image": [{"_target_": "diptych.towers.vit.Old"}]}}
    digests = experiment.describe(was)
    monkeypatch.setitem(moved.MOVED, "diptych.towers.clip", "diptych.model.clip")
    monkeypatch.setitem(moved.MOVED, "diptych.towers.vit.Old", "diptych.towers.vit.VisionTransformer")
    now = moved.renamed(was)
    assert now == {
        "model": {
            "_target_": "diptych.model.clip.CLIP",
            "image": [{"_target_": "diptych.towers.vit.VisionTransformer"}],
        }
    }
    assert experiment.describe(now)["model._target_"] == digests["model._target_"]
    assert moved.current("diptych.towers.clipped.CLIP") == "diptych.towers.clipped.CLIP"
