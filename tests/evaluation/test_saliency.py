"""Saliency on functions whose pixels that matter are known, and on both kinds of tower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import diptych
from diptych.evaluation.saliency import saliency


def test_only_pixels_that_the_answer_hangs_on_are_marked() -> None:
    def encode(pixels: Tensor) -> Tensor:
        corner = pixels[:, :, :4, :4].sum(dim=(1, 2, 3))
        return torch.stack([corner, torch.ones_like(corner)], dim=1)

    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    found = saliency(encode, pixels, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert found.shape == (2, 16, 16) and found.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert (found[:, :4, :4] > 0.3).all() and not found[:, 5:, :].any() and not found[:, :, 5:].any()
    assert torch.equal(found, saliency(encode, pixels, torch.tensor([[1.0, 0.0], [1.0, 0.0]])))


def test_a_constant_model_looks_at_nothing() -> None:
    found = saliency(lambda pixels: 0 * pixels.mean(dim=(2, 3)) + 1, torch.rand(1, 3, 8, 8), torch.ones(1, 3))
    assert not found.any()


@pytest.mark.parametrize("name", ["rn_tiny", "vit_tiny"])
def test_both_kinds_of_tower_and_no_gradient_is_left(name: str) -> None:
    torch.manual_seed(0)
    model = diptych.create_model(name).eval()
    size = model.image_size
    with torch.no_grad():
        found = saliency(model.encode_image, torch.randn(2, 3, size, size), torch.randn(2, model.image.embed_dim))
    assert found.shape == (2, size, size) and found.isfinite().all() and 0 <= found.min() <= found.max() <= 1
    assert all(weight.grad is None for weight in model.parameters())
