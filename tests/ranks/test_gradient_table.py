"""Law 1: the gradient of a step is one, dense or tiled, in micro-batches or not, DDP or FSDP, on any ranks."""

from __future__ import annotations

import math

import gradient_table
import pytest
import torch


@pytest.mark.parametrize(
    "world", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_every_way_to_divide_a_step_gives_its_gradient(world: int) -> None:
    found = gradient_table.differences(world)
    assert len(found) == 24
    assert {way: value for way, value in found.items() if not value <= 1e-10} == {}


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_every_parameter_has_a_gradient_to_compare(name: str) -> None:
    expected = gradient_table.reference(name)
    assert len(expected) > 40 and "logit_scale" in expected
    assert ("loss.logit_bias" in expected) == (name == "siglip")
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in expected.values())
    off = {key: value * (1 + 1e-9) for key, value in expected.items()}
    assert gradient_table.difference(off, expected) > 1e-10  # the comparison can fail
    lost = {**expected, "logit_scale": torch.tensor(torch.nan)}
    assert math.isnan(gradient_table.difference(lost, expected))
    assert torch.isfinite(expected[""])
