"""Fully sharded data parallelism (FSDP2) applied from outside to a plain CLIP (Zhao et al. 2023, "PyTorch FSDP").

Each block is a group whose parameters are gathered just before it computes and freed after; what a tower has
beside its blocks is a last group. The two towers are the roots, not the CLIP around them: so `encode_image` and
`encode_text` work alone, and the logit scale, a scalar that can't be cut, stays outside, replicated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from diptych.launch.distributed import world_size
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, Bottleneck
from diptych.towers.transformer import ResidualAttentionBlock
from diptych.training.accumulation import untracked

BLOCKS = (ResidualAttentionBlock, BasicBlock, Bottleneck)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The residual blocks of a tower or model: what is gathered, or computed again, one by one."""
    return [part for part in module.modules() if isinstance(part, BLOCKS)]


def mesh_of(device: str, ranks: int, replicas: int = 1) -> DeviceMesh:
    """[ranks], or [replicas, ranks / replicas] for copies of the model that are sharded each. All ranks call it."""
    if replicas == 1:
        return init_device_mesh(device, (ranks,), mesh_dim_names=("shard",))
    return init_device_mesh(device, (replicas, ranks // replicas), mesh_dim_names=("replicate", "shard"))


def shard(model: CLIP, mesh: DeviceMesh, dtype: torch.dtype | None = None, recompute: bool = False) -> None:
    """Cut the towers' parameters along their first dimension over the ranks of `mesh`, in place.

    mesh: `mesh_of`; with replicas (HSDP) gathers stay within one, and gradients alone are averaged over them
    dtype: what the towers gather and compute in, from weights that stay as they are; bfloat16 sends half the bytes.
        Gradients are summed in float32, and batch norms keep their weights
    recompute: keep a block's input alone for the backward pass, and compute the block again there

    Where a parameter lies in memory doesn't survive: channels_last convolutions become contiguous.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    for tower in (model.image, model.text):
        blocks = blocks_of(tower)
        for block in blocks:
            if recompute:
                recomputed(block)
        for module in (*blocks, tower):
            if dtype and (norms := _batch_norms(module)):
                fully_shard(norms, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
            fully_shard(module, mesh=mesh, reshard_after_forward=module is not tower, mp_policy=policy)
    average_gradients([model.logit_scale])


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    """Those of `module` that no group has yet."""
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and not isinstance(m, FSDPModule)]


def recomputed(block: nn.Module) -> None:
    """Let `block` keep its inputs alone. Inside of what FSDP hooks, so that its parameters are there both times."""
    forward = block.forward

    def forgetful(*inputs: Any) -> Any:
        contexts = lambda: (nullcontext(), untracked(block))  # noqa: E731
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    block.forward = forgetful


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
    try:
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
    return in_layout(tensor.detach().to("cpu", copy=True))


def in_layout(tensor: Tensor) -> Tensor:
    """As any other run has it in memory: convolutions are channels_last, and a fused optimiser pairs a weight with
    its moments by their place there, whatever their strides say."""
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as `like` is; as it is where that isn't cut, or has another shape. No rank waits."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device).contiguous()
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def rows_of(like: DTensor) -> range:
    """Those that this rank holds."""
    places = torch.arange(like.shape[0], device=like.device)
    mine = distribute_tensor(places, like.device_mesh, like.placements, src_data_rank=None).to_local()
    return range(int(mine[0]), int(mine[-1]) + 1) if len(mine) else range(0)


def from_rows(rows: Tensor, like: DTensor) -> DTensor:
    """This rank's rows of a tensor that is cut as `like` is."""
    mesh, rows = like.device_mesh, rows.to(like.device)
    return DTensor.from_local(rows, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())
