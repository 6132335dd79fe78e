"""From one sample of a shard to one image–text pair: which image, which caption, which crop."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.base import seeding
from diptych.data.pixels.image import BadImage
from diptych.data.stream.captions import BadSample, captions_of, extensions, field_of, group_of
from diptych.data.stream.shards import Sample

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
_IMAGE, _CAPTION, _CROP = 11, 12, 13  # names of the draws made from a sample's seed


class Pair(NamedTuple):
    """image uint8 [3, size, size], tokens int64 [L], and the number of the sample's group, if it has one"""

    image: Tensor
    tokens: Tensor
    group: int | None = None


class Pairs:
    """Makes pairs: raw sample and its seed -> Pair.

    A sample with several images (`key.A.jpg`, `key.B.jpg`) or several captions (lines of `key.txt`, a list in
    `key.json`, see `captions_of`) gives one of each, drawn by its seed.

    image: (encoded bytes, seed) -> uint8 [3, size, size]
    tokenizer: texts -> int64 [N, L]
    captions: the field of `key.json` that holds the caption or captions, in the place of the usual ones
    groups: the field of `key.json` by which samples belong together, for losses that take all of a group's texts as
        right for all of its images; None for none
    """

    def __init__(
        self,
        image: Callable[[bytes, int], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        groups: str | None = None,
        captions: str | None = None,
    ) -> None:
        self.image, self.tokenizer, self.groups, self.captions = image, tokenizer, groups, captions

    def __call__(self, sample: Sample, seed: int) -> Pair:
        """Raises BadSample."""
        text = self._caption(sample, seed)
        group = None if self.groups is None else group_of(sample, self.groups)
        name, data = _draw_image(sample, seed)
        try:
            image = self.image(data, seeding.mix_one(seed, _CROP))
        except BadImage as error:
            raise BadSample(f"{error} (.{name.rsplit('.', 1)[-1]})") from error
        return Pair(image, self.tokenizer([text])[0], group)

    def _caption(self, sample: Sample, seed: int) -> str:
        captions = captions_of(sample) if self.captions is None else field_of(sample, self.captions)
        return captions[int(seeding.uniform_one(seed, _CAPTION) * len(captions))]


def images_of(sample: Sample) -> tuple[str, ...]:
    """The names of a sample's pictures, at least one. Raises BadSample."""
    names = _images(tuple(sample))
    if not names:
        raise BadSample(f"no image among {extensions(sample)}")
    return names


def _draw_image(sample: Sample, seed: int) -> tuple[str, bytes]:
    names = images_of(sample)
    name = names[int(seeding.uniform_one(seed, _IMAGE) * len(names))]
    return name, sample[name]


@lru_cache(maxsize=4096)
def _images(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of images, in their order; samples of one set mostly have the same names."""
    return tuple(sorted(name for name in names if f".{name}".endswith(IMAGES)))


def stack(pairs: list[Pair]) -> tuple[Tensor, Tensor, list[int]]:
    """Pairs -> (images uint8 [B, 3, H, W], tokens int64 [B, L], groups B or none)."""
    groups = [pair.group for pair in pairs if pair.group is not None]
    return torch.stack([pair.image for pair in pairs]), torch.stack([pair.tokens for pair in pairs]), groups
