"""Start one process a rank on this machine, and end them all when one ends badly.

The ranks read the run's own `config.yaml`; none composes a config again, so a sweep can't start another.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

from diptych.errors import UserError


def launch(run_dir: Path, ranks: int, resume: bool) -> None:
    """Train the run in `run_dir` with `ranks` processes. Raises the first failing rank's error, once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // ranks)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "diptych.ranks", str(run_dir), "resume" if resume else "new"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "NODE_RANK": "0",
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            },
        )
        for rank in range(ranks)
    ]
    try:
        _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    # A rank whose peer has gone fails too, with an error that explains nothing: a user's mistake comes first.
    notes = {rank: _note(run_dir, rank) for rank, process in enumerate(processes) if process.returncode > 0}
    errors = {rank: note.read_text().partition("\n") for rank, note in notes.items() if note.exists()}
    for kind, _, text in errors.values():
        if kind == "UserError":
            raise UserError(text)
    for rank, (_, _, text) in errors.items():
        raise RuntimeError(f"rank {rank} failed:\n{text}")
    for rank, process in enumerate(processes):
        if process.returncode:
            raise RuntimeError(f"rank {rank} ended with code {process.returncode} and left no error.")


def _wait(processes: list[subprocess.Popen]) -> None:
    """Until all have ended well or one has not."""
    while True:
        codes = [process.poll() for process in processes]
        if any(codes) or all(code == 0 for code in codes):
            return
        time.sleep(0.1)


def _note(run_dir: Path, rank: int) -> Path:
    return run_dir / f".rank{rank}.error"


def _die_with_parent() -> None:
    """Linux: a killed launcher leaves no orphans."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _child(run_dir: Path, resume: bool) -> int:
    from diptych.run import fit, user_error

    _die_with_parent()
    note = _note(run_dir, int(os.environ["LOCAL_RANK"]))
    note.unlink(missing_ok=True)
    try:
        fit(run_dir, resume)
    except BaseException as error:
        kind, text = "error", traceback.format_exc()
        if (cause := user_error(error)) is not None:
            kind, text = "UserError", str(cause)
        note.write_text(f"{kind}\n{text}")
        return 2
    return 0


if __name__ == "__main__":
    code = _child(Path(sys.argv[1]), sys.argv[2] == "resume")
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: a rank whose peers are gone would wait for them in a destructor
