"""What must hold for every case: no code ran, no secret was written, no traceback left, nothing was lost.

A case runs in this process. While it runs, an audit hook sees every program, socket, import and written file.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import resource
import secrets
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.base.errors import Stopped, UserError
from diptych.base.files import ROOT
from diptych.base.terminal import complain
from diptych.commands.boundary import sentence

CODE, SECRET, TRACEBACK, BOUNDS, COUNT = "code ran", "secret written", "traceback", "time or memory", "samples lost"
ORACLES = (CODE, SECRET, TRACEBACK, BOUNDS, COUNT)

SECONDS = 2.0  # of a core for one case, all of which read some kilobytes
WAITING = 10.0  # seconds for a case that waits and does nothing
MEGABYTES = 400  # that a case may add to the process's peak
ADDRESS_SPACE = 5 * 2**29  # more than that ends in a MemoryError, long before the machine has none left

# What hostile input names to be run or imported. Nothing of ours imports these.
BAIT = "fuzz.bait"
BAITS = ("this", "antigravity", "turtle", "idlelib", "lib2to3", "xmlrpc", "evil_module")
MARK = "fuzz_mark_5d1c"  # in every piece of source that hostile input brings along
CANARY = f"CANARY{secrets.token_hex(8)}"
os.environ["FUZZ_SECRET"] = CANARY

PROGRAMS = (
    "os.system",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.spawn",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
CHANGES = {  # event -> the positions of the paths among its arguments
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.chmod": (0,),
    "os.truncate": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "shutil.copyfile": (1,),
}


@dataclass(frozen=True)
class Finding:
    """oracle: one of ORACLES; kind: what makes two findings the same; detail: of this one"""

    oracle: str
    kind: str
    detail: str = field(default="", compare=False)


class Lost(Exception):
    """A case's own check of the counts failed; the message is the kind."""


