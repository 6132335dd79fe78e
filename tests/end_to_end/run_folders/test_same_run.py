"""Only the same run goes on: its checkpoints, its data, its config, its vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fits import same
from found import found
from omegaconf import OmegaConf
from run_folder import SMALL, Cli, kept, lines, refused

from diptych.base.files import ROOT
from diptych.training.checkpoints import write


def test_a_run_goes_on_only_with_its_own_checkpoints(cli: Cli, run: Path, shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    given = (f"data.shards={shards}", "trainer.max_steps=6", f"run_dir={other}", "seed=5", "name=other")
    assert cli("train", *SMALL, *given).code == 0
    shutil.copy(other / "checkpoints/step=6.ckpt", run / "checkpoints")
    before = kept(run)
    ended = cli("train", f"resume={run}")
    refused(ended, "step=6.ckpt there is not a checkpoint of the run that config.yaml describes: name, seed")
    del before["checkpoints/last.ckpt"]
    assert before.items() <= kept(run).items()
    (run / "checkpoints/step=6.ckpt").unlink()
    config = OmegaConf.load(run / "config.yaml")
    config.optim.lr = 0.5
    OmegaConf.save(config, run / "config.yaml")
    refused(cli("train", f"resume={run}"), "describes: optim.lr differs.")


@pytest.mark.slow
def test_a_resume_with_other_data_is_refused_and_with_moved_data_is_exact(
    cli: Cli, run: Path, shards: Path, tmp_path: Path
) -> None:
    longer = ("trainer.max_steps=6",)
    assert cli("train", *SMALL, f"data.shards={shards}", *longer, f"run_dir={tmp_path / 'whole'}").code == 0
    moved = shutil.copytree(shards.parent, tmp_path / "moved")
    index = json.loads(shards.read_text())
    changes = {
        "4 shards became 3, train-000003.tar is gone": index["shards"][:3],
        "shard 1 of 4, train-000000.tar, is now train-000003.tar": index["shards"][::-1],
    }
    before = kept(run)
    for said, entries in changes.items():
        shards.write_text(json.dumps({**index, "shards": entries}))
        refused(cli("train", f"resume={run}", *longer), "its data has changed: " + said)
    shards.unlink()
    assert kept(run) == before
    ended = cli("train", f"resume={run}", *longer, f"data.shards={moved / 'index.json'}")
    assert ended.code == 0, ended.err
    assert [x["train/loss"] for x in lines(run)] == [x["train/loss"] for x in lines(tmp_path / "whole")]
    assert len(lines(run)) == 6
    assert OmegaConf.load(run / "config.yaml").data.shards == str(moved / "index.json")


@pytest.mark.slow
def test_a_longer_run_is_the_run_that_was_as_long_from_the_start(cli: Cli, run: Path, shards: Path) -> None:
    """And one whose learning rates or pictures would have been others is refused, with the way to go."""
    whole = run.with_name("whole")
    assert cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=8", f"run_dir={whole}").code == 0
    refused(cli("train", f"resume={run}", "trainer.max_steps=3"), "trainer.max_steps=3 is less than the 4 steps")
    refused(cli("train", f"resume={run}", "trainer.max_steps=0"), "trainer.max_steps=0 must be at least 1")
    ended = cli("train", f"resume={run}", "samples=128")
    assert ended.code == 0 and "length: 8 steps instead of 4" in ended.out, ended.err
    left, right = (torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in (run, whole))
    assert left["global_step"] == right["global_step"] == 8
    assert same(left["state_dict"], right["state_dict"]) and "model.logit_scale" in left["state_dict"]
    assert left["lr_schedulers"] == right["lr_schedulers"]
    assert [x["train/loss"] for x in lines(run)] == [x["train/loss"] for x in lines(whole)] and len(lines(run)) == 8
    assert json.loads((run / "metrics.json").read_text())["training"]["steps"] == 8

    given = (*SMALL[:-2], f"data.shards={shards}", "trainer.max_steps=4", "schedule=cosine")
    cosine = run.with_name("cosine")
    assert cli("train", *given, f"run_dir={cosine}").code == 0
    before = kept(cosine)
    ended = cli("train", f"resume={cosine}", "trainer.max_steps=8")
    refused(
        ended,
        "its learning rates follow from its length",
        f"model.pretrained={cosine} trainer.max_steps=4",
        "schedule=constant",
    )
    assert kept(cosine) == before


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_sentence(cli: Cli, run: Path, tmp_path: Path) -> None:
    for file in found(run / "checkpoints", "*.ckpt"):
        content = torch.load(file, weights_only=True)
        del content["diptych"]["run"]
        write(content, file)
    shutil.copytree(tmp_path / "shards", tmp_path / "moved")
    moved = f"data.shards={tmp_path}/moved/index.json"
    refused(cli("train", f"resume={run}", moved), "data.shards can't change", "of an earlier version")
    ended = cli("train", f"resume={run}", "trainer.max_steps=6")
    assert ended.code == 0 and "of an earlier version, which did not describe its run and data" in ended.out, (
        ended.err
    )


def edited(run: Path, change: Callable[[dict], object]) -> None:
    """The run's config.yaml, changed by hand; its last step is gone, so that there is one to take."""
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    change(config)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(config))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda config: config["loss"].pop("smoothing"), "loss.smoothing"),
        (lambda config: config["model"].update(mean=[0, 0, 0]), "model.mean"),
        (lambda config: config["optim"].pop("weight_decay"), "optim.weight_decay"),
        (
            lambda config: config["callbacks"].update(
                ema={"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "decay": 0.5}
            ),
            "callbacks.ema",
        ),
    ],
    ids=["loss", "pixels", "optim", "average"],
)
def test_keys_taken_out_or_put_in_make_another_run(
    cli: Cli, run: Path, change: Callable[[dict], object], key: str
) -> None:
    edited(run, change)
    before = kept(run)
    ended = cli("train", f"resume={run}", "trainer.max_steps=6")
    assert ended.code == 2 and key in ended.err, ended.err
    assert kept(run) == before


@pytest.mark.parametrize("changed", [["seed=5"], ["data.batch_size=8", "optim.lr=0.1"], ["trainer.max_steps=9"]])
def test_a_job_started_again_goes_on_with_its_own_run_alone(
    cli: Cli, run: Path, shards: Path, changed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    before = kept(run)
    command = [*SMALL, f"data.shards={shards}", "trainer.max_steps=4", f"run_dir={run}"]
    ended = cli("train", *command, *changed)
    key = changed[0].partition("=")[0]
    assert ended.code == 2 and f"holds another run than this command describes: {key}" in ended.err, ended.err
    assert kept(run) == before
    monkeypatch.setenv("SLURM_RESTART_COUNT", "one")
    assert "SLURM_RESTART_COUNT=one in the environment is not a whole number" in cli("train", *command).err


def test_another_vocabulary_in_the_folder_is_refused(cli: Cli, shards: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "worded", ROOT / "data/emoji-vocabulary.txt.gz"
    given = [*SMALL, f"data.shards={shards}", f"model.text.vocabulary={file}", "data.validation=0"]
    assert cli("train", *given, "trainer.max_steps=2", f"run_dir={run}").code == 0
    copy = (run / "vocabulary.txt").read_text().splitlines()
    copy[-1], copy[-2] = copy[-2], copy[-1]
    (run / "vocabulary.txt").write_text("\n".join(copy) + "\n")
    ended = cli("train", f"resume={run}", "trainer.max_steps=4")
    assert ended.code == 2 and "vocabulary.txt there is not the vocabulary" in ended.err, ended.err
