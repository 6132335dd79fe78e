"""A run's ranks: one process each, started here, by torchrun or by srun. If one fails, all end, and the first error
is shown once.

Only one process composes and checks the config. The others get its result.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from diptych.base.errors import TO_STOP, RankFailed, Stopped, UserError
from diptych.base.masking import masked_text
from diptych.base.terminal import complain, resume_command
from diptych.commands.stored import Config
from diptych.launch.output import keep_output
from diptych.launch.world import World, announce, announced, meet, outside, own_rank

NOTE = ".error"  # in the run's folder: the first error of any rank
LOST = 3  # exit code of a rank that waited in vain for another, or lost the connection to it
# What gloo, NCCL and the store say when another rank doesn't answer, and when it has ended.
SILENT = "timed out waiting|collective operation timeout|application timeout|wait timeout"
GONE = (
    "closed by peer|reset by peer|broken pipe|remote process exited|connection was likely closed|failed to recv"
    "|no route to host|network is unreachable|connection timed out"
)
PATIENCE = 10.0  # seconds that the others get after one rank has stopped on a signal, or has waited in vain
Handler = Callable[[int, FrameType | None], None]


def fit_on_all_ranks(config: Config, run_dir: Path, resume: bool) -> None:
    """Train a run in this process, as rank 0 of a launcher's ranks, or with ranks that are started here."""
    from diptych.commands.fit import fit

    ranks = config["trainer"]["devices"]
    if (world := outside()) is not None:
        lead(world, config, run_dir, resume)
    elif ranks > 1:
        launch(config, run_dir, ranks, resume)
    else:
        fit(config, run_dir, resume)


@contextmanager
def on_stop(handler: Handler) -> Iterator[None]:
    """Let `handler` handle the signals that ask a process to stop."""
    before = {signum: signal.signal(signum, handler) for signum in TO_STOP}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)


def launch(config: Config, run_dir: Path, ranks: int, resume: bool) -> None:
    """Train a run with `ranks` processes. Raises the first error of a rank, once, and Stopped."""
    (run_dir / NOTE).unlink(missing_ok=True)
    port, started = _free_port(), _Started()
    with on_stop(started.pass_on):
        for rank in range(ranks):
            if not started.received:
                started.processes.append(_start(config, run_dir, ranks, rank, port, resume))
        try:
            codes = _wait(started)
        finally:
            for process in started.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
    if started.interrupted:
        (run_dir / NOTE).unlink(missing_ok=True)
        raise Stopped("Ctrl-C again: ended at once; the steps after the last checkpoint are lost.", signal.SIGINT)
    _raise_first(run_dir, codes, started.received)


def _free_port() -> int:
    """A port at which the ranks can meet. Raises UserError where this machine can't connect to itself, which torch
    would try for minutes."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            socket.create_connection(probe.getsockname(), timeout=10).close()
        except OSError as error:
            raise UserError(
                f"The ranks meet at 127.0.0.1, and this machine can't connect to it ({error.strerror or error}): type"
                " `ip link set lo up` as root, or train in one process, trainer=cpu or trainer.devices=1."
            ) from error
        return probe.getsockname()[1]


def _start(config: Config, run_dir: Path, ranks: int, rank: int, port: int, resume: bool) -> subprocess.Popen:
    """The config goes through a pipe: it may have secrets, which a file or the process list would show."""
    threads = max(1, (os.cpu_count() or 1) // ranks)
    how = "resume" if resume else "new"
    process = subprocess.Popen(
        [sys.executable, "-m", "diptych.commands.rank", str(run_dir), how, str(os.getpid())],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "NODE_RANK": "0",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            # Multiprocessing's tracker cleans up after a killed rank, and would warn about it.
            "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"))),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        },
        process_group=0,  # a terminal's Ctrl-C reaches this process only, and is passed on: each rank gets it once
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # the rank has ended already: `_wait` sees its code
        process.stdin.write(json.dumps(config).encode())
    return process


class _Started:
    """The processes, the last signal that was passed on to them, and whether it was a second Ctrl-C."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        self.received = 0
        self.interrupted = False

    def pass_on(self, signum: int, frame: FrameType | None) -> None:
        self.interrupted = signum == signal.SIGINT and self.received == signal.SIGINT
        self.received = signum
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if self.interrupted else signum)


def _wait(started: _Started) -> list[int | None]:
    """The exit codes once all ranks have ended, or one has failed; None for a rank that still runs.

    After the first rank that stopped on a signal, or that waited in vain for another, the others have PATIENCE.
    """
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in started.processes]
        if all(code is not None for code in codes) or any(
            code not in (None, 0, LOST, *Stopped.CODES) for code in codes
        ):
            return codes
        if any(code in (LOST, *Stopped.CODES) for code in codes):
            deadline = min(deadline, time.monotonic() + PATIENCE)
        if time.monotonic() > deadline:
            return codes
        time.sleep(0.05)


