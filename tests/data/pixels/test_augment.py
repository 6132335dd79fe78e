"""Augmentation on the batch: each sample's draws are its own, whatever batch it stands in."""

from __future__ import annotations

import torch

from diptych.base.batch import Batch, normalise
from diptych.data.pixels.augment import Drawings
from diptych.data.pixels.image import eval_image
from samples import picture


def batch(count: int = 12) -> Batch:
    images = torch.stack([eval_image(picture(n), 64) for n in range(count)])
    return Batch(images, torch.zeros(count, 4, dtype=torch.long), torch.arange(count) * 7919, step=3)


def test_a_sample_is_augmented_alike_in_any_batch() -> None:
    augment, whole = Drawings(), batch()
    together = augment(whole, 0.0).images
    parts = [
        augment(Batch(whole.images[i : i + 3], whole.tokens[i : i + 3], whole.seeds[i : i + 3]), 0.0).images
        for i in range(0, 12, 3)
    ]
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=1e-6)
    assert together.shape == (12, 3, 32, 32) and together.min() >= 0 and together.max() <= 1


def test_size_follows_the_schedule() -> None:
    augment = Drawings(sizes=[(0.6, 32), (0.0, 24)])
    assert [augment(batch(2), share).images.shape[-1] for share in (0.0, 0.59, 0.6, 1.0)] == [24, 24, 32, 32]
    assert "24 px from 0%, then 32 px from 60%" in augment.describe()


def test_with_nothing_on_it_only_resizes() -> None:
    still = Drawings(
        rotate=0, shift=0, scale=(1, 1), aspect=0, shear=0, flip=0, grey=0, permute=0, brightness=0,
        contrast=0, edges=0, one_colour=0,
    )  # fmt: skip
    images = batch().images
    expected = torch.nn.functional.avg_pool2d(images.float() / 255, 2)
    torch.testing.assert_close(still(batch(), 0.0).images, expected, rtol=0, atol=1e-5)


def test_what_lies_beyond_the_picture_is_white() -> None:
    far = Drawings(scale=(0.3, 0.3), rotate=0, shift=0, aspect=0, shear=0, grey=0, permute=0, brightness=0,
                   contrast=0, edges=0, one_colour=0)  # fmt: skip
    corner = far(batch(), 0.0).images[:, :, :4, :4]
    torch.testing.assert_close(corner, torch.ones_like(corner))


def test_each_version_is_made() -> None:
    grey = Drawings(grey=1, permute=0, edges=0, one_colour=0)(batch(), 0.0).images
    torch.testing.assert_close(grey[:, 0], grey[:, 2], rtol=0, atol=1e-5)
    still = {"permute": 0, "grey": 0, "brightness": 0, "contrast": 0, "rotate": 0, "shear": 0}
    flat = Drawings(edges=0, one_colour=1, **still)(batch(), 0.0).images
    torch.testing.assert_close(flat[:, 0], flat[:, 2], rtol=0, atol=1e-5)
    assert ((flat < 0.1) | (flat > 0.9)).float().mean() > 0.5
    lines = Drawings(edges=1, one_colour=0)(batch(), 0.0).images
    plain = Drawings(edges=0, one_colour=0)(batch(), 0.0).images
    assert not torch.equal(lines, plain)


def test_normalise_is_the_same_for_bytes_and_shares() -> None:
    pixels = batch().images
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = (pixels / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalise(pixels, mean, std), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normalise(pixels.float() / 255, mean, std), expected, rtol=1e-5, atol=1e-5)
