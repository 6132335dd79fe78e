"""The entries of a tar from front to back, also those behind damage and behind an end marker.

Headers are not trusted: how much a header makes us read, keep or expand is limited by the size of the tar itself.
Formats: POSIX.1-2001 (pax) and GNU's, with its four kinds of sparse files (GNU tar's manual, D.2). The standard
library's tarfile parses single header blocks here; its reader stops at damage, and has no such limits.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from webdataset.tariterators import base_plus_ext

BLOCK = 512
ZEROS = bytes(BLOCK)
LARGEST = 2**30  # bytes of one file, and of one sample: no image has more
MOST_HEADER = 2**20  # bytes of a header that extends another, such as a long name
MOST_HEADERS = 8  # such headers in a row
LONGEST_NAME = 4096  # bytes, as Linux's longest path
EXPANDS = 8  # a sparse file expands, in memory, to at most so many times its stored bytes
BEHIND = 64 * 2**20  # empty bytes behind an end marker after which the search for more files ends
BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset leaves out
_MORE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_KINDS = {tarfile.DIRTYPE: "folder", tarfile.LNKTYPE: "hard link", tarfile.SYMTYPE: "symbolic link"}
FOLDER = _KINDS[tarfile.DIRTYPE]
META = "webdataset's own file (__NAME__)"
MACOS = "macOS's own file (._NAME, .DS_Store or __MACOSX)"

Parts = tuple[tuple[int, int], ...]  # (place in the file, bytes) of each stored part of a sparse file


class Member(NamedTuple):
    """One entry. begin: where its first header begins; data: where its content of `size` bytes begins; end: where its
    last block ends.

    parts: of a sparse file, which is stored without its holes
    """

    name: str
    kind: bytes
    begin: int
    data: int
    end: int
    size: int
    parts: Parts | None = None


class Damage(NamedTuple):
    """Bytes that can't be read, from `begin` to `end`, where reading continues. lost: whether files may have been
    there"""

    reason: str
    begin: int
    end: int
    lost: bool = True


class Unreadable(ValueError):
    """The content of a file can't be read. The message is a reason under which samples are counted."""


def place(name: str, kind: bytes) -> tuple[str, str] | str:
    """An entry's (key, extension in lower case) according to webdataset, or why it is part of no sample."""
    if kind not in tarfile.REGULAR_TYPES:
        return _KINDS.get(kind, "neither a file nor a folder")
    if _META.match(name):
        return META
    last = name.rpartition("/")[2]
    if last.startswith(".") or "__MACOSX" in name:
        macos = last.startswith("._") or last == ".DS_Store" or "__MACOSX" in name.split("/")
        if macos or last.startswith("."):
            return MACOS if macos else "hidden file"
    if len(name) > LONGEST_NAME:
        return f"name of more than {LONGEST_NAME} characters"
    key, extension = base_plus_ext(name)
    return "name without an extension" if key is None else (key, extension.lower())


def members(file: Any, size: int | None, whole: bool = True) -> Iterator[Member | Damage]:
    """The entries of a tar, and its damage, without the files' contents.

    file: has `seek` and `read`, and need not seek backwards; size: its bytes; None if unknown beforehand
    whole: a whole tar, which must have an end marker; False for a piece of a tar
    The last entry may be a Member whose `end` is behind the end of the file: it is cut.
    """
    reader, at = _Reader(file), 0
    found: Member | Damage | None
    while at != size or whole:
        block = reader.at(at, BLOCK)
        if len(block) < BLOCK:
            yield Damage("truncated: it has no end marker", at, at + len(block))
            return
        if block == ZEROS:
            found, goes_on = _empty(reader, at, size if whole else None)
        else:
            found, goes_on = _entry(reader, at, size)
        if found is not None:
            yield found
        if goes_on is None:
            return
        at = goes_on


def content(file: Any, member: Member) -> bytes:
    """The content of a file. Raises Unreadable."""
    if member.size > LARGEST:
        raise Unreadable(f"file of more than {LARGEST} bytes in the tar")
    stored = member.size if member.parts is None else sum(length for _, length in member.parts)
    if member.size > EXPANDS * max(stored, BLOCK):
        raise Unreadable(f"sparse file that fills more than {EXPANDS} times its bytes in the tar")
    try:
        file.seek(member.data)
        data = file.read(stored)
    except BROKEN:
        data = b""
    if len(data) < stored:
        raise Unreadable("cut off in the tar")
    return data if member.parts is None else _expanded(data, member.size, member.parts)


