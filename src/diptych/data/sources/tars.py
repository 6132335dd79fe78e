"""Every file of a tar, also behind damage: where a header is broken, the next whole one is looked for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

BLOCK = 512
LARGEST = 1 << 30  # bytes of one file of a sample: a header that says more is taken for damage
ZEROS = bytes(BLOCK)
BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(frozen=True, slots=True)
class File:
    """begin: of its header; end: of its content, in whole blocks; data: None where the tar ends within"""

    name: str
    begin: int
    end: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Damage:
    """What is broken, up to where reading goes on."""

    reason: str
    end: int


def walk(path: str) -> Iterator[File | Damage]:
    """The regular files of a tar and what is broken, from front to back; holds one file at a time.

    A compressed tar is read up to its first damage. Raises OSError where the tar can't be opened.
    """
    with open(path, "rb") as raw:  # noqa: PTH123 (a plain handle, replaced where it is compressed)
        head = raw.read(6)
        raw.seek(0)
        opener = next((of for magic, of in OPENERS.items() if head.startswith(magic)), None)
        if opener is None:
            yield from _walk(raw, os.fstat(raw.fileno()).st_size)
        else:
            with opener(raw) as file:
                yield from _walk(file, None)


def _walk(file: BinaryIO, size: int | None) -> Iterator[File | Damage]:
    at: int | None = 0
    while at is not None:
        end = at
        for found in _files(file, at):
            end = found.end
            yield found
            if isinstance(found, File) and found.data is None:
                return
        try:
            damage, at = _stopped(file, end, size)
        except BROKEN as error:  # of a compressed tar
            damage, at = Damage(f"truncated or damaged ({str(error) or type(error).__name__})", end), None
        if damage:
            yield damage


def _files(file: BinaryIO, at: int) -> Iterator[File | Damage]:
    """Up to the end, the first header that can't be read, or the first file that is cut."""
    end = at
    with suppress(*BROKEN):
        file.seek(at)
        tar = tarfile.TarFile(fileobj=file)
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # it would keep all of them
            begin, end = end, member.offset_data
            if not member.isreg():
                continue
            end += -(-member.size // BLOCK) * BLOCK
            if member.size > LARGEST:
                yield Damage(f"{member.name} is said to have {member.size} bytes", end)
            else:
                yield File(member.name, begin, end, _content(file, member))


def _content(file: BinaryIO, member: tarfile.TarInfo) -> bytes | None:
    if file.tell() != member.offset_data:
        file.seek(member.offset_data)
    try:
        data = file.read(member.size)
    except BROKEN:
        return None
    return data if len(data) == member.size else None


def _stopped(file: BinaryIO, end: int, size: int | None) -> tuple[Damage | None, int | None]:
    """Why reading stopped at `end`, and where it may go on."""
    file.seek(end)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        return Damage("truncated: it has no end marker", end), None
    behind = _next_header(file, end + BLOCK)
    if block != ZEROS:
        if behind is None and end and size is not None and not _ends_empty(file, size):
            return Damage(f"truncated: nothing whole from byte {end} on, and no end marker", end), None
        return Damage(f"damaged header at byte {end}", end), behind
    if behind is not None:
        return Damage(f"empty block at byte {end}, where readers stop, before more files", end), behind
    if size is not None and size < end + 2 * BLOCK:
        return Damage("truncated: half of its end marker is missing", end), None
    return None, None


def _ends_empty(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - 2 * BLOCK))
    return file.read() == 2 * ZEROS


def _next_header(file: BinaryIO, at: int) -> int | None:
    file.seek(at)
    while len(block := file.read(BLOCK)) == BLOCK:
        if block != ZEROS:
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                return at
            except tarfile.TarError:
                pass
        at += BLOCK
    return None
