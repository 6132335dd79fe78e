"""From encoded bytes to the model's squares: a random crop for training, the centre crop for evaluation.

CLIP, section 2.5: "a random square crop from resized images is the only data augmentation used".

Resizing is bicubic and antialiased. Training uses torch's kernel for bytes, which is many times as fast as Pillow (on
x86, for three channels in channels_last order, as decoders give them). Its weights have 16 bits, so a value may be
one level off, and two of 255 about once in 100,000; training does not notice. Evaluation uses Pillow, to the bit,
because its numbers are compared with those of others.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.base.quantities import Count, Whole
from diptych.data.pixels.decode import BadImage, Picture, decode, enough_memory, picture_of

__all__ = ["BadImage", "TrainImage", "eval_image", "eval_pixels", "train_image"]

Box = tuple[int, int, int, int]  # left, top, right, bottom
WHOLE = 1 << 26  # pixels (256 MB): up to here the image is resized whole and then cut, as other libraries do


def train_image(
    data: bytes,
    size: int,
    *,
    seed: int,
    crop: str = "square",
    scale: tuple[float, float] = (0.9, 1.0),
    fast: bool = False,
) -> Tensor:
    """Bytes -> uint8 [3, size, size]: a random crop, which depends on `seed` alone.

    crop: "square" (CLIP): the shorter side is resized to `size`, then a random square is cut;
          "resized" (Inception): a random box of `scale` of the area and 3/4–4/3 aspect is resized
    fast: decode JPEGs at 1/2, 1/4 or 1/8 size where that is still larger than the result; the crops are the same,
          the pixels less close to Pillow's (docs/pixels.md)
    Raises BadImage.
    """

    def drawn(width: int, height: int) -> Crop:
        if crop == "square":
            across, down = (seeding.uniform_one(seed, draw) for draw in range(2))
            return square_crop(width, height, size, across, down)
        if crop == "resized":
            return box_crop(width, height, size, seed, scale)
        raise ValueError(f"crop={crop!r} is unknown: take 'square' or 'resized'")

    picture = decode(data, (lambda width, height: drawn(width, height).reduction()) if fast else None)
    with enough_memory():
        return take(picture, drawn(picture.width, picture.height))


class TrainImage:
    """`train_image` as a component of the config.

    cache: number of decoded images to keep, for sets so small that decoding costs more than the training step; only
        images of exactly size × size pixels are kept, since their crop does not depend on the seed
    """

    def __init__(
        self,
        size: Count,
        crop: str = "square",
        scale: tuple[float, float] = (0.9, 1.0),
        fast: bool = False,
        cache: Whole = 0,
    ) -> None:
        if crop not in ("square", "resized"):
            raise UserError(f"data.image.crop={crop} is unknown: take square (CLIP's) or resized.")
        if cache and crop != "square":
            raise UserError("data.image.cache keeps whole images: use it with data.image.crop=square only.")
        self.size, self.crop, self.scale, self.fast, self.cache = size, crop, scale, fast, cache
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, data: bytes, seed: int) -> Tensor:
        """Encoded bytes -> uint8 [3, size, size]. Raises BadImage."""
        if data in self._kept:
            return self._kept[data]
        pixels = train_image(data, self.size, seed=seed, crop=self.crop, scale=self.scale, fast=self.fast)
        if len(self._kept) < self.cache and Image.open(io.BytesIO(data)).size == (self.size, self.size):
            self._kept[data] = pixels
        return pixels


def eval_image(data: bytes, size: int, border: int = 0) -> Tensor:
    """Bytes -> uint8 [3, size, size]: `border` pixels are cut off each side, the shorter side is resized, then the
    centre is cropped. Raises BadImage."""
    picture = decode(data)
    if border:
        inner = picture.pixels[border:-border, border:-border]
        if not inner.size:
            raise BadImage("nothing is left inside the border")
        picture = Picture(inner, inner.shape[1], inner.shape[0])
    return _centre(picture, size)


def eval_pixels(image: Image.Image, size: int) -> Tensor:
    """As `eval_image`, for a Pillow image of any mode."""
    return _centre(picture_of(image), size)


def _centre(picture: Picture, size: int) -> Tensor:
    with enough_memory():
        return take_exactly(picture, centre_crop(picture.width, picture.height, size))


@dataclass(frozen=True)
class Crop:
    """`box` of an image is resized to width × height; of that the `size` square at (left, top) is kept."""

    box: Box
    width: int
    height: int
    left: int
    top: int
    size: int

    def reduction(self) -> int:
        """How many times smaller the image may be decoded without enlarging it afterwards: 1, 2, 4 or 8."""
        left, top, right, bottom = self.box
        spare = min((right - left) / self.width, (bottom - top) / self.height)
        return next(times for times in (8, 4, 2, 1) if times <= max(1, spare))


def square_crop(width: int, height: int, size: int, across: float, down: float) -> Crop:
    """CLIP's: the shorter side becomes `size`. across, down: the square's place, 0 ≤ x < 1 of the free room"""
    wide, high = _shorter_side(width, height, size)
    left, top = int(across * (wide - size + 1)), int(down * (high - size + 1))
    return Crop((0, 0, width, height), wide, high, left, top, size)


def centre_crop(width: int, height: int, size: int) -> Crop:
    """As `square_crop`, at the centre."""
    wide, high = _shorter_side(width, height, size)
    return Crop((0, 0, width, height), wide, high, round((wide - size) / 2), round((high - size) / 2), size)


def box_crop(width: int, height: int, size: int, seed: int, scale: tuple[float, float]) -> Crop:
    """Inception's: a random box of `scale` of the area and 3/4–4/3 aspect becomes the square."""
    return Crop(_random_box(width, height, seed, scale), size, size, 0, 0, size)


