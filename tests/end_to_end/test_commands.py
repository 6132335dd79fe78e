"""The commands as a user types them: files in their places, and every mistake one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fits import same
from found import found
from omegaconf import OmegaConf

from diptych.base.files import ROOT
from samples import COLOURS, caption, picture, write_shards

TINY = ("model=rn_tiny", "logger=none", "trainer.precision=32-true", "data.batch_size=16", "trainer.log_every=1")
Cli = Callable[..., "object"]


def shards_of(index: Path) -> tuple[str, ...]:
    return ("data=webdataset", f"data.shards={index}", "data.workers=0")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def trained(cli: Cli, shards: Path, tmp_path: Path) -> Path:
    """A finished run of four steps."""
    run = tmp_path / "run"
    ended = cli("train", *TINY, *shards_of(shards), "trainer.max_steps=4", f"run_dir={run}")
    assert ended.code == 0, ended.err
    return run


def test_a_run_leaves_its_files(trained: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "metrics.json", "samples.json", "report.html", "environment.txt"):
        assert (trained / name).stat().st_size > 0, name
    assert {f.name for f in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "step=4.ckpt"}
    assert [line["step"] for line in lines(trained)] == [1, 2, 3, 4]
    assert all(line["train/loss"] > 0 and 0 <= line["train/data_wait"] <= 1 for line in lines(trained))
    assert json.loads((trained / "samples.json").read_text()) == {"read": 64, "skipped": {}}
    assert json.loads((trained / "metrics.json").read_text())["training"]["pairs"] == 64
    assert "NaN" not in (trained / "metrics.jsonl").read_text()
    assert "${" not in (trained / "config.yaml").read_text()


def test_evaluate_and_embed_a_folder_of_classes(cli: Cli, trained: Path, class_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    data = ("data=folder", f"data.path={class_folder}")
    ended = cli("evaluate", f"checkpoint={trained}", "task=zeroshot", *data, f"out={out}")
    assert ended.code == 0, ended.err
    assert "top-1" in ended.out
    zeroshot = json.loads((out / "metrics.json").read_text())["zeroshot"]
    assert zeroshot["n"] == 12 and 0 <= zeroshot["top1"] <= zeroshot["top5"] == 1.0
    assert (out / "report.html").is_file()

    ended = cli("evaluate", f"checkpoint={trained}", "task=retrieval", *data, f"out={tmp_path / 'r'}")
    assert ended.code == 0 and "no caption" in ended.out

    ended = cli("embed", f"checkpoint={trained}/checkpoints/last.ckpt", *data, f"out={tmp_path / 'e'}")
    assert ended.code == 0, ended.err
    from diptych.tasks.embeddings import read_table

    table = read_table(tmp_path / "e" / "embeddings.parquet")
    assert len(table["key"]) == 12 and set(table["label"]) == set(COLOURS)
    assert table["image_embedding"].shape == (12, 256)


def test_a_sweep_lands_in_one_folder(cli: Cli, shards: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    ended = cli(
        "train", "-m", *TINY, *shards_of(shards), "trainer.max_steps=1", "optim.lr=1e-3,3e-3", f"run_dir={sweep}"
    )
    assert ended.code == 0, ended.err
    assert sorted(entry.name for entry in sweep.iterdir() if entry.is_dir()) == ["0", "1"]
    named = cli("train", "-m", *TINY, *shards_of(shards), "trainer.max_steps=1", "seed=1", "name=mine")
    assert named.code == 0, named.err
    (folder,) = (tmp_path / "runs/mine").iterdir()
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["0"]
    for job in ("0", "1"):
        assert (sweep / job / "report.html").is_file()


def test_two_ranks_train_as_one(cli: Cli, shards: Path, tmp_path: Path) -> None:
    """`trainer=ddp` as typed, on gloo: the curve of one process, in one folder, no sweep of its own."""
    arguments = (*TINY, *shards_of(shards), "trainer.max_steps=4", "trainer.clip=0.5", "data.streams=4")
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli("train", *arguments, f"run_dir={one}").code == 0
    ended = cli("train", *arguments, "trainer=ddp", "trainer.accelerator=cpu", f"run_dir={two}")
    assert ended.code == 0, ended.err
    assert len(lines(one)) == 4
    for alone, ranks in zip(lines(one), lines(two), strict=True):
        assert ranks["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-4)
    assert json.loads((two / "samples.json").read_text()) == {"read": 64, "skipped": {}}
    left, right = (torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (one, two))
    assert left.keys() == right.keys() >= {"model.logit_scale"}
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=2e-2, atol=2e-4, msg=name)


def test_resume_is_exact(cli: Cli, shards: Path, tmp_path: Path) -> None:
    """A run that was stopped after a checkpoint and went on equals one that never stopped, bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = (*TINY, *shards_of(shards), "trainer.max_steps=7", "trainer.checkpoint_every=3", "trainer.keep=9")
    assert cli("train", *arguments, f"run_dir={whole}").code == 0
    assert cli("train", *arguments, f"run_dir={broken}").code == 0
    # As after a crash between steps 3 and 7: the newest checkpoint is step 3, the metrics went on.
    checkpoints = broken / "checkpoints"
    for file in checkpoints.iterdir():
        if file.name != "step=3.ckpt":
            file.unlink()
    os.link(checkpoints / "step=3.ckpt", checkpoints / "last.ckpt")
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')
    ended = cli("train", f"resume={broken}", "trainer.log_every=2")
    assert ended.code == 0, ended.err
    assert [line["step"] for line in lines(broken)] == [1, 2, 3, 4, 6, 7]
    ours, theirs = ({x["step"]: x["train/loss"] for x in lines(run)} for run in (whole, broken))
    assert all(ours[step] == loss for step, loss in theirs.items())
    left, right = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, broken))
    assert same(left["state_dict"], right["state_dict"]) and "model.logit_scale" in left["state_dict"]
    assert json.loads((broken / "samples.json").read_text())["read"] == 7 * 16

    refused = cli("train", f"resume={broken}", "optim.lr=1")
    assert refused.code == 2 and "optim.lr belongs to the experiment" in refused.err


