"""The one exception whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Something the user can mend: one sentence with what, where and what to do. Exit code 2, no traceback."""
