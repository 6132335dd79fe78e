"""The exceptions whose message is meant for the person at the terminal."""

import signal


class UserError(Exception):
    """Something the user can mend: one sentence with what, where and what to do. Exit code 2, no traceback."""


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
