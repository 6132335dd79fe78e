"""pipe:COMMAND: what a shell command prints. It runs whatever it says, so `Files` refuses it unless told to."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tempfile

from diptych.base.errors import UserError
from diptych.data.io.address import printable, shown


class Pipe(io.RawIOBase):
    """The bytes `start` to `stop` of a command's output. Raises UserError, with its last line, where it fails."""

    def __init__(self, path: str, start: int, stop: int | None) -> None:
        self.path, self.at, self.start, self.stop = path, 0, start, stop
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe could fill up and block the command)
        self.process = subprocess.Popen(
            path.removeprefix("pipe:"),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self.at < self.start:
            if not self._read(min(self.start - self.at, 2**18)):
                raise UserError(f"{shown(self.path)} ends at byte {self.at} where {self.start} was asked for.")
        data = self._read(len(buffer) if self.stop is None else min(len(buffer), self.stop - self.at))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, most: int) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read1(most) if most else b""  # type: ignore[attr-defined]
        self.at += len(data)
        if most and not data:
            self._ended()
        return data

    def _ended(self) -> None:
        """At the end of the output: an exit code says whether it is whole, `stop` whether it is enough."""
        code = self.process.wait()
        self.errors.seek(0)
        said = printable(" ".join(self.errors.read().decode(errors="replace").strip().splitlines()[-1:])[:200])
        if code:
            raise UserError(f"{shown(self.path)} failed with exit code {code} ({said}): mend the command.")
        if self.stop is not None:
            raise UserError(f"{shown(self.path)} ends at byte {self.at} where {self.stop} were asked for.")

    def close(self) -> None:
        if not self.closed:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process.wait()
            self.errors.close()
        super().close()
