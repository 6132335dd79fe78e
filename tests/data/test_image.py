"""Pixels: every kind of file right or refused by name, and the crops CLIP's."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.image import BadImage, TrainImage, decode, eval_image, train_image
from diptych.errors import UserError
from samples import picture


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (30, 20), (200, 10, 10))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(RED, "PNG"), (200, 10, 10)),
        (encoded(RED.convert("CMYK"), "JPEG", quality=100), (200, 10, 10)),
        (encoded(RED.quantize(4), "PNG"), (200, 10, 10)),
        (encoded(RED.convert("L"), "PNG"), (67, 67, 67)),
        (encoded(Image.new("RGBA", (30, 20), (200, 10, 10, 0)), "PNG"), (255, 255, 255)),
        (encoded(Image.new("LA", (30, 20), (10, 255)), "PNG"), (10, 10, 10)),
        (encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (30, 20))]), (200, 10, 10)),
        (encoded(RED, "WEBP", lossless=True), (200, 10, 10)),
    ],
    ids=["png", "cmyk", "palette", "grey", "transparent", "grey-alpha", "animated", "webp"],
)
def test_modes(data: bytes, expected: tuple[int, int, int]) -> None:
    pixel = np.array(decode(data))[5, 5]
    assert np.abs(pixel.astype(int) - expected).max() <= 3


def test_exif_orientation() -> None:
    image = Image.new("RGB", (20, 10))
    image.paste((255, 255, 255), (0, 0, 10, 10))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90° clockwise
    upright = np.array(decode(encoded(image, "PNG", exif=exif)))
    assert upright.shape[:2] == (20, 10)
    assert upright[2].mean() == 255 and upright[-2].mean() == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not found</html>", "not a readable image"),
        (encoded(RED, "PNG")[:50], "not a readable image"),
        (encoded(Image.new("I;16", (5, 5)), "PNG"), "more than 8 bits"),
    ],
)
def test_what_is_no_image_is_refused_by_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="too large"):
        decode(encoded(RED, "PNG"))


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 48),
    seed=st.integers(0, 2**60),
    crop=st.sampled_from(["square", "resized"]),
)
def test_any_picture_gives_a_square_and_the_seed_alone_decides(
    width: int, height: int, size: int, seed: int, crop: str
) -> None:
    data = encoded(Image.effect_noise((width, height), 60).convert("RGB"), "PNG")
    first = train_image(data, size, seed=seed, crop=crop)
    assert first.shape == (3, size, size) and first.dtype == torch.uint8
    assert torch.equal(first, train_image(data, size, seed=seed, crop=crop))
    assert eval_image(data, size).shape == (3, size, size)


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
