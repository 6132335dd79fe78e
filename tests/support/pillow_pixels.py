"""The reference for our pixels: the same crops, decoded and resized by Pillow."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diptych.base import seeding
from diptych.data.pixels.image import Crop, box_crop, centre_crop, square_crop


def train_image(data: bytes, size: int, *, seed: int, crop: str, scale: tuple[float, float] = (0.9, 1.0)) -> Tensor:
    image = opened(data)
    if crop == "resized":
        return take(image, box_crop(image.width, image.height, size, seed, scale))
    across, down = seeding.uniform(seed, np.arange(2))
    return take(image, square_crop(image.width, image.height, size, across, down))


def eval_image(data: bytes, size: int) -> Tensor:
    image = opened(data)
    return take(image, centre_crop(image.width, image.height, size))


def opened(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def take(image: Image.Image, crop: Crop) -> Tensor:
    """Crop, resize, and crop again, as torchvision does for both crops."""
    resized = image.crop(crop.box).resize((crop.width, crop.height), Image.Resampling.BICUBIC)
    square = resized.crop((crop.left, crop.top, crop.left + crop.size, crop.top + crop.size))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """Differences in levels of 255."""
    return (ours.int() - theirs.int()).abs()
