"""Output that lasts: its reader may go, its disk may be full, its encoding may lack a sign; the command goes on."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TextIO

from diptych.base.masking import masked_overrides


def keep_output() -> None:
    """Make stdout and stderr of this process ones that never raise. A closed one becomes the null device, since the
    next file to be opened would take its number, and what is printed would get into that file."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        before: TextIO | None = getattr(sys, name)
        if before is None or (_number(before) == number and not isinstance(before, _Lasting)):
            if before is not None:
                with contextlib.suppress(OSError):
                    before.flush()
            setattr(sys, name, _Lasting(number, name, getattr(before, "encoding", None) or "utf-8"))


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


class _Lasting(io.TextIOWrapper):
    """Text to a file descriptor; signs that its encoding lacks are escaped, what it refuses is dropped."""

    def __init__(self, number: int, name: str, encoding: str) -> None:
        buffer = io.BufferedWriter(_Descriptor(number, name))
        super().__init__(buffer, encoding, "backslashreplace", line_buffering=name == "stderr" or os.isatty(number))

    def write(self, text: str) -> int:
        """Also what others print, such as Hydra the overrides of a job, has no passwords."""
        return super().write(masked_overrides(text) if "=" in text or "://" in text else text)


class _Descriptor(io.RawIOBase):
    def __init__(self, number: int, name: str) -> None:
        super().__init__()
        self.number, self.name, self.said = number, name, False

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        while True:
            try:
                return os.write(self.number, data)
            except BlockingIOError:  # a terminal that another program has set so
                select.select([], [self.number], [])
            except OSError as error:
                self._say(error)
                return len(data)

    def _say(self, error: OSError) -> None:
        if not self.said and self.name == "stdout":
            self.said = True
            print(f"diptych: nothing more can be printed to stdout ({error.strerror}): going on.", file=sys.stderr)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)
