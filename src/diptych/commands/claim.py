"""Whose folder it is: a new run begins in a folder that holds none, and one process at a time writes there.

The lock is the system's: it goes with its process, however that ends, so a killed run never blocks its resume. The
process that leads a run holds it for all of the run's ranks.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from diptych.base.errors import UserError
from diptych.base.files import refusing
from diptych.base.terminal import complain, to_type

LOCK = ".lock"  # its content names the process that holds it, and what that does
STARTED = ("config.yaml", "environment.txt", "vocabulary.txt", "checkpoints")  # what the start of a run writes
OF_A_RUN = (*STARTED, "metrics.jsonl", "metrics.json", "samples.json", "report.html", "examples.json", "gallery.json")
TRAINS, EVALUATES = "trains", "evaluates"


def check_place(folder: Path, key: str) -> None:
    """That the folder can be made, or written to where it is there. Nothing is made. key: what named it

    Raises UserError, with what stands in the way.
    """
    if not str(folder).isprintable():
        raise UserError(f"{key}={str(folder)!a} holds characters that can't be printed: take another name.")
    if any(len(os.fsencode(part)) > 255 for part in folder.parts):
        raise UserError(f"{key}={folder} is too long: a folder's name has at most 255 bytes.")
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{key}={folder} can't be made: {place} is there and is no folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{key}={folder} can't be written: {place} gives no right to. Take another folder.")


@contextmanager
def new_run(folder: Path, numbered: bool) -> Iterator[Path]:
    """A folder for a new run, made where it isn't there, for this process alone.

    numbered: whether nobody typed it, so that `-2`, `-3`, … may be added where it is taken
    Raises UserError for one that holds a run already, or that another process trains in.
    """
    for candidate in _names(folder, numbered):
        try:
            with held(candidate, TRAINS):
                there = [name for name in OF_A_RUN if os.path.lexists(candidate / name)]
                if not there:
                    yield from _cleared(candidate)
                    return
        except _Held:
            if numbered:
                continue
            raise
        if not numbered:
            raise UserError(
                f"run_dir={folder} holds a run already ({there[0]}): to go on with it, type"
                f" {to_type('resume', folder)}; for a new run take another run_dir."
            )


@contextmanager
def results(folder: Path, numbered: bool) -> Iterator[Path]:
    """A folder for an evaluation's results, for this process alone. One that was typed may hold others' already:
    results come beside them, and this waits for a process that writes them.

    Raises UserError for a folder in which a run is being trained.
    """
    for candidate in _names(folder, numbered):
        try:
            with held(candidate, EVALUATES, wait=not numbered):
                fresh = [file.name for file in candidate.iterdir()] == [LOCK]
                if not numbered or fresh:
                    yield from _cleared(candidate) if fresh else (candidate,)
                    return
        except _Held:
            if not numbered:
                raise


def numbered_folder(folder: Path) -> Path:
    """Make `folder`, or `folder`-2, -3, … where that is there."""
    for candidate in _names(folder, True):
        with refusing(candidate), suppress(FileExistsError):
            candidate.mkdir(parents=True)
            return candidate
    raise AssertionError("there is always a next number")


@contextmanager
def held(folder: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Within, no other process writes into `folder`, which is made where it isn't there.

    doing: what others are told; wait: for a process that evaluates, instead of an error
    Raises UserError, naming the process that holds it.
    """
    made = [place for place in folder.parents if not place.exists()]
    with refusing(folder):
        file = _entered(folder, wait)
    try:
        with suppress(OSError):
            file.truncate(0)
            file.write(f"{doing} {os.getpid()} {socket.gethostname()}\n".encode())
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # before it is let go: whoever waits for it sees that it is another one
        file.close()
        with suppress(OSError):
            for place in (folder, *made):
                place.rmdir()  # where nothing was written


def _entered(folder: Path, wait: bool) -> IO[bytes]:
    """The lock of a folder that is made where it isn't there. Another process may remove it, empty, in between."""
    for _ in range(20):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return _locked(folder / LOCK, wait)
    folder.mkdir(parents=True, exist_ok=True)
    return _locked(folder / LOCK, wait)


def _no_link(path: str, flags: int) -> int:
    """A folder from elsewhere could bring a link in the lock's place, and what it names would be emptied."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def _locked(path: Path, wait: bool) -> IO[bytes]:
    """The lock file, opened and locked for this process."""
    told = False
    while True:
        file = open(path, "ab+", buffering=0, opener=_no_link)  # noqa: SIM115 (the caller closes it)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _Held(path.parent, file)
            if not wait or holder.trains:
                file.close()
                raise holder from None
            if not told:
                complain(f"waits, as {holder.who} writes into {path.parent}")
                told = True
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            complain(
                f"{path.parent} can't be locked ({error.strerror}): see to it that no second process writes there."
            )
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder has ended, and removed it


class _Held(UserError):
    def __init__(self, folder: Path, file: IO[bytes]) -> None:
        file.seek(0)
        doing, pid, host = [*file.read(300).decode(errors="replace").split(), "", "", ""][:3]
        self.trains = doing == TRAINS
        self.who = f"process {pid} on {host}" if pid.isdecimal() and host.isprintable() else "another process"
        super().__init__(
            f"{folder} is in use: {self.who} {'trains' if self.trains else 'writes results'} there. Wait until it has"
            " ended, or take another folder."
        )


def _names(folder: Path, numbered: bool) -> Iterator[Path]:
    yield folder
    if numbered:
        yield from (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))


def _cleared(folder: Path) -> Iterator[Path]:
    """Where a mistake or a signal ends what writes here before it has done anything, the folder is free again."""
    try:
        yield folder
    except BaseException:
        if {file.name for file in folder.iterdir()} <= {LOCK, *STARTED}:
            with suppress(OSError):
                if (folder / "checkpoints").is_dir():
                    (folder / "checkpoints").rmdir()
                for name in STARTED:
                    (folder / name).unlink(missing_ok=True)
        raise
