"""Which run someone meant who named a folder that is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from diptych.base.quoting import to_type

SHOWN = 3
LIKE = 0.7  # of two names that one could take for each other
CONFIGS = ("*/config.yaml", "*/*/config.yaml", "*/*/*/config.yaml")  # below runs/: of runs, and of a sweep's jobs


def meant(key: str, path: Path) -> str:
    """The runs of this folder's runs/ that `path` is like, or that lie in it, the newest first, as one types them:
    "did you mean KEY=… or KEY=…?". Without any, what to give."""
    near = list(_near(path))[:SHOWN]
    if not near:
        return "give a run's folder." if key == "resume" else "give a run's folder or a checkpoint file."
    return f"did you mean {' or '.join(to_type(key, run) for run in near)}?"


def _near(path: Path) -> Iterator[Path]:
    files = [file for pattern in CONFIGS for file in Path("runs").glob(pattern)]
    there = sorted((file.parent for file in files), key=os.path.getmtime, reverse=True)
    wanted = Path(os.path.relpath(path)).parts
    scores = {run: max(_likeness(wanted, run), run.is_relative_to(os.path.relpath(path))) for run in there}
    yield from (run for run in sorted(there, key=lambda run: -scores[run]) if scores[run] >= LIKE)


def _likeness(wanted: tuple[str, ...], run: Path) -> float:
    """Of the path with the run's, or of its last name with one of the run's."""
    pairs = [("/".join(wanted), run.as_posix()), *((wanted[-1], name) for name in run.parts[1:])]
    return max(SequenceMatcher(None, one.lower(), other.lower()).ratio() for one, other in pairs)
