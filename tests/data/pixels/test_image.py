"""A training square is one crop drawn by the seed, an evaluation square the centre; both have Pillow's pixels."""

from __future__ import annotations

import numpy as np
import pillow_pixels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, photo
from PIL import Image

from diptych.base.errors import UserError
from diptych.data.pixels.image import BadImage, TrainImage, eval_image, train_image
from samples import picture


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 48),
    seed=st.integers(0, 2**60),
    crop=st.sampled_from(["square", "resized"]),
    fast=st.booleans(),
    form=st.sampled_from(["PNG", "JPEG"]),
)
def test_any_picture_gives_a_square_and_the_seed_alone_decides(
    width: int, height: int, size: int, seed: int, crop: str, fast: bool, form: str
) -> None:
    data = encoded(Image.effect_noise((width, height), 60).convert("RGB"), form)
    first = train_image(data, size, seed=seed, crop=crop, scale=(0.01, 1.0), fast=fast)
    assert first.shape == (3, size, size) and first.dtype == torch.uint8
    assert torch.equal(first, train_image(data, size, seed=seed, crop=crop, scale=(0.01, 1.0), fast=fast))
    assert eval_image(data, size).shape == (3, size, size)


@pytest.mark.parametrize("crop", ["square", "resized"])
@pytest.mark.parametrize("sides", [(320, 240), (240, 320), (150, 420), (60, 50)])
def test_training_pixels_are_pillows(sides: tuple[int, int], crop: str) -> None:
    """A level apart at most, but for one value in some 100,000, which is two apart: torch's weights have 16 bits."""
    apart = []
    for seed in range(4):
        exif = Image.Exif()
        exif[0x0112] = (1, 3, 6, 8)[seed]
        data = encoded(photo(*sides, seed), quality=(75, 95)[seed % 2], exif=exif)
        expected = pillow_pixels.train_image(data, 112, seed=seed, crop=crop)
        apart.append(pillow_pixels.apart(train_image(data, 112, seed=seed, crop=crop), expected).float())
    together = torch.stack(apart)
    assert together.max() <= 2 and (together > 1).sum() <= 3 and together.mean() < 0.02


@pytest.mark.parametrize("sides", [(320, 240), (150, 420), (60, 50), (1, 200), (200, 1), (3, 1500)])
def test_evaluation_pixels_are_pillows_to_the_bit(sides: tuple[int, int]) -> None:
    data = encoded(photo(*sides, 0))
    assert torch.equal(eval_image(data, 112), pillow_pixels.eval_image(data, 112))


@pytest.mark.parametrize("crop", ["square", "resized"])
def test_fast_is_the_same_crop_of_a_smaller_decode(crop: str) -> None:
    for seed in range(3):
        data = encoded(photo(640, 480, seed))
        plain, fast = (TrainImage(96, crop=crop, fast=fast)(data, seed) for fast in (False, True))
        other = train_image(data, 96, seed=seed + 100, crop=crop)
        apart = pillow_pixels.apart(plain, fast).float().mean()
        assert 0 < apart < 3 and apart < pillow_pixels.apart(plain, other).float().mean() / 2


def test_fast_changes_nothing_where_there_is_nothing_to_spare() -> None:
    small, png = encoded(photo(180, 180, 0)), encoded(photo(640, 480, 0), "PNG")
    for data in (small, png):
        assert torch.equal(train_image(data, 96, seed=1, fast=True), train_image(data, 96, seed=1))


def test_what_can_not_be_read_is_refused_by_both() -> None:
    for read in (lambda data: train_image(data, 32, seed=0), lambda data: eval_image(data, 32)):
        with pytest.raises(BadImage, match="not a readable image"):
            read(encoded(photo(64, 64, 0))[:-400])


def test_random_square_crops_reach_both_ends() -> None:
    ramp = np.repeat(np.linspace(0, 255, 100, dtype=np.uint8)[None, :, None], 20, 0).repeat(3, 2)
    data = encoded(Image.fromarray(ramp), "PNG")
    lefts = [int(train_image(data, 20, seed=seed)[0, 0, 0]) for seed in range(200)]
    assert min(lefts) < 10 and max(lefts) > 195
    centre = eval_image(data, 20).float().mean()
    assert abs(centre - 127.5) < 2


def test_cache_holds_what_no_draw_changes_and_nothing_else() -> None:
    square, oblong = picture(0, 32), picture(1, 32)  # 32×32 and 32×33
    kept, plain = TrainImage(32, cache=8), TrainImage(32)
    for seed in range(12):
        for data in (square, oblong):
            assert torch.equal(kept(data, seed), plain(data, seed))
    assert list(kept._kept) == [square]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="crop=round"):
        TrainImage(32, crop="round")
    with pytest.raises(UserError, match="cache"):
        TrainImage(32, crop="resized", cache=3)
