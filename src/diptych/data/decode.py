"""From encoded bytes to pixels: RGB, upright, transparency over white.

JPEG goes through libjpeg-turbo without Pillow's copies (simplejpeg), which gives Pillow's pixels at half the cost;
everything else, and the JPEGs that simplejpeg gets wrong (CMYK) or does not know, goes through Pillow.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

_JPEG = b"\xff\xd8\xff"
_APP1, _SCAN = 0xE1, 0xDA
_T = Image.Transpose
_TURNS = {
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}  # what sets a picture of that EXIF orientation upright


class BadImage(ValueError):
    """The bytes are not an image that can be read; the message is a reason to count by."""


class Picture(NamedTuple):
    """pixels: uint8 [h, w, 3]; width, height: of the whole picture, of which `pixels` may be a reduced decode"""

    pixels: NDArray[np.uint8]
    width: int
    height: int


# Upright width and height of a picture -> how many times smaller it may be decoded: 1, 2, 4 or 8.
Reduction = Callable[[int, int], int]


def decode(data: bytes, reduction: Reduction | None = None) -> Picture:
    """Bytes of any format that Pillow reads -> the first frame's pixels.

    reduction: JPEGs are decoded at that fraction, which skips the frequencies above it; without it, whole
    Raises BadImage with a reason of a few words.
    """
    if not data:
        raise BadImage("image of zero bytes")
    picture = _jpeg(data, reduction) if data.startswith(_JPEG) else None
    return picture or picture_of(_opened(data))


def picture_of(image: Image.Image) -> Picture:
    """Any Pillow image -> RGB, upright, transparency over white. Raises BadImage for more than 8 bits a channel."""
    image = _flat(_upright(image))
    return Picture(np.array(image), image.width, image.height)


def _jpeg(data: bytes, reduction: Reduction | None) -> Picture | None:
    """None for what Pillow shall read: CMYK, which simplejpeg inverts, and what simplejpeg does not know."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage("image too large to decode safely")
    orientation = _orientation(data)
    upright = (height, width) if orientation >= 5 else (width, height)
    times = reduction(*upright) if reduction else 1
    try:  # strict is the default: what libjpeg only warns of, such as an early end, would be grey or smeared pixels
        pixels = simplejpeg.decode_jpeg(data, min_height=-(-height // times), min_width=-(-width // times))
    except ValueError as error:
        raise BadImage("not a readable image") from error
    if orientation > 1:
        pixels = np.array(Image.fromarray(pixels).transpose(_TURNS[orientation]))
    return Picture(pixels, *upright)


def _orientation(data: bytes) -> int:
    """1 to 8 as Pillow finds it in EXIF or XMP; 1 for none and for tags that can't be read."""
    if not _has_tags(data):
        return 1
    try:
        found = Image.open(io.BytesIO(data)).getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken tags make Pillow raise anything; they don't make the pixels wrong
        return 1
    return found if found in _TURNS else 1


def _has_tags(data: bytes) -> bool:
    """Whether EXIF or XMP may be ahead of the pixels; opening with Pillow only to see that would cost more."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) > at + 4:
        marker = data[at + 1]
        if marker in (_APP1, _SCAN):
            return marker == _APP1
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True  # laid out in an unusual way: let Pillow see


def _opened(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage("image too large to decode safely") from error
    except Exception as error:  # Pillow's plug-ins raise whatever their format makes them raise
        raise BadImage("not a readable image") from error
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as in _orientation
        return image


def _flat(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode.startswith(("I", "F")):
        raise BadImage(f"image of mode {image.mode}, which has more than 8 bits a channel")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise BadImage(f"image of mode {image.mode}, which has no way to RGB") from error
