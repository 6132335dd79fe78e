"""How a run ends early: exceptions with a message for the user at the terminal, and signals."""

import signal

# SLURM and submitit are usually set up to send SIGUSR1 or SIGUSR2 before a job's time is over.
TO_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do. Exit code 2, no
    traceback."""


class NotTaken(UserError):
    """A key that no component has. It is in a config file or on the command line: `boundary` knows where, and says
    how to leave it out.

    key: in the config; what: a sentence without its end; other: what else the user can do
    """

    def __init__(self, key: str, what: str, other: str = "") -> None:
        super().__init__(f"{what}: leave it out, ~{key}{other}.")
        self.key, self.what, self.other = key, what, other


class RankFailed(Exception):
    """An internal error on one of several ranks. The message is its traceback. Exit code 1."""


class Stopped(Exception):
    """A signal asked the run to stop, and it saved a checkpoint. Exit code 130 after Ctrl-C, else 75 (EX_TEMPFAIL,
    "try again later"), which tells a cluster's scripts that nothing is wrong and the run can be resumed.
    """

    CODES = (75, 128 + signal.SIGINT)

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        self.code = 128 + signal.SIGINT if signum == signal.SIGINT else 75
