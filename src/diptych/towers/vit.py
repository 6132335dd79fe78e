"""The Vision Transformer of CLIP (paper, section 2.4), with one extra LayerNorm before the blocks.

The same class is also SigLIP's (Zhai et al. 2023), which has neither that LayerNorm nor a class token and pools with
attention. Both can have registers (Darcet et al. 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.base.quantities import Count, Whole
from diptych.towers.layers import layers_above, resize_positions
from diptych.towers.transformer import MLP, Attention, QuickGELU, Transformer

__all__ = ["AttentionPool", "QuickGELU", "VisionTransformer"]


class AttentionPool(nn.Module):
    """Attention with one learned query, then x + mlp(norm(x)): [B, L, width] -> [B, width].

    The pooling head of Zhai et al. 2022 ("Scaling Vision Transformers") and of SigLIP. As in `AttentionPool2d`, keys
    and values are never computed: each projection is applied to one vector of each head, which is exact.
    """

    def __init__(self, width: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, width))
        self.attn = Attention(width, heads, causal=False)
        self.ln = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        matrices = [p for name, p in self.named_parameters() if p.ndim == 2 and "in_proj" not in name]
        for matrix in (*matrices, *self.attn.in_proj_weight.detach().chunk(3)):
            nn.init.xavier_uniform_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        heads, width = self.attn.heads, x.shape[-1]
        weights = [weight.view(heads, width // heads, width) for weight in self.attn.in_proj_weight.chunk(3)]
        biases = [bias.view(heads, width // heads) for bias in self.attn.in_proj_bias.chunk(3)]
        query = (torch.einsum("hdc,c->hd", weights[0], self.probe[0]) + biases[0]) * (width // heads) ** -0.5
        probe = torch.einsum("hd,hdc->hc", query, weights[1])
        offset = (query * biases[1]).sum(-1, keepdim=True)
        share = (probe @ x.to(probe.dtype).transpose(1, 2) + offset).softmax(-1)  # B×H×L
        pooled = share.to(probe.dtype) @ x.to(probe.dtype)  # B×H×C
        mixed = torch.einsum("bhc,hdc->bhd", pooled, weights[2]) + biases[2]
        out = self.attn.out_proj(mixed.flatten(1))
        return out + self.mlp(self.ln(out))


class VisionTransformer(nn.Module):
    """Images [B, 3, H, W] -> features [B, embed_dim]: the output at the class token, or pooled.

    image_size: side in pixels that the positions are made for; for images of other sizes, also with H ≠ W, the
        positions are resampled to their grid (`resize_positions`)
    heads: None for one head per 64 channels, as in all of the paper's models
    activation: a module such as `torch.nn.GELU()`; None for OpenAI's QuickGELU
    registers: number of learned tokens beside the patches; they have no place, and their output is not used
    pool: "class", a learned token in front of the patches; "attention", as in SigLIP: no such token, and
        `AttentionPool` over the patches after the last norm
    pre_norm, patch_bias, project, norm_eps: CLIP's ViT norms its tokens before the blocks, has no bias at the
        patches, and projects its output to embed_dim; SigLIP's does the opposite in all three, and its norms have
        an eps of 1e-6
    patch_dropout: share of each image's patches that a training step leaves out (`model.patches` draws them)
    mlp_width: channels inside the blocks' MLPs; None for 4 · width (open_clip's g, bigG and e have others)

    Parameters are named as OpenAI's are after `visual.`; OpenAI's weights have no registers and no attention pooling,
    which are `registers` and `attn_pool` here. Raises UserError for an image_size that is not a multiple of
    patch_size, an unknown pool, a patch_dropout outside of 0 to 1, and an embed_dim other than the width where
    project is false.
    """

    class_embedding: nn.Parameter | None
    proj: nn.Parameter | None

    def __init__(
        self,
        image_size: Count,
        patch_size: Count,
        width: Count,
        layers: Count,
        embed_dim: Count,
        heads: Count | None = None,
        activation: nn.Module | None = None,
        *,
        registers: Whole = 0,
        pool: str = "class",
        pre_norm: bool = True,
        patch_bias: bool = False,
        project: bool = True,
        norm_eps: float = 1e-5,
        patch_dropout: float = 0.0,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        _check(image_size, patch_size, pool, registers, patch_dropout)
        if not project and embed_dim != width:
            raise UserError(
                f"Without a projection the tower's features have its width of {width}, not embed_dim={embed_dim}: "
                "set both to the same number, or model.image.project=true."
            )
        self.image_size = image_size
        self.embed_dim = embed_dim
        self.grid = image_size // patch_size
        self.patch_dropout = patch_dropout
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=patch_bias)
        scale, heads, by_class = width**-0.5, heads or max(1, width // 64), pool == "class"
        self.class_embedding = nn.Parameter(scale * torch.randn(width)) if by_class else None
        self.positional_embedding = nn.Parameter(scale * torch.randn(self.grid**2 + by_class, width))
        self.registers = nn.Parameter(1e-6 * torch.randn(registers, width)) if registers else None
        self.ln_pre = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.transformer = Transformer(width, layers, heads, causal=False, activation=activation, mlp_width=mlp_width)
        self.ln_post = nn.LayerNorm(width)
        self.attn_pool = None if by_class else AttentionPool(width, heads, activation or QuickGELU())
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim)) if project else None
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = norm_eps

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """kept: int64 [B, K], the numbers of the patches to encode, counted row by row; None for all."""
        x = self._read(self.ln_pre(self._tokens(images, kept)))
        return x if self.proj is None else x @ self.proj

    def patches_read(self, images: Tensor) -> tuple[int, int]:
        """The number of patches of an image of [B, 3, H, W], and the number that a training step encodes."""
        side = self.conv1.kernel_size[0]
        patches = (images.shape[2] // side) * (images.shape[3] // side)
        return patches, max(1, round(patches * (1 - self.patch_dropout)))

    def _tokens(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """[B, 3, H, W] -> [B, L, W]: the class token if there is one, registers, patches."""
        side = self.conv1.kernel_size[0]
        grid = images.shape[2] // side, images.shape[3] // side
        tokens, ahead = self._patches(images, grid, kept), []
        positions = resize_positions(self.positional_embedding, self.grid, grid)
        if self.class_embedding is not None:
            ahead.append((self.class_embedding + positions[0])[None])
            positions = positions[1:]
        if self.registers is not None:
            ahead.append(self.registers)
        tokens = tokens + (positions if kept is None else F.embedding(kept, positions))
        return torch.cat([*(first.to(tokens.dtype).expand(len(tokens), -1, -1) for first in ahead), tokens], dim=1)

    def _patches(self, images: Tensor, grid: tuple[int, int], kept: Tensor | None) -> Tensor:
        """conv1 as a matrix product, [B, 3, H, W] -> [B, h·w or K, W]: convolutions are slow where the stride is as
        large as the kernel, and in bfloat16 their backward pass takes ten times as long on a CPU."""
        side, (high, wide) = self.conv1.kernel_size[0], grid
        x = images[:, :, : high * side, : wide * side].unflatten(3, (wide, side)).unflatten(2, (high, side))
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # B×(h·w)×(3·side·side)
        if kept is not None:
            x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        return F.linear(x, self.conv1.weight.flatten(1), self.conv1.bias)

    def _read(self, tokens: Tensor) -> Tensor:
        """[B, L, W] -> [B, W]"""
        if self.attn_pool is None:
            class_token = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
            return self.ln_post(self.transformer(tokens, read=class_token))
        patches = self.transformer(tokens)[:, 0 if self.registers is None else len(self.registers) :]
        return self.attn_pool(self.ln_post(patches))

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the layers above it; see `layers.layers_above`."""
        return layers_above(self, list(self.transformer.resblocks), ("ln_post", "attn_pool", "proj"))


def _check(image_size: int, patch_size: int, pool: str, registers: int, patch_dropout: float) -> None:
    if image_size % patch_size:
        raise UserError(
            f"model.image.image_size={image_size} is not a multiple of patch_size={patch_size}: choose one that is."
        )
    if pool not in ("class", "attention"):
        raise UserError(f"model.image.pool={pool} is unknown: take class or attention.")
    if registers < 0:
        raise UserError(f"model.image.registers={registers} is negative: take 0 or more.")
    if not 0 <= patch_dropout < 1:
        raise UserError(
            f"model.image.patch_dropout={patch_dropout} is not a share of the patches: take 0 or more, below 1."
        )
