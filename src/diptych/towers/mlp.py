"""The MLP of a residual block, with its widest activation made twice instead of kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Sequential):
    """width -> 4 · width, activation, -> width, under OpenAI's names: [..., width] -> [..., width].

    What the second layer needs for its weight's gradient is the activation's output, four times as wide as the
    residual stream; what the activation needs is its input, as wide again. Only the input is kept, and the output
    made again in the backward pass: the same numbers, about a quarter less memory in a block, for one more
    elementwise pass.
    """

    c_fc: nn.Linear
    gelu: nn.Module
    c_proj: nn.Linear

    def __init__(self, width: int, activation: nn.Module) -> None:
        parts = OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=activation, c_proj=nn.Linear(4 * width, width))
        super().__init__(parts)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return super().forward(x)  # a compiler decides for itself what to make again
        return _ActivatedLinear.apply(self.c_fc(x), self.c_proj.weight, self.c_proj.bias, self.gelu)


class _ActivatedLinear(torch.autograd.Function):
    """linear(activation(x)); under autocast the gradient says in what numbers the product was computed"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, activation: nn.Module) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.activation = activation
        return F.linear(activation(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        with torch.enable_grad():
            x = x.detach().requires_grad_(to_x)
            activated = ctx.activation(x.view_as(x))  # no leaf: hooks that count operations take none here
        into_x = into_weight = into_bias = None
        if to_weight:
            rows = activated.detach().to(gradient.dtype).flatten(0, -2)
            into_weight = (gradient.flatten(0, -2).T @ rows).to(weight.dtype)
        if to_bias:
            into_bias = gradient.flatten(0, -2).sum(0).to(weight.dtype)
        if to_x:
            into_activated = (gradient @ weight.to(gradient.dtype)).to(activated.dtype)
            (into_x,) = torch.autograd.grad(activated, x, into_activated)
        return into_x, into_weight, into_bias, None
