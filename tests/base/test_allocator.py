"""Memory that is freed stays with the process, and is touched for the first time once."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys
import torch
from diptych.base.allocator import keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(16 << 20)  # 64 MB: more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults(5)
done = keep_freed_memory()
faults(20)  # until the holes between small blocks are large enough
print(json.dumps([done, without, faults(5)]))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_large_blocks_are_not_handed_back() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    done, without, kept = json.loads(ended.stdout)
    assert done is True
    assert kept < without / 20, (without, kept)
