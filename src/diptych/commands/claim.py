"""The folder of a command: a new run gets a folder without a run, and one process at a time writes there.

The system frees the lock when its process ends, also by a kill: so a killed run never blocks its resume. The
leading process of a run holds it for all ranks.
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

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diptych.base.errors import UserError
from diptych.base.files import refusing
from diptych.base.terminal import complain, to_type

LOCK = ".lock"  # its content names the process that holds it, and what the process does
STARTED = ("config.yaml", "environment.txt", "vocabulary.txt", "checkpoints")  # written before the first step
OF_A_RUN = (*STARTED, "metrics.jsonl", "metrics.json", "samples.json", "report.html", "examples.json", "gallery.json")
TRAINS, EVALUATES = "trains", "evaluates"


def folder_of(cfg: DictConfig, key: str) -> tuple[Path, bool]:
    """The folder that `key` names, which this process can write to; and whether someone typed it. A job of a sweep
    gets its own folder inside."""
    hydra = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN and key != "resume"
    folder = Path(hydra.runtime.output_dir if in_sweep else cfg[key]).absolute()
    check_place(folder, key)
    return folder, any(typed.split("=", 1)[0].lstrip("+") == key for typed in hydra.overrides.task)


def check_place(folder: Path, key: str) -> None:
    """Raises UserError, with the reason, where the folder can't be made or written to. Nothing is made.

    key: the config key that names the folder
    """
    if not str(folder).isprintable():
        raise UserError(f"{key}={str(folder)!a} has characters that can't be printed: take another name.")
    if any(len(os.fsencode(part)) > 255 for part in folder.parts):
        raise UserError(f"{key}={folder} is too long: a folder's name has at most 255 bytes.")
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{key}={folder} can't be made: {place} is not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{key}={folder} can't be written: no permission in {place}. Take another folder.")


@contextmanager
def new_run(folder: Path, numbered: bool) -> Iterator[Path]:
    """A folder for a new run of this process. It is made if necessary.

    numbered: whether `-2`, `-3`, … may be added where the name is taken, since nobody typed it
    Raises UserError for a folder that has a run already, or in which another process trains.
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
                f"run_dir={folder} holds a run already ({there[0]}): to resume it, type"
                f" {to_type('resume', folder)}; for a new run take another run_dir."
            )


@contextmanager
def results(folder: Path, numbered: bool) -> Iterator[Path]:
    """A folder for the results of an evaluation by this process. A folder that someone typed may have other results:
    the new ones are written beside them, after waiting for a process that writes there.

    Raises UserError for a folder in which a process trains a run.
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
    """Make `folder`, or `folder`-2, -3, … if it exists."""
    for candidate in _names(folder, True):
        with refusing(candidate), suppress(FileExistsError):
            candidate.mkdir(parents=True)
            return candidate
    raise AssertionError("there is always a next number")


@contextmanager
def held(folder: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if necessary: no other process writes there.

    doing: shown to other processes; wait: wait for a process that evaluates, instead of raising
    Raises UserError, with the process that holds the lock.
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
            (folder / LOCK).unlink()  # before it is freed: a waiting process sees that it is another file
        file.close()
        with suppress(OSError):
            for place in (folder, *made):
                place.rmdir()  # where nothing was written


def _entered(folder: Path, wait: bool) -> IO[bytes]:
    """The folder's locked file. Another process may remove the empty folder between the two steps."""
    for _ in range(20):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return _locked(folder / LOCK, wait)
    folder.mkdir(parents=True, exist_ok=True)
    return _locked(folder / LOCK, wait)


def _no_link(path: str, flags: int) -> int:
    """The folder may come from anywhere, with a link as its lock file: the file behind the link would be emptied."""
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
                complain(f"waits, since {holder.who} writes into {path.parent}")
                told = True
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            complain(
                f"{path.parent} can't be locked ({error.strerror}): make sure that no other process writes there."
            )
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the process that held it has removed it


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
    """If the process ends by an error or a signal before its first result, the folder is free again."""
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
