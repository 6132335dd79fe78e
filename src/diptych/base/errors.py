"""How a run ends before its time: exceptions whose message is meant for the person at the terminal, and signals."""

import signal

# SIGUSR1 and SIGUSR2 are what SLURM and submitit are usually told to send before a job's time is over.
TO_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class UserError(Exception):
    """Something the user can mend: one sentence with what, where and what to do. Exit code 2, no traceback."""


class NotTaken(UserError):
    """A key that nothing takes, which may stand in a config's file or on the command line: `boundary` knows, and says
    how to leave it out.

    key: in the config; what: a sentence without its end; other: another way than to leave it out
    """

    def __init__(self, key: str, what: str, other: str = "") -> None:
        super().__init__(f"{what}: leave it out, ~{key}{other}.")
        self.key, self.what, self.other = key, what, other


class RankFailed(Exception):
    """A fault of ours on one rank of several, whose traceback is the message. Exit code 1."""


class Stopped(Exception):
    """The run was asked to stop by a signal, and has saved. Exit code 130 after Ctrl-C, else 75: "try again later"
    (EX_TEMPFAIL), which says to a cluster's scripts that nothing is wrong and the run can go on.
    """

    CODES = (75, 128 + signal.SIGINT)

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        self.code = 128 + signal.SIGINT if signum == signal.SIGINT else 75
