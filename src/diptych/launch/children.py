"""Processes that a process of ours starts: from a fork server, and gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import Queue
from pathlib import Path
from types import TracebackType

from diptych.base.errors import TO_STOP
from diptych.base.terminal import complain


def fork_server(preload: str) -> ForkServerContext:
    """Starts children from a clean process that has imported `preload`. Not a plain fork: one of a process whose
    threads are running, BLAS's for instance, may hang. Neither server nor children end by a signal to all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # it unblocks signals, so it must not be started below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_STOP)  # which new processes inherit
    try:
        with _this_code():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def _this_code() -> Iterator[None]:
    """New processes import our package from where this one did, and not another version that is installed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


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

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Called by the thread that hands tensors to the parent, which may be killed with a hand out for one."""
        if isinstance(error, OSError | EOFError):
            parent.join(2)  # its sockets close a moment before it is gone
            if not parent.is_alive():
                os._exit(1)
        sys.__excepthook__(kind, error, trace)

    def lost(error: Exception, handed: object) -> None:
        """Called by a queue's thread that can't send a batch: it would be lost, and the parent wait for ever."""
        show(type(error), error, error.__traceback__)
        complain(f"a worker can't hand over a batch ({error!r}).")
        os._exit(1)

    sys.excepthook = show
    Queue._on_queue_feeder_error = staticmethod(lost)  # type: ignore[attr-defined]
    threading.Thread(target=watch, daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where a child ignores it
        threading.Thread(target=obey, daemon=True).start()
