"""A tower of the user's own: what it lacks is said at once, and only who trusts it opens its runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_config import TINY

from diptych.base.errors import UserError
from diptych.model.load import load

Cli = Callable[..., Any]

OWN = (
    "~model.image", "+model.image={_target_: own_towers.Image, image_size: 32, embed_dim: 256, pretrained: null}",
    "data.image.size=32",
)  # fmt: skip


@pytest.mark.slow
def test_an_own_tower_is_trained_evaluated_and_gone_on_with(
    cli: Cli, shards: Path, class_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tiny = [a for a in TINY if not a.startswith("model.image")]
    sets = f"data.evaluate={class_folder}"
    ended = cli("train", *tiny, *OWN, sets, f"data.shards={shards}", f"run_dir={run}")
    assert ended.code == 0, ended.err
    said = ended.out.index("allow_targets=[own_towers.Image]")
    assert said < ended.out.index("step 1/2") and "evaluate.py, embed.py and convert.py" in ended.out
    assert "zero-shot" in ended.out
    commands = {
        "train": [f"resume={run}", "trainer.log_every=1"],
        "evaluate": [
            f"checkpoint={run}",
            "data=folder",
            f"data.path={class_folder}",
            f"out={tmp_path / 'evaluation'}",
        ],
        "embed": [f"checkpoint={run}", "data=folder", f"data.path={class_folder}", f"out={tmp_path / 'embeddings'}"],
        "convert": [f"checkpoint={run}", "format=diptych", f"out={tmp_path / 'export'}"],
    }
    for command, arguments in commands.items():
        refused = cli(command, *arguments)
        assert refused.code == 2 and "allow_targets=[own_towers.Image]" in refused.err, refused.err
        for trust in ("own_towers.Image", "own_towers."):
            shutil.rmtree(tmp_path / "export", ignore_errors=True)
            ended = cli(command, *arguments, f"allow_targets=[{trust}]")
            assert ended.code == 0, ended.err
    for path in (run, tmp_path / "export"):
        with pytest.raises(UserError, match=r"own_towers\.Image"):
            load(path)
        assert type(load(path, allow_targets=["own_towers."]).model.image).__name__ == "Image"


WRONG = {
    "own_towers.NoSize": r"own_towers.NoSize has no image_size: it needs a whole number",
    "own_towers.NotWithoutMemory": r"can't encode \[2, 3, 32, 32\] on the device meta",
    "own_towers.Image, gives: 7": r"returns \[2, 7\] for \[2, 3, 32, 32\]: it must be \[2, 256\]",
    "own_towers.Image, depth: 7": r"model.image.depth is unknown: own_towers.Image has no argument depth",
    "own_towers.Imaeg": r"own_towers has no Imaeg",
    "own_tower.Image": r"there is no module own_tower",
    "own_towers.Image, image_size: many": r"model\.image\.image_size=many must be a whole number",
}


@pytest.mark.parametrize("tower", WRONG)
def test_what_a_tower_lacks_is_said_before_a_folder_is_made(
    cli: Cli, shards: Path, tmp_path: Path, tower: str
) -> None:
    arguments = [a for a in TINY if not a.startswith("model.image")]
    own = f"{{_target_: {tower}, pretrained: null}}"
    if "NoSize" not in tower:
        own = own.replace("}", ", embed_dim: 256}")
    arguments += ["~model.image", f"+model.image={own}", "model.text.embed_dim=256", "data.image.size=32"]
    ended = cli("train", *arguments, f"data.shards={shards}", "data.evaluate=null", f"run_dir={tmp_path / 'run'}")
    assert ended.code == 2 and ended.err.count("\n") == 1, ended.err
    assert re.search(WRONG[tower], ended.err), ended.err
    assert not (tmp_path / "run").exists()
