"""Every entry of a tar with its content, also behind damage: reading goes on at the next whole header."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from diptych.base.files import open_regular
from diptych.data.stream.headers import opener
from diptych.data.stream.tar import BROKEN, Damage, Member, Unreadable, content, members


@dataclass(frozen=True, slots=True)
class File:
    """An entry of a tar, and what it holds. data: None where it can't be read; why: the reason"""

    member: Member
    data: bytes | None
    why: str = ""


def walk(path: str) -> Iterator[File | Damage]:
    """The entries of a tar and what is broken, from front to back; holds one file at a time.

    A compressed tar is read up to where it can't be unpacked. Raises OSError where the tar can't be opened.
    """
    with open_regular(path) as raw:
        unpack = opener(raw)
        with nullcontext(raw) if unpack is None else unpack(raw) as file:
            yield from _walk(file, os.fstat(raw.fileno()).st_size if unpack is None else None)


def _walk(file: Any, size: int | None) -> Iterator[File | Damage]:
    end = 0
    try:
        for found in members(file, size):
            end = found.end
            read = found if isinstance(found, Damage) else _read(file, found)
            yield read
            if isinstance(read, File) and read.data is not None and size is not None and end > size:
                yield Damage("truncated: it has no end marker", size, size)  # within the padding of a whole file
    except BROKEN as error:  # of a compressed tar
        yield Damage(f"truncated or damaged ({str(error) or type(error).__name__})", end, end)


def _read(file: Any, member: Member) -> File:
    try:
        return File(member, content(file, member))
    except Unreadable as error:
        return File(member, None, str(error))
