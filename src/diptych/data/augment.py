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
    scale: size of the drawing on its paper, against the original
    flip, grey, permute: chances of a mirror image, of grey, of permuted colour channels
    brightness, contrast: largest relative change
    edges, one_colour: chances of the outlined version (over white, pale or full colours) and of the version in
        black on white (dark parts filled, with outlines or without)
    """

    def __init__(
        self,
        sizes: Sequence[tuple[float, int]] = ((0.0, 32),),
        rotate: float = 14.0,
        shift: float = 0.1,
        scale: tuple[float, float] = (0.6, 1.1),
        aspect: float = 0.08,
        shear: float = 0.08,
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
            f" permuted channels {self.permute:.0%}, line art {self.edges:.0%}, black on white"
            f" {self.one_colour:.0%}; {sizes}"
        )

    def __call__(self, batch: Batch, progress: float) -> Batch:
        """Images uint8 [B, 3, H, W] -> float in 0–1 [B, 3, size, size]; progress: share of the training, 0–1."""
        size = [size for share, size in self.sizes if progress >= share][-1]
        draws = seeding.uniform(batch.seeds.cpu().numpy()[:, None], np.arange(21, 41)[None, :])
        images = batch.images.float() / 255 if batch.images.dtype == torch.uint8 else batch.images.clone()
        images = self._line_art(images, torch.from_numpy(draws[:, 15:]).to(images))
        images = self._moved(images, draws[:, :8], size)
        return replace(batch, images=self._coloured(images, torch.from_numpy(draws[:, 8:15]).to(images)))

    def _moved(self, images: Tensor, draws: NDArray[np.float64], size: int) -> Tensor:
        signed = 2 * draws - 1
        angle = np.deg2rad(self.rotate) * signed[:, 0]
        low, high = self.scale
        seen = 1 / (low + (high - low) * draws[:, 1])
        across, down = seen * (1 + self.aspect * signed[:, 2]), seen * (1 - self.aspect * signed[:, 2])
        across = np.where(draws[:, 3] < self.flip, -across, across)
        cos, sin, shear = np.cos(angle), np.sin(angle), self.shear * signed[:, 4]
        matrix = np.empty((len(draws), 2, 3))
        matrix[:, 0, 0], matrix[:, 0, 1] = across * cos, down * (shear * cos - sin)
        matrix[:, 1, 0], matrix[:, 1, 1] = across * sin, down * (shear * sin + cos)
        matrix[:, :, 2] = self.shift * signed[:, 5:7]
        # Halve first where the target is half as large or less: bilinear sampling alone would alias.
        while images.shape[-1] >= 2 * size:
            images = F.avg_pool2d(images, 2)
        grid = F.affine_grid(torch.from_numpy(matrix).float(), [len(draws), 3, size, size], align_corners=False)
        # What lies beyond the picture is white, as paper is.
        return 1 - F.grid_sample(1 - images, grid.to(images), padding_mode="zeros", align_corners=False)

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
        """draws [B, 5]: which version, how thick, how pale, which threshold, with outlines or without"""
        chosen = draws[:, 0] < self.edges
        if chosen.any():
            # A quarter on white, a quarter in full colour, the rest paled.
            tint = (2 * draws[chosen, 2] - 0.5).clamp(0, 1)[:, None, None, None]
            paper = 1 - (1 - images[chosen]) * tint
            images[chosen] = paper * (1 - _outlines(images[chosen], thick=draws[chosen, 1] < 0.5))
        chosen = (draws[:, 0] >= self.edges) & (draws[:, 0] < self.edges + self.one_colour)
        if chosen.any():
            lines = _outlines(images[chosen], thick=draws[chosen, 1] < 0.5)
            lines = lines * (draws[chosen, 4] < 0.6)[:, None, None, None]
            images[chosen] = _black_on_white(images[chosen], 0.25 + 0.5 * draws[chosen, 3]) * (1 - lines)
        return images


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None].expand_as(images)


def _outlines(images: Tensor, thick: Tensor) -> Tensor:
    """Ink 0–1 [B, 1, H, W] where colours change, also against the white beyond the border; `thick`: doubled."""
    padded = F.pad(images, (1, 1, 1, 1), value=1.0)
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).abs().amax(1, keepdim=True)
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).abs().amax(1, keepdim=True)
    ink = ((across + down) * 2.5 - 0.3).clamp(0, 1)
    return torch.where(thick[:, None, None, None], F.max_pool2d(ink, 3, stride=1, padding=1), ink)


def _black_on_white(images: Tensor, threshold: Tensor) -> Tensor:
    """Black where the picture is darker than its threshold, soft enough to keep a slope."""
    return ((_luma(images) - threshold[:, None, None, None]) * 12 + 0.5).clamp(0, 1)