def test_a_resumed_folder_can_not_bring_a_command(cli: Cli, trained: Path, tmp_path: Path) -> None:
    """Law 4: its config allows `pipe:` and names one; nothing runs unless this command line allows it."""
    folder, sentinel = tmp_path / "foreign", tmp_path / "sentinel"
    shutil.copytree(trained, folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.data.allow_pipe = config.data.files.allow_pipe = True
    config.data.shards = f"pipe:touch {sentinel}"
    OmegaConf.save(config, folder / "config.yaml")
    ended = cli("train", f"resume={folder}")
    assert ended.code == 2 and "would run a program and is refused" in ended.err
    assert not sentinel.exists()


def test_ema_and_wandb_offline(cli: Cli, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "run"
    arguments = [a for a in TINY if a != "logger=none"]
    ended = cli("train", *arguments, *shards_of(shards), "trainer.max_steps=2", "callbacks=ema", f"run_dir={run}")
    assert ended.code == 0, ended.err
    assert list(run.glob("wandb/offline-run-*/*.wandb"))


def test_from_any_directory(tmp_path: Path, shards: Path) -> None:
    """A real process, elsewhere, with a sweep by name."""
    ended = subprocess.run(
        [
            sys.executable,
            str(ROOT / "src/train.py"),
            "-m",
            "+sweeps=lr",
            *TINY,
            *shards_of(shards),
            "trainer.max_steps=1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "runs/sweep").iterdir()
    assert sorted(job.name for job in folder.iterdir() if job.is_dir()) == ["0", "1", "2"]


def half(index: Path) -> None:
    tar = index.parent / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def no_caption(number: int, sample: dict) -> dict:
    return {k: v for k, v in sample.items() if k != "txt" or number != 3}


def no_image(number: int, sample: dict) -> dict:
    return sample | ({"png": b"not an image"} if number == 3 else {})


MISTAKES = {
    "unknown model": (["model=rn5"], "model=rn5 is unknown: take rn50"),
    "unknown key": (["optim.lrr=1"], "optim.lrr is unknown: did you mean optim.lr"),
    "unknown data": (["data=nothing"], "data=nothing is unknown"),
    "devices": (["trainer.devices=3"], "data.batch_size=16 can't be divided over trainer.devices=3"),
    "workers": (["data.workers=3"], "data.streams=16 can't be divided"),
    "streams": (["data.streams=5"], "data.streams=5"),
    "batch": (["data.batch_size=160"], "data.batch_size=160 is more than the 80 samples"),
    "precision": (["trainer.precision=8-bit"], "trainer.precision=8-bit is unknown"),
    "no gpu": (["trainer=gpu"], "trainer=gpu finds no GPU"),
    "two budgets": (["samples=1600", "trainer.max_steps=3"], "two budgets"),
    "zero steps": (["trainer.max_steps=0"], "trainer.max_steps=0"),
    "patches": (
        ["model=vit_tiny", "model.image.patch_dropout=1"],
        "model.image.patch_dropout=1 is not a share of the patches: take 0 or more, below 1.",
    ),
    "towers": (["+model.text.embed_dim=7"], "7"),
    "a part's key": (
        ["+data.image.size2=1"],
        "TrainImage has no argument size2 (did you mean data.image.size?): leave +data.image.size2=1 out.",
    ),
    "another loss's key": (
        ["loss=siglip", "+loss.smoothing=0.1"],
        "SigLIPLoss has no argument smoothing: leave +loss.smoothing=0.1 out",
    ),
    "warmup": (["schedule.warmup=100"], "schedule.warmup=100"),
    "missing run": (["resume=nowhere"], "nowhere does not exist: give a run's folder."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_config_dies_in_one_sentence(cli: Cli, shards: Path, name: str) -> None:
    if name == "no gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    arguments, message = MISTAKES[name]
    data = () if "data=" in "".join(arguments) else shards_of(shards)
    one_sentence(cli("train", *TINY, *data, "trainer.max_steps=5", *arguments), message)


def test_an_evaluation_set_is_not_trained_on(cli: Cli) -> None:
    one_sentence(cli("train", "logger=none", "data=folder", "data.path=x"), "evaluation only")


def one_sentence(ended: object, message: str) -> None:
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.startswith("diptych: ") and ended.err.count("\n") == 1, ended.err


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.alone])])
def test_damaged_data_dies_in_one_sentence(cli: Cli, tmp_path: Path, ranks: int) -> None:
    layout = ("trainer=ddp", "trainer.accelerator=cpu") if ranks == 2 else ()
    for number, (spoil, message) in enumerate(
        [(no_caption, "no caption: neither .txt"), (no_image, "not a readable image (.png)")]
    ):
        index = write_shards(tmp_path / f"s{number}", [16, 16], spoil)
        ended = cli("train", *TINY, *shards_of(index), *layout, "trainer.max_steps=4", "data.validation=0")
        one_sentence(ended, message)
        assert "train-000000.tar" in ended.err
    index = write_shards(tmp_path / "cut", [16, 16])
    half(index)
    one_sentence(cli("train", *TINY, *shards_of(index), *layout), "train-000001.tar")
    (index.parent / "train-000001.tar").unlink()
    ended = cli("train", *TINY, *shards_of(index), *layout)
    one_sentence(ended, "is missing")
    begun = found(tmp_path / "runs/rn_tiny", "*")  # those whose first steps were good; the others left nothing
    assert "run:" not in ended.out and len(begun) == 2


def test_bad_checkpoints_die_in_one_sentence(cli: Cli, trained: Path, class_folder: Path, tmp_path: Path) -> None:
    data = ("data=folder", f"data.path={class_folder}")
    one_sentence(cli("evaluate", "checkpoint=nowhere", *data), "checkpoint=nowhere does not exist")
    one_sentence(cli("evaluate", *data), "checkpoint= is missing")
    one_sentence(cli("evaluate", f"checkpoint={trained}", "data=folder", "data.path=no"), "data.path=no")
    file = trained / "checkpoints/last.ckpt"
    other = torch.load(file, weights_only=True)
    other["diptych"]["model"]["image"]["width"] = 32
    torch.save(other, tmp_path / "other.ckpt")
    one_sentence(cli("evaluate", f"checkpoint={tmp_path / 'other.ckpt'}", *data), "is of another model")
    (tmp_path / "cut.ckpt").write_bytes(file.read_bytes()[:5000])
    one_sentence(cli("evaluate", f"checkpoint={tmp_path / 'cut.ckpt'}", *data), "is refused")


def test_the_slow_are_warned(cli: Cli, shards: Path) -> None:
    """vit_b16 without a GPU: one sentence that says what will be slow and what to type instead."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ended = cli("train", "model=vit_b16", *shards_of(shards.parent / "gone.json"), "trainer.max_steps=1")
    assert "without a GPU a step of this model takes" in ended.out
    assert "recipe=demo" in ended.out
    one_sentence(ended, "gone.json does not exist")


def test_captions_name_the_picture() -> None:
    """The fixtures' own promise, on which the tests above rest."""
    assert "red" in caption(4) and picture(4) != picture(8)
