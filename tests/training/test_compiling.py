"""`model.compile=true`: the same numbers, the same names, one graph for captions of any length."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from diptych import create_model
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.training.accumulation import features
from diptych.training.compiling import compile_towers

ROWS = 16


def step(model: CLIP, longest: int, parts: int) -> tuple[float, torch.Tensor]:
    """Loss and whole gradient on captions of up to `longest` words."""
    generator = torch.Generator().manual_seed(longest)
    images = torch.randint(0, 256, (ROWS, 3, 32, 32), generator=generator, dtype=torch.uint8)
    tokens = torch.zeros(ROWS, 77, dtype=torch.long)
    tokens[:, 0] = 49406
    for row in range(ROWS):
        words = 1 + longest * row // ROWS
        tokens[row, 1 : words + 1] = torch.randint(1, 4000, (words,), generator=generator)
        tokens[row, words + 1] = 49407
    model.zero_grad()
    image, text = features(model, images, tokens, parts)
    loss = ContrastiveLoss()(image, text, model.logit_scale.exp())
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.slow
def test_compiled_towers_are_the_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cache of its own: a compiler that was killed leaves half a library in the shared one.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    plain = create_model("vit_tiny", image__layers=1, text__layers=2).train()  # compiled in half the time
    model = copy.deepcopy(plain)
    compile_towers(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert list(copy.deepcopy(model).state_dict()) == list(plain.state_dict())
    torch._dynamo.utils.counters.clear()
    for longest in (5, 9, 14, 20, 40, 75, 33):
        loss, gradient = step(model, longest, parts=2)
        expected, exact = step(plain, longest, parts=2)
        assert abs(loss - expected) / expected < 1e-5
        assert (gradient - exact).norm() / exact.norm() < 1e-5
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
