"""stdout and stderr that never raise: if their reader ends, their disk is full or their encoding lacks a character,
the command continues."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TextIO

from diptych.base.masking import masked_overrides


def keep_output() -> None:
    """Replace stdout and stderr of this process by such streams. A closed one becomes the null device; otherwise the
    next opened file would get its number, and prints would go into that file."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        before: TextIO | None = getattr(sys, name)
        if before is None or (_number(before) == number and not isinstance(before, _Safe)):
            if before is not None:
                with contextlib.suppress(OSError):
                    before.flush()
            setattr(sys, name, _Safe(number, name, getattr(before, "encoding", None) or "utf-8"))


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


class _Safe(io.TextIOWrapper):
    """Text to a file descriptor. Characters that its encoding lacks are escaped; text that it refuses is dropped."""

    def __init__(self, number: int, name: str, encoding: str) -> None:
        buffer = io.BufferedWriter(_Descriptor(number, name))
        super().__init__(buffer, encoding, "backslashreplace", line_buffering=name == "stderr" or os.isatty(number))

    def write(self, text: str) -> int:
        """Masks passwords, also in other libraries' output, such as the overrides that Hydra prints."""
        return super().write(masked_overrides(text) if "=" in text or ":/" in text else text)


class _Descriptor(io.RawIOBase):
    def __init__(self, number: int, name: str) -> None:
        super().__init__()
        self.number, self.name, self.warned = number, name, False

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        while True:
            try:
                return os.write(self.number, data)
            except BlockingIOError:  # another program has made the terminal non-blocking
                select.select([], [self.number], [])
            except OSError as error:
                self._warn(error)
                return len(data)

    def _warn(self, error: OSError) -> None:
        if not self.warned and self.name == "stdout":
            self.warned = True
            print(f"diptych: can't print to stdout any more ({error.strerror}): continuing.", file=sys.stderr)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)
