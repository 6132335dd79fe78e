"""Contenders in processes of their own, which are asked in turns.

What one does to its process, such as telling the C library to keep freed memory, must not serve the other; and what
each holds at most can be read off the system.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from loss import status

PATH = list(sys.path)  # as this program began, before a peer's packages came to it
Actions = dict[str, Callable[[], object]]


class Contender:
    """A process that made `actions` and does one whenever it is asked; each was done twice before the first question.

    first: what it imports, which is no part of what it holds; make: gives the actions by name. Both are functions at
    the top of a module, and args are picklable.
    """

    def __init__(self, first: Callable[[], object], make: Callable[..., Actions], *args: object) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # what this process has freed is for those that come
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), first, make, args))
        path, sys.path = sys.path, PATH  # a new process is handed it
        self.process.start()
        sys.path = path
        theirs.close()  # so that a process that dies is an end of file here
        try:
            self.pipe.recv()
        except EOFError:
            sys.exit(f"{make.__name__}'s process ended before it was ready: what it said is above.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.pipe.close()
        self.process.join()

    def seconds(self, action: str) -> float:
        """What the action takes, by the contender's own clock."""
        self.pipe.send(action)
        return float(self.pipe.recv())

    def memory(self) -> int:
        """Bytes held at most since it was ready, beyond what it had before it made anything."""
        self.pipe.send("")
        return int(self.pipe.recv())


def _serve(
    pipe: Connection,
    threads: int,
    first: Callable[[], object],
    make: Callable[..., Actions],
    args: tuple[object, ...],
) -> None:
    torch.set_num_threads(threads)
    first()
    before = status("VmRSS")
    actions = make(*args)
    for action in [*actions.values()] * 2:
        action()
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the most resident memory starts anew
    pipe.send(None)
    try:
        while True:
            asked = pipe.recv()
            pipe.send(timed(actions[asked]) if asked else status("VmHWM") - before)
    except EOFError:
        return


def timed(action: Callable[[], object]) -> float:
    """Seconds, with all that a GPU was asked for before and by it."""
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternating(asked: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each says, round by round."""
    seconds: dict[str, list[float]] = {who: [] for who in asked}
    for _ in range(rounds):
        for who, ask in asked.items():
            seconds[who].append(ask())
    return seconds
