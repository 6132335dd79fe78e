"""SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C become a wish to stop, which the training heeds between two steps."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from diptych.base.errors import TO_STOP, Stopped
from diptych.launch.distributed import world_size

PATIENCE = 15.0  # seconds that a batch may take once a signal has come


class Signals:
    """`received`: the newest signal that asked to stop, 0 for none.

    A second Ctrl-C interrupts a process that trains alone. One rank of several may hear a single Ctrl-C twice, from
    a cluster that signals every process and from its launcher; there a second one is the launcher's to heed.

    Lightning puts the handlers of before back when its fit ends.
    """

    def __init__(self) -> None:
        self.received = 0

    def listen(self, waiting: Callable[[], bool], otherwise: str) -> None:
        """waiting: whether the process waits for data, where no step ends that could heed a signal; otherwise: what
        the person is told who ends it there"""
        self._waiting, self._otherwise = waiting, otherwise
        for signum in TO_STOP:
            signal.signal(signum, self._note)
        signal.signal(signal.SIGALRM, self._look)

    def rest(self) -> None:
        """No alarm comes after this."""
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
