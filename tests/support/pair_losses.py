"""The losses computed by their formulas, in one process, from whole matrices: the reference for all others."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(n: int, d: int, seed: int) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=1)


def softmax_loss(image: Tensor, text: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """target [N, N], rows that sum to 1, symmetric"""
    logits = scale * image @ text.T
    per_image = -(target * logits.log_softmax(1)).sum(1)
    per_text = -(target * logits.log_softmax(0)).sum(0)
    return (per_image + per_text).mean() / 2


def clip(image: Tensor, text: Tensor, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    n = len(image)
    target = (1 - smoothing) * torch.eye(n, dtype=image.dtype) + smoothing / n
    return softmax_loss(image, text, scale, target)


def multi_positive(image: Tensor, text: Tensor, scale: Tensor, groups: Tensor, smoothing: float = 0.0) -> Tensor:
    same = (groups[:, None] == groups[None, :]).to(image.dtype)
    target = (1 - smoothing) * same / same.sum(1, keepdim=True) + smoothing / len(image)
    return softmax_loss(image, text, scale, target)


def siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    sign = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(sign * (scale * image @ text.T + bias)).sum() / len(image)


def gradients(loss: Callable[..., Tensor], *values: Tensor) -> list[Tensor]:
    """[loss, gradient of each floating-point value]"""
    values = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in values)
    out = loss(*values)
    return [out.detach(), *torch.autograd.grad(out, [x for x in values if x.requires_grad])]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max())
