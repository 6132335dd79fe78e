"""The modified ResNet of CLIP (paper, section 2.4).

It differs from a ResNet in three ways: a stem of three 3×3 convolutions, antialiasing (average pooling has the
stride that a convolution had; Zhang 2019), and attention pooling instead of the last average pooling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.towers.layers import layers_above, resize_positions


class Bottleneck(nn.Module):
    """The paper's block of 1×1, 3×3 and 1×1: [B, inplanes, H, W] -> [B, 4·planes, H/stride, W/stride].

    The pooling that has the stride comes after the 3×3 convolution, as in OpenAI's weights.
    """

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.out_channels = 4 * planes
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = _pool(stride)
        self.conv3 = nn.Conv2d(planes, self.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        nn.init.zeros_(self.bn3.weight)  # each block starts as the identity
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inplanes != self.out_channels:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", _pool(stride)),
                        ("0", nn.Conv2d(inplanes, self.out_channels, 1, bias=False)),
                        ("1", nn.BatchNorm2d(self.out_channels)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(self.avgpool(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut, inplace=True)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, for small models: [B, inplanes, H, W] -> [B, planes, H/stride, W/stride].

    The pooling that has the stride comes first, for both branches. So all convolutions work on the small grid, which
    gives a third more images per second on a CPU.
    """

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.out_channels = planes
        self.avgpool = _pool(stride)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        nn.init.zeros_(self.bn2.weight)
        self.downsample: nn.Sequential | None = None
        if inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut, inplace=True)


class AveragePool(nn.Module):
    """The mean of each stride × stride cells, [B, C, H, W] -> [B, C, H // stride, W // stride].

    On a GPU it is a plain mean: the backward pass of PyTorch's pooling took a seventh of RN50's step on an H200. On
    a CPU PyTorch's pooling is much faster.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if x.device.type == "cpu" else mean_of_cells(x, self.stride)


def mean_of_cells(x: Tensor, side: int) -> Tensor:
    """F.avg_pool2d(x, side), channels_last: rows and columns that don't fill a cell are dropped."""
    high, wide = x.shape[2] // side, x.shape[3] // side
    x = x[:, :, : high * side, : wide * side].permute(0, 2, 3, 1)  # as channels_last has it in memory
    return x.unflatten(2, (wide, side)).unflatten(1, (high, side)).mean((2, 4)).permute(0, 3, 1, 2)


def _pool(stride: int) -> nn.Module:
    return AveragePool(stride) if stride > 1 else nn.Identity()


class AttentionPool2d(nn.Module):
    """Attention with one query, the mean of the grid, over mean and grid: [B, C, h, w] -> [B, embed_dim].

    Keys and values are never computed. With one query, q·(Kx + b) = (Kᵀq)·x + q·b and Σ aᵢ(Vxᵢ) = V(Σ aᵢxᵢ), so each
    projection is applied to one vector of each head instead of every cell. That is exact and takes a 64th of the
    work. For a grid other than `grid`×`grid` the positions are resampled (`resize_positions`).
    """

    def __init__(self, grid: int, channels: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        if channels % heads:
            raise UserError(f"{channels} channels can't be shared by {heads} heads: choose heads that divide them.")
        self.grid = grid
        self.heads = heads
        std = channels**-0.5
        self.positional_embedding = nn.Parameter(std * torch.randn(grid**2 + 1, channels))
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embed_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        channels, depth = x.shape[1], x.shape[1] // self.heads
        positions = resize_positions(self.positional_embedding, self.grid, (x.shape[2], x.shape[3]))
        x = x.flatten(2).transpose(1, 2)  # B×L×C
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + positions
        query = self.q_proj(x[:, 0]).unflatten(1, (self.heads, depth)) * depth**-0.5  # B×H×D
        keys = self.k_proj.weight.view(self.heads, depth, channels)
        values = self.v_proj.weight.view(self.heads, depth, channels)
        probe = torch.einsum("bhd,hdc->bhc", query, keys)
        offset = (query * self.k_proj.bias.view(self.heads, depth)).sum(-1, keepdim=True)
        share = (probe @ x.transpose(1, 2) + offset).softmax(-1)  # B×H×L
        pooled = share.to(probe.dtype) @ x.to(probe.dtype)  # B×H×C
        out = torch.einsum("bhc,hdc->bhd", pooled, values).flatten(1) + self.v_proj.bias
        return self.c_proj(out)


class ModifiedResNet(nn.Module):
    """Images [B, 3, H, W] -> features [B, embed_dim].

    image_size: side in pixels that the attention pooling's positions are made for; for images of other sizes the
        positions are resampled, so a run may start on small images and end on large ones
    layers: blocks in each stage; every stage but the first halves the grid and doubles the width
    width: channels after the stem (half as many inside it), and planes of the first stage's blocks
    heads: of the attention pooling; None for one head per 64 channels, as in all of the paper's models
    block: makes a block of (inplanes, planes, stride)
    stem_pool: average pooling at the stem's end, as in the paper; without it the stem's stride is 2, not 4

    Parameters are named as OpenAI's are after `visual.`.
    """

    def __init__(
        self,
        image_size: int,
        layers: Sequence[int],
        width: int,
        embed_dim: int,
        heads: int | None = None,
        block: Callable[[int, int, int], Bottleneck | BasicBlock] = Bottleneck,
        stem_pool: bool = True,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.embed_dim = embed_dim
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = _pool(2 if stem_pool else 1)
        stages, channels = [], width
        for number, depth in enumerate(layers):
            blocks = []
            for position in range(depth):
                stride = 2 if number > 0 and position == 0 else 1
                blocks.append(block(channels, width * 2**number, stride))
                channels = blocks[-1].out_channels
            stages.append(f"layer{number + 1}")
            self.add_module(stages[-1], nn.Sequential(*blocks))
        self.stages = stages
        stride = (4 if stem_pool else 2) * 2 ** (len(stages) - 1)
        if image_size < stride:
            raise UserError(f"An image_size of {image_size} is smaller than the tower's stride of {stride}.")
        self.attnpool = AttentionPool2d(image_size // stride, channels, heads or max(1, channels // 64), embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.avgpool(F.relu(self.bn3(self.conv3(x)), inplace=True))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.attnpool(x)

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the number of layers above it; each residual block is a layer."""
        return layers_above(self, [block for stage in self.stages for block in getattr(self, stage)], ("attnpool",))
