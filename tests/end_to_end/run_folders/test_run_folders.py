"""A run's folder keeps its truth: what is typed into it, and two of one second, as its user sees it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from run_folder import SMALL, Cli, kept, refused


def test_a_new_run_does_not_write_over_an_old_one(cli: Cli, run: Path, shards: Path) -> None:
    before = kept(run)
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=9", "seed=5", f"run_dir={run}")
    refused(ended, f"run_dir={run} holds a run already (config.yaml): to resume it, type resume={run}")
    assert kept(run) == before


def test_a_wrong_start_makes_no_folder_and_the_next_try_takes_it(cli: Cli, shards: Path, tmp_path: Path) -> None:
    given = (*SMALL, "trainer.max_steps=1", f"run_dir={tmp_path / 'a/run'}")
    refused(cli("train", *given, f"data.shards={shards}", "data.max_bad=2"), "data.max_bad")
    assert not (tmp_path / "a").exists()
    refused(cli("train", *given, "data.shards=nowhere.json"), "nowhere.json")
    assert cli("train", *given, f"data.shards={shards}").code == 0
    refused(
        cli("train", *SMALL, f"data.shards={shards}", "name=../../x"), "name='../../x' names no folder below runs/"
    )
    refused(cli("train", *SMALL, f"data.shards={shards}", f"run_dir={shards}/x"), "is not a folder")
    refused(cli("train", "-m", *SMALL, f"data.shards={shards}", f"run_dir={shards}/x"), "can't be written")
    assert not list(tmp_path.glob("**/x")) and not (tmp_path.parent / "x").exists()


@pytest.mark.slow
def test_two_runs_and_two_evaluations_of_one_second_have_a_folder_each(
    cli: Cli, run: Path, shards: Path, tmp_path: Path, class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=1", "name=twin")
    (first,) = (tmp_path / "runs/twin").iterdir()
    number = int(first.name.removeprefix("run"))
    (first.parent / f"run{number + 1}").mkdir()  # as another process's, which has just begun
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=1", "name=twin")
    assert again.code == ended.code == 0 and f"run: {first.parent}/run{number + 1}\n" in ended.out
    shutil.copytree(first, first.parent / f"run{number + 2}")
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=1", "name=twin")
    assert f"run: {first.parent}/run{number + 2}-2\n" in ended.out
    (tmp_path / f"runs/evaluate/run{number + 3}").mkdir(parents=True)
    (tmp_path / f"runs/evaluate/run{number + 3}/metrics.json").write_text("{}")
    ended = cli("evaluate", f"checkpoint={run}", "data=folder", f"data.path={class_folder}")
    assert f"report: {tmp_path}/runs/evaluate/run{number + 3}-2/report.html" in ended.out, ended.err


@pytest.mark.slow
def test_an_evaluation_into_a_runs_folder_leaves_the_run_as_it_is(
    cli: Cli, run: Path, class_folder: Path, tmp_path: Path
) -> None:
    before, trained = kept(run), json.loads((run / "metrics.json").read_text())["training"]
    given = ("data=folder", f"data.path={class_folder}", f"out={run}")
    ended = cli("evaluate", f"checkpoint={run}", *given)
    assert ended.code == 0, ended.err
    after = kept(run)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"metrics.json", "report.html"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["training"] == trained and metrics["zeroshot"]["n"] == 12
    assert OmegaConf.load(run / "evaluation/zeroshot/config.yaml").checkpoint == str(run)
    assert (run / "evaluation/zeroshot/environment.txt").is_file()
    ended = cli("train", f"resume={run}")
    assert ended.code == 0 and "This run is complete: 4 of 4 steps." in ended.out, ended.err
    assert json.loads((run / "metrics.json").read_text()) == metrics
    (run / "metrics.json").write_text(r'{"zeroshot": {"sets": {"mine\u001b": {"n": 1}}}}')
    ended = cli("evaluate", f"checkpoint={run}", *given)
    assert rf"diptych: zeroshot of mine\x1b in {run}/metrics.json is replaced." in ended.err
    exported = tmp_path / "exported"
    assert cli("convert", f"checkpoint={run}", "format=diptych", f"out={exported}").code == 0
    whole = kept(exported)
    refused(cli("evaluate", f"checkpoint={run}", *given[:2], f"out={exported}"), f"out={exported} holds a model")
    assert kept(exported) == whole and "run:" not in (exported / "config.yaml").read_text()
