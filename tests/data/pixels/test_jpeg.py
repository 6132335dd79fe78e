"""Which of libjpeg's warnings mean whole pixels, and which mean lost ones."""

from __future__ import annotations

import io
import random
from contextlib import suppress

import numpy as np
import pytest
import simplejpeg
from photos import encoded, photo
from PIL import Image

from diptych.data.pixels.decode import BadImage, decode

PHOTO = photo(137, 145, 0)
PLAIN = encoded(PHOTO, "JPEG")
FORMS = [PLAIN, encoded(PHOTO, "JPEG", progressive=True), encoded(PHOTO.convert("L"), "JPEG", optimize=True)]
STRAY = [bytes(1), bytes(40), b"\xff" * 9, b"\xff\0" * 30, b"a text of some length, put there by a camera" * 3]
STRAY += [random.Random(0).randbytes(300).replace(b"\xff", b"")]


def by_pillow(data: bytes) -> np.ndarray:
    """What the peers see, who are told of no warning."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def warning(data: bytes) -> str | None:
    try:
        simplejpeg.decode_jpeg(data)
    except ValueError as error:
        return str(error)
    return None


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("stray", range(len(STRAY)))
def test_bytes_between_the_last_pixel_and_the_end_cost_nothing(form: int, stray: int) -> None:
    clean = FORMS[form]
    data = clean[:-2] + STRAY[stray] + clean[-2:]
    assert np.array_equal(decode(data).pixels, by_pillow(data))
    assert np.array_equal(decode(data).pixels, decode(clean).pixels)
    assert np.array_equal(decode(data, lambda *_: 2).pixels, decode(clean, lambda *_: 2).pixels)


def test_some_of_them_were_warned_of() -> None:
    assert sum(bool(warning(PLAIN[:-2] + stray + PLAIN[-2:])) for stray in STRAY) >= 3


def odd(data: bytes, what: str) -> bytes:
    """The JPEG with something odd in its headers."""
    table, frame, scan = (data.find(bytes([0xFF, marker])) for marker in (0xDB, 0xC0, 0xDA))
    changed = bytearray(data)
    if what == "revision":
        changed[data.index(b"JFIF\0") + 5] = 2
    elif what == "scan":
        changed[scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big") - 2] = 5
    elif what == "profile":
        changed[2:2] = segment(0xE2, b"ICC_PROFILE\0\x05\x01x")
    elif what == "stray":
        for at in (scan, frame, table):
            changed[at:at] = b"xyz"
    return bytes(changed)


@pytest.mark.parametrize("what", ["revision", "scan", "profile", "stray"])
@pytest.mark.parametrize("behind", [b"", bytes(30)])
def test_what_is_odd_in_the_headers_costs_nothing(what: str, behind: bytes) -> None:
    data = odd(PLAIN[:-2] + behind + PLAIN[-2:], what)
    assert warning(data)
    assert np.array_equal(decode(data).pixels, by_pillow(data)) and np.array_equal(by_pillow(data), by_pillow(PLAIN))


@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("what", ["", "revision", "profile"])
def test_lost_pixels_stay_lost_whatever_else_is_odd(form: int, what: str) -> None:
    clean = FORMS[form]
    begin = clean.rindex(b"\xff\xda") + 20
    middle = (begin + len(clean)) // 2
    for lost in (clean[:middle] + clean[-2:], clean[:middle], clean[:-2]):
        with pytest.raises(BadImage, match="not a readable image"):
            decode(odd(lost, what))


def test_of_damaged_pictures_few_pass_for_whole_ones() -> None:
    """Where pixels are lost and libjpeg says no more than that bytes are left over."""
    draws, passed, left_over = random.Random(1), 0, 0
    for number in range(60):
        clean = encoded(photo(*(draws.randrange(60, 160) for _ in "wh"), number), "JPEG", subsampling=number % 3)
        begin = clean.rindex(b"\xff\xda") + 14
        for _ in range(4):
            data = bytearray(clean)
            at = draws.randrange(begin, len(data) - 30)
            data[at : at + 3] = draws.randbytes(3).replace(b"\xff", b"\0")
            if "extraneous" in (warning(bytes(data)) or ""):
                left_over += 1
                with suppress(BadImage):
                    passed += not np.array_equal(decode(bytes(data)).pixels, by_pillow(clean))
    assert left_over > 20 and passed <= 0.1 * left_over, (passed, left_over)
