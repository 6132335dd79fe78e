"""Synthetic pictures like photographs: detail at every scale, soft and hard edges, flat parts."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise of every octave (amplitude falls with frequency) with a random lighting and two dozen flat shapes."""
    rng = np.random.default_rng(seed)
    pixels, cells, strength = np.zeros((height, width, 3), np.float32), 4, 1.0
    while cells < max(width, height):
        coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        layers = [Image.fromarray(coarse[..., channel]) for channel in range(3)]
        fine = [np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) for layer in layers]
        pixels += strength * np.stack(fine, axis=-1)
        cells, strength = cells * 2, strength * 0.55
    pixels = 120 + 45 * (pixels - pixels.mean()) / (pixels.std() + 1e-6)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number in range(24):
        left, top = rng.integers(0, width), rng.integers(0, height)
        box = [left, top, left + rng.integers(1, width // 4 + 2), top + rng.integers(1, height // 4 + 2)]
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape([int(side) for side in box], fill=tuple(int(level) for level in rng.integers(0, 256, 3)))
    return image


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
