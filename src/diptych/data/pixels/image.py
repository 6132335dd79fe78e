"""From encoded bytes to the model's squares: one crop for training, drawn by a seed, and one for evaluation.

CLIP, section 2.5: "a random square crop from resized images is the only data augmentation used".
"""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.base.quantities import Count, Whole
from diptych.data.pixels.decode import BadImage, Picture, decode, enough_memory, picture_of
from diptych.data.pixels.resize import Crop, box_crop, centre_crop, square_crop, take, take_exactly

__all__ = ["BadImage", "TrainImage", "eval_image", "eval_pixels", "train_image"]


def train_image(
    data: bytes,
    size: int,
    *,
    seed: int,
    crop: str = "square",
    scale: tuple[float, float] = (0.9, 1.0),
    fast: bool = False,
) -> Tensor:
    """Bytes -> uint8 [3, size, size], a random crop that depends on `seed` alone.

    crop: "square", CLIP's: the shorter side resized to `size`, then a random square of it;
          "resized": a random box of `scale` of the area and 3/4–4/3 aspect, resized (Inception's)
    fast: JPEGs are decoded at a half, a quarter or an eighth where that is still larger than what is made of them;
          the same crops, less like Pillow's pixels (docs/pixels.md)
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

    cache: decoded pictures to keep, for sets so small that decoding again would cost more than the step; only
    for pictures that are `size` square already, since nothing is drawn for those
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
            raise UserError("data.image.cache keeps pictures as they are: it goes with data.image.crop=square.")
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
    """Bytes -> uint8 [3, size, size]: `border` pixels cut off every side, shorter side resized (bicubic,
    antialiased), centre crop. Raises BadImage."""
    picture = decode(data)
    if border:
        inner = picture.pixels[border:-border, border:-border]
        if not inner.size:
            raise BadImage("nothing is left inside the border")
        picture = Picture(inner, inner.shape[1], inner.shape[0])
    return _centre(picture, size)


def eval_pixels(image: Image.Image, size: int) -> Tensor:
    """As `eval_image`, from a Pillow image of any mode."""
    return _centre(picture_of(image), size)


def _centre(picture: Picture, size: int) -> Tensor:
    with enough_memory():
        return take_exactly(picture, centre_crop(picture.width, picture.height, size))
