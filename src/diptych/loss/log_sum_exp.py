"""Log-sum-exp of every row and column of the global logits in memory O(n·D): tiles, a ring over ranks, recomputing.

Running maxima and sums over tiles are those of Milakov & Gimelshein 2018 ("Online normalizer calculation for
softmax"); to keep the log-sum-exps alone and compute the tiles again in backward is FlashAttention's way (Dao et al.
2022, section 3.1).
Both directions come from one tile, so there is one sweep forward and one backward: four matrix products, where the
dense loss over two matrices has six.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.launch import distributed
from diptych.loss.logits import logit_tiles


def log_sum_exps(left: Tensor, right: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """left, right: [n, D], this rank's rows; logits are left @ right.T over the rows of all ranks.

    Returns the log-sum-exp [n] over all ranks' right for each own left, and over all ranks' left for each own right.
    Gradients are those of the sum of all ranks' outputs, as with `distributed.gather`. A fixed shift instead of
    running maxima would save passes and underflow at scale 100.
    """
    rows, columns = _LogSumExps.apply(left, right, tile)
    return rows, columns


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, tile: int) -> tuple[Tensor, Tensor]:
        rows = _nothing(left)

        def visit(right: Tensor) -> Tensor:
            columns = _nothing(right)
            for i, j, logits, scratch in logit_tiles(left, right, tile):
                _merge(rows[i], _maxima_and_sums(logits, scratch, 1))
                _merge(columns[j], _maxima_and_sums(logits, scratch, 0))
            return columns

        columns = distributed.ring([right], visit, _merge)
        assert columns is not None
        ctx.tile = tile
        by_row, by_column = (each[:, 0] + each[:, 1].log() for each in (rows, columns))
        ctx.save_for_backward(left, right, by_row, by_column)
        return by_row, by_column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor | None, None]:
        left, right, by_row, by_column = ctx.saved_tensors
        to_left = torch.zeros_like(left)

        def visit(right: Tensor, by_column: Tensor, of_columns: Tensor) -> Tensor:
            """The logits' gradient is softmax over the row times its gradient, plus the same over the column."""
            to_right = torch.zeros_like(right)
            for i, j, logits, scratch in logit_tiles(left, right, ctx.tile):
                torch.sub(logits, by_row[i, None], out=scratch).exp_().mul_(of_rows[i, None])
                scratch.addcmul_(logits.sub_(by_column[j]).exp_(), of_columns[j])
                to_left[i].addmm_(scratch, right[j])  # R×C, C×D -> R×D
                to_right[j].addmm_(scratch.T, left[i])
            return to_right

        return to_left, distributed.ring([right, by_column, of_columns], visit), None


def _nothing(x: Tensor) -> Tensor:
    """Maximum and sum of exp(logit - maximum) over no logits, for each row of x: [n, 2]"""
    return torch.stack([x.new_full((len(x),), -torch.inf), x.new_zeros(len(x))], 1)


def _maxima_and_sums(logits: Tensor, scratch: Tensor, dim: int) -> Tensor:
    """[R, C] -> [R, 2] over dim 1, [C, 2] over dim 0"""
    maxima = logits.amax(dim, keepdim=True)
    sums = torch.sub(logits, maxima, out=scratch).exp_().sum(dim)
    return torch.stack([maxima.squeeze(dim), sums], 1)


def _merge(into: Tensor, other: Tensor) -> None:
    """Into maxima and sums [n, 2] over some logits, those over others."""
    maxima = torch.maximum(into[:, 0], other[:, 0])
    into[:, 1].mul_((into[:, 0] - maxima).exp_()).add_(other[:, 1] * (other[:, 0] - maxima).exp_())
    into[:, 0] = maxima
