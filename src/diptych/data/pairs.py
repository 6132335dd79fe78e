"""From one sample of a shard to one image–text pair: which image, which caption, which crop."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from diptych.data import seeding
from diptych.data.image import BadImage
from diptych.data.shards import Sample

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_IMAGE, _CAPTION, _CROP = 11, 12, 13  # names of the draws made from a sample's seed


class BadSample(ValueError):
    """The sample gives no pair; the message is a reason to count by."""


class Pairs:
    """Makes pairs: raw sample and its seed -> (image uint8 [3, size, size], tokens int64 [L]).

    A sample with several images (`key.A.jpg`, `key.B.jpg`) or several captions (lines of `key.txt`, the list
    `captions` in `key.json`) gives one of each, drawn by its seed.

    image: (encoded bytes, seed) -> uint8 [3, size, size]
    tokenizer: texts -> int64 [N, L]
    """

    def __init__(self, image: Callable[[bytes, int], Tensor], tokenizer: Callable[[list[str]], Tensor]) -> None:
        self.image, self.tokenizer = image, tokenizer

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        """Raises BadSample."""
        text = self._caption(sample, seed)
        name, data = _draw_image(sample, seed)
        try:
            image = self.image(data, seeding.mix_one(seed, _CROP))
        except BadImage as error:
            raise BadSample(f"{error} (.{name.rsplit('.', 1)[-1]})") from error
        return image, self.tokenizer([text])[0]

    def _caption(self, sample: Sample, seed: int) -> str:
        captions = captions_of(sample)
        return captions[int(seeding.uniform_one(seed, _CAPTION) * len(captions))]


def captions_of(sample: Sample) -> tuple[str, ...]:
    """A sample's captions, at least one. Raises BadSample."""
    try:
        if "txt" in sample:
            lines = _stripped(sample["txt"].decode().splitlines())
        elif "json" in sample:
            lines = _captions_of_json(sample["json"])
        else:
            raise BadSample(f"no caption: neither .txt nor .json among {_extensions(sample)}")
    except ValueError as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("caption file is not readable text") from error
    if not lines:
        raise BadSample("empty caption")
    return lines


@lru_cache(maxsize=4096)
def _captions_of_json(data: bytes) -> tuple[str, ...]:
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    captions = fields.get("captions") or [fields.get("caption")]
    return _stripped(captions if isinstance(captions, list) else [])


def _stripped(lines: list[object]) -> tuple[str, ...]:
    return tuple(line.strip() for line in lines if isinstance(line, str) and line.strip())


def _draw_image(sample: Sample, seed: int) -> tuple[str, bytes]:
    names = sorted(name for name in sample if f".{name}".endswith(IMAGES))
    if not names:
        raise BadSample(f"no image among {_extensions(sample)}")
    name = names[int(seeding.uniform_one(seed, _IMAGE) * len(names))]
    return name, sample[name]


def _extensions(sample: Sample) -> str:
    return ", ".join(sorted(f".{name}" for name in sample if not name.startswith("__"))) or "no file"


def stack(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs -> (images uint8 [B, 3, H, W], tokens int64 [B, L])."""
    images, tokens = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(tokens)
