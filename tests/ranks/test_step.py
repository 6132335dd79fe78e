"""`build_step` on gloo ranks takes the step that one process takes with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo import on_ranks
from ranks.test_one_result import batch, small_clip

from diptych.training import build_step


def steps(rank: int, world: int, kind: str) -> dict[str, Any]:
    model = small_clip(kind)
    step = build_step(model, lr=1e-3, precision="64-true")
    losses = [step(*(x.chunk(world)[rank] for x in batch())) for _ in range(2)]
    return {"losses": torch.stack(losses), "state": model.state_dict()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit-transformer", "resnet-transformer"])
def test_two_ranks_step_as_one(kind: str) -> None:
    alone, together = steps(0, 1, kind), on_ranks(2, steps, kind)
    mean = torch.stack([found["losses"] for found in together]).mean(0)
    torch.testing.assert_close(mean, alone["losses"], rtol=1e-12, atol=0)
    for found in together:
        assert found["state"].keys() == alone["state"].keys()
        for name, value in alone["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-9, atol=1e-12)
