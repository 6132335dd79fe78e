"""Pictures are prepared for evaluation as open_clip prepares them, within one level of 255; where not, on purpose.

The golden pixels were written by tests/golden/make_image_golden.py from the pictures that are used here.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.make_image_golden import HERE, SIZE, SIZES, in_mode, pictures
from PIL import Image

from diptych import create_model
from diptych.data.pixels.image import BadImage, eval_image, eval_pixels
from diptych.data.text.tokenizer import Tokenizer
from diptych.model.load import Loaded

GOLDEN = np.load(HERE / "eval_image.npz")
PICTURES = pictures()


def apart(image: Image.Image, golden: str) -> int:
    """The largest difference from the peer's pixels, in levels of 255."""
    ours = eval_pixels(image, SIZE).permute(1, 2, 0).numpy().astype(int)
    return int(np.abs(ours - GOLDEN[golden].astype(int)).max())


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [f"{width}x{height}" for width, height in SIZES])
def test_resize_and_crop_are_open_clips(name: str) -> None:
    assert apart(PICTURES[name], name) <= 1
    from_bytes = eval_image(png(PICTURES[name]), SIZE)
    assert torch.equal(from_bytes, eval_pixels(PICTURES[name], SIZE))


def test_normalised_as_open_clip_does() -> None:
    clip = Loaded(create_model("vit_tiny"), Tokenizer(), {}, 0, Path())
    assert clip.model.image_size == SIZE
    difference = clip.preprocess(PICTURES["33x50"]) - torch.from_numpy(GOLDEN["33x50 normalised"])
    assert difference.abs().max() < 2e-6


def test_grey_is_open_clips() -> None:
    assert apart(PICTURES["L"], "L") <= 1


@pytest.mark.parametrize("mode", ["1", "P", "CMYK"])
def test_colours_are_resized_and_not_what_stands_for_them(mode: str) -> None:
    """open_clip resizes first and turns the rest into RGB: palette entries and bits are picked, inks are mixed."""
    assert apart(PICTURES[mode], f"{mode} as RGB") <= 1
    assert apart(PICTURES[mode], mode) > 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_white_behind_transparency_and_not_what_was_hidden(mode: str) -> None:
    assert apart(PICTURES[mode], mode) > 1
    background = Image.new("RGBA", PICTURES[mode].size, (255, 255, 255, 255))
    background.alpha_composite(PICTURES[mode].convert("RGBA"))
    assert torch.equal(eval_pixels(PICTURES[mode], SIZE), eval_pixels(background.convert("RGB"), SIZE))
    opaque = PICTURES["33x50"].convert("RGBA")
    assert apart(opaque, "33x50") <= 1


def test_sixteen_bits_are_refused_and_not_clipped_to_white() -> None:
    assert (GOLDEN["I;16"] == 255).mean() > 0.9
    with pytest.raises(BadImage, match="more than 8 bits"):
        eval_pixels(in_mode("I;16"), SIZE)


def test_upright_by_exif_where_open_clip_leaves_it_lying() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90° clockwise
    lying = PICTURES["50x33"].transpose(Image.Transpose.ROTATE_90)
    shown = Image.open(io.BytesIO(png(lying, exif=exif)))
    assert apart(shown, "50x33") <= 1
