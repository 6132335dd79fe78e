"""From encoded bytes to pixels, with Pillow: decode, orient, flatten, resize, crop.

CLIP, section 2.5: "a random square crop from resized images is the only data augmentation used".
"""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diptych.data import seeding
from diptych.errors import UserError


class BadImage(ValueError):
    """The bytes are not an image that can be read; the message is a reason to count by."""


def decode(data: bytes) -> Image.Image:
    """Bytes of any format that Pillow reads -> RGB, upright, transparency over white.

    Raises BadImage with a reason of a few words.
    """
    if not data:
        raise BadImage("image of zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage("image too large to decode safely") from error
    except Exception as error:  # Pillow's plug-ins raise whatever their format makes them raise
        raise BadImage("not a readable image") from error
    return flatten(image)


def flatten(image: Image.Image) -> Image.Image:
    """Any Pillow image -> RGB, upright, transparency over white. Raises BadImage for more than 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode.startswith(("I", "F")):
        raise BadImage(f"image of mode {image.mode}, which has more than 8 bits a channel")
    return image.convert("RGB")


def train_image(
    data: bytes,
    size: int,
    *,
    seed: int,
    crop: str = "square",
    scale: tuple[float, float] = (0.9, 1.0),
) -> Tensor:
    """Bytes -> uint8 [3, size, size], a random crop that depends on `seed` alone.

    crop: "square", CLIP's: the shorter side resized to `size`, then a random square of it;
          "resized": a random box of `scale` of the area and 3/4–4/3 aspect, resized (Inception's)
    Raises BadImage.
    """
    image = decode(data)
    if crop == "square":
        image = _shorter_side(image, size)
        across, down = seeding.uniform(seed, np.arange(2))
        left = int(across * (image.width - size + 1))
        top = int(down * (image.height - size + 1))
        return _pixels(_cropped(image, left, top, size))
    if crop == "resized":
        box = _random_box(image.width, image.height, seed, scale)
        return _pixels(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    raise ValueError(f"crop={crop!r} is unknown: take 'square' or 'resized'")


class TrainImage:
    """`train_image` as a component of the config.

    cache: decoded pictures to keep, for sets so small that decoding again would cost more than the step; only
    for pictures that are `size` square already, since nothing is drawn for those
    """

    def __init__(
        self, size: int, crop: str = "square", scale: tuple[float, float] = (0.9, 1.0), cache: int = 0
    ) -> None:
        if crop not in ("square", "resized"):
            raise UserError(f"data.image.crop={crop} is unknown: take square (CLIP's) or resized.")
        if cache and crop != "square":
            raise UserError("data.image.cache keeps pictures as they are: it goes with data.image.crop=square.")
        self.size, self.crop, self.scale, self.cache = size, crop, scale, cache
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, data: bytes, seed: int) -> Tensor:
        """Encoded bytes -> uint8 [3, size, size]. Raises BadImage."""
        if data in self._kept:
            return self._kept[data]
        pixels = train_image(data, self.size, seed=seed, crop=self.crop, scale=self.scale)
        if len(self._kept) < self.cache and Image.open(io.BytesIO(data)).size == (self.size, self.size):
            self._kept[data] = pixels
        return pixels


def eval_image(data: bytes, size: int) -> Tensor:
    """Bytes -> uint8 [3, size, size]: shorter side resized (bicubic, antialiased), centre crop. Raises BadImage."""
    return eval_pixels(decode(data), size)


def eval_pixels(image: Image.Image, size: int) -> Tensor:
    """As `eval_image`, from a Pillow image of any mode."""
    image = _shorter_side(flatten(image), size)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return _pixels(_cropped(image, left, top, size))


def _cropped(image: Image.Image, left: int, top: int, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return image.crop((left, top, left + size, top + size))


def _shorter_side(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    if shorter == size:
        return image
    width, height = (max(size, int(size * side / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _random_box(width: int, height: int, seed: int, scale: tuple[float, float]) -> tuple[float, float, float, float]:
    for attempt in range(10):
        area, aspect, across, down = seeding.uniform(seed, attempt, np.arange(4))
        target = width * height * (scale[0] + area * (scale[1] - scale[0]))
        ratio = math.exp(math.log(3 / 4) + aspect * (math.log(4 / 3) - math.log(3 / 4)))
        box_width, box_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(across * (width - box_width + 1)), int(down * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    shorter = min(width, height)  # no box fits so long an image: the centre square
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return left, top, left + shorter, top + shorter


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()
