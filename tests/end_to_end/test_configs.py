"""Every config composes, every sweep is understood, and what W&B's agent types is what Hydra takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diptych.config import ROOT, quote_braces, register_resolvers

sys.path.insert(0, str(ROOT / "tests/checks"))
import configs

import notebooks


@pytest.mark.parametrize(("entry", "overrides"), list(configs.choices()), ids=str)
def test_every_config_composes_and_resolves(entry: str, overrides: list[str]) -> None:
    configs.check(entry, overrides)


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps/wandb").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_wandb_agents_command_composes(file: Path) -> None:
    """Every value that the sweep names, passed as W&B's own code would pass it, lands in the config."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load(file.read_text())
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"][-1] == "${args_no_hyphens}"
    chosen = {
        name: {"value": spec.get("value", spec.get("min", (spec.get("values") or [None])[0]))}
        for name, spec in sweep["parameters"].items()
    }
    arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", arguments)
    for name, spec in chosen.items():
        assert OmegaConf.select(cfg, name) == pytest.approx(float(spec["value"]))


def test_the_sweeps_metric_is_one_that_a_run_logs() -> None:
    sets = json.loads((ROOT / "data/emoji/eval/sets.json").read_text())
    logged = {f"val/zeroshot/{n}/top1" for n, s in sets.items() if s["role"] in ("validation", "test")}
    for file in (ROOT / "sweeps/wandb").glob("*.yaml"):
        assert yaml.safe_load(file.read_text())["metric"]["name"] in logged


def test_notebooks_are_committed_without_output_and_define_nothing(tmp_path: Path) -> None:
    for file in (ROOT / "notebooks").glob("*.ipynb"):
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
    ],
)
def test_brace_patterns_reach_hydra_quoted(typed: str, given: str) -> None:
    assert quote_braces(typed) == given