def _expanded(data: bytes, size: int, parts: Parts) -> bytes:
    whole, at = bytearray(size), 0
    for begin, length in parts:
        whole[begin : begin + length] = data[at : at + length]
        at += length
    return bytes(whole)


class _Reader:
    """Reads at mostly increasing places. It keeps the last block, so that a stream need not seek back to it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.last = -1, b""

    def at(self, begin: int, length: int) -> bytes:
        """`length` bytes, fewer at the end of the file."""
        if self.last[0] == begin and length == BLOCK:
            return self.last[1]
        self.file.seek(begin)
        data = self.file.read(length)
        if length == BLOCK:
            self.last = begin, data
        return data

    def all(self, begin: int, length: int) -> bytes:
        if not 0 <= length <= MOST_HEADER:
            raise tarfile.HeaderError("a header with too many bytes")
        data = self.at(begin, length)
        if len(data) < length:
            raise tarfile.HeaderError("the tar ends within a header")
        return data


def _entry(reader: _Reader, at: int, size: int | None) -> tuple[Member | Damage, int | None]:
    """The entry whose headers begin at a byte, or the damage there; and where reading continues, or None."""
    why = f"damaged header at byte {at}"
    try:
        member = _member(reader, at)
        if size is None or member.end <= size:
            return member, member.end
        why = f"{why}, which gives {member.name} {member.size} bytes"
    except BROKEN:
        member = None
    behind = _next_header(reader, at + BLOCK)
    if behind is None and member is not None:
        return member, None
    if behind is None and at and size is not None and not _ends_empty(reader, size):
        return Damage(f"truncated: nothing whole from byte {at} on, and no end marker", at, size), None
    return Damage(why, at, behind if behind is not None else max(size or 0, at + BLOCK)), behind


def _empty(reader: _Reader, at: int, size: int | None) -> tuple[Damage | None, int | None]:
    """The meaning of an empty block: the end, the border of two joined tars, or a lost file."""
    end = at + BLOCK
    while (block := reader.at(end, BLOCK)) == ZEROS and end - at < BEHIND:
        end += BLOCK
    if block == ZEROS:
        return Damage(f"more than {BEHIND} empty bytes behind its end marker", at, end, lost=False), None
    if len(block) < BLOCK and not block.strip(b"\0"):
        half = size is not None and end + len(block) - at < 2 * BLOCK
        return (Damage("truncated: half of its end marker is missing", at, end) if half else None), None
    behind = end if _is_header(block) else _next_header(reader, end + BLOCK)
    if behind is not None:
        why = f"empty block at byte {at}, where readers stop, before more files"
        return Damage(why, at, behind, lost=behind != end or end - at < 2 * BLOCK), behind
    if end - at < 2 * BLOCK:
        return Damage(f"empty block at byte {at} before what is no header", at, max(size or 0, end)), None
    return Damage(f"bytes behind its end that are no tar, from byte {end} on", end, end, lost=False), None


def _member(reader: _Reader, begin: int) -> Member:
    """The entry whose headers begin at `begin`. Raises one of BROKEN for an invalid header."""
    at, name, records = begin, None, list[tuple[bytes, bytes]]()
    for _ in range(MOST_HEADERS):
        block = reader.all(at, BLOCK)
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        at += BLOCK
        if info.type not in _MORE:
            break
        body = reader.all(at, info.size)
        at += _blocks(info.size)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = body.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records = _records(body)
    else:
        raise tarfile.HeaderError("too many headers that extend others")
    if name is not None:
        info.name = name.rstrip("/") if info.isdir() else name
    said = dict(records)  # the last of two fields with one name counts, as in POSIX
    if b"path" in said:
        info.name = said[b"path"].decode("utf-8", "surrogateescape").rstrip("/")
    if b"size" in said:
        info.size = _number(said[b"size"])
    if info.size < 0:
        raise tarfile.HeaderError("a negative size")
    stored = info.size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
    if info.type == tarfile.GNUTYPE_SPARSE:
        return _old_sparse(reader, info, block, begin, at)
    if any(key.startswith(b"GNU.sparse.") for key in said):
        return _sparse(reader, info, records, begin, at)
    return Member(info.name, info.type, begin, at, at + _blocks(stored), stored)


def _records(body: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a pax header: lines of the form 'LENGTH KEY=VALUE'."""
    records, at = [], 0
    while at < len(body) and body[at]:
        digits = body[at : at + 8].partition(b" ")[0]
        end = at + _number(digits)
        key, equals, value = body[at + len(digits) + 1 : end].partition(b"=")
        if not equals or end > len(body) or body[end - 1 : end] != b"\n":
            raise tarfile.HeaderError("a damaged field")
        records.append((key, value[:-1]))
        at = end
    return records


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise tarfile.HeaderError("not a number")
    return int(digits)


