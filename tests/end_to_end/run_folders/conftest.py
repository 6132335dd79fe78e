"""A run of four steps beside its shards, trained once; each test has a copy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from run_folder import SMALL

from diptych.commands import cli
from samples import write_shards


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, in the folder `run` beside their shards."""
    folder = tmp_path_factory.mktemp("trained")
    index = write_shards(folder / "shards", [32, 8, 24, 16])
    command = ["train.py", *SMALL, f"data.shards={index}", "trainer.max_steps=4", f"run_dir={folder / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        cli.main("train")
    return folder


@pytest.fixture
def shards(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained / "shards", tmp_path / "shards") / "index.json"


@pytest.fixture
def run(trained: Path, shards: Path, tmp_path: Path) -> Path:
    """The run, copied, whose shards are the test's own now."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    config = (run / "config.yaml").read_text()
    assert str(trained / "shards") in config
    (run / "config.yaml").write_text(config.replace(str(trained / "shards"), str(shards.parent)))
    return run
