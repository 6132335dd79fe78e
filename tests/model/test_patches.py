"""Which patches a training step reads: each sample's own draw, and every patch as often as any other."""

from __future__ import annotations

import torch

from diptych.commands.create import create_model
from diptych.model.patches import drawn_patches, kept_patches

SEEDS = torch.arange(4000) * 7919


def test_a_draw_is_rising_and_of_the_asked_number() -> None:
    drawn = drawn_patches(SEEDS, 9, 4)
    assert drawn.shape == (4000, 4) and drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) > 0).all() and drawn.min() == 0 and drawn.max() == 8
    assert torch.equal(drawn_patches(SEEDS[:3], 5, 5), torch.arange(5).expand(3, 5))


def test_a_sample_keeps_its_patches_in_any_batch() -> None:
    whole = drawn_patches(SEEDS, 16, 5)
    assert torch.equal(whole[1::4], drawn_patches(SEEDS[1::4], 16, 5))
    assert torch.equal(whole[[7]], drawn_patches(SEEDS[7:8], 16, 5))


def test_every_set_of_patches_is_as_likely_as_any_other() -> None:
    """Ten sets of two of five patches: each within five standard deviations of a tenth."""
    drawn = drawn_patches(SEEDS, 5, 2)
    sets = torch.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25)
    sets = sets[sets > 0]
    assert len(sets) == 10
    assert (sets - 400).abs().max() < 5 * (4000 * 0.1 * 0.9) ** 0.5


def test_towers_without_patches_or_without_dropout_read_all() -> None:
    pixels = torch.zeros(2, 3, 32, 32)
    for model in (create_model("rn_tiny", {}), create_model("vit_tiny", {})):
        assert kept_patches(model, SEEDS[:2], pixels) is None
