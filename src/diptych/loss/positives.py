"""Which pairs of the global batch belong together, by the number of their concept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.launch import distributed


def positive_shares(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """groups: int64 [n], equal numbers for the same concept -> [n, N]

    Each row spreads 1 evenly over those pairs of all ranks that are of its group, itself included."""
    same = (groups[:, None] == distributed.gather(groups)).to(dtype)
    return same / same.sum(1, keepdim=True)


def mean_of_positives(x: Tensor, groups: Tensor) -> Tensor:
    """positive_shares [n, N] @ x of all ranks [N, D] -> [n, D], without that matrix nor all of x."""
    _, place, counts = distributed.gather(groups).unique(return_inverse=True, return_counts=True)
    own = place[distributed.rank() * len(groups) :][: len(groups)]
    return _GroupSums.apply(x, groups) / counts[own, None]


class _GroupSums(torch.autograd.Function):
    """Sums over the rows of all ranks that share a group. It is a symmetric map, so its backward is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Tensor) -> Tensor:
        ctx.save_for_backward(groups)
        return _group_sums(x, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _group_sums(gradient, *ctx.saved_tensors), None


def _group_sums(x: Tensor, groups: Tensor) -> Tensor:
    known, own = groups.unique(return_inverse=True)
    sums = x.new_zeros(len(known), x.shape[1])

    def visit(x: Tensor, groups: Tensor) -> None:
        place = torch.searchsorted(known, groups).clamp_(max=len(known) - 1)
        sums.index_add_(0, place, x * (known[place] == groups)[:, None])

    distributed.ring([x, groups], visit)
    return sums[own]
