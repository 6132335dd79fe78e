"""The files that a test checks. A pattern without files fails: the test would check nothing."""

from __future__ import annotations

from pathlib import Path


def found(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern, sorted; at least one."""
    files = sorted(folder.glob(pattern))
    assert files, f"{folder} holds no {pattern}"
    return files
