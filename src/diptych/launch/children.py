"""Child processes: started from a fork server, and ended when their parent ends."""

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
    """A context that starts children from a clean process, which has imported `preload`. A plain fork of a process
    with running threads, such as BLAS's, may hang. A signal to the whole group ends neither server nor children."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # started here, since it unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_STOP)  # new processes inherit this
    try:
        with _this_code():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def _this_code() -> Iterator[None]:
    """Within, new processes import this package from the same place, not another version that is installed."""
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
    """A child calls this: when its parent is killed, it ends too and prints nothing. torch's own watchdog sees the
    fork server as the parent, which stays alive. SIGTERM ends the child only if the parent sent it."""
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
        """The thread that sends tensors calls this; the parent may have been killed while it received one."""
        if isinstance(error, OSError | EOFError):
            parent.join(2)  # its sockets close a moment before it ends
            if not parent.is_alive():
                os._exit(1)
        sys.__excepthook__(kind, error, trace)

    def lost(error: Exception, handed: object) -> None:
        """A queue's thread that can't send a batch calls this: without it, the parent would wait for ever."""
        show(type(error), error, error.__traceback__)
        complain(f"a worker can't send a batch ({error!r}).")
        os._exit(1)

    sys.excepthook = show
    Queue._on_queue_feeder_error = staticmethod(lost)  # type: ignore[attr-defined]
    threading.Thread(target=watch, daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it; there a child ignores SIGTERM
        threading.Thread(target=obey, daemon=True).start()
