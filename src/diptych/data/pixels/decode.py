"""From encoded bytes to pixels: RGB, upright, transparency over white.

JPEG goes through libjpeg-turbo without Pillow's copies (simplejpeg), which gives Pillow's pixels at half the cost;
everything else, and the JPEGs that simplejpeg gets wrong (CMYK) or does not know, goes through Pillow. Two guards are
held to the header, before any pixel is decoded: the number of pixels, and how long a picture is for its width, since
what is made of a long one grows with that.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from diptych.data.pixels.jpeg import too_many_scans, without_oddities

LONGEST = 1000  # times the shorter side
STRIP = 1 << 23  # pixels of a large picture that are turned into RGB at once
_PROGRAMS = ("EPS",)  # formats that are programs: Pillow hands them to Ghostscript
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
    if data.startswith(_JPEG) and too_many_scans(data):
        raise BadImage("JPEG of too many scans to decode safely")
    with enough_memory():
        picture = _jpeg(data, reduction) if data.startswith(_JPEG) else None
        return picture or picture_of(_opened(data))


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises BadImage where there is too little memory for a picture: it costs the picture and not the run."""
    try:
        yield
    except MemoryError as error:
        raise BadImage("image needs more memory than there is") from error
    except RuntimeError as error:  # torch's way to say it
        if "allocate memory" not in str(error):
            raise
        raise BadImage("image needs more memory than there is") from error


def picture_of(image: Image.Image) -> Picture:
    """Any Pillow image -> RGB, upright, transparency over white. Raises BadImage, also for more than 8 bits a channel
    and for what `decode` refuses by its header."""
    _check(*image.size)
    _scale_transparency(image)
    image = _upright(image)
    width, height = image.size
    rows = max(1, STRIP // width)
    if rows >= height:
        return Picture(np.array(_flat(image)), width, height)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):  # what lies between a large picture and its RGB would be as large again
        strip = image.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = np.asarray(_flat(strip))
    return Picture(pixels, width, height)


def _check(width: int, height: int) -> None:
    """The guards by the header. Raises BadImage."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage("image too large to decode safely")
    if max(width, height) > LONGEST * min(width, height):
        raise BadImage(f"image over {LONGEST:,} times as long as wide")


def _jpeg(data: bytes, reduction: Reduction | None) -> Picture | None:
    """None for what Pillow shall read: CMYK, which simplejpeg inverts, and what simplejpeg does not know."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a kind of sampling that it has no name for
        return None
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None
    _check(width, height)
    orientation = _orientation(data)
    upright = (height, width) if orientation >= 5 else (width, height)
    times = reduction(*upright) if reduction else 1
    least = {"min_height": -(-height // times), "min_width": -(-width // times)}
    try:  # strict is the default: what libjpeg only warns of, such as an early end, would be grey or smeared pixels
        pixels = simplejpeg.decode_jpeg(data, **least)
    except ValueError as error:
        whole = without_oddities(data, str(error))
        if whole is None:
            raise BadImage("not a readable image") from error
        pixels = simplejpeg.decode_jpeg(whole, **least)
    if orientation > 1:
        pixels = np.array(Image.fromarray(pixels).transpose(_TURNS[orientation]))
    return Picture(pixels, *upright)


def _orientation(data: bytes) -> int:
    """1 to 8 as Pillow finds it in EXIF or XMP; 1 for none and for tags that can't be read."""
    if not _has_tags(data):
        return 1
    try:
        found = Image.open(io.BytesIO(data), formats=("JPEG", "MPO")).getexif().get(ExifTags.Base.Orientation, 1)
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
            warnings.simplefilter("ignore")  # of broken tags, which cost no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats())
            _check(*image.size)
            _check_tiles(image)
            sixteen = _sixteen_bits(image)
            if not sixteen:
                _scale_transparency(image)
            image.load()
            return _with_alpha(image, data) if sixteen else image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage("image too large to decode safely") from error
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever their format makes them raise
        raise BadImage("not a readable image") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """All that Pillow reads by itself."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in _PROGRAMS)


def _check_tiles(image: Image.Image) -> None:
    """A TIFF's tiles may be far larger than its picture, and one of them is decoded whole."""
    tags: Any = getattr(image, "tag_v2", {})
    across, down = (tags.get(tag, 0) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
    if Image.MAX_IMAGE_PIXELS is not None and across * down > Image.MAX_IMAGE_PIXELS:
        raise BadImage("image too large to decode safely")


def _raw_mode(image: Image.Image) -> str:
    """How a PNG that isn't loaded yet stores its pixels, as Pillow names it; "" for anything else."""
    tile = getattr(image, "tile", None) if image.format == "PNG" else None
    return str(tile[0].args) if tile and isinstance(tile[0].args, str) else ""


def _scale_transparency(image: Image.Image) -> None:
    """A PNG's transparent value has as many bits as its pixels, which Pillow scales to 8, without the value."""
    value, mode = image.info.get("transparency"), _raw_mode(image)
    bits = {"L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "RGB;16B": 16}.get(mode)
    if bits is None or value is None or isinstance(value, bytes):
        return
    largest = (1 << bits) - 1
    scaled = [(each & largest) * 255 // largest for each in (value if isinstance(value, tuple) else (value,))]
    image.info["transparency"] = tuple(scaled) if len(scaled) > 1 else scaled[0]


def _sixteen_bits(image: Image.Image) -> bool:
    return _raw_mode(image) == "RGB;16B" and isinstance(image.info.get("transparency"), tuple)


def _with_alpha(image: Image.Image, data: bytes) -> Image.Image:
    """The PNG of 16 bits a colour whose transparent colour has 16 bits too: transparent are the pixels whose upper
    and lower bytes are that colour's. Pillow gives the upper ones, and the lower ones where it is told that they
    are."""
    colour = np.array(image.info.pop("transparency"))
    other = Image.open(io.BytesIO(data), formats=("PNG",))
    other.info.pop("transparency")
    other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]
    same = (np.asarray(image) == colour >> 8) & (np.asarray(other) == colour & 255)
    image.putalpha(Image.fromarray(np.where(same.all(2), 0, 255).astype(np.uint8)))
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNS
        return ImageOps.exif_transpose(image) if turned else image
    except MemoryError:
        raise
    except Exception:  # as in _orientation
        return image


def _flat(image: Image.Image) -> Image.Image:
    """The mode is asked first: a transparent value says nothing about how many bits its picture has."""
    if image.mode.startswith(("I", "F")):
        raise BadImage(f"image of mode {image.mode}, which has more than 8 bits a channel")
    try:
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(canvas, image).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise BadImage(f"image of mode {image.mode}, which has no way to RGB") from error
