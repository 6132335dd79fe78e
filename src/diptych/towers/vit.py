"""The Vision Transformer of CLIP (paper, section 2.4): one extra LayerNorm before the blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.errors import UserError
from diptych.towers.positions import resize_positions
from diptych.towers.transformer import QuickGELU, Transformer

__all__ = ["QuickGELU", "VisionTransformer"]


class VisionTransformer(nn.Module):
    """Images [B, 3, H, W] -> features [B, embed_dim], read off the class token.

    image_size: side in pixels that the positions are made for; other sizes, also H ≠ W, are taken as they
        come and the positions resampled to their grid (`resize_positions`)
    heads: None for one head per 64 channels, as in all of the paper's models
    activation: a module such as `torch.nn.GELU()`; None for OpenAI's QuickGELU

    Names are OpenAI's below `visual.`. Raises UserError for an image size that patches don't tile.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        embed_dim: int,
        heads: int | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise UserError(
                f"Patches of {patch_size} pixels don't tile an image of {image_size}: "
                "choose an image_size that is a multiple of patch_size."
            )
        self.image_size = image_size
        self.embed_dim = embed_dim
        self.grid = image_size // patch_size
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            width, layers, heads or max(1, width // 64), causal=False, activation=activation
        )
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images)  # B×W×h×w
        grid = (patches.shape[2], patches.shape[3])
        positions = resize_positions(self.positional_embedding, self.grid, grid)
        tokens = patches.flatten(2).transpose(1, 2) + positions[1:]
        first = (self.class_embedding + positions[0]).to(tokens.dtype).expand(len(tokens), 1, -1)
        tokens = self.ln_pre(torch.cat([first, tokens], dim=1))
        class_token = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        return self.ln_post(self.transformer(tokens, read=class_token)) @ self.proj