def _raise_first(run_dir: Path, codes: list[int | None], received: int) -> None:
    """Raises the first error. The others follow from it: a rank fails when another one has ended."""
    note = read_note(run_dir)
    if note and note["user"]:
        raise UserError(note["text"])
    if stopped := _stopped(codes, received):
        raise stopped
    for rank, code in enumerate(codes):
        if code and code < 0:
            raise UserError(
                f"Rank {rank} was killed by {signal.Signals(-code).name}, and the others with it;"
                f" to continue, type {resume_command(run_dir)}"
            )
    if note and note["others"]:
        silent = [str(rank) for rank, code in enumerate(codes) if code is None]
        named = f": rank {' and '.join(silent)} did not answer" if silent else ""
        raise UserError(f"{note['text']}{named}; to continue, type {resume_command(run_dir)}")
    if note:
        raise RankFailed(f"rank {note['rank']} failed:\n{note['text'].rstrip()}")
    for rank, code in enumerate(codes):
        if code:  # pragma: no cover (a rank leaves a note, unless its disk is full)
            raise RankFailed(f"rank {rank} ended with code {code} and left no error.")


def _stopped(codes: list[int | None], received: int) -> Stopped | None:
    """If a signal ended the ranks: one that was passed on, or that only they got."""
    if not all(code in (None, 0, *Stopped.CODES, -received) for code in codes):
        return None
    saved = [code for code in codes if code in Stopped.CODES]
    if saved:  # rank 0 has printed it
        return Stopped("", received or (signal.SIGINT if 128 + signal.SIGINT in saved else signal.SIGTERM))
    if received and (any(codes) or not codes):
        return Stopped(f"{signal.Signals(received).name} before the first step.", received)
    return None


def leave_note(run_dir: Path, error: BaseException) -> bool:
    """Write this rank's error to the note, if it is the first of the run; and return whether it is."""
    from diptych.base.files import ROOT
    from diptych.commands.boundary import sentence

    others = of_others(error)
    cause = None if others else sentence(error, ROOT / "conf")
    text = str(cause) if cause else others or "".join(traceback.format_exception(error))
    note = {
        "rank": own_rank(),
        "user": cause is not None,
        "others": others is not None,
        "text": masked_text(text),
    }
    try:
        with (run_dir / NOTE).open("x", encoding="utf-8") as file:
            json.dump(note, file)
    except FileExistsError:
        return False
    except OSError:  # a full disk
        complain(text.rstrip())
    return True


def of_others(error: BaseException) -> str | None:
    """A sentence for a collective's error when another rank doesn't answer or has ended; None for other errors."""
    text, rank = str(error), own_rank()
    if not isinstance(error, RuntimeError):
        return None
    if re.search(SILENT, text, re.IGNORECASE):
        return f"Rank {rank} waited for the others longer than trainer.timeout allows"
    if re.search(GONE, text, re.IGNORECASE):
        return f"Rank {rank} lost its connection to another rank, which has ended"
    return None


def read_note(run_dir: Path) -> dict[str, Any] | None:
    """Read and remove the note with the first error."""
    file = run_dir / NOTE
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # cut by a full disk: the rank has printed its error
        return None
    finally:
        file.unlink()


def end_rank(config: Config, run_dir: Path, resume: bool) -> NoReturn:
    """Train as one rank of several, and end the process. Its exit code says how it ended."""
    try:
        code = _train(config, run_dir, resume)
        if code in Stopped.CODES:
            gc.collect()  # ends the loader's workers; otherwise multiprocessing warns about what they leave
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not sys.exit: a destructor would wait for ranks that have ended


def _train(config: Config, run_dir: Path, resume: bool) -> int:
    from diptych.base.files import ROOT
    from diptych.commands.boundary import sentence
    from diptych.commands.fit import fit

    shows_errors = outside() is not None  # our own launcher reads the note
    try:
        fit(config, run_dir, resume)
    except Stopped as stopped:
        if own_rank() == 0:
            complain(stopped)
        return stopped.code
    except Exception as error:
        if leave_note(run_dir, error) and shows_errors:
            said = (
                of_others(error) or f"rank {own_rank()}: {sentence(error, ROOT / 'conf') or traceback.format_exc()}"
            )
            complain(said.rstrip())
        return LOST if of_others(error) else 2
    return 0


def follow() -> NoReturn:
    """As a rank above 0 of torchrun or srun: wait until rank 0 names the run, and train it."""
    world = outside()
    assert world is not None
    try:
        run = announced(meet(world))
    except UserError as error:
        complain(error)
        sys.exit(2)
    if run is None:
        sys.exit(2)  # rank 0 has printed why
    end_rank(*run)


def lead(world: World, config: Config, run_dir: Path, resume: bool) -> None:
    """As rank 0 of torchrun or srun: name the run to the others, and train it. Raises its own error if it was the
    first."""
    import torch.distributed as dist

    from diptych.commands.fit import fit

    (run_dir / NOTE).unlink(missing_ok=True)
    announce(meet(world), config, run_dir, resume)
    try:
        fit(config, run_dir, resume)
    except Exception as error:
        if not isinstance(error, Stopped) and not leave_note(run_dir, error):
            os._exit(2)  # another rank has printed the error that this one follows from
        if others := of_others(error):
            raise UserError(f"{others}; to continue, type {resume_command(run_dir)}") from error
        raise
    dist.destroy_process_group()


def _die_with_parent(parent: int) -> None:
    """On Linux, end this process when its launcher is killed."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    _die_with_parent(int(sys.argv[3]))
    keep_output()
    end_rank(json.load(sys.stdin), Path(sys.argv[1]), sys.argv[2] == "resume")
