"""The model's bytes are those that real ranks send."""

from __future__ import annotations

import counted
import pytest
from gloo import on_ranks

from diptych.config import create_model
from diptych.plan.counting import count
from diptych.plan.layout import GLOO, NCCL, PRECISIONS, Layout
from diptych.plan.wire import all_gather, all_reduce, reduce_scatter, traffic

SINGLE = PRECISIONS["32-true"]


def test_features_gathered_and_scattered() -> None:
    pairs, dimensions = 256, 128
    sent = on_ranks(2, counted.features, pairs, dimensions)
    own = pairs * dimensions * 4
    assert sent == pytest.approx([2 * (all_gather(2, own) + reduce_scatter(2, 2 * own, GLOO))] * 2, rel=0.01)


@pytest.mark.parametrize("name", ["vit_tiny", "rn_tiny"])
def test_a_step_of_ddp(name: str) -> None:
    counts = count(counted.small(name), counted.TOKENS, half=False)
    parts = traffic(counts, Layout(ranks=2, batch=32), SINGLE, GLOO)
    assert {part.name for part in parts} >= {"features", "gradients"}
    sent = on_ranks(2, counted.whole, name, 16)
    assert sum(sent) / 2 == pytest.approx(sum(part.sent for part in parts), rel=0.01)
