"""Every config composes, every sweep is understood, and what W&B's agent types is what Hydra takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from found import found
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diptych.base.files import ROOT
from diptych.commands.config import composed, validate
from diptych.commands.fit import check_loss
from diptych.commands.overrides import quote

sys.path.insert(0, str(ROOT / "tests/checks"))
import configs

import notebooks


@pytest.mark.parametrize(("entry", "overrides"), list(configs.choices()), ids=str)
def test_every_config_composes_and_resolves(entry: str, overrides: list[str]) -> None:
    configs.check(entry, overrides)


AGENTS = sorted((ROOT / "sweeps/wandb").glob("*.yaml"))


def test_there_are_sweeps_for_agents() -> None:
    """The tests below go over files: without one they would say nothing."""
    assert AGENTS and sorted((ROOT / "sweeps").glob("*.yaml"))


def values(spec: dict) -> list:
    """What a parameter may be: its only value, all of its values, or both ends of its range."""
    given = spec["values"] if "values" in spec else [spec["value"]] if "value" in spec else [spec["min"], spec["max"]]
    assert given, spec
    return given


@pytest.mark.parametrize("file", AGENTS, ids=lambda f: f.stem)
def test_what_a_wandb_agent_types_is_a_valid_run(file: Path) -> None:
    """Each value of each parameter, passed as W&B's own code passes it, changes that key of a config that trains."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load(file.read_text())
    assert {"program", "method", "metric", "parameters", "command"} <= sweep.keys()
    command = create_sweep_command(list(sweep["command"]))  # its macros are filled in by the agent
    assert command == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert (ROOT / sweep["program"]).samefile(ROOT / "src/train.py")
    configs.check("train", [])
    for turn in range(max(len(values(spec)) for spec in sweep["parameters"].values())):
        chosen = {n: {"value": values(s)[turn % len(values(s))]} for n, s in sweep["parameters"].items()}
        arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", [*arguments, "name=check"])
        for name, spec in chosen.items():
            assert OmegaConf.select(cfg, name) == spec["value"]
        validate(composed(cfg))
        check_loss(composed(cfg))


def test_the_sweeps_metric_is_one_that_a_run_logs() -> None:
    sets = json.loads((ROOT / "data/emoji/eval/sets.json").read_text())
    logged = {f"val/zeroshot/{n}/top1" for n, s in sets.items() if s["role"] in ("validation", "test")}
    for sweep in (yaml.safe_load(file.read_text()) for file in AGENTS):
        assert sweep["metric"]["name"] in logged and sweep["metric"]["goal"] == "maximize"
        assert (
            sweep["parameters"]["trainer.max_steps"]["value"]
            >= OmegaConf.load(ROOT / "conf/callbacks/default.yaml").zeroshot.every
        )  # else no run would log it


def test_no_source_is_ignored_by_git() -> None:
    """A pattern without a slash at its start swallows a folder of that name anywhere, as it did sweeps/wandb/."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no checkout of git")
    folders = ("src", "conf", "tests", "sweeps", "notebooks", "benchmarks", "docs", "data", ".ci")
    swallowed = ("wandb", "runs", "build", "dist", "embeddings", "outputs", "multirun")
    places = [f"{folder}/{name}/file.py" for folder in folders for name in swallowed]
    places.remove("notebooks/embeddings/file.py")  # the table that README writes there for the notebook
    places += [f"src/diptych/{name}/file.py" for name in swallowed]
    places += [str(file.relative_to(ROOT)) for file in AGENTS]
    asked = ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--stdin"]
    told = subprocess.run(asked, input="\n".join(places), capture_output=True, text=True)
    assert told.stdout == "" and told.returncode == 1, told.stdout + told.stderr
    kept_out = ["runs/a/config.yaml", "wandb/x", "build/x.o", "src/diptych/__pycache__/a.pyc", "dist/a.whl"]
    told = subprocess.run(asked, input="\n".join(kept_out), capture_output=True, text=True)
    assert told.stdout.split() == kept_out


def test_notebooks_are_committed_without_output_and_define_nothing(tmp_path: Path) -> None:
    for file in found(ROOT / "notebooks", "*.ipynb"):
        assert notebooks.faults(file) == []
    cell = {"cell_type": "code", "outputs": [1], "execution_count": None, "source": ["def f():\n", "  pass"]}
    (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert len(notebooks.faults(tmp_path / "bad.ipynb")) == 2


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("path={000..003}.tar", "path='{000..003}.tar'"),
        ("data.shards=/a/{x,y}/{0..3}.tar", "data.shards='/a/{x,y}/{0..3}.tar'"),
        ("path='{0..3}.tar'", "path='{0..3}.tar'"),
        ('data.shards=["{0..3}.tar"]', 'data.shards=["{0..3}.tar"]'),
        ("a={b:1,c:2}", "a={b:1,c:2}"),
        ("run_dir=${out}/x", "run_dir=${out}/x"),
        ("--cfg", "--cfg"),
        ("run_dir=a/rün", "run_dir='a/rün'"),
        ("name=[rün]", "name=[rün]"),
        ("path=a=ü", "path=a=ü"),
    ],
)
def test_patterns_and_letters_reach_hydra_quoted(typed: str, given: str) -> None:
    assert quote(typed) == given
