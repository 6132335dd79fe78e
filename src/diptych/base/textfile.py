"""Text files that people write: class names, templates, phrases, captions, and JSON beside them.

They are UTF-8 whatever the locale of the machine is. A byte order mark is not part of the text. Only "\\n" (or
"\\r\\n") ends a line: Python's `splitlines` also splits at U+2028, U+0085, \\x0b and others, which occur in names.

A JSON object (or a YAML mapping, see `plain`) with the same key twice is refused: parsers keep the second value, so
the first would be lost without a word. (A field that occurs twice in a tar's extended header is another case: POSIX
says that the last one counts.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import read_regular

LARGEST = 2**28  # bytes: the captions of all of COCO have a third of it
BOM = "\ufeff"


class DoubledKey(ValueError):
    """A key occurs twice in one object. The message is a phrase that names the key."""

    def __init__(self, key: Any) -> None:
        super().__init__(f"the key {key!r} twice in one object")


def put(found: dict[Any, Any], key: Any, value: Any) -> None:
    """Add one entry. Raises DoubledKey."""
    if key in found:
        raise DoubledKey(key)
    found[key] = value


def loads(text: str | bytes) -> Any:
    """Like `json.loads`. Raises DoubledKey, which is a ValueError as its other errors are."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        put(found, key, value)
    return found


def split_lines(text: str) -> list[str]:
    """The lines of a text, stripped; blank lines stay. A newline at the end doesn't begin another line."""
    lines = text.removeprefix(BOM).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.strip() for line in lines]


def read_lines(path: str | Path) -> list[str]:
    """The lines of a file, see `split_lines`. Raises UserError as `read_text` does, and for a file that is blank."""
    lines = split_lines(read_text(path))
    if not any(lines):
        raise UserError(f"{path} is empty: write one entry per line.")
    return lines


def read_entries(path: str | Path) -> list[str]:
    """Like `read_lines`, without blank lines: for lists in which the position of an entry means nothing."""
    return [line for line in read_lines(path) if line]


def read_text(path: str | Path) -> str:
    """A file's text. Raises UserError, with file and line, for one that is missing, not a regular file, too large or
    not UTF-8."""
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"{path} is missing.")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file: give a text file.")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST >> 20} MB: no list of names or captions is as large.")
        data = read_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} can't be read ({why}): give a readable text file.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8."
        ) from error


def own(file: Path, folder: Path) -> Path:
    """`file`, which belongs to the dataset in `folder`. Raises UserError for a link to a file elsewhere, whose text
    would get into tables and pages. In Hugging Face's cache the files of a snapshot are links to blobs beside it;
    these are allowed."""
    try:
        target, place = file.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # a link to itself: reading it reports that
        return file
    hub = next(
        (part.parent / "blobs" for part in (folder / "x").absolute().parents if part.name == "snapshots"), None
    )
    if target.is_relative_to(place) or (hub is not None and target.parent == hub.resolve()):
        return file
    raise UserError(f"{file} is a link to {target}, outside of {folder}: put a copy of the file in its place.")


def read_json(path: str | Path) -> dict[str, Any]:
    """A file's JSON object. Raises UserError as `read_text` does, and for what is not JSON, is not an object, has a
    key twice, or has nesting or numbers that Python can't read."""
    return parse_json(read_text(path), path)


def parse_json(text: str | bytes, name: str | Path) -> dict[str, Any]:
    """Like `read_json`, for a text. name: of the file or sample, for messages"""
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
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{name} holds a number that can't be read ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{name} holds a {type(found).__name__}, not a JSON object {{…}}.")
    return found
