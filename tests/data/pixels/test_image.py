"""A training square is one crop drawn by the seed, an evaluation square the centre; both have Pillow's pixels. Crops
are drawn as ever, and resized as Pillow resizes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pillow_pixels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, photo
from PIL import Image

from diptych.base.errors import UserError
from diptych.data.pixels.decode import Picture
from diptych.data.pixels.image import (
    WHOLE,
    BadImage,
    Crop,
    TrainImage,
    box_crop,
    centre_crop,
    eval_image,
    rows_first,
    square,
    square_crop,
    take,
    take_exactly,
    train_image,
)
from samples import picture

SIDES = st.integers(1, 400)


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


def noise(width: int, height: int, seed: int) -> np.ndarray:
    """Black and white at random: every value clipped and every weight seen."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)


def undecoded(pixels: np.ndarray) -> Picture:
    return Picture(pixels, pixels.shape[1], pixels.shape[0])


def pillows(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def test_the_same_seeds_draw_the_same_boxes() -> None:
    assert box_crop(640, 480, 224, 7, (0.9, 1.0)).box == (5, 0, 626, 476)
    assert box_crop(333, 1000, 224, 8, (0.08, 1.0)).box == (101, 302, 323, 595)
    assert box_crop(1000, 10, 224, 8, (0.9, 1.0)).box == (495, 0, 505, 10)
    assert square_crop(640, 480, 224, 0.999, 0.999) == Crop((0, 0, 640, 480), 298, 224, 74, 0, 224)
    assert centre_crop(480, 641, 224) == Crop((0, 0, 480, 641), 224, 299, 0, 38, 224)


@settings(max_examples=60, deadline=None)
@given(width=SIDES, height=SIDES, new_width=SIDES, new_height=SIDES, seed=st.integers(0, 99))
def test_rows_are_first_where_pillow_has_them_first(
    width: int, height: int, new_width: int, new_height: int, seed: int
) -> None:
    pixels = noise(width, height, seed)
    if rows_first(width, height, new_width, new_height):
        steps = pillows(pillows(pixels, width, new_height), new_width, new_height)
    else:
        steps = pillows(pillows(pixels, new_width, height), new_width, new_height)
    assert np.array_equal(pillows(pixels, new_width, new_height), steps)


@settings(max_examples=80, deadline=None)
@given(
    width=SIDES,
    height=SIDES,
    size=st.integers(1, 120),
    across=st.floats(0, 1, exclude_max=True),
    down=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**40),
    boxed=st.booleans(),
)
def test_crops_of_noise_are_pillows(
    width: int, height: int, size: int, across: float, down: float, seed: int, boxed: bool
) -> None:
    crop = (
        box_crop(width, height, size, seed, (0.3, 1.0)) if boxed else square_crop(width, height, size, across, down)
    )
    pixels = noise(width, height, seed)
    expected = pillow_pixels.take(Image.fromarray(pixels), crop)
    ours = take(undecoded(pixels), crop)
    assert ours.shape == (3, size, size) and ours.dtype == torch.uint8 and ours.is_contiguous()
    assert pillow_pixels.apart(ours, expected).max() <= 2  # 1, but for rounding twice: test_image.py counts
    assert torch.equal(take_exactly(undecoded(pixels), crop), expected)


@pytest.mark.parametrize("sides", [(90, 130), (130, 90), (60, 200)])
def test_the_kept_part_is_what_resizing_everything_would_give(sides: tuple[int, int]) -> None:
    pixels = noise(*sides, 0)
    for share in (0.0, 0.5, 0.99):
        crop = square_crop(*sides, 50, share, share)
        source = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
        order = [(crop.height, sides[0]), (crop.height, crop.width)]
        if not rows_first(*sides, crop.width, crop.height):
            order = order[1:]
        for shape in order:
            source = torch.nn.functional.interpolate(source, shape, mode="bicubic", antialias=True)
        assert torch.equal(
            take(undecoded(pixels), crop), source[0, :, crop.top : crop.top + 50, crop.left : crop.left + 50]
        )


@settings(max_examples=60, deadline=None)
@given(width=SIDES, height=SIDES, size=st.integers(1, 60), share=st.floats(0, 1, exclude_max=True))
def test_the_square_alone_is_the_square_of_all(width: int, height: int, size: int, share: float) -> None:
    """Pillow takes corners of a box as floats of 32 bits, so a weight may be rounded the other way."""
    crop = square_crop(width, height, size, share, share)
    image = Image.fromarray(noise(width, height, 3))
    apart = pillow_pixels.apart(torch.from_numpy(np.array(square(image, crop))).permute(2, 0, 1),
                                pillow_pixels.take(image, crop))  # fmt: skip
    assert apart.max() <= 2 and (apart > 0).float().mean() < 0.2


@pytest.mark.parametrize("read", [take, take_exactly])
@pytest.mark.parametrize("sides", [(1, 900), (900, 1)])
def test_no_more_is_resized_than_the_square_needs(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Picture, Crop], torch.Tensor], sides: tuple[int, int]
) -> None:
    asked = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *rest: asked.append(size) or resize(self, size, *rest)
    )
    whole = undecoded(noise(*sides, 1))
    crop = square_crop(*sides, 448, 0.3, 0.3)
    assert crop.width * crop.height > WHOLE
    assert read(whole, crop).shape == (3, 448, 448)
    assert len(asked) == 2 and max(wide * high for wide, high in asked) <= 900 * 448


def test_reductions_never_leave_less_than_what_is_made() -> None:
    assert [centre_crop(side, 2000, 100).reduction() for side in (50, 100, 199, 200, 399, 400, 800, 1600)] == [
        *(1, 1, 1, 2, 2, 4, 8, 8)
    ]
    assert box_crop(1600, 1600, 224, 3, (0.05, 0.06)).reduction() == 1


def test_a_crop_of_a_reduced_picture_is_the_same_part() -> None:
    image = photo(400, 300, 1)
    half = Picture(np.asarray(image.resize((200, 150), Image.Resampling.BOX)).copy(), 400, 300)
    for crop in (box_crop(400, 300, 64, 5, (0.3, 0.4)), square_crop(400, 300, 64, 0.7, 0.2)):
        apart = pillow_pixels.apart(take(half, crop), pillow_pixels.take(image, crop)).float()
        elsewhere = pillow_pixels.take(image, centre_crop(400, 300, 64))
        assert apart.mean() < 5 < pillow_pixels.apart(take(half, crop), elsewhere).float().mean()
