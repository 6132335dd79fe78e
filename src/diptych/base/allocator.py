"""The C library's use of freed memory, which costs time where tensors are in the machine's main memory."""

from __future__ import annotations

import ctypes

# <malloc.h>; `man mallopt`
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees; returns whether the C library supports it.

    By default glibc returns large blocks to the system when they are freed, and the system zeroes each page again at
    its next use. A training step allocates tensors of megabytes a thousand times: this takes a tenth of a step in
    bfloat16 on a CPU (docs/evidence/performance.md). The price: the process needs up to 7 % more memory on ResNets,
    since holes between small blocks stay unused, and keeps it until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc: this only costs time
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
