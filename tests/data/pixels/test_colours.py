"""Each kind of pixel comes out as its format's specification says, computed here without Pillow."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from photos import encoded
from PIL import Image, ImageCms
from png_files import DEPTHS, GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, drawn, over_white, png

from diptych.data.pixels.decode import BadImage, decode, picture_of
from diptych.data.pixels.image import eval_pixels

KINDS = [(kind, depth) for kind, depths in DEPTHS.items() for depth in depths]
COLOURS = np.random.default_rng(5).integers(0, 256, (256, 3))
TURNS = {1: 0, 3: 2, 6: 3, 8: 1}  # EXIF orientation -> quarter turns to the left
assert len(KINDS) == 15


def bytes_of(samples: np.ndarray, depth: int) -> np.ndarray:
    """To 0–255; of 16 bits the upper 8, as Pillow and OpenCV do."""
    return samples >> 8 if depth == 16 else samples * (255 // ((1 << depth) - 1))


def tagged(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))


PROFILE = chunk(
    b"iCCP",
    b"p\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_pngs_of_every_kind(kind: int, depth: int, transparent: bool) -> None:
    samples = drawn(kind, depth)
    colours, alpha = bytes_of(samples, depth), np.full(samples.shape[:2], 255)
    chunks = []
    if kind == PALETTE:
        colours = COLOURS[samples[..., 0]]
        chunks.append(chunk(b"PLTE", COLOURS[: 1 << depth].astype(np.uint8).tobytes()))
        if transparent:
            alphas = np.array([255, 90] if depth == 1 else [0, 90, 255])
            alpha = np.append(alphas, np.full(256, 255))[samples[..., 0]]
            chunks.append(chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
    elif kind in (GREY_ALPHA, RGBA):
        alpha, colours = colours[..., -1], colours[..., :-1]
        if not transparent:
            samples[..., -1] = (1 << depth) - 1
            alpha = np.full(samples.shape[:2], 255)
    elif transparent:
        chosen = samples[2, 3]
        alpha = np.where((samples == chosen).all(2), 0, 255)
        chunks.append(chunk(b"tRNS", chosen.astype(">u2").tobytes()))
    data = png(samples, kind, depth, *chunks)
    if (kind, depth) == (GREY, 16):
        with pytest.raises(BadImage, match="more than 8 bits a channel"):
            decode(data)
        return
    assert transparent == bool((alpha < 255).any())
    expected = over_white(np.broadcast_to(colours, (*alpha.shape, 3)), alpha)
    assert np.abs(decode(data).pixels - expected).max() <= (1 if ((alpha > 0) & (alpha < 255)).any() else 0)
    for orientation, turns in TURNS.items():
        turned = decode(png(samples, kind, depth, PROFILE, *chunks, tagged(orientation))).pixels
        assert np.array_equal(turned, np.rot90(decode(data).pixels, turns))


def test_a_transparent_colour_of_sixteen_bits_is_only_that_colour() -> None:
    """Its upper bytes alone, or its lower ones, are another colour."""
    samples = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1235, 0x5678, 0x9ABC], [0x3434, 0x7878, 0xBCBC]]])
    data = png(samples, RGB, 16, chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes()))
    assert decode(data).pixels[0].tolist() == [[255, 255, 255], [0x12, 0x56, 0x9A], [0x34, 0x78, 0xBC]]


def test_bits_of_a_transparent_value_beyond_the_depth_do_not_count() -> None:
    samples = np.array([[[0], [1], [2], [3]]])
    data = png(samples, GREY, 2, chunk(b"tRNS", b"\xff\xf2"))
    assert decode(data).pixels[0, :, 0].tolist() == [0, 85, 255, 255]
    data = png(samples * 80, GREY, 8, chunk(b"tRNS", b"\x01\x50"))
    assert decode(data).pixels[0, :, 0].tolist() == [0, 255, 160, 240]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_picture_that_pillow_opened_is_as_its_bytes(depth: int) -> None:
    data = png(drawn(GREY, depth), GREY, depth, chunk(b"tRNS", b"\0\1"))
    image = Image.open(io.BytesIO(data))
    pixels = picture_of(image).pixels
    assert np.array_equal(pixels, decode(data).pixels) and np.array_equal(picture_of(image).pixels, pixels)
    assert eval_pixels(Image.open(io.BytesIO(data)), 6).shape == (3, 6, 6)


COLOUR = (200, 100, 50)
INKS = (55, 155, 205, 0)
IN_MODES = {
    "1": (1, (255, 255, 255)),
    "L": (77, (77, 77, 77)),
    "LA": ((100, 51), (224, 224, 224)),
    "La": ((20, 51), (224, 224, 224)),
    "PA": (None, (244, 224, 214)),
    "RGB": (COLOUR, COLOUR),
    "RGBA": ((*COLOUR, 51), (244, 224, 214)),
    "RGBa": ((40, 20, 10, 51), (244, 224, 214)),
    "RGBX": ((*COLOUR, 9), COLOUR),
    "CMYK": (INKS, COLOUR),
    "YCbCr": ((128, 128, 128), (128, 128, 128)),
    "HSV": ((0, 255, 255), (255, 0, 0)),
    "LAB": ((255, 128, 128), (255, 255, 255)),
}


@pytest.mark.parametrize("mode", IN_MODES)
def test_every_mode_of_pillow(mode: str) -> None:
    value, expected = IN_MODES[mode]
    if mode == "PA":
        image = Image.new("P", (3, 2))
        image.putpalette(COLOUR)
        image = image.convert("PA")
        image.putalpha(51)
    else:
        image = Image.new(mode, (3, 2), value)
    assert image.mode == mode
    assert np.abs(picture_of(image).pixels.astype(int) - expected).max() <= (2 if mode == "LAB" else 1)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L", "F"])
@pytest.mark.parametrize("transparent", [False, True])
def test_more_than_eight_bits_in_one_channel_are_refused_by_the_mode(mode: str, transparent: bool) -> None:
    image = Image.new(mode, (3, 2), 40000)
    if transparent:
        image.info["transparency"] = 40000
    with pytest.raises(BadImage, match=f"mode {mode}, which has more than 8 bits"):
        picture_of(image)


def test_a_transparency_that_makes_no_sense_is_a_bad_picture() -> None:
    image = Image.new("P", (3, 2))
    image.info["transparency"] = (1, 2, 3)
    with pytest.raises(BadImage, match="no way to RGB"):
        picture_of(image)


def test_large_pictures_are_turned_into_rgb_in_strips_of_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 30, 4), dtype=np.uint8), "RGBA")
    palette = image.convert("RGB").quantize(16)
    files = [encoded(image, "PNG"), encoded(palette, "PNG", transparency=3), encoded(image, "TIFF")]
    whole = [decode(data).pixels for data in files]
    monkeypatch.setattr("diptych.data.pixels.decode.STRIP", 31)
    assert all(np.array_equal(decode(data).pixels, pixels) for data, pixels in zip(files, whole, strict=True))


def test_a_program_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript."""
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **options: started.append(command))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    with pytest.raises(BadImage, match="not a readable image"):
        decode(encoded(Image.new("RGB", (9, 9)), "EPS"))
    assert not started
