"""Fully sharded data parallelism (FSDP2), applied from outside to a plain CLIP (Zhao et al. 2023, "PyTorch FSDP").

Each block is a group: its parameters are gathered just before it computes, and freed after. The rest of a tower is
one more group. The roots are the two towers, not the CLIP around them, so `encode_image` and `encode_text` work
alone. The logit scale is a scalar, which can't be sharded; every rank has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.apply_func import apply_to_collection
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
    """The residual blocks of a tower or model, which are gathered, or computed again, one by one."""
    return [part for part in module.modules() if isinstance(part, BLOCKS)]


def mesh_of(device: str, ranks: int, replicas: int = 1) -> DeviceMesh:
    """[ranks], or [replicas, ranks / replicas] for several copies of the model, each sharded. All ranks call it."""
    if replicas == 1:
        return init_device_mesh(device, (ranks,), mesh_dim_names=("shard",))
    return init_device_mesh(device, (replicas, ranks // replicas), mesh_dim_names=("replicate", "shard"))


def shard(model: CLIP, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Shard the towers' parameters along their first dimension over the ranks of `mesh`, in place.

    mesh: `mesh_of`; with replicas (HSDP) only gradients are exchanged between them, never parameters
    dtype: in which the towers gather and compute; the stored weights keep their type. bfloat16 sends half the bytes.
        Gradients are summed in float32, and batch norms keep their weights' type

    Memory layouts are lost: channels_last convolutions become contiguous.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    for tower in (model.image, model.text):
        for module in (*blocks_of(tower), tower):
            if dtype and (norms := _batch_norms(module)):
                fully_shard(norms, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
            fully_shard(module, mesh=mesh, reshard_after_forward=module is not tower, mp_policy=policy)
    average_gradients([model.logit_scale])


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms of `module` that are in no group yet."""
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and not isinstance(m, FSDPModule)]


def recomputed(block: nn.Module) -> None:
    """Let `block` keep only its inputs for the backward pass and compute itself again there. Call this before
    `shard`: FSDP's hooks are then outside, and the parameters are gathered both times."""
    forward = block.forward

    def recomputing(*inputs: Any) -> Any:
        contexts = lambda: (nullcontext(), untracked(block))  # noqa: E731
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    block.forward = recomputing


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """From now on, parameters that are whole on every rank get the mean of all ranks' gradients in the backward
    pass."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(average)


def average(parameter: Tensor) -> None:
    """Replace a parameter's gradient by its mean over ranks."""
    if world_size() > 1:
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within, every rank has all of `model`, gathered once. So ranks can encode different numbers of batches, as an
    evaluation does, without waiting for each other. Does nothing for a model that isn't sharded; not for training."""
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
    """A state dict with every DTensor whole, on the CPU and in the layout of an unsharded run; all ranks call it.

    keep: whether this rank needs it; the others get the same tree with empty tensors
    """

    def join(tensor: Tensor) -> Tensor:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return in_layout(whole.detach().to("cpu", copy=True)) if keep else whole.new_empty(0, device="cpu")

    return apply_to_collection(tree, Tensor, join)


def in_layout(tensor: Tensor) -> Tensor:
    """In the memory layout of an unsharded run, where convolutions are channels_last: a fused optimiser pairs a
    weight with its moments by their order in memory and ignores strides."""
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor sharded as `like` is; unchanged if `like` isn't sharded or has another shape. No rank waits."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device).contiguous()
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def rows_of(like: DTensor) -> range:
    """The rows of `like` that this rank has."""
    places = torch.arange(like.shape[0], device=like.device)
    mine = distribute_tensor(places, like.device_mesh, like.placements, src_data_rank=None).to_local()
    return range(int(mine[0]), int(mine[-1]) + 1) if len(mine) else range(0)


def from_rows(rows: Tensor, like: DTensor) -> DTensor:
    """A tensor that is sharded as `like` is, from this rank's rows."""
    mesh, rows = like.device_mesh, rows.to(like.device)
    return DTensor.from_local(rows, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())