def _shorter_side(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height once the shorter of them is `size`."""
    shorter = min(width, height)
    return max(size, int(size * width / shorter)), max(size, int(size * height / shorter))


def _random_box(width: int, height: int, seed: int, scale: tuple[float, float]) -> Box:
    for attempt in range(10):
        area, aspect, across, down = (seeding.uniform_one(seed, attempt, draw) for draw in range(4))
        target = width * height * (scale[0] + area * (scale[1] - scale[0]))
        ratio = math.exp(math.log(3 / 4) + aspect * (math.log(4 / 3) - math.log(3 / 4)))
        box_width, box_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(across * (width - box_width + 1)), int(down * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    shorter = min(width, height)  # no box fits such a long image: the centre square
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return left, top, left + shorter, top + shorter


def take(picture: Picture, crop: Crop) -> Tensor:
    """The crop of an image, which may have been decoded smaller -> uint8 [3, size, size]."""
    pixels = picture.pixels
    if crop.width * crop.height > WHOLE:
        return take_exactly(picture, crop)
    high, wide, _ = pixels.shape
    left, right = (round(x * wide / picture.width) for x in crop.box[::2])
    top, bottom = (round(y * high / picture.height) for y in crop.box[1::2])
    source = _channels_last(pixels[top : max(bottom, top + 1), left : max(right, left + 1)])
    rows, columns = slice(crop.top, crop.top + crop.size), slice(crop.left, crop.left + crop.size)
    if source.shape[2:] == (crop.height, crop.width):
        return source[0, :, rows, columns].contiguous()
    if rows_first(source.shape[3], source.shape[2], crop.width, crop.height):
        narrow = _resized(source, crop.height, source.shape[3])[:, :, rows]
        return _resized(narrow, crop.size, crop.width)[0, :, :, columns].contiguous()
    return _columns_first(source, crop, rows, columns)[0].contiguous()


def take_exactly(picture: Picture, crop: Crop) -> Tensor:
    """As `take`, with Pillow's resize; only for an image that was decoded at full size."""
    image = Image.fromarray(picture.pixels)
    if crop.box != (0, 0, picture.width, picture.height):
        image = image.crop(crop.box)
    if crop.width * crop.height > WHOLE:
        image = square(image, crop)
    else:
        image = image.resize((crop.width, crop.height), Image.Resampling.BICUBIC)
        image = image.crop((crop.left, crop.top, crop.left + crop.size, crop.top + crop.size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def square(image: Image.Image, crop: Crop) -> Image.Image:
    """The square of `crop` alone, in Pillow's order of passes: a long image resized whole could need any amount of
    memory."""
    across, down = image.width / crop.width, image.height / crop.height
    columns = (crop.left * across, (crop.left + crop.size) * across)
    rows = (crop.top * down, (crop.top + crop.size) * down)

    def along_height(image: Image.Image) -> Image.Image:
        return image.resize((image.width, crop.size), Image.Resampling.BICUBIC, (0, rows[0], image.width, rows[1]))

    def along_width(image: Image.Image) -> Image.Image:
        box = (columns[0], 0, columns[1], image.height)
        return image.resize((crop.size, image.height), Image.Resampling.BICUBIC, box)

    if rows_first(image.width, image.height, crop.width, crop.height):
        return along_width(along_height(image))
    return along_height(along_width(image))


def rows_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether Pillow 13 resizes the height before the width. It rounds and clips in between, so the order matters: by
    up to 30 levels at hard edges."""
    return new_height < height and height - new_height > 2 * (width - new_width)


def _columns_first(source: Tensor, crop: Crop, rows: slice, columns: slice) -> Tensor:
    """Resize the width first, only for the source's rows that the kept rows are made from."""
    height = source.shape[2]
    scale = height / crop.height
    reach = 2 * max(scale, 1.0) + 1  # bicubic's support, and one for rounding
    first = max(0, math.floor((rows.start + 0.5) * scale - reach))
    last = min(height, math.ceil((rows.stop - 0.5) * scale + reach))
    kept = _resized(source[:, :, first:last], last - first, crop.width)[:, :, :, columns]
    if last - first < height:  # back in place: the kernel resizes a whole height
        canvas = torch.empty((1, 3, height, crop.size), dtype=torch.uint8, memory_format=torch.channels_last)
        canvas[:, :, first:last] = kept
        kept = canvas
    return _resized(kept, crop.height, crop.size)[:, :, rows]


def _channels_last(pixels: NDArray) -> Tensor:
    """uint8 [h, w, 3] -> [1, 3, h, w] with the strides of channels_last; copies only what is a part of an image."""
    return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
