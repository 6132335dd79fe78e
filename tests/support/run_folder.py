"""Reads a run's folder for tests: its numbers, its files, the output of a command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., "object"]

SMALL = (
    "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=cpu", "trainer.precision=32-true",
    "logger=none", "data=webdataset", "data.workers=0", "data.batch_size=16", "trainer.log_every=1",
    "trainer.checkpoint_every=2", "trainer.keep=9", "schedule=constant", "schedule.warmup=3",
)  # fmt: skip


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def kept(run: Path) -> dict[str, str]:
    """The digest of every file."""
    files = [file for file in run.rglob("*") if file.is_file()]
    assert files
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def refused(ended: object, *parts: str) -> None:
    assert ended.code == 2 and ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("diptych: ") and all(part in ended.err for part in parts), ended.err
