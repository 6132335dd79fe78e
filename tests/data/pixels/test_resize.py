"""Crops are drawn as ever, and resized as Pillow resizes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pillow_pixels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import photo
from PIL import Image

from diptych.data.pixels.decode import Picture
from diptych.data.pixels.resize import (
    WHOLE,
    Crop,
    box_crop,
    centre_crop,
    rows_first,
    square,
    square_crop,
    take,
    take_exactly,
)

SIDES = st.integers(1, 400)


def noise(width: int, height: int, seed: int) -> np.ndarray:
    """Black and white at random: every value clipped and every weight seen."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)


def picture(pixels: np.ndarray) -> Picture:
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
    ours = take(picture(pixels), crop)
    assert ours.shape == (3, size, size) and ours.dtype == torch.uint8 and ours.is_contiguous()
    assert pillow_pixels.apart(ours, expected).max() <= 2  # 1, but for rounding twice: test_image.py counts
    assert torch.equal(take_exactly(picture(pixels), crop), expected)


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
            take(picture(pixels), crop), source[0, :, crop.top : crop.top + 50, crop.left : crop.left + 50]
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
    picture_ = picture(noise(*sides, 1))
    crop = square_crop(*sides, 448, 0.3, 0.3)
    assert crop.width * crop.height > WHOLE
    assert read(picture_, crop).shape == (3, 448, 448)
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
