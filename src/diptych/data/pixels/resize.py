"""Crops of pictures, resized bicubic and antialiased: by torch's own kernel for bytes, and by Pillow to the bit.

torch's kernel is many times as fast, on x86 for three channels that lie together (channels_last) as decoders give
them; its weights have 16 bits, so that a value may be a level off, and two of 255 once in some 100,000. That is
nothing for training; evaluation, whose numbers others compare with theirs, takes Pillow's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diptych.base import seeding
from diptych.data.pixels.decode import Picture

Box = tuple[int, int, int, int]  # left, top, right, bottom
WHOLE = 1 << 26  # pixels, 256 MB: what is no larger is resized whole before the square is cut, as the peers do


@dataclass(frozen=True)
class Crop:
    """What is made of a picture: `box` of it is resized to width × height, and of that the `size` square whose
    corner is (left, top) is kept."""

    box: Box
    width: int
    height: int
    left: int
    top: int
    size: int

    def reduction(self) -> int:
        """How many times smaller the picture may be decoded without enlarging it afterwards."""
        left, top, right, bottom = self.box
        spare = min((right - left) / self.width, (bottom - top) / self.height)
        return next(times for times in (8, 4, 2, 1) if times <= max(1, spare))


def square_crop(width: int, height: int, size: int, across: float, down: float) -> Crop:
    """CLIP's: the shorter side becomes `size`, then a square at (across, down), in [0, 1), of the room there is."""
    wide, high = shorter_side(width, height, size)
    left, top = int(across * (wide - size + 1)), int(down * (high - size + 1))
    return Crop((0, 0, width, height), wide, high, left, top, size)


def centre_crop(width: int, height: int, size: int) -> Crop:
    """As `square_crop`, from the middle."""
    wide, high = shorter_side(width, height, size)
    return Crop((0, 0, width, height), wide, high, round((wide - size) / 2), round((high - size) / 2), size)


def box_crop(width: int, height: int, size: int, seed: int, scale: tuple[float, float]) -> Crop:
    """Inception's: a random box of `scale` of the area and 3/4–4/3 aspect becomes the square."""
    return Crop(_random_box(width, height, seed, scale), size, size, 0, 0, size)


def shorter_side(width: int, height: int, size: int) -> tuple[int, int]:
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
    shorter = min(width, height)  # no box fits so long an image: the centre square
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return left, top, left + shorter, top + shorter


def take(picture: Picture, crop: Crop) -> Tensor:
    """The crop of a picture, which may have been decoded smaller -> uint8 [3, size, size]."""
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
    """As `take`, with Pillow's resize; not of a part of a reduced decode."""
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
    """The square of `crop` alone, in Pillow's order of passes: a long picture resized whole may be of any size."""
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
    """Whether Pillow 13 resizes along the height before the width. Bytes are rounded and clipped in between, so the
    order shows, by up to 30 levels at hard edges."""
    return new_height < height and height - new_height > 2 * (width - new_width)


def _columns_first(source: Tensor, crop: Crop, rows: slice, columns: slice) -> Tensor:
    """Of the source's rows, only those that the kept ones are made from are resized."""
    height = source.shape[2]
    scale = height / crop.height
    reach = 2 * max(scale, 1.0) + 1  # bicubic's support, and one for rounding
    first = max(0, math.floor((rows.start + 0.5) * scale - reach))
    last = min(height, math.ceil((rows.stop - 0.5) * scale + reach))
    kept = _resized(source[:, :, first:last], last - first, crop.width)[:, :, :, columns]
    if last - first < height:  # back to their place, since the kernel maps a whole height to a whole height
        canvas = torch.empty((1, 3, height, crop.size), dtype=torch.uint8, memory_format=torch.channels_last)
        canvas[:, :, first:last] = kept
        kept = canvas
    return _resized(kept, crop.height, crop.size)[:, :, rows]


def _channels_last(pixels: NDArray) -> Tensor:
    """uint8 [h, w, 3] -> [1, 3, h, w] whose strides torch takes for channels_last; a copy only of a part."""
    return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
