"""JPEGs that libjpeg warns about although no pixel is lost: the cause of the warning is removed, and nothing else.

No pixel is lost where the warning is about bytes between the header's segments, about a header field that no pixel
depends on, or about bytes between the last pixel and the end marker. Any other warning (an early end, a wrong code, a
restart marker out of order) means lost pixels.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import simplejpeg

_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_SCAN, _END, _JFIF, _PROFILE = 0xDA, 0xD9, 0xE0, 0xE2
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_OTHERS = {"unknown JFIF revision number": _JFIF, "bad ICC marker": _PROFILE, "Invalid SOS parameters": _SCAN}
MOST = 16  # warnings about one file that are removed
MORE = 200  # extra blocks that are tried
SCANS = 100  # encoders write a dozen; each costs a pass over all pixels


def too_many_scans(data: bytes) -> bool:
    """Whether the JPEG has more than SCANS scans. The first count, which is fast, includes what follows the end
    marker, such as a video."""
    if data.count(b"\xff\xda") <= SCANS:
        return False
    return sum(marker == _SCAN for _, marker, _ in _markers(data)) > SCANS


def without_oddities(data: bytes, warning: str) -> bytes | None:
    """The same bytes without what libjpeg warned about; None where pixels may be lost."""
    for _ in range(MOST):
        less = _without(data, warning)
        if less is None:
            return None
        data, warning = less, _warning(less) or ""
        if not warning:
            return data
    return None


def _without(data: bytes, warning: str) -> bytes | None:
    for words, marker in _OTHERS.items():
        if words in warning:
            return _patched(data, marker)
    match = _STRAY.search(warning)
    return _cut(data, int(match[1]), int(match[2], 16)) if match else None


def _cut(data: bytes, count: int, marker: int) -> bytes | None:
    """Without the `count` stray bytes, which precede the first such marker that has bytes before it."""
    scanned = False
    for at, found, gap in _markers(data):
        if found == marker and (gap or scanned):
            while data[at - 1] == 0xFF:
                at -= 1  # fill bytes before a marker
            less = data[: at - count] + data[at:]
            if not scanned:
                return less
            return less if marker == _END and _is_stray(data[at - count : at], less, at - count) else None
        scanned = scanned or found == _SCAN
    return None


def _is_stray(stray: bytes, data: bytes, end: int) -> bool:
    """Whether these bytes, found before the end marker, are not image data.

    After earlier damage an image's last blocks are left over, and look like any bytes. But they can be decoded as
    more of the image, up to their last bits. Also, an encoder fills its last byte with ones; where a decoder that
    lost its place stops, a zero follows in three of four cases.
    data, end: the JPEG without these bytes, and the place of its end marker
    """
    if len(stray) > 3 and len(set(stray)) == 1:
        return True
    mark = data[end:]
    for last in range(end, max(end - 16, 2), -1):  # the decoder reads some bytes ahead without counting them
        if "premature end" in (_warning(data[: last - 1] + mark) or ""):
            whole = _warning(data[:last] + mark) is None and _filled_up(data[:last], mark)
            return whole and not _goes_on(data[:end] + stray, mark)
    return False


def _goes_on(data: bytes, mark: bytes) -> bool:
    """Whether an image of some more blocks would end in the last of these bytes. mark: the end marker"""
    frame = _frame(data)
    if frame is None:  # progressive: the number of blocks doesn't tell where a scan ends
        return False
    height, width, parts = struct.unpack_from(">HHB", data, frame + 5)
    factors = [data[frame + 11 + 3 * part] for part in range(parts)] if parts > 1 else [0x11]
    wide, high = 8 * max(each >> 4 for each in factors), 8 * max(each & 15 for each in factors)
    blocks = -(-width // wide) * -(-height // high)
    sides = {blocks + more: _sides(blocks + more, 65500 // wide, 65500 // high) for more in range(1, MORE)}

    def taller(count: int) -> bytes:
        across, down = sides[count]
        return data[: frame + 5] + struct.pack(">HH", down * high, across * wide) + data[frame + 9 :]

    counts = [count for count in sides if sides[count] != (0, 0)]
    enough = bisect_left(counts, True, key=lambda count: "premature end" in (_warning(taller(count) + mark) or ""))
    if not 0 < enough < len(counts):
        return False
    last = taller(counts[enough - 1])  # the largest number of blocks for which these bytes suffice
    return "premature end" in (_warning(last[:-1] + mark) or "") and _filled_up(last, mark)


def _sides(count: int, widest: int, highest: int) -> tuple[int, int]:
    """Width and height, in blocks, of an image of so many blocks; 0, 0 if there is none."""
    return next(((n, count // n) for n in range(1, widest) if count % n == 0 and count // n < highest), (0, 0))


def _frame(data: bytes) -> int | None:
    """The place of the frame header of an image with a single scan; None for a progressive one."""
    return next((at for at, marker, _ in _markers(data) if marker in (0xC0, 0xC1)), None)


def _filled_up(data: bytes, mark: bytes) -> bool:
    """Whether all unused bits of the last byte are ones. mark: the end marker"""
    if data[-2:] == b"\xff\0":
        data = data[:-1]
    # Some of a progressive image's last bits hold such fine detail that they change no pixel.
    bits = 7 if _frame(data) else 1
    whole = simplejpeg.decode_jpeg(data + mark, strict=False)
    for bit in range(bits):
        changed = data[-1] ^ (1 << bit)
        other = data[:-1] + bytes([changed] if changed != 0xFF else [0xFF, 0]) + mark
        if _warning(other) or not np.array_equal(simplejpeg.decode_jpeg(other), whole):
            return True
        if changed & (1 << bit):
            return False
    return True


def _warning(data: bytes) -> str | None:
    """libjpeg's first warning or error; None for none. It decodes at an eighth of the size, to save time."""
    try:
        simplejpeg.decode_jpeg(data, min_height=1, min_width=1)
    except ValueError as error:
        return str(error)
    return None


def _patched(data: bytes, marker: int) -> bytes | None:
    """With all headers of that kind corrected or removed; None where that changes nothing."""
    parts, kept = list[bytes](), 0
    for at, found, _ in _markers(data):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if found != marker:
            continue
        if marker == _PROFILE:
            parts.append(data[kept:at])
            kept = end
        elif marker == _SCAN:
            parts += [data[kept : end - 3], bytes([0, 63, 0])]
            kept = end
        elif data[at + 4 : at + 9] == b"JFIF\0":
            parts += [data[kept : at + 9], b"\1"]
            kept = at + 10
    changed = b"".join([*parts, data[kept:]])
    return changed if changed != data else None


def _markers(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """(place of its 0xFF, marker, whether other bytes precede it) for each marker up to the end marker."""
    at, gap = 2, False
    while (at := data.find(b"\xff", start := at)) >= 0 and at + 1 < len(data):
        gap = gap or at > start
        marker = data[at + 1]
        if marker in (0, 0xFF):  # a stuffed byte, which is data, or a fill byte
            gap, at = gap or not marker, at + (1 if marker else 2)
            continue
        yield at, marker, gap
        if marker == _END:
            return
        at += 2 if marker in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        gap = False
