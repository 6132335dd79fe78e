"""The MLP of a residual block, with its widest activation made twice instead of kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Sequential):
    """width -> inner, activation, -> width, under OpenAI's names: [..., width] -> [..., width].

    inner: channels in between; None for 4 · width, as in all of OpenAI's models

    What the second layer needs for its weight's gradient is the activation's output, four times as wide as the
    residual stream; what the activation needs is its input, as wide again. Only the input is kept, and the output
    made again in the backward pass: the same numbers, about a quarter less memory in a block, for one more
    elementwise pass.

    An activation with a `silu_rate` is silu(rate · x) / rate, as QuickGELU is. Both scalings are factors of the
    products beside it, which have one for free, instead of passes over the widest tensors.
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
            return super().forward(x)  # a compiler decides for itself what to make again, and what to fuse
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
    """scaled_linear of activation(x); under autocast the gradient says in what numbers the product was computed"""

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
            activated = ctx.activation(x.view_as(x))  # no leaf: hooks that count operations take none here
        if to_weight:
            rows = activated.detach().to(gradient.dtype).flatten(0, -2)
            into_weight = (gradient.flatten(0, -2).T @ rows).to(weight.dtype)
        if to_x:
            into_activated = (gradient @ weight.to(gradient.dtype)).to(activated.dtype)
            (into_x,) = torch.autograd.grad(activated, x, into_activated)
        return into_x, into_weight, into_bias, None, None
