"""Validation over ranks: pictures are shared out, torchmetrics adds up, and all ranks have one process's numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gloo import on_ranks

import diptych
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.held_out import HeldOut
from diptych.loss.contrastive import ContrastiveLoss
from diptych.training.callbacks.zeroshot import _accuracy, _on_pairs
from samples import COLOURS, caption, picture


def measured(rank: int, world: int) -> list[dict[str, Any]]:
    """600 pictures are three batches for two ranks; 20 are one, so that a rank has none; one can't be read."""
    torch.manual_seed(0)
    model = diptych.create_model("vit_tiny", image__layers=1, text__layers=1)
    module: Any = SimpleNamespace(model=model, device=torch.device("cpu"), loss=ContrastiveLoss())
    pictures = [picture(n, side=8) for n in range(20)]
    items = [(f"{n}", pictures[n % 20] if n != 7 else b"none", n % 4, caption(n % 20)) for n in range(600)]
    large, small = (EvalSet("set", list(COLOURS), ["a {} square."], items[:n]) for n in (600, 20))
    pairs = HeldOut(EvalSet("pairs", [], [], items[:50], role="validation"))
    return [_accuracy(module, large), _accuracy(module, small), _on_pairs(module, pairs, 16)]


@pytest.mark.slow
@pytest.mark.alone
def test_ranks_have_the_numbers_of_one_process() -> None:
    alone = measured(0, 1)
    assert alone[2]["n"] == 49 and sum(alone[2]["skipped"].values()) == 1
    for found in on_ranks(2, measured):
        for one, other in zip(alone, found, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                assert other[key] == (pytest.approx(value, abs=1e-12) if key.endswith("ece") else value), key
