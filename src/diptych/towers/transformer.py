"""The residual attention blocks that the vision and the text Transformer share.

Pre-norm blocks as in GPT-2, named as in OpenAI's weights (`resblocks.N.attn.in_proj_weight`, ...) and
initialised as OpenAI's text Transformer is. For the image tower the paper only says "a slightly different
initialization scheme" (section 2.4); here it takes the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.towers.mlp import MLP

# On a CPU, writing out softmax(q kᵀ) v is faster up to about this many tokens: the backward pass of the fused kernel
# costs more than it saves there. In 16 bits it is faster beyond 500, where what it keeps for that pass grows large.
PLAIN_ATTENTION_TOKENS, PLAIN_ATTENTION_TOKENS_16_BITS = 80, 257


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of GELU that OpenAI's weights were trained with.

    silu_rate: it is silu(silu_rate · x) / silu_rate, one fused pass that keeps one tensor for the backward pass and
        not two; `MLP` reads it and leaves the two scalings to its products
    """

    silu_rate = 1.702

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.silu_rate * x) * (1 / self.silu_rate)


class Attention(nn.Module):
    """Multi-head self-attention, [B, L, width] -> [B, L, width]; `causal` hides what comes later.

    With `read`, int64 [B], only that place of each row asks: -> [B, 1, width], the same numbers at less cost.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"A width of {width} can't be shared by {heads} heads: choose heads that divide it.")
        self.heads = heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, read: Tensor | None = None) -> Tensor:
        if read is not None:
            return self._read(x, read)
        batch, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # each B×H×L×D
        if is_written_out(query):
            mixed = _plain_attention(query, key, value, self.causal)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))

    def _read(self, x: Tensor, read: Tensor) -> Tensor:
        batch, length, width = x.shape
        weights, biases = self.in_proj_weight.split([width, 2 * width]), self.in_proj_bias.split([width, 2 * width])
        query = F.linear(pick(x, read), weights[0], biases[0])
        query = query.view(batch, 1, self.heads, width // self.heads).transpose(1, 2)  # B×H×1×D
        both = F.linear(x, weights[1], biases[1]).view(batch, length, 2, self.heads, width // self.heads)
        key, value = both.permute(2, 0, 3, 1, 4).unbind(0)  # each B×H×L×D
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # B×H×1×L
        if self.causal:
            later = torch.arange(length, device=x.device) > read[:, None]
            scores = scores.masked_fill(later[:, None, None], float("-inf"))
        mixed = scores.softmax(-1).to(value.dtype) @ value
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, 1, width))


def pick(x: Tensor, read: Tensor) -> Tensor:
    """One place of each row: [B, L, W], int64 [B] -> [B, 1, W]."""
    return x[torch.arange(len(x), device=x.device), read][:, None]


def is_written_out(query: Tensor) -> bool:
    """Whether attention over [B, H, L, D] is better written out than left to the fused kernel."""
    most = PLAIN_ATTENTION_TOKENS_16_BITS if query.element_size() == 2 else PLAIN_ATTENTION_TOKENS
    return query.device.type == "cpu" and query.shape[2] <= most


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """softmax(q kᵀ / √D) v over [B, H, L, D], written out.

    Softmax sums in float32 whatever it reads; autocast would also hand its shares over in float32, twice the memory.
    """
    length, depth = query.shape[-2:]
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * depth**-0.5) @ key.transpose(-2, -1)
        if causal:
            later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return scores.softmax(-1) @ value


class ResidualAttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), the mlp four times as wide or `mlp_width` wide."""

    def __init__(
        self, width: int, heads: int, causal: bool, activation: nn.Module, mlp_width: int | None = None
    ) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, activation, mlp_width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, read: Tensor | None = None) -> Tensor:
        attended = self.attn(self.ln_1(x), read)
        x = attended + (x if read is None else pick(x, read))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """`layers` residual attention blocks, [B, L, width] -> [B, L, width].

    With `read`, int64 [B], the last block is computed for that place of each row alone -> [B, width].
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        causal: bool,
        activation: nn.Module | None = None,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        activation = activation if activation is not None else QuickGELU()
        self.resblocks = nn.Sequential(
            *(ResidualAttentionBlock(width, heads, causal, activation, mlp_width) for _ in range(layers))
        )
        self._initialise(width, layers)

    def _initialise(self, width: int, layers: int) -> None:
        # The 2·layers branches add up on the residual path, so the last matrix of each starts smaller.
        branch_std = width**-0.5 * (2 * layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith("in_proj_weight"):
                nn.init.normal_(parameter, std=width**-0.5)
            elif name.endswith("c_fc.weight"):
                nn.init.normal_(parameter, std=(2 * width) ** -0.5)
            elif name.endswith(("out_proj.weight", "c_proj.weight")):
                nn.init.normal_(parameter, std=branch_std)

    def forward(self, x: Tensor, read: Tensor | None = None) -> Tensor:
        if read is None or len(self.resblocks) == 0:
            x = self.resblocks(x)
            return x if read is None else pick(x, read)[:, 0]
        blocks = list(self.resblocks)
        for block in blocks[:-1]:
            x = block(x)
        return blocks[-1](x, read)[:, 0]
