"""What the losses share about logits: how exact they are, and how many exist at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diptych.base.errors import UserError

# Up to here one matrix of logits costs no memory that a run would miss, and fewer, larger products are as fast.
DENSE_BYTES = 64 * 2**20
# A tile and its scratch stay in a CPU's cache; a GPU wants larger products.
CPU_TILE, GPU_TILE = 1024, 4096

Tile = int | str | None


def check_tile(tile: Tile) -> Tile:
    """Raises UserError unless it is "auto", None or a positive number."""
    if tile in ("auto", None) or (isinstance(tile, int) and not isinstance(tile, bool) and tile > 0):
        return tile
    raise UserError(f"loss.tile={tile} must be auto, null for the whole matrix, or the side of a tile such as 1024.")


def check_smoothing(smoothing: float) -> float:
    """Raises UserError unless it is a share that leaves some of the target."""
    if 0 <= smoothing < 1:
        return smoothing
    raise UserError(f"loss.smoothing={smoothing} must be at least 0 and below 1: 0.1 is usual, 0 for none.")


def choose_tile(tile: Tile, rows: int, columns: int, dtype: torch.dtype, device: str) -> int | None:
    """The side of a tile for a matrix of logits [rows, columns]; None to take it whole."""
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
    """All in the dtype of the first, or fp32 if that is narrower: bf16 logits cost 2 % of gradient error."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return [x.to(wide) for x in tensors]


def logit_tiles(left: Tensor, right: Tensor, side: int) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """left [R, D] @ right.T [D, C], a tile at a time: (rows, columns, logits, scratch of that shape).

    Logits and scratch may be written to, and the next tile overwrites both.
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
