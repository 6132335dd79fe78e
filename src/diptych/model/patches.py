"""The image patches that a training step reads (FLIP, Li et al. 2023), drawn from each sample's seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diptych.base import seeding
from diptych.towers.clip import CLIP

_PATCHES = 14  # names this draw; `data/stream/pairs.py` and `data/pixels/augment.py` name others


def kept_patches(model: CLIP, seeds: Tensor, images: Tensor) -> Tensor | None:
    """seeds int64 [B], images [B, 3, H, W] -> int64 [B, K] for `VisionTransformer.forward`; None for all patches, if
    the image tower drops none or has no patches.

    The draw is the same for any number of ranks and micro-batches. The tower itself drops nothing, so that an
    evaluation reads all patches.
    """
    read = getattr(model.image, "patches_read", None)
    patches, count = read(images) if read else (0, 0)
    return drawn_patches(seeds, patches, count) if count < patches else None


def hollow_pictures(model: CLIP, count: int) -> tuple[Tensor, ...]:
    """A training step's inputs of the image tower for `count` images, on the meta device: the pixels, and the patches
    that it reads if these aren't all."""
    pixels = torch.zeros(count, 3, model.image_size, model.image_size, device="meta")
    kept = kept_patches(model, torch.zeros(count, dtype=torch.long), pixels)
    return (pixels,) if kept is None else (pixels, kept.to("meta"))


def drawn_patches(seeds: Tensor, patches: int, count: int) -> Tensor:
    """seeds int64 [B] -> int64 [B, count] on their device: for each sample, `count` of 0 … patches-1 in rising order.
    Each set of patches is equally likely."""
    draws = seeding.mix(seeds.cpu().numpy()[:, None], _PATCHES, np.arange(patches)[None, :])
    lowest = np.argpartition(draws, count - 1, axis=1)[:, :count]
    return torch.from_numpy(np.sort(lowest, axis=1)).to(seeds.device)
