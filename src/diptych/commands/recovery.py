"""Which checkpoint a run goes on from: the newest that is whole."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.files import remove_partials
from diptych.base.terminal import say


def recover(run_dir: Path) -> Path | None:
    """`last.ckpt`, which names the newest whole checkpoint after this; None where the run never wrote one.

    Damaged files are said and moved aside (`step=N.ckpt.damaged`), unfinished ones are removed.
    Raises UserError, naming each, where there are checkpoints and none is whole.
    """
    from diptych.training.naming import give_name, step_checkpoints

    folder = run_dir / "checkpoints"
    last = folder / "last.ckpt"
    remove_partials(folder)
    files = step_checkpoints(folder)
    if last.exists() and not any(last.samefile(file) for file in files):
        files.append(last)
    damaged: dict[Path, str] = {}
    for file in files:
        reason = damage(file)
        if reason is None:
            _set_aside(damaged, f"the run goes on from {file.name}")
            if file != last:
                give_name(file, last)
            return last
        damaged[file] = reason
    if damaged:
        named = "; ".join(f"{file.name} ({reason})" for file, reason in damaged.items())
        raise UserError(f"resume={run_dir} can't go on, none of its checkpoints is whole: {named}.")
    return None


def damage(file: Path) -> str | None:
    """What is wrong with a checkpoint file, None where it is as it was written: by the digest it keeps, and without
    one by the checksums of torch's format, a zip. Of a folder, whether its description is there and can be read."""
    from diptych.interop.sharded import opened
    from diptych.training.writing import digest_of_sealed

    try:
        if file.is_dir():
            with opened(file):
                return None
        with zipfile.ZipFile(file) as archive:
            if archive.comment:
                whole = archive.comment == digest_of_sealed(file, len(archive.comment))
                return None if whole else "its digest does not fit"
            entry = archive.testzip()
    except Exception as error:  # whatever damaged bytes bring a reader of zip files to raise
        return str(error).rstrip(".") or type(error).__name__
    return None if entry is None else f"the checksum of {entry} does not fit"


def _set_aside(damaged: dict[Path, str], then: str) -> None:
    for file, reason in damaged.items():
        say(f"diptych: {file} is damaged ({reason}): {then}.", file=sys.stderr)
        best = file.with_name("best.ckpt")
        if best.exists() and best.samefile(file):
            best.unlink()
        file.replace(file.with_name(f"{file.name}.damaged"))
