"""Text files that people write: class names, templates, phrases, captions, and JSON beside them.

They are UTF-8 whatever the machine's locale says, a byte order mark is no letter, and only "\\n" (or "\\r\\n") ends a
line: Python's `splitlines` also splits at U+2028, U+0085, \\x0b and others, which occur within names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.base.doubled import DoubledKey, loads
from diptych.base.errors import UserError
from diptych.base.regular import read_regular

LARGEST = 2**28  # bytes: the captions of all of COCO are a third of it
BOM = "\ufeff"


def split_lines(text: str) -> list[str]:
    """A text -> its lines, stripped, blank ones in their places. What ends the last line begins no other."""
    lines = text.removeprefix(BOM).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.strip() for line in lines]


def read_lines(path: str | Path) -> list[str]:
    """A file -> its lines as `split_lines` gives them. Raises UserError as `read_text` does, and for a file without
    a letter."""
    lines = split_lines(read_text(path))
    if not any(lines):
        raise UserError(f"{path} is empty: write one entry a line.")
    return lines


def read_entries(path: str | Path) -> list[str]:
    """As `read_lines`, without blank lines: for lists in which an entry's place says nothing."""
    return [line for line in read_lines(path) if line]


def read_text(path: str | Path) -> str:
    """A file's text. Raises UserError, with the file and the line, for one that is missing, no regular file, too
    large or not UTF-8."""
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"{path} is missing.")
        if not path.is_file():
            raise UserError(f"{path} is no regular file: a text file is needed there.")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} holds more than {LARGEST >> 20} MB: no list of names or captions is as large.")
        data = read_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(f"{path} can't be read ({_why(error)}): give a readable text file.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8."
        ) from error


def own(file: Path, folder: Path) -> Path:
    """`file`, which a dataset brings in `folder`. Raises UserError for a link to a file elsewhere, whose text would
    come into tables and pages. In Hugging Face's cache a snapshot's files are links to blobs beside it: its own.
    """
    try:
        target, place = file.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # a link to itself: reading it says so
        return file
    hub = next(
        (part.parent / "blobs" for part in (folder / "x").absolute().parents if part.name == "snapshots"), None
    )
    if target.is_relative_to(place) or (hub is not None and target.parent == hub.resolve()):
        return file
    raise UserError(f"{file} is a link to {target}, outside of {folder}: put a copy of the file in its place.")


def read_json(path: str | Path) -> dict[str, Any]:
    """A file's JSON object. Raises UserError as `read_text` does, and for what is not JSON or no object, has a key
    twice, or is nested or numbered beyond what Python reads."""
    return parse_json(read_text(path), path)


def parse_json(text: str | bytes, name: str | Path) -> dict[str, Any]:
    """As `read_json`, of a text; name: of the file or sample, for messages"""
    try:
        found = loads(text)
    except RecursionError as error:
        raise UserError(f"{name} is nested too deeply to be read: write a plain JSON object.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{name}, line {error.lineno}: it is not JSON ({error.msg}).") from error
    except DoubledKey as error:
        raise UserError(f"{name} has {error}: leave one of them out.") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{name} holds a number that can't be read ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{name} holds a {type(found).__name__}, not a JSON object {{…}}.")
    return found


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
