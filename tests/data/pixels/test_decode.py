"""Every kind of file right or refused by name, and JPEG's pixels Pillow's."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from photos import encoded, photo
from PIL import Image, ImageOps

from diptych.data.pixels.decode import LONGEST, BadImage, decode
from diptych.data.pixels.image import eval_image, train_image

RED = Image.new("RGB", (30, 20), (200, 10, 10))
PHOTO = photo(67, 45, 0)
OTHER = [Image.new("RGB", (30, 20))]


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(RED, "PNG"), (200, 10, 10)),
        (encoded(RED.convert("CMYK"), "JPEG", quality=100), (200, 10, 10)),
        (encoded(RED.quantize(4), "PNG"), (200, 10, 10)),
        (encoded(RED.convert("L"), "PNG"), (67, 67, 67)),
        (encoded(Image.new("RGBA", (30, 20), (200, 10, 10, 0)), "PNG"), (255, 255, 255)),
        (encoded(Image.new("LA", (30, 20), (10, 255)), "PNG"), (10, 10, 10)),
        (encoded(RED, "GIF", save_all=True, append_images=OTHER), (200, 10, 10)),
        (encoded(RED, "PNG", save_all=True, append_images=OTHER), (200, 10, 10)),
        (encoded(RED, "WEBP", save_all=True, append_images=OTHER, lossless=True), (200, 10, 10)),
        (encoded(RED, "WEBP", lossless=True), (200, 10, 10)),
    ],
    ids=["png", "cmyk", "palette", "grey", "transparent", "grey-alpha", "gif", "apng", "animated-webp", "webp"],
)
def test_modes(data: bytes, expected: tuple[int, int, int]) -> None:
    pixel = decode(data).pixels[5, 5]
    assert np.abs(pixel.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("image", "options"),
    [(PHOTO, {"quality": quality, "subsampling": kind}) for quality in (60, 95) for kind in (0, 1, 2)]
    + [
        (PHOTO, {"progressive": True}),
        (PHOTO, {"restart_marker_blocks": 3}),
        (PHOTO, {"keep_rgb": True}),
        (PHOTO.convert("L"), {}),
        (PHOTO.convert("CMYK"), {}),
        (PHOTO, {"comment": b"\xff\xe1Exif\0\0", "exif": tagged(3)}),
    ],
    ids=[*map(str, range(12))],
)
def test_jpegs_pixels_are_pillows(image: Image.Image, options: dict) -> None:
    data = encoded(image, "JPEG", **options)
    assert np.array_equal(decode(data).pixels, by_pillow(data))


def test_inks_stored_as_ycck_are_pillows() -> None:
    data = bytearray(encoded(PHOTO.convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2  # the transform: YCCK
    assert np.array_equal(decode(bytes(data)).pixels, by_pillow(bytes(data)))
    assert not np.array_equal(by_pillow(bytes(data)), by_pillow(encoded(PHOTO.convert("CMYK"), "JPEG")))


def test_of_several_pictures_in_a_jpeg_the_first_is_taken() -> None:
    data = encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.array_equal(decode(data).pixels, by_pillow(encoded(PHOTO, "JPEG")))


def test_of_sixteen_bits_in_three_channels_the_upper_eight_are_taken() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixel = struct.pack(">HHH", 0xC8FF, 0x0A00, 0x0A80)
    rows = zlib.compress(b"".join(b"\0" + pixel * 3 for _ in range(2)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert (decode(data).pixels == (0xC8, 0x0A, 0x0A)).all()


def test_a_sampling_that_simplejpeg_does_not_know_is_left_to_pillow() -> None:
    data = bytearray(encoded(PHOTO.resize((8, 8)), "JPEG", subsampling=0))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = (
        0x31  # luma three times as wide as chroma: fewer blocks than that are there, but a valid header
    )
    data[frame + 5 : frame + 9] = bytes([0, 8, 0, 1])
    assert np.array_equal(decode(bytes(data)).pixels, by_pillow(bytes(data)))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_upright_by_exif(form: str, orientation: int) -> None:
    data = encoded(PHOTO, form, exif=tagged(orientation))
    picture = decode(data)
    assert np.array_equal(picture.pixels, by_pillow(data))
    assert (
        (picture.height, picture.width)
        == picture.pixels.shape[:2]
        == ((67, 45) if 5 <= orientation <= 8 else (45, 67))
    )


def test_upright_by_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(PHOTO, "JPEG", xmp=xmp)
    assert np.array_equal(decode(data).pixels, by_pillow(data)) and decode(data).width == 45


def test_broken_tags_leave_a_picture_as_it_lies() -> None:
    whole = encoded(PHOTO, "JPEG", exif=tagged(6))
    data = whole.replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    assert data != whole and np.array_equal(decode(data).pixels, by_pillow(encoded(PHOTO, "JPEG")))


def bits(image: Image.Image, number: int) -> bytes:
    """The JPEG with another number of bits in its header."""
    data = bytearray(encoded(image, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = number
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not found</html>", "not a readable image"),
        (b"\xff\xd8\xff", "not a readable image"),
        (encoded(RED, "PNG")[:50], "not a readable image"),
        (bits(PHOTO, 12), "not a readable image"),
        (encoded(Image.new("I;16", (5, 5)), "PNG"), "mode I;16, which has more than 8 bits"),
        (encoded(Image.new("F", (5, 5)), "TIFF"), "mode F, which has more than 8 bits"),
    ],
    ids=["empty", "html", "head", "png", "12-bit", "16-bit", "float"],
)
def test_what_is_no_image_is_refused_by_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("times", [1, 2, 8])
def test_a_jpeg_cut_anywhere_is_refused(progressive: bool, times: int) -> None:
    data = encoded(PHOTO, "JPEG", progressive=progressive)
    for end in range(3, len(data), 7):
        with pytest.raises(BadImage, match="not a readable image"):
            decode(data[:end], lambda width, height: times)
    assert decode(data + b"what follows the end is no part of it").pixels.shape == (45, 67, 3)


def test_a_jpeg_damaged_inside_is_refused_where_libjpeg_notices_and_pillow_does_not_say() -> None:
    data = bytearray(encoded(PHOTO, "JPEG", restart_marker_blocks=2))
    data[data.rindex(b"\xff\xd3") + 1] = 0xD6  # restart markers count to 7: this one is out of turn
    assert by_pillow(bytes(data)).shape == (45, 67, 3)
    with pytest.raises(BadImage, match="not a readable image"):
        decode(bytes(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="too large"):
        decode(encoded(RED, form))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert decode(encoded(RED, form)).width == 30


FORMS = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sides", [(1, 2000), (2000, 1)])
def test_a_picture_far_longer_than_wide_is_refused_by_its_header(form: str, sides: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", sides, (200, 30, 30)), form)
    for read in (decode, lambda data: eval_image(data, 224), lambda data: train_image(data, 224, seed=1, fast=True)):
        with pytest.raises(BadImage, match="image over 1,000 times as long as wide"):
            read(data)
    assert decode(encoded(Image.new("RGB", (2, 2 * LONGEST)), form)).width == 2


def test_a_jpeg_of_very_many_scans_is_refused_and_one_of_some_is_read() -> None:
    data = encoded(PHOTO, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImage, match="too many scans"):
        decode(data[:-2] + last * 100_000 + data[-2:])
    inks = encoded(PHOTO.convert("CMYK"), "JPEG")
    with pytest.raises(BadImage, match="too many scans"):
        decode(inks[:-2] + inks[inks.rindex(b"\xff\xda") : -2] * 200 + inks[-2:])
    assert 5 < data.count(b"\xff\xda") < 20
    assert np.array_equal(decode(data + b"\xff\xda\0\4ab" * 200).pixels, decode(data).pixels)  # a video, say


def test_a_tile_far_larger_than_its_picture_is_refused() -> None:
    def tiff(side: int) -> bytes:
        tile = zlib.compress(bytes(32 * 32))
        tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(tile)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        directory = struct.pack("<H", len(tags)) + entries + bytes(4)
        return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory

    assert decode(tiff(32)).pixels.shape == (8, 8, 3)
    with pytest.raises(BadImage, match="too large to decode safely"):
        decode(tiff(32000))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_want_of_memory_costs_the_picture_alone(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("diptych.data.pixels.image.take", fails)
    monkeypatch.setattr("diptych.data.pixels.image.take_exactly", fails)
    for read in (lambda data: eval_image(data, 24), lambda data: train_image(data, 24, seed=1)):
        with pytest.raises(BadImage, match="more memory than there is"):
            read(KINDS[0])


def test_jpegs_are_decoded_as_small_as_asked_and_upright_sizes_are_asked_for() -> None:
    asked: list[tuple[int, int]] = []

    def half(width: int, height: int) -> int:
        asked.append((width, height))
        return 2

    picture = decode(encoded(PHOTO, "JPEG", exif=tagged(6)), half)
    assert asked == [(45, 67)] and picture.pixels.shape == (34, 23, 3)
    assert (picture.width, picture.height) == (45, 67)
    assert decode(encoded(PHOTO, "PNG"), half).pixels.shape == (45, 67, 3)


KINDS = [
    encoded(PHOTO, "JPEG"),
    encoded(PHOTO, "JPEG", progressive=True, exif=tagged(6)),
    encoded(PHOTO.convert("CMYK"), "JPEG"),
    encoded(PHOTO, "PNG", exif=tagged(6)),
    encoded(PHOTO, "WEBP"),
    encoded(PHOTO.quantize(16), "GIF"),
    encoded(PHOTO.resize((9, 9)), "BMP"),
    encoded(PHOTO.resize((9, 9)), "TIFF"),
]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.integers(0, len(KINDS) - 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    early=st.booleans(),
    end=st.just(1.0) | st.floats(0, 1),  # hardly any that is cut is read
    times=st.sampled_from([1, 2, 4, 8]),
)
@example(kind=0, flips=[], early=False, end=1.0, times=1)
def test_no_bytes_raise_anything_else(
    kind: int, flips: list[tuple[float, int]], early: bool, end: float, times: int
) -> None:
    data = bytearray(KINDS[kind])
    for where, change in flips:
        span = min(700, len(data)) if early else len(data)  # headers are ahead
        data[int(where * span)] ^= change
    try:
        picture = decode(bytes(data[: round(end * len(data))]), lambda width, height: times)
    except BadImage as error:
        assert len(str(error)) < 70
    else:
        assert picture.pixels.ndim == 3 and picture.pixels.shape[2] == 3 and picture.pixels.dtype == np.uint8
