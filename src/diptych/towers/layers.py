"""What the towers share: positions for another grid or length, and how many layers are above a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize_positions(positions: Tensor, trained: int, grid: tuple[int, int]) -> Tensor:
    """Positions [n + trained², C] -> [n + h·w, C] for a `grid` of h×w cells. The first n rows (of a class token or a
    mean) have no place in the grid and stay as they are; n may be 0.

    Unchanged where the grid is the trained one. Otherwise the square grid is resampled (bicubic, antialiased), with
    gradients, so one set of positions can be trained at several image sizes.
    """
    if grid == (trained, trained):
        return positions
    placeless = len(positions) - trained**2
    square = positions[placeless:].view(1, trained, trained, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:placeless], resized.flatten(2).squeeze(0).T])


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """Positions [L, C] -> [length, C], of the same type: the first ones, which is exact, or, for a length above L,
    stretched linearly."""
    if length <= len(positions):
        return positions[:length].clone()
    stretched = F.interpolate(positions.float().T[None], size=length, mode="linear", align_corners=False)
    return stretched[0].T.contiguous().to(positions.dtype)


def layers_above(tower: nn.Module, blocks: Sequence[nn.Module], head: Iterable[str]) -> dict[str, int]:
    """Every parameter's name -> the number of layers between it and the features, for freezing and for layer-wise
    learning rates.

    blocks: of the tower, first to last
    head: names of the tower's children and parameters that come after the blocks
    The head has 0, the last block 1, the first block len(blocks), and all that comes before the blocks (patches,
    positions, embeddings, stem) has one more.
    """
    above = {id(p): len(blocks) - place for place, block in enumerate(blocks) for p in block.parameters()}
    first, head = len(blocks) + 1, set(head)
    return {
        name: above.get(id(parameter), 0 if name.partition(".")[0] in head else first)
        for name, parameter in tower.named_parameters()
    }
