"""Rank, world, and the collectives that carry gradients; the identity where there is no group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


# torch 2.13 renamed both; older versions are still on GPU images.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    """On public collectives: torch's functional ones, which carry gradients too, are private."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty((world_size() * len(x), *x.shape[1:]))
        _all_gather(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty((len(gradient) // world_size(), *gradient.shape[1:]))
        _reduce_scatter(own, gradient.contiguous())
        return own


def gather(x: Tensor) -> Tensor:
    """x [B, …] of every rank, in rank order -> [W·B, …], with gradient.

    Backward is a reduce-scatter: each rank gets the sum of all ranks' gradients for its own rows. With the mean
    that data-parallel wrappers take over parameters, a loss over local rows then has the gradient of the mean
    loss over all rows. Every rank must bring the same shape.
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of x over ranks, without gradient: for logging."""
    if world_size() == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / world_size()


def gather_objects(value: object) -> list:
    """Every rank's value, in rank order."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class SyncBatchNorm(torch.nn.BatchNorm2d):
    """Batch norm over all ranks' rows, on any backend: torch's own refuses CPU tensors.

    Its rows are those of one forward pass: the global batch, or, where a batch is encoded in parts
    (`training.accumulation`), one micro-batch over all ranks. What it sees, and its running statistics, which move
    once a pass, then depend on the number of parts and not on that of ranks.

    Same mathematics and state dict as BatchNorm2d; the gradient flows through the gathered statistics. Every
    rank must bring as many pixels as the others.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]"""
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        mean = gather(wide.mean(dim=(0, 2, 3))[None]).mean(0)
        centred = wide - mean[None, :, None, None]
        variance = gather(centred.square().mean(dim=(0, 2, 3))[None]).mean(0)
        self._track(mean.detach(), variance.detach(), wide.numel() // wide.shape[1] * world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), self.momentum)


def synchronise_batch_norm(model: torch.nn.Module) -> torch.nn.Module:
    """Give every BatchNorm2d of `model`, in place, the statistics of the global batch."""
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
    return model
