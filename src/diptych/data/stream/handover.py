"""How a worker hands a part of a batch to its rank: in shared memory, which may be too small.

Whoever leaves that to a queue loses the batch: its thread prints an error, and the rank waits for ever.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from diptych.base.errors import UserError
from diptych.data.stream.walk import Part
from diptych.launch.world import nodes

SHARED = Path("/dev/shm")  # where torch makes it, on Linux
WAITING = 2  # parts of a worker that are made ahead; a third is at the rank


def hand_over(part: Part, workers: int, ranks: int) -> Part:
    """The part with its tensors in shared memory, or one that says why they can't be. ranks: on all machines"""
    tensors = [tensor for tensor in (part.images, part.tokens) if isinstance(tensor, Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    try:
        _check(size, workers, ranks)
        for tensor in tensors:
            tensor.share_memory_()
    except (UserError, RuntimeError, OSError) as error:
        why = str(error) if isinstance(error, UserError) else _too_small(size, workers, ranks, str(error))
        return Part(failure=why)
    return part


def _check(size: int, workers: int, ranks: int) -> None:
    """Said at the first part, and not once some have filled what there is."""
    if SHARED.is_dir():
        room = os.statvfs(SHARED)
        if room.f_blocks * room.f_frsize < _on_this_machine(WAITING * size, workers, ranks):
            raise UserError(_too_small(size, workers, ranks, "too small"))


def _on_this_machine(size: int, workers: int, ranks: int) -> int:
    return size * workers * max(1, ranks // nodes())


def _too_small(size: int, workers: int, ranks: int, why: str) -> str:
    needed = _on_this_machine((WAITING + 1) * size, workers, ranks)
    room = os.statvfs(SHARED) if SHARED.is_dir() else None
    has = (
        f"{room.f_bavail * room.f_frsize:,} of its {room.f_blocks * room.f_frsize:,} bytes are free" if room else why
    )
    return (
        f"/dev/shm has no room for the workers' batches: {needed:,} bytes are needed, {WAITING + 1} parts of {size:,}"
        f" a worker, and {has}: make it larger (docker run --shm-size={-(-needed // 2**20)}m), or take"
        " data.workers=0, fewer workers or a smaller data.batch_size."
    )
