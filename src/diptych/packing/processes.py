"""Runs tasks in processes: gives results as they come, holds few tasks at a time, leaves no process behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diptych.base.errors import UserError
from diptych.launch.children import end_with_parent, fork_server

T = TypeVar("T")


def each(tasks: Iterable[Callable[[], T]], workers: int, total: int, label: str) -> Iterator[T]:
    """The results of `tasks`, in the order in which they end, with a progress bar on a terminal.

    tasks: picklable calls; read lazily, so that at most two for each process are held
    workers: number of processes; 1 is this process
    Raises UserError for fewer than one and for a process that was killed, and whatever a task raises.
    """
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers={workers} must be a whole number of at least 1: it is the number of processes.")
    results = (task() for task in tasks) if workers == 1 else _pooled(tasks, workers)
    console = Console(file=sys.stderr)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield from progress.track(results, total)


def _pooled(tasks: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    pool = ProcessPoolExecutor(workers, fork_server(__name__), initializer=end_with_parent)
    waiting, held = iter(tasks), set[Future[T]]()
    try:
        while True:
            held |= {pool.submit(task) for task in islice(waiting, 2 * workers - len(held))}
            if not held:
                return
            done, held = wait(held, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise UserError(
            f"One of workers={workers} processes was killed, perhaps because memory ran out: type the command again"
            " to continue; give fewer workers if that repeats."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
