"""Which patches of its pictures a training step reads (FLIP, Li et al. 2023): a draw from each sample's own seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diptych.base import seeding
from diptych.towers.clip import CLIP

_PATCHES = 14  # the name of this draw, beside those in `data/pairs.py` and `data/augment.py`


def kept_patches(model: CLIP, seeds: Tensor, images: Tensor) -> Tensor | None:
    """seeds int64 [B], images [B, 3, H, W] -> int64 [B, K] as `VisionTransformer.forward` takes them; None for all,
    where the image tower drops none or has none.

    Neither ranks nor micro-batches change a draw. The tower draws nothing itself: whoever evaluates has all patches.
    """
    read = getattr(model.image, "patches_read", None)
    patches, count = read(images) if read else (0, 0)
    return drawn_patches(seeds, patches, count) if count < patches else None


def hollow_pictures(model: CLIP, count: int) -> tuple[Tensor, ...]:
    """What a training step gives the image tower for `count` pictures, without memory: pixels, and the patches read
    where those are not all."""
    pixels = torch.zeros(count, 3, model.image_size, model.image_size, device="meta")
    kept = kept_patches(model, torch.zeros(count, dtype=torch.long), pixels)
    return (pixels,) if kept is None else (pixels, kept.to("meta"))


def drawn_patches(seeds: Tensor, patches: int, count: int) -> Tensor:
    """seeds int64 [B] -> int64 [B, count] on their device: `count` of 0 … patches-1 for each sample, rising, each set
    of them as likely as any other."""
    draws = seeding.mix(seeds.cpu().numpy()[:, None], _PATCHES, np.arange(patches)[None, :])
    lowest = np.argpartition(draws, count - 1, axis=1)[:, :count]
    return torch.from_numpy(np.sort(lowest, axis=1)).to(seeds.device)
