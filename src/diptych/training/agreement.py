"""What one rank has noticed, known to all ranks at the same step, although none waits for another."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from diptych.launch.distributed import world_size


class Agreement:
    """Every rank hands in its flags once a step and gets the largest of all ranks' flags, those of the step before.

    The flags travel while the step is computed, on the CPU, so a step costs neither a wait for the slowest rank nor
    one for the GPU. Every rank must make it, and call it, at the same steps.

    timeout: after which a rank that never hears from another gives up
    """

    def __init__(self, timeout: timedelta) -> None:
        self._group = dist.new_group(backend="gloo", timeout=timeout) if world_size() > 1 else None
        self._travelling: tuple[dist.Work, Tensor] | None = None

    def __call__(self, *flags: int) -> list[int]:
        if self._group is None:
            return list(flags)
        agreed = self.arrived() or [0] * len(flags)
        mine = torch.tensor(flags)
        work = dist.all_reduce(mine, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._travelling = work, mine
        return agreed

    def arrived(self) -> list[int] | None:
        """What was handed in last, by all ranks; None where nothing is on its way."""
        if self._travelling is None:
            return None
        work, flags = self._travelling
        self._travelling = None
        work.wait()
        return flags.tolist()
