"""What an area of the fuzzer is: a function from a seed to one trial. `run` judges it."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz.mutate import SECRET_FILE
from fuzz.oracles import CANARY, Finding, judge


@dataclass
class Trial:
    """call: what is tried, gives what a user would see of it; the rest as in `oracles.judge`"""

    call: Callable[[], Any]
    documented: tuple[type[BaseException], ...] = ()
    secrets_in: tuple[str, ...] = ()
    port: int = 0
    outputs: Callable[[], list[Path]] = list


Make = Callable[[Random, Path], Trial]


@dataclass
class Area:
    """make: draws a trial whose files are in the folder; cases: how many the long run has"""

    name: str
    make: Make
    cases: int


@dataclass
class Found:
    """A finding, and the case that shows it."""

    area: str
    number: int
    finding: Finding
    command: str = field(init=False)

    def __post_init__(self) -> None:
        self.command = f"python tests/fuzz/report.py {self.area}:{self.number}"

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.area, self.finding.oracle, self.finding.kind


def random(area: str, number: int) -> Random:
    """Of one case, whatever ran before it."""
    return Random(zlib.crc32(f"{area}:{number}".encode()))


def run(area: Area, number: int, root: Path | None = None) -> list[Found]:
    """Make one case in a folder of its own, judge it, remove it."""
    outer = Path(tempfile.mkdtemp(prefix="fuzz-", dir=root))
    try:
        (outer / SECRET_FILE).write_text(f"{CANARY}\n")
        folder = outer / "case"
        folder.mkdir()
        trial = area.make(random(area.name, number), folder)
        findings = judge(
            trial.call,
            folder,
            port=trial.port,
            documented=trial.documented,
            secrets_in=trial.secrets_in,
            outputs=trial.outputs,
        )
    finally:
        shutil.rmtree(outer, ignore_errors=True)
    return [Found(area.name, number, finding) for finding in findings]


def run_all(area: Area, numbers: range, root: Path | None = None) -> Iterator[Found]:
    for number in numbers:
        yield from run(area, number, root)


def secret_of(folder: Path) -> str:
    """The file outside the case's folder that no input may bring to light."""
    return str(folder.parent / SECRET_FILE)