def _octal(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's binary form, for numbers of more than 11 digits
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError as error:
        raise tarfile.HeaderError("not a number") from error


def _old_sparse(reader: _Reader, info: tarfile.TarInfo, block: bytes, begin: int, at: int) -> Member:
    """GNU's old format: places and lengths are in the header and in blocks behind it."""
    pairs, more, size = _pairs(block[386:482]), block[482], _octal(block[483:495])
    for _ in range(MOST_HEADER // BLOCK):
        if not more:
            break
        block = reader.all(at, BLOCK)
        at += BLOCK
        pairs, more = pairs + _pairs(block[:504]), block[504]
    return _with_holes(info, pairs, size, info.size, begin, at)


def _pairs(data: bytes) -> list[int]:
    fields = [data[place : place + 12] for place in range(0, len(data) - 11, 12)]
    return [_octal(field) for field in fields if field.strip(b"\0 ")]


def _sparse(
    reader: _Reader, info: tarfile.TarInfo, records: list[tuple[bytes, bytes]], begin: int, at: int
) -> Member:
    """The pax formats: places and lengths are in the header (0.0, 0.1) or before the content (1.0)."""
    said = dict(records)
    if b"GNU.sparse.name" in said:
        info.name = said[b"GNU.sparse.name"].decode("utf-8", "surrogateescape")
    if said.get(b"GNU.sparse.major") == b"1":
        size = _number(said.get(b"GNU.sparse.realsize", b""))
        pairs, length = _map(reader, at, info.size)
        return _with_holes(info, pairs, size, info.size - length, begin, at + length)
    size = _number(said.get(b"GNU.sparse.size", b""))
    if b"GNU.sparse.map" in said:
        pairs = [_number(digits) for digits in said[b"GNU.sparse.map"].split(b",") if digits]
    else:
        pairs = [_number(v) for k, v in records if k in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]
    return _with_holes(info, pairs, size, info.size, begin, at)


def _map(reader: _Reader, at: int, stored: int) -> tuple[list[int], int]:
    """The places and lengths before a file's content, one number per line, and their size in bytes."""
    data, wanted = b"", 1
    while data.count(b"\n") < wanted:
        if len(data) + BLOCK > min(stored, MOST_HEADER):
            raise tarfile.HeaderError("a sparse file whose map does not end")
        data += reader.all(at + len(data), BLOCK)
        if wanted == 1 and b"\n" in data:
            wanted += 2 * _number(data.partition(b"\n")[0])
    return [_number(digits) for digits in data.split(b"\n")[1:wanted]], len(data)


def _with_holes(info: tarfile.TarInfo, pairs: list[int], size: int, stored: int, begin: int, at: int) -> Member:
    parts = tuple(zip(pairs[::2], pairs[1::2], strict=False))
    last = 0
    for where, length in parts:
        if where < last or length < 0:
            raise tarfile.HeaderError("a sparse file whose parts are out of order")
        last = where + length
    if len(pairs) % 2 or last > size or sum(length for _, length in parts) > stored:
        raise tarfile.HeaderError("a sparse file whose parts don't fit")
    return Member(info.name, tarfile.REGTYPE, begin, at, at + _blocks(stored), size, parts)


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _next_header(reader: _Reader, at: int) -> int | None:
    while len(block := reader.at(at, BLOCK)) == BLOCK:
        if block != ZEROS and _is_header(block):
            return at
        at += BLOCK
    return None


def _ends_empty(reader: _Reader, size: int) -> bool:
    return reader.at(max(0, size - 2 * BLOCK), 2 * BLOCK) == 2 * ZEROS
