"""What the losses share about logits: their precision, and tiles, so that never all of them are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.base.errors import UserError
from diptych.launch import distributed

# Up to this size the whole matrix of logits fits easily, and a few large products are as fast as many small ones.
DENSE_BYTES = 64 * 2**20
# A tile and its scratch buffer fit into a CPU's cache; a GPU is faster with larger products.
CPU_TILE, GPU_TILE = 1024, 4096

Tile = int | str | None


def check_tile(tile: Tile) -> Tile:
    """Raises UserError unless it is "auto", None or a positive number."""
    if tile in ("auto", None) or (isinstance(tile, int) and not isinstance(tile, bool) and tile > 0):
        return tile
    raise UserError(f"loss.tile={tile} must be auto, null for the whole matrix, or the side of a tile such as 1024.")


def check_smoothing(smoothing: float) -> float:
    """Raises UserError unless it is at least 0 and below 1."""
    if 0 <= smoothing < 1:
        return smoothing
    raise UserError(f"loss.smoothing={smoothing} must be at least 0 and below 1: 0.1 is usual, 0 for none.")


def choose_tile(tile: Tile, rows: int, columns: int, dtype: torch.dtype, device: str) -> int | None:
    """The side of a tile for a matrix of logits [rows, columns]; None for the whole matrix at once."""
    if tile != "auto":
        return tile  # type: ignore[return-value]
    if rows * columns * dtype.itemsize <= DENSE_BYTES:
        return None
    return CPU_TILE if device == "cpu" else GPU_TILE


def describe_tile(tile: Tile, rows: int, columns: int, device: str) -> str:
    """A line for the log about logits [rows, columns] in fp32."""
    side = choose_tile(tile, rows, columns, torch.float32, device)
    size = f"{rows:,} × {columns:,} logits ({rows * columns * 4 / 1e6:,.0f} MB)"
    return f"{size}, dense" if side is None else f"{size}, in tiles of {side:,}"


def at_least_fp32(*tensors: Tensor) -> list[Tensor]:
    """All in the dtype of the first, or in fp32 if that has more digits: bf16 logits cost 2 % of gradient error."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return [x.to(wide) for x in tensors]


def logit_tiles(left: Tensor, right: Tensor, side: int) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """left [R, D] @ right.T [D, C], tile by tile: (rows, columns, logits, a scratch buffer of the same shape).

    The caller may write to logits and scratch; the next tile overwrites both.
    """
    buffers = left.new_empty(2, min(side, len(left)) * min(side, len(right)))
    for top in range(0, len(left), side):
        rows = slice(top, min(top + side, len(left)))
        for start in range(0, len(right), side):
            columns = slice(start, min(start + side, len(right)))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            tile, scratch = (buffer[: shape[0] * shape[1]].view(shape) for buffer in buffers)
            torch.mm(left[rows], right[columns].T, out=tile)
            yield rows, columns, tile, scratch


def log_sum_exps(left: Tensor, right: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row and every column of the global logits, in memory O(n·D).

    left, right: [n, D], this rank's rows; the logits are left @ right.T over the rows of all ranks
    Returns the log-sum-exp [n] over all ranks' right for each own left, and over all ranks' left for each own right.
    Gradients are those of the sum of all ranks' outputs, as with `distributed.gather`.

    Running maxima and sums over tiles are those of Milakov & Gimelshein 2018 ("Online normalizer calculation for
    softmax"). A fixed shift would save passes, but it underflows at scale 100. Only the log-sum-exps are kept; the
    backward pass computes the tiles again, as FlashAttention does (Dao et al. 2022, section 3.1). Rows and columns
    share their tiles: four matrix products forward and backward, where the dense loss over two matrices has six.
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
            """A logit's gradient: its softmax over the row times the row's gradient, plus the same of the column."""
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
    """Add maxima and sums [n, 2] over other logits to those in `into`."""
    maxima = torch.maximum(into[:, 0], other[:, 0])
    into[:, 1].mul_((into[:, 0] - maxima).exp_()).add_(other[:, 1] * (other[:, 0] - maxima).exp_())
    into[:, 0] = maxima
