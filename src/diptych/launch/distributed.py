"""Rank, world size, and collectives with gradients. Without a process group, they act as one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def world_size() -> int:
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    return dist.get_rank() if _grouped() else 0


def _grouped() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process counts as the only one: for what every rank computes from the same rows."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


# torch 2.13 renamed both; many GPU images have older versions.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    """With public collectives; torch's functional ones, which have gradients, are private."""

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

    The backward pass is a reduce-scatter: each rank gets the sum of all ranks' gradients for its own rows.
    Data-parallel wrappers average the parameters' gradients, so a loss over local rows then has the gradient of the
    mean loss over all rows. x must have the same shape on every rank.
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x)


Visit = Callable[..., Tensor | None]
Merge = Callable[[Tensor, Tensor], object]


class _Handover:
    """Tensors on their way to the neighbour on one side (1 or -1), and the same from the other side."""

    def __init__(self, tensors: Sequence[Tensor], side: int, tag: int) -> None:
        to, source = (rank() + side) % world_size(), (rank() - side) % world_size()
        self._sent = [x.contiguous() for x in tensors]  # kept until they have arrived
        self._received = [torch.empty_like(x) for x in self._sent]
        operations = []
        for n, (x, into) in enumerate(zip(self._sent, self._received, strict=True), tag):
            operations += [dist.P2POp(dist.isend, x, to, tag=n), dist.P2POp(dist.irecv, into, source, tag=n)]
        self._works = dist.batch_isend_irecv(operations)

    def wait(self) -> list[Tensor]:
        for work in self._works:
            work.wait()
        return self._received


class _Lane:
    """One direction round the ring: a block that moves from rank to rank, and the ranks' results for it behind it."""

    def __init__(self, block: Sequence[Tensor], side: int) -> None:
        self._block, self._side = block, side
        # Two ranks are neighbours on both sides, so each direction has its own tags.
        self._tag = 0 if side > 0 else 2 * len(block)
        self._next: _Handover | None = None
        self._result: _Handover | None = None

    def send(self) -> None:
        self._next = _Handover(self._block, self._side, self._tag)

    def receive(self) -> None:
        assert self._next is not None
        self._block, self._next = self._next.wait(), None

    def visit(self, visit: Visit, merge: Merge) -> None:
        result = visit(*self._block)
        if result is None:
            return
        if self._result is not None:
            (before,) = self._result.wait()
            merge(before, result)
            result = before
        self._result = _Handover([result], self._side, self._tag + len(self._block))

    def result(self) -> list[Tensor]:
        return [] if self._result is None else self._result.wait()


def ring(block: Sequence[Tensor], visit: Visit, merge: Merge = Tensor.add_) -> Tensor | None:
    """Pass every rank's block from neighbour to neighbour to all ranks, and return all ranks' results for one's own.

    block: tensors of n rows, with the same shapes on every rank; not changed
    visit: (*some rows of some rank's block) -> this rank's result for them, a tensor with the same number of rows; or
        None on all ranks
    merge: (result of earlier ranks, result of this one) -> changes the first to include both
    Returns the merged results for this rank's own rows; None if there are none.

    A rank has two blocks at a time, never all: the next one arrives while one is visited, and the result for a block
    follows one visit behind it. Half of the rows goes round in one direction and half in the other, so links carry
    data both ways.
    """
    if world_size() == 1:
        return visit(*block)
    half = (len(block[0]) + 1) // 2
    lanes = [_Lane([x[:half] for x in block], side=1)]
    if half < len(block[0]):
        lanes.append(_Lane([x[half:] for x in block], side=-1))
    for step in range(world_size()):
        more = step < world_size() - 1
        for lane in lanes:
            if more:
                lane.send()
        for lane in lanes:
            lane.visit(visit, merge)
        for lane in lanes:
            if more:
                lane.receive()
    results = [result for lane in lanes for result in lane.result()]
    return torch.cat(results) if results else None


_agreed: set[torch.Size] = set()


def agree_on_shape(x: Tensor) -> None:
    """Raises ValueError if x has different shapes on different ranks: a collective would hang or mix up rows.

    It asks the other ranks only about shapes that are new on this rank, since each question waits for all. So it
    can't detect that one rank alone returns to an earlier shape.
    """
    if world_size() == 1 or x.shape in _agreed:
        return
    shapes = gather_objects(tuple(x.shape))
    if len(set(shapes)) > 1:
        raise ValueError(f"The ranks' features have different shapes, {shapes}: give each the same number of rows.")
    _agreed.add(x.shape)


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
    """Batch norm over all ranks' rows, on any backend: torch's own doesn't support CPU tensors.

    The rows are those of one forward pass: the global batch, or, if a batch is encoded in parts
    (`training.accumulation`), one micro-batch over all ranks. So its statistics, and the running ones, which move
    once per pass, depend on the number of parts but not on the number of ranks.

    Same mathematics and state dict as BatchNorm2d; the gradient flows through the gathered statistics. Every rank
    must have the same number of pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]"""
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        mean, variance = self._over_ranks(*_statistics(wide))
        centred = wide - mean[None, :, None, None]
        self._track(mean.detach(), variance.detach(), wide.numel() // wide.shape[1] * world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(x.dtype)

    @staticmethod
    def _over_ranks(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """[C] and [C] of each rank -> of all (Chan et al. 1979), with one exchange, since each makes all ranks
        wait."""
        means, variances = gather(torch.stack([mean, variance])[None]).unbind(1)  # each W×C
        of_all = means.mean(0)
        return of_all, (variances + (means - of_all).square()).mean(0)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), self.momentum)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, C, H, W] -> mean [C], biased variance [C]"""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return mean, variance


def synchronise_batch_norm(model: torch.nn.Module) -> torch.nn.Module:
    """Give every BatchNorm2d of `model`, in place, the statistics of the global batch."""
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
    return model
