"""SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C become a wish to stop, which the training heeds between two steps."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from diptych.distributed import world_size
from diptych.errors import TO_STOP


class Signals:
    """`received`: the newest signal that asked to stop, 0 for none.

    A second Ctrl-C interrupts a process that trains alone. One rank of several may hear a single Ctrl-C twice, from
    a cluster that signals every process and from its launcher; there a second one is the launcher's to heed.

    Lightning puts the handlers of before back when its fit ends.
    """

    def __init__(self) -> None:
        self.received = 0

    def listen(self) -> None:
        for signum in TO_STOP:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.received = signum


def name(signum: int) -> str:
    """As a person knows it: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if signum == signal.SIGINT and sys.stdin.isatty() else signal.Signals(signum).name
