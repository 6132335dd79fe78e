"""Fine-tuning as typed: start from a checkpoint, lock a tower, go on after a stop, on one process and on ranks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fits import same

import diptych

TINY = (
    "logger=none", "trainer.precision=32-true", "data.batch_size=16", "trainer.log_every=1", "data=webdataset",
    "data.workers=0", "data.streams=4", "model.text.layers=1",
)  # fmt: skip
Cli = Callable[..., "object"]


def state(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def losses(run: Path) -> dict[int, float]:
    return {x["step"]: x["train/loss"] for x in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}


@pytest.fixture
def first(cli: Cli, shards: Path, tmp_path: Path) -> Path:
    """A run of two steps to start from."""
    run = tmp_path / "first"
    ended = cli("train", "model=rn_tiny", *TINY, f"data.shards={shards}", "trainer.max_steps=2", f"run_dir={run}")
    assert ended.code == 0, ended.err
    return run


def stopped(run: Path, step: int) -> None:
    """As after a crash: the newest checkpoint is that of `step`."""
    for file in (run / "checkpoints").iterdir():
        if file.name != f"step={step}.ckpt":
            file.unlink()
    os.link(run / f"checkpoints/step={step}.ckpt", run / "checkpoints/last.ckpt")


def test_lit_trains_the_text_alone_and_goes_on_exactly(cli: Cli, first: Path, shards: Path, tmp_path: Path) -> None:
    run, before = tmp_path / "lit", state(first)
    ended = cli(
        "train", "recipe=lit", "model=rn_tiny", f"model.pretrained={first}", "optim.layer_decay=0.7", *TINY,
        f"data.shards={shards}", "trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.keep=9",
        "finetune.logit_scale=false", f"run_dir={run}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert f"model: starts from model.pretrained={first}" in ended.out
    assert "parameters are trained (image: none, text: all, logit_scale: false)" in ended.out
    after, curve = state(run), losses(run)
    assert len(curve) == 4 and after.keys() == before.keys() >= {"model.logit_scale", "model.text.text_projection"}
    for name, value in before.items():
        assert torch.equal(value, after[name]) != name.startswith("model.text."), name

    shutil.rmtree(first)  # neither a checkpoint nor a resume needs it again
    clip = diptych.load(run)
    assert "pretrained" not in json.dumps(clip.describe) and clip.step == 4
    stopped(run, 2)
    resumed = cli("train", f"resume={run}")
    assert resumed.code == 0, resumed.err
    assert "starts from" not in resumed.out and "parameters are trained (image: none" in resumed.out
    assert losses(run) == curve and same(state(run), after)
    refused = cli("train", f"resume={run}", "finetune.image=all")
    assert refused.code == 2 and "finetune.image belongs to the experiment" in refused.err


@pytest.mark.slow
@pytest.mark.alone
def test_two_ranks_train_the_last_block_as_one_process_does(
    cli: Cli, first: Path, shards: Path, tmp_path: Path
) -> None:
    """Data-parallel gloo ranks refuse a parameter that gets no gradient; the frozen ones are none of theirs."""
    arguments = (
        "model=rn_tiny", *TINY, f"data.shards={shards}", f"model.image.pretrained={first}", "finetune.image=1",
        "optim=muon", "optim.layer_decay=0.5", "trainer.max_steps=5", "trainer.checkpoint_every=2", "trainer.keep=9",
    )  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli("train", *arguments, f"run_dir={one}").code == 0
    ranks = cli("train", *arguments, "trainer=ddp", "trainer.accelerator=cpu", f"run_dir={two}")
    assert ranks.code == 0, ranks.err
    curve, after = losses(two), state(two)
    assert len(losses(one)) == 5
    for step, loss in losses(one).items():
        assert curve[step] == pytest.approx(loss, rel=2e-3)
    frozen = [name for name in after if name.startswith(("model.image.conv", "model.image.bn", "model.image.layer1"))]
    assert frozen and all(torch.equal(after[name], state(first)[name]) for name in frozen)
    stopped(two, 2)
    resumed = cli("train", f"resume={two}")
    assert resumed.code == 0, resumed.err
    assert losses(two) == curve and same(state(two), after)


MISTAKES = {
    "no file": (["model.pretrained=nowhere"], "model.pretrained=nowhere does not exist"),
    "random and frozen": (
        ["recipe=lit"],
        "finetune.image=none would freeze random weights: give model.pretrained=PATH",
    ),
    "all frozen": (
        ["model.pretrained=FILE", "finetune={image: none, text: none, logit_scale: false}"],
        "leave nothing to train",
    ),
    "blocks": (
        ["model.pretrained=FILE", "finetune.image=9"],
        "finetune.image=9 is invalid: take all, none,",
    ),
    "not a checkpoint": (["model.pretrained=FILE"], "FILE is refused: not a whole file of plain tensors"),
    "no timm": (["model=timm"], "model=timm needs the package timm"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_dies_in_one_sentence_before_any_data_is_read(cli: Cli, name: str) -> None:
    arguments, message = MISTAKES[name]
    if name == "no timm":
        try:
            import timm  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("timm is installed here")
    Path("FILE").write_bytes(b"no checkpoint")
    model = [] if name == "no timm" else ["model=rn_tiny"]
    ended = cli("train", *model, *TINY, "data.shards=gone.json", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.startswith("diptych: ") and ended.err.count("\n") == 1, ended.err
