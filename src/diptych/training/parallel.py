"""Fully sharded data parallelism (FSDP2) applied from outside to a plain CLIP (Zhao et al. 2023, "PyTorch FSDP").

Each block is a group whose parameters are gathered just before it computes and freed after; what a tower has
beside its blocks is a last group. The two towers are the roots, not the CLIP around them: so `encode_image` and
`encode_text` work alone, and the logit scale, a scalar that can't be cut, stays outside, replicated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from diptych.distributed import world_size
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, Bottleneck
from diptych.towers.transformer import ResidualAttentionBlock

BLOCKS = (ResidualAttentionBlock, BasicBlock, Bottleneck)


def shard(model: CLIP, mesh: DeviceMesh, dtype: torch.dtype | None = None, recompute: bool = False) -> None:
    """Cut the towers' parameters along their first dimension over the ranks of `mesh`, in place.

    mesh: one dimension, or two: replicas × shards (HSDP): gathers stay inside a row, only gradients cross rows
    dtype: what the Transformer's blocks gather and compute in, bfloat16 for half the bytes; the rest, and all
        gradients on their way, stay as they are. Convolutions aren't changed: their norms keep statistics.
    recompute: keep a block's input alone for the backward pass, and compute the block again there

    Where a parameter lies in memory doesn't survive: channels_last convolutions become contiguous.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    low = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None, cast_forward_inputs=False
    )
    for tower in (model.image, model.text):
        for block in _blocks(tower):
            if recompute:
                _recompute(block)
            policy = low if isinstance(block, ResidualAttentionBlock) else MixedPrecisionPolicy()
            fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        fully_shard(tower, mesh=mesh, reshard_after_forward=False)
    average_gradients([model.logit_scale])


def _blocks(tower: nn.Module) -> list[nn.Module]:
    return [module for module in tower.modules() if isinstance(module, BLOCKS)]


def _recompute(block: nn.Module) -> None:
    """Let `block` keep its inputs alone. Inside of what FSDP hooks, so that its parameters are there both times."""
    forward = block.forward

    def forgetful(*inputs: Any) -> Any:
        contexts = lambda: (nullcontext(), _statistics_kept(block))  # noqa: E731
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    block.forward = forgetful


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms have seen the batch when a block is computed again: they don't count it twice."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give parameters that every rank holds whole the mean of all ranks' gradients, as soon as there is one."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_average)


def _average(parameter: Tensor) -> None:
    if world_size() > 1:
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """All of `model` on every rank meanwhile, gathered once: so ranks may encode batches of different number, as an
    evaluation does, without waiting for one another. Nothing where nothing is sharded; not for training."""
    groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    dtypes = {parameter.dtype for group in groups for parameter in cast(nn.Module, group).parameters()}
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, torch.bfloat16, enabled=dtypes == {torch.bfloat16, torch.float32}):
            yield
    finally:
        for group in groups:
            group.reshard()
            group.set_reshard_after_forward(isinstance(group, BLOCKS), recurse=False)


def joined(tree: Any, keep: bool) -> Any:
    """A state dict with every DTensor whole, on the CPU and in the layout of any other run's; all ranks call it.

    keep: whether this rank wants it; the others get the same tree with empty tensors
    """
    if isinstance(tree, dict):
        return {key: joined(value, keep) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [joined(value, keep) for value in tree]
    if not isinstance(tree, Tensor):
        return tree
    tensor = tree.full_tensor() if isinstance(tree, DTensor) else tree
    if not keep:
        return tensor.new_empty(0, device="cpu")
    # A run's convolutions are channels_last; a fused optimiser pairs numbers by their place in memory.
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.detach().cpu().contiguous(memory_format=layout).clone(memory_format=torch.preserve_format)


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as `like` is; as it is where that isn't cut, or has another shape. No rank waits."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device).contiguous()
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
