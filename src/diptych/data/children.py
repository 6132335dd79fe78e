"""Processes that a process of ours starts: from a fork server, and gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.context import ForkServerContext


def fork_server(preload: str) -> ForkServerContext:
    """Starts children from a clean process that has imported `preload`. Not a plain fork: one of a process whose
    threads are running, BLAS's for instance, may hang."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context


def end_with_parent(*_: object) -> None:
    """Called in a child: when its parent is killed it ends too, and writes nothing more. torch's own watchdog, for
    one, sees the fork server as the parent, which stays."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
