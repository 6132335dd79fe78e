"""Runs the contenders of a benchmark in separate processes and times them in turns.

A setting of one process, such as telling the C library to keep freed memory, must not help the other contender. Also,
the system then reports the peak memory of each.
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

PATH = list(sys.path)  # as at the start, before a peer's packages are added
Actions = dict[str, Callable[[], object]]


class Contender:
    """A process that makes actions and runs one whenever it is asked. Each action runs twice as a warm-up.

    first: does the imports, which don't count as memory; make: returns the actions by name. Both are functions at
    the top level of a module, and args are picklable.
    """

    def __init__(self, first: Callable[[], object], make: Callable[..., Actions], *args: object) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system for the new process
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), first, make, args))
        path, sys.path = sys.path, PATH  # a new process inherits it
        self.process.start()
        sys.path = path
        theirs.close()  # so that the end of the process is an EOFError here
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
        """Runs the action and returns its seconds, measured in the contender's process."""
        self.pipe.send(action)
        return float(self.pipe.recv())

    def memory(self) -> int:
        """Peak bytes since the warm-up, minus the bytes before it made anything."""
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
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
    pipe.send(None)
    try:
        while True:
            asked = pipe.recv()
            pipe.send(timed(actions[asked]) if asked else status("VmHWM") - before)
    except EOFError:
        return


def timed(action: Callable[[], object]) -> float:
    """Seconds of the action; waits for the GPU before and after it."""
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternating(asked: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each contender, round by round."""
    seconds: dict[str, list[float]] = {who: [] for who in asked}
    for _ in range(rounds):
        for who, ask in asked.items():
            seconds[who].append(ask())
    return seconds
