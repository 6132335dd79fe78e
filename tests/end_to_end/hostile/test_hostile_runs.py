"""Law 4, whole: run folders and checkpoints from elsewhere, by every command that opens one.

No code of theirs runs, no secret of the user's is read, printed or written; an audit hook watches."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_config import SECRET, TINY, spoiled
from safetensors.torch import save_file

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.interop.formats import convert
from diptych.model.load import load
from samples import picture

Cli = Callable[..., Any]


@pytest.fixture
def trained(cli: Cli, shards: Path, tmp_path: Path) -> Path:
    ended = cli("train", *TINY, f"data.shards={shards}", "data.evaluate=null", f"run_dir={tmp_path / 'trained'}")
    assert ended.code == 0, ended.err
    return tmp_path / "trained"


def test_no_command_runs_what_a_run_brings(cli: Cli, shards: Path, trained: Path, trap: Path) -> None:
    """resume, evaluate, embed and convert of a run whose config and checkpoint both are hostile; an export too."""
    config = plain.read(trained / "config.yaml")
    hostile = {"_target_": "sprung.call"}
    (trained / "config.yaml").write_text(plain.dump(spoiled(config, "model.image.activation", hostile, trap)))
    checkpoint = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    for value in (hostile, "${oc.create:{_target_: sprung.call}}", "\\${oc.env:AWS_SECRET_ACCESS_KEY}"):
        checkpoint["diptych"]["model"]["image"]["activation"] = value
        torch.save(checkpoint, trap / "hostile.ckpt")
        state = {key.removeprefix("model."): tensor.contiguous() for key, tensor in checkpoint["state_dict"].items()}
        (trap / "export").mkdir(exist_ok=True)
        save_file(state, trap / "export/model.safetensors")
        (trap / "export/config.yaml").write_text(plain.dump({"model": checkpoint["diptych"]["model"]}))
        for number, path in enumerate((trap / "hostile.ckpt", trap / "export")):
            with pytest.raises(UserError, match=r"no tower of ours|can't be built"):
                load(path)
            with pytest.raises(UserError, match=r"no tower of ours|can't be built"):
                convert(path, "openai", trap / f"out{number}")
    ended = [cli("train", f"resume={trained}")]
    for command in ("evaluate", "embed"):
        ended.append(cli(command, f"checkpoint={trap / 'hostile.ckpt'}", f"out={trap / command}"))
    ended.append(cli("convert", f"checkpoint={trap / 'export'}", "format=diptych", f"out={trap / 'converted'}"))
    ended.append(
        cli("train", *TINY, f"model.pretrained={trap / 'export'}", "data.shards=x", f"run_dir={trap / 'new'}")
    )
    for each in ended:
        assert each.code == 2 and each.err.count("\n") == 1 and SECRET not in each.err + each.out
        assert re.search(r"can't be built|would call sprung\.call", each.err), each.err
    assert not (trap / "new/checkpoints/last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.alone
def test_ranks_train_by_the_config_that_was_checked(trained: Path, tmp_path: Path) -> None:
    """Whoever changes config.yaml after the check changes nothing: a rank reads it from its launcher."""
    config = plain.read(trained / "config.yaml")
    (trained / "config.yaml").write_text("not: this one")
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    config["trainer"]["max_steps"] = config["data"]["steps"] = 3
    ended = subprocess.run(
        [sys.executable, "-m", "diptych.commands.rank", str(trained), "resume", str(os.getpid())],
        input=json.dumps(config), env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def test_a_config_that_can_t_be_written_as_data_is_refused(cli: Cli, shards: Path, tmp_path: Path) -> None:
    ended = cli("train", *TINY, f"data.shards={shards}", r"name='\${oc.env:HOME}'", f"run_dir={tmp_path / 'run'}")
    assert ended.code == 2 and "name holds '${oc.env:HOME}': a run's config may hold no interpolation" in ended.err
    assert not (tmp_path / "run").exists()


def test_names_from_elsewhere_do_not_steer_the_terminal(cli: Cli, tmp_path: Path, trained: Path) -> None:
    """Of class folders, each of which is refused, and of files, which are counted and named."""
    odd = ("red\x1b[2J", "green\u202e", "blue\x9b1m", "grey\x07")
    for name in odd:
        (tmp_path / "refused" / name).mkdir(parents=True)
        (tmp_path / "refused" / name / "0.png").write_bytes(picture(0))
    for name in ("red", "green"):
        (tmp_path / "taken" / name).mkdir(parents=True)
        for number, end in enumerate((".png", ".jpg", ".sh")):
            (tmp_path / "taken" / name / f"{number}\x1b[1A\u202e\x07{end}").write_bytes(
                picture(0) if number == 0 else b"-"
            )

    def evaluated(data: Path) -> Any:
        return cli("evaluate", f"checkpoint={trained}", "data=folder", f"data.path={data}", f"out={data}-out")

    ended = []
    for name in odd:
        ended.append(evaluated(tmp_path / "refused"))
        assert ended[-1].code == 2 and "whose name is not text: rename it" in ended[-1].err, ended[-1].err
        shutil.rmtree(tmp_path / "refused" / name)
    ended.append(evaluated(tmp_path / "taken"))
    assert ended[-1].code == 0, ended[-1].err
    assert "2 × not a readable image" in ended[-1].out and r"red/2\x1b[1A\u202e\x07.sh" in ended[-1].out, ended[-1]
    for text in (part for each in ended for part in (each.out, each.err)):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
