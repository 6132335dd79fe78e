"""Position embeddings of an image grid, resampled when the grid changes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, trained: int, grid: tuple[int, int]) -> Tensor:
    """Positions [n + trained², C] -> [n + h·w, C] for a `grid` of h×w cells; n first rows (a class token's, a
    mean's, or none) have no place.

    As it is where the grid is the trained one. Otherwise the square grid is resampled (bicubic, antialiased),
    differentiably, so that training may go through several image sizes with one set of positions.
    """
    if grid == (trained, trained):
        return positions
    placeless = len(positions) - trained**2
    square = positions[placeless:].view(1, trained, trained, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:placeless], resized.flatten(2).squeeze(0).T])


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """Positions [L, C] -> [length, C], of the same type: the first ones, which is exact, or stretched linearly where
    there are too few."""
    if length <= len(positions):
        return positions[:length].clone()
    stretched = F.interpolate(positions.float().T[None], size=length, mode="linear", align_corners=False)
    return stretched[0].T.contiguous().to(positions.dtype)
