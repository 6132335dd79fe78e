"""What is computed again in the backward pass gives the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diptych
from diptych.model.load import read_checkpoint
from diptych.towers.clip import CLIP
from diptych.training.strategy import Recompute, Replicated
from diptych.training.trainer import make_trainer


def kept(model: CLIP, images: Tensor) -> int:
    """Bytes that a forward pass leaves for the backward pass."""
    sizes = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model.encode_image(images)
    return sum(sizes)


def test_one_process_lets_blocks_be_computed_again(tmp_path: Path) -> None:
    model, images = diptych.create_model("rn_tiny"), torch.rand(4, 3, 32, 32)
    before = kept(model, images)
    strategy = partial(Replicated, activation_checkpointing=True)
    trainer = make_trainer(run_dir=tmp_path, devices=1, max_steps=1, strategy=strategy, accelerator="cpu")
    (callback,) = (callback for callback in trainer.callbacks if isinstance(callback, Recompute))
    module: Any = nn.ModuleList([model])
    callback.setup(trainer, module, "fit")
    assert kept(model, images) < before / 2


@pytest.mark.parametrize("model", ["rn_tiny", pytest.param("vit_tiny", marks=[pytest.mark.slow, pytest.mark.alone])])
def test_blocks_computed_again_train_alike(cli: Callable[..., Any], shards: Path, tmp_path: Path, model: str) -> None:
    """On two ranks, with an average of the weights; rn_tiny has batch norms."""
    losses, states = [], []
    for again in ("false", "true"):
        ended = cli(
            "train", f"model={model}", "model.text.width=64", "data=webdataset", f"data.shards={shards}",
            "data.batch_size=16", "data.workers=0",
            "trainer=cpu", "trainer.precision=64-true", "trainer.max_steps=3", "trainer.log_every=1", "logger=none",
            f"trainer.strategy.activation_checkpointing={again}", f"run_dir=run-{again}",
            "trainer.devices=2", "callbacks=ema",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        lines = (tmp_path / f"run-{again}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train/loss"] for line in lines])
        states.append(read_checkpoint(tmp_path / f"run-{again}" / "checkpoints/last.ckpt")["state_dict"])
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-12)
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-12)
