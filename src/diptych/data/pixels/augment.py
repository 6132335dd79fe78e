"""Augmentation of a whole batch on the device, for small sets of drawings. A sample's seed decides its draws.

CLIP itself only crops (paper, section 2.5). A small set lacks variety, and this adds it: scale, aspect, shear,
rotation, shift, flip and size in one resampling; colour; line art.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diptych.base import seeding
from diptych.base.batch import Batch

LUMA = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


@dataclass(eq=False)
class Drawings:
    """Random geometry, colour and line-art versions.

    sizes: (share of the training, pixels): the size from that share on
    rotate: degrees; shift: of the half width; shear: tangent; aspect: of each side
    scale: size of the drawing on its canvas, relative to the original
    flip, grey, permute: probabilities of a mirror image, of grey, of permuted colour channels
    brightness, contrast: largest relative change
    edges, one_colour: probabilities of the outlined version (over white, pale or full colours) and of the version in
        black on white (dark parts filled, with or without outlines)
    """

    sizes: Sequence[tuple[float, int]] = ((0.0, 32),)
    rotate: float = 14.0
    shift: float = 0.1
    scale: tuple[float, float] = (0.6, 1.1)
    aspect: float = 0.08
    shear: float = 0.08
    flip: float = 0.5
    grey: float = 0.25
    permute: float = 0.25
    brightness: float = 0.2
    contrast: float = 0.3
    edges: float = 0.15
    one_colour: float = 0.15

    def __post_init__(self) -> None:
        self.sizes = sorted((float(share), int(size)) for share, size in self.sizes)

    @property
    def by_progress(self) -> bool:
        """Whether the result depends on the share of the training that is done."""
        return len(self.sizes) > 1

    def describe(self) -> str:
        """The augmentation in words, for the report."""
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
        images = batch.images.float()
        images = images.div_(255) if batch.images.dtype == torch.uint8 else images.clone()
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
        # Halve first where the target is at most half as large: bilinear sampling alone would alias.
        while images.shape[-1] >= 2 * size:
            images = F.avg_pool2d(images, 2)
        grid = F.affine_grid(torch.from_numpy(matrix).float(), [len(draws), 3, size, size], align_corners=False)
        # Beyond the image is white, like paper.
        return 1 - F.grid_sample(1 - images, grid.to(images), padding_mode="zeros", align_corners=False)

    def _coloured(self, images: Tensor, draws: Tensor) -> Tensor:
        """Permuted channels, then grey, contrast about the mean and brightness: one affine map per sample."""
        eye = torch.eye(3, device=images.device, dtype=images.dtype)
        mixed = torch.where(_broadcast(draws[:, 3] < self.permute, 2), eye[torch.argsort(draws[:, :3], dim=1)], eye)
        luma = torch.tensor(LUMA, device=images.device, dtype=images.dtype).expand(3, 3)
        mixed = torch.where(_broadcast(draws[:, 4] < self.grey, 2), luma @ mixed, mixed)  # B×3×3
        brightness = 1 + self.brightness * (2 * draws[:, 5] - 1)
        contrast = 1 + self.contrast * (2 * draws[:, 6] - 1)
        pixels = images.flatten(2)  # B×3×HW
        centre = (mixed @ pixels.mean(2, keepdim=True)).mean(dim=(1, 2))
        offset = _broadcast(brightness * (1 - contrast) * centre, 2)
        coloured = torch.baddbmm(offset, mixed * _broadcast(brightness * contrast, 2), pixels)
        return coloured.clamp_(0, 1).view_as(images)

    def _line_art(self, images: Tensor, draws: Tensor) -> Tensor:
        """draws [B, 5]: version, thickness, paleness, threshold, with or without outlines"""
        thick = draws[:, 1] < 0.5
        chosen = (draws[:, 0] < self.edges).nonzero()[:, 0]
        if len(chosen):
            # A quarter on white, a quarter in full colour, the rest in between.
            tint = _broadcast((2 * draws[chosen, 2] - 0.5).clamp(0, 1), 3)
            drawn = images[chosen]
            images[chosen] = (1 - (1 - drawn) * tint) * (1 - _outlines(drawn, thick[chosen]))
        chosen = ((draws[:, 0] >= self.edges) & (draws[:, 0] < self.edges + self.one_colour)).nonzero()[:, 0]
        if len(chosen):
            drawn = images[chosen]
            black = _black_on_white(drawn, 0.25 + 0.5 * draws[chosen, 3])
            lined = (draws[chosen, 4] < 0.6).nonzero()[:, 0]
            black[lined] *= 1 - _outlines(drawn[lined], thick[chosen[lined]])
            images[chosen] = black.expand_as(drawn)
        return images


def _broadcast(x: Tensor, more: int) -> Tensor:
    """[B] -> [B, 1, …, 1], to stand beside a tensor of `more` further dimensions."""
    return x.view(-1, *[1] * more)


def _luma(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]"""
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _outlines(images: Tensor, thick: Tensor) -> Tensor:
    """Ink 0–1 [B, 1, H, W] where colours change, also against the white beyond the border; `thick`: doubled."""
    padded = F.pad(images, (1, 1, 1, 1), value=1.0)
    across = _largest((padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).abs_())
    down = _largest((padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).abs_())
    ink = across.add_(down).mul_(2.5).sub_(0.3).clamp_(0, 1)
    doubled = thick.nonzero()[:, 0]
    ink[doubled] = F.max_pool2d(ink[doubled], 3, stride=1, padding=1)
    return ink


def _largest(channels: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]; two maxima are faster than a reduction over three numbers."""
    red, green, blue = channels.split(1, dim=1)
    return torch.maximum(torch.maximum(red, green), blue)


def _black_on_white(images: Tensor, threshold: Tensor) -> Tensor:
    """[B, 1, H, W]: black where the image is darker than its threshold, with soft edges."""
    return _luma(images).sub_(_broadcast(threshold, 3)).mul_(12).add_(0.5).clamp_(0, 1)
