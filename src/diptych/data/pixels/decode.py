"""From encoded bytes to pixels: RGB, upright, transparency over white.

simplejpeg (libjpeg-turbo) decodes JPEGs: Pillow's pixels at half the cost, without Pillow's copies. Pillow decodes
everything else, and the JPEGs that simplejpeg gets wrong (CMYK) or does not know. Two limits are checked in the
header, before any pixel is decoded: the number of pixels, and the ratio of the sides, on which the memory for
resizing depends.
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
STRIP = 1 << 23  # pixels of a large image that are converted to RGB at once
_PROGRAMS = ("EPS",)  # formats that are programs: Pillow runs them in Ghostscript
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
}  # EXIF orientation -> what makes the image upright


class BadImage(ValueError):
    """The bytes can't be decoded. The message is a reason under which samples are counted."""


class Picture(NamedTuple):
    """pixels: uint8 [h, w, 3], perhaps decoded at a reduced size; width, height: of the whole image"""

    pixels: NDArray[np.uint8]
    width: int
    height: int


# Width and height of an upright image -> how many times smaller it may be decoded: 1, 2, 4 or 8.
Reduction = Callable[[int, int], int]


def decode(data: bytes, reduction: Reduction | None = None) -> Picture:
    """Bytes in any format that Pillow reads -> the first frame's pixels.

    reduction: decode JPEGs that many times smaller, without their high frequencies; None: at full size
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
    """Raise BadImage where memory runs out: that costs the image and not the run."""
    try:
        yield
    except MemoryError as error:
        raise BadImage("image needs more memory than there is") from error
    except RuntimeError as error:  # how torch reports it
        if "allocate memory" not in str(error):
            raise
        raise BadImage("image needs more memory than there is") from error


def picture_of(image: Image.Image) -> Picture:
    """Any Pillow image -> RGB, upright, transparency over white. Raises BadImage, also for more than 8 bits per
    channel and for sizes that `decode` refuses."""
    _check(*image.size)
    _scale_transparency(image)
    image = _upright(image)
    width, height = image.size
    rows = max(1, STRIP // width)
    if rows >= height:
        return Picture(np.array(_flat(image)), width, height)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):  # the intermediate images of a large image would be as large as it is
        strip = image.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = np.asarray(_flat(strip))
    return Picture(pixels, width, height)


def _check(width: int, height: int) -> None:
    """Check the size against both limits. Raises BadImage."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage("image too large to decode safely")
    if max(width, height) > LONGEST * min(width, height):
        raise BadImage(f"image over {LONGEST:,} times as long as wide")


def _jpeg(data: bytes, reduction: Reduction | None) -> Picture | None:
    """None for what Pillow must read: CMYK, which simplejpeg inverts, and what simplejpeg does not know."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # an unknown kind of chroma subsampling
        return None
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None
    _check(width, height)
    orientation = _orientation(data)
    upright = (height, width) if orientation >= 5 else (width, height)
    times = reduction(*upright) if reduction else 1
    least = {"min_height": -(-height // times), "min_width": -(-width // times)}
    try:  # strict by default: where libjpeg only warns, as for an early end, pixels would be grey or smeared
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
    """1 to 8, as Pillow finds it in EXIF or XMP; 1 without one, and for tags that can't be read."""
    if not _has_tags(data):
        return 1
    try:
        found = Image.open(io.BytesIO(data), formats=("JPEG", "MPO")).getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises anything for broken tags; the pixels are still right
        return 1
    return found if found in _TURNS else 1


def _has_tags(data: bytes) -> bool:
    """Whether EXIF or XMP may come before the pixels. It is much faster than to open the image with Pillow."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) > at + 4:
        marker = data[at + 1]
        if marker in (_APP1, _SCAN):
            return marker == _APP1
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True  # an unusual layout: ask Pillow


def _opened(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about broken tags, which change no pixel
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
    except Exception as error:  # Pillow's plug-ins raise anything
        raise BadImage("not a readable image") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """All formats that Pillow reads without another program."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in _PROGRAMS)


def _check_tiles(image: Image.Image) -> None:
    """Refuse a TIFF whose tiles are far larger than its image: a tile is decoded whole."""
    tags: Any = getattr(image, "tag_v2", {})
    across, down = (tags.get(tag, 0) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
    if Image.MAX_IMAGE_PIXELS is not None and across * down > Image.MAX_IMAGE_PIXELS:
        raise BadImage("image too large to decode safely")


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for how a PNG, not loaded yet, stores its pixels; "" for anything else."""
    tile = getattr(image, "tile", None) if image.format == "PNG" else None
    return str(tile[0].args) if tile and isinstance(tile[0].args, str) else ""


def _scale_transparency(image: Image.Image) -> None:
    """Scale a PNG's transparent value to 8 bits: Pillow scales the pixels, but not that value."""
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
    """A PNG with 16 bits per colour: transparent are the pixels whose upper and lower bytes equal the transparent
    colour's. Pillow gives the upper bytes, and the lower ones if the tiles' mode says so."""
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
    """RGB over white. The mode decides first: a transparent value does not tell the number of bits."""
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
