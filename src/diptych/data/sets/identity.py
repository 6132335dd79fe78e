"""What an evaluation set is, so that a resume can tell whether its scores are still of the same pictures and labels.

No picture is read for it: a picture is its key and its length, or that of the file that it is in. One that was
changed in place, at the same length, goes unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.terminal import counted
from diptych.data.sets.evalset import EvalSet, Readable
from diptych.data.sets.pair_set import Place
from diptych.data.sets.parquet_set import Cell

Identity = dict[str, str]
PARTS = ("role", "number", "pictures", "labels", "captions", "classes", "templates")


def describe(sets: Sequence[EvalSet]) -> dict[str, Identity]:
    """Name -> plain data for a checkpoint: a digest of each thing that a score depends on beside the model."""
    return {each.name: _of(each) for each in sets}


def noted(found: Any) -> dict[str, Identity] | None:
    """What `describe` gave, from a checkpoint that may come from anywhere; None where it notes nothing. Raises
    UserError for anything else."""
    if found is None:
        return None
    whole = isinstance(found, dict) and all(
        isinstance(name, str)
        and isinstance(of, dict)
        and all(isinstance(of.get(part), str) for part in PARTS)
        and re.fullmatch("[0-9]{1,18}", of["number"])
        for name, of in found.items()
    )
    if not whole:
        raise UserError(
            "The checkpoint does not say as our runs do which sets it was validated on: put back the file that the"
            " run wrote, or start a new run from its weights with model.pretrained=PATH."
        )
    return found


def _of(evalset: EvalSet) -> Identity:
    size = cache(_size_of_file)

    def of(picture: bytes | Readable) -> int:
        return len(picture) if isinstance(picture, bytes) else size(_file(picture))

    captions = [] if evalset.classnames else [caption for *_, caption in evalset.items]  # read where no class is
    return {
        "role": evalset.role,
        "number": str(len(evalset)),
        "pictures": _digest(f"{of(picture)} {key}" for key, picture, _, _ in evalset.items),
        "labels": _digest(str(label) for _, _, label, _ in evalset.items),
        "captions": _digest(captions),
        "classes": _digest(evalset.classnames),
        "templates": _digest(evalset.templates),
    }


def _file(picture: Readable) -> str | int:
    """The file that a picture is in; of a shard, which may be anywhere, its length."""
    if isinstance(picture, Place):
        return picture.reader.index.shards[picture.shard].bytes
    return picture.file if isinstance(picture, Cell) else str(picture)


def _size_of_file(file: str | int) -> int:
    try:
        return file if isinstance(file, int) else Path(file).stat().st_size
    except OSError:  # it is said where the picture is read
        return 0


def _digest(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def changes(before: Mapping[str, Identity], now: Mapping[str, Identity]) -> list[str]:
    """What became of each set, as "NAME has other labels"; none where all are as they were."""
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        if name not in before:
            found.append(f"{name} is new")
        elif name not in now:
            found.append(f"{name} is not measured any more")
        elif said := _change(before[name], now[name]):
            found.append(f"{name} {said}")
    return found


def _change(before: Identity, now: Identity) -> str:
    parts = [f"the role {now['role']} in place of {before['role']}"] if before["role"] != now["role"] else []
    more = before["number"] != now["number"]
    if more:
        parts.append(f"{counted(int(now['number']), 'picture')} in place of {int(before['number']):,}")
    kinds = ("classes", "templates") if more else ("pictures", "labels", "captions", "classes", "templates")
    if others := [kind for kind in kinds if before[kind] != now[kind]]:
        parts.append(f"other {' and '.join(others)}")
    return f"has {' and '.join(parts)}" if parts else ""