class Watch:
    """What the audit hook has seen since `begin`."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.port = 0
        self.thread = 0
        self.seen: dict[str, str] = {}
        sys.addaudithook(self._hook)

    def begin(self, folder: Path, port: int) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in BAITS]:
            del sys.modules[name]  # a second import of it would not be seen
        self.seen, self.port, self.thread = {}, port, threading.get_ident()
        self.folder = str(folder.resolve())

    def end(self) -> dict[str, str]:
        self.folder = None
        return self.seen

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or threading.get_ident() != self.thread:
            return
        try:
            self._look(event, arguments)
        except Exception as error:  # an exception here would be raised in the audited call, and hidden there
            self.seen.setdefault(f"the hook failed at {event}", repr(error))

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROGRAMS:
            self.seen.setdefault(event, repr(arguments)[:200])
        elif event == "import":
            if str(arguments[0]).partition(".")[0] in BAITS:
                self.seen.setdefault(f"import of {arguments[0]}", "")
        elif event == "compile":
            if MARK in _text(arguments[0]):
                self.seen.setdefault("compile of foreign source", "")
        elif event == "exec":
            if MARK in repr(getattr(arguments[0], "co_consts", "")):
                self.seen.setdefault("exec of foreign source", "")
        elif event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            if not (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1") and address[1] == self.port):
                self.seen.setdefault(f"{event} elsewhere", repr(address))
        elif event == "socket.getaddrinfo":
            if arguments[0] not in ("127.0.0.1", "::1", "localhost", None):
                self.seen.setdefault("a host was looked up", repr(arguments[0]))
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not self._inside(path):
                self.seen.setdefault("a file was opened for writing outside the folder", repr(path))
        elif event in CHANGES:
            for place in CHANGES[event]:
                if not self._inside(arguments[place]):
                    self.seen.setdefault(f"{event} outside the folder", repr(arguments[place]))

    def _inside(self, path: object) -> bool:
        if isinstance(path, int):
            return True
        name = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        assert self.folder is not None
        return name == self.folder or name.startswith((f"{self.folder}/", "/dev/null", "/dev/shm/"))


def _text(source: object) -> str:
    return source.decode(errors="replace") if isinstance(source, bytes) else str(source)


WATCH = Watch()


class _TooLong(BaseException):
    """Not an Exception: no `except Exception` of what is tried may take it."""


def _stop(*_: object) -> None:
    raise _TooLong


def _peak() -> int:
    """Megabytes that this process had at most since `_reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmHWM")


def _reset_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


@contextlib.contextmanager
def _bounds() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """What is logged meanwhile, which then goes nowhere else."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(self.format(record))

    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [Keep()]
    try:
        yield texts
    finally:
        root.handlers = handlers


def judge(
    call: Callable[[], Any],
    folder: Path,
    *,
    port: int = 0,
    documented: tuple[type[BaseException], ...] = (),
    secrets_in: tuple[str, ...] = (),
    outputs: Callable[[], list[Path]] = list,
) -> list[Finding]:
    """Run one case. call: what is tried; it may raise Lost, and gives what a user would see of the result.

    documented: exceptions beside UserError that the function says it raises
    secrets_in: more texts that may be shown nowhere; outputs: files that the case wrote
    """
    from fuzz import bait

    bait.CALLS.clear()
    findings: list[Finding] = []
    shown, error = io.StringIO(), None
    result: Any = None
    before = _reset_peak()
    with (
        _logged() as logged,
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(shown),
        _bounds(),
    ):
        warnings.simplefilter("always")
        WATCH.begin(folder, port)
        try:
            result = call()
        except (_TooLong, Exception, SystemExit, KeyboardInterrupt) as raised:
            error = raised
        finally:
            seen = WATCH.end()
    grown = _peak() - before
    findings += [Finding(CODE, kind, detail) for kind, detail in seen.items()]
    findings += [Finding(CODE, "a function that the input names was called", str(bait.CALLS))] * bool(bait.CALLS)
    if error is not None:
        findings += _of_error(error, documented)
    for text in (*(str(each.message) for each in warned), *logged):  # of a library, about what it has read
        shown.write(f"{text}\n")
        if _raw(text):
            findings.append(Finding(TRACEBACK, "control characters in a warning", repr(text)[:300]))
    if grown > MEGABYTES:
        findings.append(Finding(BOUNDS, f"too much{_where(error)}", f"{grown} MB"))
    said = "\n".join([shown.getvalue(), _printed(error), _told(result)])
    for file in outputs():
        with contextlib.suppress(OSError):
            said += file.read_bytes().decode(errors="replace")
    if any(secret in said for secret in (CANARY, *secrets_in)):
        at = next(said.find(secret) for secret in (CANARY, *secrets_in) if secret in said)
        findings.append(
            Finding(SECRET, "in a message" if error is not None else "in an output", said[max(0, at - 60) : at + 60])
        )
    if isinstance(error, MemoryError):
        gc.collect()
    return findings


def _printed(error: BaseException | None) -> str:
    """An error as the commands print it."""
    if isinstance(error, UserError):
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            complain(error)
        return printed.getvalue()
    return f"{error!s} {error!r}"


def _told(result: Any) -> str:
    try:
        return repr(result)
    except Exception as error:
        return repr(error)


def _of_error(error: BaseException, documented: tuple[type[BaseException], ...]) -> list[Finding]:
    if isinstance(error, Lost):
        return [Finding(COUNT, str(error.args[0]), str(error.args[1:]))]
    if isinstance(error, _TooLong):
        return [Finding(BOUNDS, f"too much{_where(error)}", f"more than {SECONDS} s")]
    if isinstance(error, UserError):
        if _raw(_printed(error)):
            return [Finding(TRACEBACK, f"control characters in a message{_where(error)}", repr(str(error))[:300])]
        return []
    if isinstance(error, (*documented, Stopped)):
        return []
    try:
        told = sentence(error, ROOT / "conf")  # what the commands make of it
    except Exception:
        told = None
    if told is not None:
        return []
    detail = " ".join(f"{error}".split())[:200]
    return [Finding(TRACEBACK, f"{type(error).__name__}{_where(error)}", detail)]


def _raw(text: str) -> bool:
    """Whether a terminal would take a letter of it for a command, or could not show it."""
    return any(
        (ord(letter) < 32 and letter not in "\n\t") or letter in "\x7f\x9b" or "\ud800" <= letter <= "\udfff"
        for letter in text
    )


def _where(error: BaseException | None) -> str:
    """The deepest frame of ours."""
    if error is None:
        return ""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/src/diptych/" in frame.filename]
    if not ours:
        return " in no frame of ours"
    module = ours[-1].filename.rpartition("/src/diptych/")[2].removesuffix(".py").replace("/", ".")
    return f" in {module}.{ours[-1].name}"
