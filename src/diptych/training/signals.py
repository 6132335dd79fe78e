"""How a run hears that it should stop: a signal, which all ranks act on after the same step."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from diptych.base.errors import TO_STOP, Stopped
from diptych.launch.distributed import world_size

PATIENCE = 15.0  # seconds that a batch may take after a signal


class Signals:
    """Notes SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C instead of ending the process; the training stops between two steps.

    received: the newest such signal, 0 for none

    A second Ctrl-C interrupts a process that trains alone. One rank of several may receive a single Ctrl-C twice,
    from a cluster that signals every process and from its launcher, so there the launcher handles the second one.

    Lightning restores the earlier handlers when its fit ends.
    """

    def __init__(self) -> None:
        self.received = 0

    def listen(self, waiting: Callable[[], bool], otherwise: str) -> None:
        """waiting: whether the process waits for data; then no step ends, so the signal ends the process
        otherwise: what the message says in that case"""
        self._waiting, self._otherwise = waiting, otherwise
        for signum in TO_STOP:
            signal.signal(signum, self._note)
        signal.signal(signal.SIGALRM, self._look)

    def rest(self) -> None:
        """After this no alarm comes."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, signum: int, frame: FrameType | None) -> None:
        if self._waiting():
            raise Stopped(f"{name(self.received)} while waiting for data: {self._otherwise}", self.received)
        signal.setitimer(signal.ITIMER_REAL, 1)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.received = signum
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def name(signum: int) -> str:
    """As a person knows it: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if signum == signal.SIGINT and sys.stdin.isatty() else signal.Signals(signum).name


class Agreement:
    """Tells all ranks what one rank has noticed. Once a step every rank gives its flags, and gets for each flag the
    largest of all ranks' values of the step before.

    The flags travel on the CPU while the step is computed, so a step waits neither for the slowest rank nor for the
    GPU. Every rank must create it, and call it, at the same steps.

    timeout: how long a rank waits for another before it fails
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
        """The flags that all ranks gave last; None where none are on their way."""
        if self._travelling is None:
            return None
        work, flags = self._travelling
        self._travelling = None
        work.wait()
        return flags.tolist()
