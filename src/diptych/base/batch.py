"""The one type that data, towers and training share, and what is done to its pixels on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """One rank's share of the global batch of one step.

    images: uint8 [B, 3, H, W], or float in 0–1 once augmented on the device
    tokens: int64 [B, L]
    seeds:  int64 [B], the sample's own seed, from (seed, epoch, sample) alone
    keys:   B names, `shard/key`
    step:   the global step that this batch belongs to, from 0
    wait:   seconds the training loop waited for it
    groups: int64 [B], equal where samples belong together (`data.groups`), if that was asked for
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
    """Pixels as the towers want them: uint8 0–255 or float 0–1 [B, 3, H, W] -> float [B, 3, H, W].

    It runs on the device after the batch is made: bytes travel, floats don't.
    """
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).mul_(scale).view(1, 3, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device).mul_(scale).view(1, 3, 1, 1)
    return (images.float() - centre) / spread
