"""A user's own towers as in `docs/models.md`, and some in which something is missing."""

from __future__ import annotations

import os as os
import sys

import torch
from torch import Tensor, nn


class Image(nn.Module):
    def __init__(self, image_size: int = 32, embed_dim: int = 16, gives: int | None = None) -> None:
        super().__init__()
        self.image_size, self.embed_dim = image_size, embed_dim
        self.proj = nn.Linear(3, gives or embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images.mean((2, 3)))


class NoSize(nn.Module):
    embed_dim = 16

    def forward(self, images: Tensor) -> Tensor:
        return images


class NotWithoutMemory(Image):
    def forward(self, images: Tensor) -> Tensor:
        if images.sum().item() > 0:
            return self.proj(images.mean((2, 3)))
        return self.proj(torch.zeros(len(images), 3))


def called() -> None:
    sys.exit("this was called")
