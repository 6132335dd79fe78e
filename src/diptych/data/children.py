"""Processes that a process of ours starts: from a fork server, and gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

# What Ctrl-C and clusters send to every process of a run at once: it is for the parent to act on.
FOR_THE_PARENT = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def fork_server(preload: str) -> ForkServerContext:
    """Starts children from a clean process that has imported `preload`. Not a plain fork: one of a process whose
    threads are running, BLAS's for instance, may hang. Neither server nor children end by a signal to all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # it unblocks signals, so it must not be started below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)  # which new processes inherit
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def end_with_parent(*_: object) -> None:
    """Called in a child: when its parent is killed it ends too, and writes nothing more. torch's own watchdog, for
    one, sees the fork server as the parent, which stays. SIGTERM counts from the parent alone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    def obey() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where a child ignores it
        threading.Thread(target=obey, daemon=True).start()
