"""Position embeddings of an image grid, resampled when the grid changes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, trained: int, grid: tuple[int, int]) -> Tensor:
    """Positions [1 + trained², C] -> [1 + h·w, C] for a `grid` of h×w cells; the first row has no place.

    As it is where the grid is the trained one. Otherwise the square grid is resampled (bicubic, antialiased),
    differentiably, so that training may go through several image sizes with one set of positions.
    """
    if grid == (trained, trained):
        return positions
    square = positions[1:].view(1, trained, trained, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2).squeeze(0).T])
