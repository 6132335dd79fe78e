"""Augmentation of a whole batch on the device, each sample's draws from its own seed: for small, drawn sets.

CLIP itself crops and nothing else (paper, section 2.5). Where pictures are few, variety is what limits, and
this makes it: one resampling for scale, aspect, shear, rotation, shift, flip and size; colour; line art.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diptych.batch import Batch
from diptych.data import seeding


class Drawings:
    """Random geometry, colour and line-art versions.

    sizes: (share of the training, pixels) in rising order: the size from that share on
    rotate: degrees; shift: of the half width; shear: tangent; aspect: of each side
    scale: how much of the picture's width is seen: below 1 zooms in
    flip, grey, permute: chances of a mirror image, of grey, of permuted colour channels
    brightness, contrast: largest relative change
    edges, one_colour: chances of the line-art version and of the version in two flat colours
    """

    def __init__(
        self,
        sizes: Sequence[tuple[float, int]] = ((0.0, 32),),
        rotate: float = 14.0,
        shift: float = 0.1,
        scale: tuple[float, float] = (0.7, 1.2),
        aspect: float = 0.1,
        shear: float = 0.1,
        flip: float = 0.5,
        grey: float = 0.25,
        permute: float = 0.25,
        brightness: float = 0.2,
        contrast: float = 0.3,
        edges: float = 0.15,
        one_colour: float = 0.15,
    ) -> None:
        self.sizes = sorted((float(share), int(size)) for share, size in sizes)
        self.rotate, self.shift, self.scale = rotate, shift, scale
        self.aspect, self.shear, self.flip = aspect, shear, flip
        self.grey, self.permute = grey, permute
        self.brightness, self.contrast = brightness, contrast
        self.edges, self.one_colour = edges, one_colour

    def describe(self) -> str:
        """One sentence for the report: what was done to the pictures."""
        sizes = ", then ".join(f"{size} px from {share:.0%}" for share, size in self.sizes)
        return (
            f"beyond CLIP's square crop: rotation ±{self.rotate:g}°, scale {self.scale[0]:g}–{self.scale[1]:g},"
            f" aspect and shear {self.aspect:g}, {self.shear:g}, flip {self.flip:.0%}, grey {self.grey:.0%},"
            f" permuted channels {self.permute:.0%}, line art {self.edges:.0%}, two flat colours"
            f" {self.one_colour:.0%}; {sizes}"
        )

    def __call__(self, batch: Batch, progress: float) -> Batch:
        """Images uint8 [B, 3, H, W] -> float in 0–1 [B, 3, size, size]; progress: share of the training, 0–1."""
        size = [size for share, size in self.sizes if progress >= share][-1]
        draws = seeding.uniform(batch.seeds.cpu().numpy()[:, None], np.arange(21, 41)[None, :])
        images = self._moved(batch.images, draws[:, :8], size)
        images = self._coloured(images, torch.from_numpy(draws[:, 8:17]).to(images))
        return replace(batch, images=self._line_art(images, torch.from_numpy(draws[:, 17:]).to(images)))

    def _moved(self, images: Tensor, draws: NDArray[np.float64], size: int) -> Tensor:
        signed = 2 * draws - 1
        angle = np.deg2rad(self.rotate) * signed[:, 0]
        low, high = self.scale
        across = (low + (high - low) * draws[:, 1]) * (1 + self.aspect * signed[:, 2])
        down = (low + (high - low) * draws[:, 1]) * (1 - self.aspect * signed[:, 2])
        across = np.where(draws[:, 3] < self.flip, -across, across)
        cos, sin, shear = np.cos(angle), np.sin(angle), self.shear * signed[:, 4]
        matrix = np.empty((len(draws), 2, 3))
        matrix[:, 0, 0], matrix[:, 0, 1] = across * cos, down * (shear * cos - sin)
        matrix[:, 1, 0], matrix[:, 1, 1] = across * sin, down * (shear * sin + cos)
        matrix[:, :, 2] = self.shift * signed[:, 5:7]
        # Halve first where the target is half as large or less: bilinear sampling alone would alias.
        pixels = images.float() if images.dtype == torch.uint8 else images * 255
        while pixels.shape[-1] >= 2 * size:
            pixels = F.avg_pool2d(pixels, 2)
        grid = F.affine_grid(torch.from_numpy(matrix).float(), [len(draws), 3, size, size], align_corners=False)
        # What lies beyond the picture is white, as paper is.
        moved = F.grid_sample(255 - pixels, grid.to(pixels.device), padding_mode="zeros", align_corners=False)
        return 1 - moved / 255

    def _coloured(self, images: Tensor, draws: Tensor) -> Tensor:
        orders = torch.argsort(draws[:, :3], dim=1)
        kept = torch.arange(3, device=images.device).expand_as(orders)
        orders = torch.where(draws[:, 3:4] < self.permute, orders, kept)
        images = images.gather(1, orders[:, :, None, None].expand_as(images))
        grey = (draws[:, 4] < self.grey)[:, None, None, None]
        images = torch.where(grey, _luma(images), images)
        brightness = 1 + self.brightness * (2 * draws[:, 5] - 1)
        contrast = 1 + self.contrast * (2 * draws[:, 6] - 1)
        centre = images.mean(dim=(1, 2, 3), keepdim=True)
        return (
            ((images - centre) * contrast[:, None, None, None] + centre)
            .mul_(brightness[:, None, None, None])
            .clamp_(0, 1)
        )

    def _line_art(self, images: Tensor, draws: Tensor) -> Tensor:
        images = images.clone()
        chosen = draws[:, 0] < self.edges
        if chosen.any():
            images[chosen] = _edges(images[chosen], fill=draws[chosen, 1] < 0.5, tint=draws[chosen, 2])
        chosen = (draws[:, 0] >= self.edges) & (draws[:, 0] < self.edges + self.one_colour)
        if chosen.any():
            images[chosen] = _two_colours(images[chosen], threshold=0.35 + 0.5 * draws[chosen, 1])
        return images


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None].expand_as(images)


def _edges(images: Tensor, fill: Tensor, tint: Tensor) -> Tensor:
    """Dark outlines where colours change, over white, or over the paled picture where `fill`."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).abs().amax(1, keepdim=True)
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).abs().amax(1, keepdim=True)
    ink = ((across + down) * 2.0).clamp(0, 1)
    paper = torch.where(fill[:, None, None, None], 1 - (1 - images) * tint[:, None, None, None], 1.0)
    return paper * (1 - ink)


def _two_colours(images: Tensor, threshold: Tensor) -> Tensor:
    """Black on white by a threshold on brightness, soft enough to keep a slope."""
    luma = _luma(images)
    return ((luma - threshold[:, None, None, None]) * 12 + 0.5).clamp(0, 1)
