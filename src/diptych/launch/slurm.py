"""SLURM: a job that is to end before its run does comes back, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from diptych.base.errors import Stopped, UserError
from diptych.base.terminal import say


def started_again() -> bool:
    """Whether this job has run before: SLURM requeued it, or torchrun started its ranks again (--max-restarts).

    Raises UserError for a count that is none.
    """
    counts = {name: os.environ.get(name) or "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")}
    for name, count in counts.items():
        if not (count.isascii() and count.isdecimal()):
            raise UserError(f"{name}={count} in the environment is no whole number: type `unset {name}`.")
    return any(int(count) > 0 for count in counts.values())


def requeue(stopped: Stopped) -> None:
    """Put the job that this process is part of back into the queue, unless a person stopped it."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ.get("SLURM_JOB_ID")
    if job is None or stopped.signum == signal.SIGINT or "JobState=CANCELLED" in _scontrol("show", "job", job):
        return
    said = _scontrol("requeue", job)
    say(f"diptych: SLURM's job {job} is requeued{': ' + said if said else ''}.", file=sys.stderr)


def _scontrol(*arguments: str) -> str:
    try:
        ended = subprocess.run(["scontrol", *arguments], capture_output=True, text=True)
    except OSError as error:
        return f"scontrol can't be run ({error.strerror})"
    return " ".join((ended.stdout + ended.stderr).split())
