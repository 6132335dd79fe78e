"""What the C library does with memory that is freed, where tensors lie in the machine's own."""

from __future__ import annotations

import ctypes

# <malloc.h>; `man mallopt`
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether the C library can.

    glibc gives large blocks back to the system as soon as they are freed, and the system hands out each page again,
    zeroed, when it is first touched: with tensors of megabytes that come and go a thousand times a step, a tenth of a
    step in bfloat16 on a CPU (docs/evidence/performance.md). What a process holds at most grows, by up to 7 % on
    ResNets, as holes between small blocks stay unused, and it holds it until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library than glibc: nothing but time is lost
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
