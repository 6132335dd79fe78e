"""SIGTERM, SIGUSR1 and Ctrl-C become a wish to stop, which the training heeds between two steps."""

from __future__ import annotations

import signal
import sys
from types import FrameType

WISHES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signals:
    """`received`: the newest signal that asked to stop, 0 for none. A second Ctrl-C interrupts at once.

    Lightning puts the handlers of before back when its fit ends.
    """

    def __init__(self) -> None:
        self.received = 0

    def listen(self) -> None:
        for signum in WISHES:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum


def name(signum: int) -> str:
    """As a person knows it: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if signum == signal.SIGINT and sys.stdin.isatty() else signal.Signals(signum).name
