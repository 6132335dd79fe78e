"""The batch, which data, towers and training share, and the normalisation of its pixels on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """One rank's share of the global batch of one step.

    images: uint8 [B, 3, H, W], or float in 0–1 after augmentation on the device
    tokens: int64 [B, L]
    seeds:  int64 [B], one per sample, a function of only (seed, epoch, sample)
    keys:   B sample names, `shard/key`
    step:   the global step of this batch, from 0
    wait:   seconds that the training loop waited for it
    groups: int64 [B], equal for samples of one group, if `data.groups` is set
    """

    images: Tensor
    tokens: Tensor
    seeds: Tensor
    keys: list[str] = field(default_factory=list)
    step: int = 0
    wait: float = 0.0
    groups: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            seeds=self.seeds.to(device, non_blocking=non_blocking),
            groups=None if self.groups is None else self.groups.to(device, non_blocking=non_blocking),
        )

    def __len__(self) -> int:
        return len(self.tokens)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise pixels: uint8 0–255 or float 0–1 [B, 3, H, W] -> float [B, 3, H, W], minus mean, divided by std.

    It runs on the device, so that only bytes are copied there.
    """
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).mul_(scale).view(1, 3, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device).mul_(scale).view(1, 3, 1, 1)
    return (images.float() - centre) / spread
