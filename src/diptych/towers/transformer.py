"""The residual attention blocks of the vision and the text Transformer.

Pre-norm blocks as in GPT-2, named as in OpenAI's weights (`resblocks.N.attn.in_proj_weight`, ...) and initialised
as OpenAI's text Transformer is. For the image tower the paper only says "a slightly different initialization scheme"
(section 2.4); here both are initialised alike.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError

# On a CPU, softmax(q kᵀ) v as plain operations is faster than the fused kernel up to about this many tokens, since
# the fused kernel's backward pass is slow there. In 16 bits it is faster even beyond 500 tokens, but then keeps a lot
# of memory.
PLAIN_ATTENTION_TOKENS, PLAIN_ATTENTION_TOKENS_16_BITS = 80, 257


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of GELU that OpenAI's weights were trained with.

    silu_rate: it equals silu(silu_rate · x) / silu_rate, one fused pass that keeps one tensor for the backward pass
        instead of two; `MLP` reads it and lets its matrix products multiply by the two factors
    """

    silu_rate = 1.702

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.silu_rate * x) * (1 / self.silu_rate)


class Attention(nn.Module):
    """Multi-head self-attention, [B, L, width] -> [B, L, width]; with `causal` no place sees later ones.

    With `read`, int64 [B], only that place of each row is computed: -> [B, 1, width], the same numbers at less cost.
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
    """Whether attention over [B, H, L, D] is faster as plain operations than in the fused kernel."""
    most = PLAIN_ATTENTION_TOKENS_16_BITS if query.element_size() == 2 else PLAIN_ATTENTION_TOKENS
    return query.device.type == "cpu" and query.shape[2] <= most


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """softmax(q kᵀ / √D) v over [B, H, L, D], as plain operations.

    softmax sums in float32 for any input; under autocast it would also return float32, which takes twice the memory.
    """
    length, depth = query.shape[-2:]
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * depth**-0.5) @ key.transpose(-2, -1)
        if causal:
            later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return scores.softmax(-1) @ value


class MLP(nn.Sequential):
    """width -> inner, activation, -> width, under OpenAI's names: [..., width] -> [..., width].

    inner: channels in between; None for 4 · width, as in all of OpenAI's models

    The gradient of the second layer's weight needs the activation's output, four times as wide as the residual
    stream, and the activation's own gradient needs its input, which is as wide. Only the input is kept; the backward
    pass computes the output again. That gives the same numbers with about a quarter less memory in a block, and costs
    one more elementwise pass.

    An activation with a `silu_rate` is silu(rate · x) / rate, as QuickGELU is. The matrix products before and after
    it multiply by the two factors, which costs them nothing, so there are no extra passes over the widest tensors.
    """

    c_fc: nn.Linear
    gelu: nn.Module
    c_proj: nn.Linear

    def __init__(self, width: int, activation: nn.Module, inner: int | None = None) -> None:
        inner = inner or 4 * width
        parts = OrderedDict(c_fc=nn.Linear(width, inner), gelu=activation, c_proj=nn.Linear(inner, width))
        super().__init__(parts)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)  # the compiler chooses what to compute again and what to fuse
        rate = getattr(self.gelu, "silu_rate", None)
        scale, activation = (1.0, self.gelu) if rate is None else (rate, F.silu)
        wide = scaled_linear(x, self.c_fc.weight, self.c_fc.bias * scale, scale)
        if not torch.is_grad_enabled():
            return scaled_linear(activation(wide), self.c_proj.weight, self.c_proj.bias, 1 / scale)
        return _ActivatedLinear.apply(wide, self.c_proj.weight, self.c_proj.bias, activation, 1 / scale)


def scaled_linear(x: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """scale · x Wᵀ + bias: [..., in] -> [..., out]"""
    if scale == 1:
        return F.linear(x, weight, bias)
    return torch.addmm(bias, x.flatten(0, -2), weight.T, alpha=scale).unflatten(0, x.shape[:-1])


class _ActivatedLinear(torch.autograd.Function):
    """scaled_linear of activation(x). Under autocast the gradient's type is the type in which it was computed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor], scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.activation, ctx.scale = activation, scale
        return scaled_linear(activation(x), weight, bias, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        into_x = into_weight = into_bias = None
        if to_bias:
            into_bias = gradient.flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.scale != 1:
            gradient = gradient * ctx.scale
        with torch.enable_grad():
            x = x.detach().requires_grad_(to_x)
            activated = ctx.activation(x.view_as(x))  # not a leaf: hooks that count operations expect none
        if to_weight:
            rows = activated.detach().to(gradient.dtype).flatten(0, -2)
            into_weight = (gradient.flatten(0, -2).T @ rows).to(weight.dtype)
        if to_x:
            into_activated = (gradient @ weight.to(gradient.dtype)).to(activated.dtype)
            (into_x,) = torch.autograd.grad(activated, x, into_activated)
        return into_x, into_weight, into_bias, None, None


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

    With `read`, int64 [B], the last block is computed only for that place of each row -> [B, width].
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
        # 2·layers branches add up on the residual path, so the last matrix of each starts smaller.
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
