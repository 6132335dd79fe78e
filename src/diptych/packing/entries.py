"""One row of a source: where its image and its captions are, and the sample that it becomes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.base.files import NotRegular, open_regular, read_regular
from diptych.data.stream.pairs import BadSample, captions_of, parse_json, texts
from diptych.packing.parquet import Cell

LARGEST = 1 << 30  # bytes of one image's file, as of one in a tar
OUTSIDE = "image path that leads out of source.root"
MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


class LeftOut(ValueError):
    """The row gives no sample; the message is a reason to count by."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Small, so that millions can be listed and sent to other processes: its image is not read yet.

    name: what the source calls it, kept in the sample's JSON as `source`
    image: the image's file, or a URL (which is refused), or its cell in a table
    captions: None if they are in files beside the image
    fields: what else the source says of it
    beside: those files: (txt or json, path)
    root: the folder of the paths that a cell may hold instead of bytes
    """

    name: str
    image: str | Cell
    captions: tuple[str, ...] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    beside: tuple[tuple[str, str], ...] = ()
    root: str = ""

    def sample(self, key: str) -> dict[str, str | bytes]:
        """The image's unchanged bytes under the extension of their format, the captions as lines of `txt`, and the
        rest as `json`. Raises LeftOut."""
        image = _read(self.image) if isinstance(self.image, str) else self._in_cell(self.image.read())
        captions, fields = self._beside() if self.captions is None else (self.captions, self.fields)
        lines = texts(" ".join(caption.split()) for caption in captions)
        try:
            text = "\n".join(lines).encode()
        except UnicodeEncodeError as error:  # surrogates stand for bytes that are not UTF-8
            raise LeftOut("caption is not UTF-8") from error
        if b"\0" in text:
            raise LeftOut("caption with a null byte")
        if not text:
            raise LeftOut("empty caption")
        extension = image_format(image)
        if extension is None:
            raise LeftOut("not an image")
        return {"__key__": key, extension: image, "txt": text, "json": _json({"source": self.name, **fields})}

    def _in_cell(self, value: Any) -> bytes:
        """value: bytes, or {bytes, path}, or None"""
        if isinstance(value, dict):
            path, value = value.get("path"), value.get("bytes")
            if value is None and path:
                file = path if "://" in path else inside(self.root, path)
                if file is None:
                    raise LeftOut(OUTSIDE)
                return _read(file)
        if value is None:
            raise LeftOut("no image in the row")
        if not value:
            raise LeftOut("image of zero bytes")
        return bytes(value)

    def _beside(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        """(captions, the other fields of the .json)"""
        if not self.beside:
            raise LeftOut("no caption")
        try:
            found: dict[str, Any] = {name: read_regular(file) for name, file in self.beside}
            fields = parse_json(found["json"]) if "json" in found else {}
            return captions_of(found), fields if isinstance(fields, dict) else {"json": fields}
        except BadSample as error:
            raise LeftOut(str(error)) from error
        except OSError as error:
            raise LeftOut("the caption's file can't be read") from error
        except ValueError as error:
            raise LeftOut("the .json beside the image is not readable") from error


def image_format(data: bytes) -> str | None:
    """The extension of an image's format, from its first bytes; None for a format that is not read here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    return next((extension for magic, extension in MAGIC.items() if data.startswith(magic)), None)


def inside(root: str, path: str) -> str | None:
    """A path, absolute or from `root` -> the file, or None if it is outside of `root`: a table from elsewhere must
    not name any file of this machine."""
    top = os.path.abspath(root)  # noqa: PTH100 (links are followed later, and `..` is resolved before)
    file = os.path.normpath(Path(top) / path)
    return file if file.startswith(top.rstrip(os.sep) + os.sep) else None


def _read(file: str) -> bytes:
    if "://" in file:
        raise LeftOut("image is a URL, which is not downloaded here")
    try:
        with open_regular(file) as opened:
            large = os.fstat(opened.fileno()).st_size > LARGEST
            data = b"" if large else opened.read()
    except NotRegular as error:
        raise LeftOut("image file is none, but a pipe, a device or a socket") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise LeftOut("image file is missing") from error
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
        raise LeftOut("image file can't be read") from error
    if large:
        raise LeftOut("image file of more than 1 GB")
    if not data:
        raise LeftOut("image of zero bytes")
    return data


def _json(fields: dict[str, Any]) -> bytes:
    """Values that JSON has no type for (a Parquet file's dates) become text. Text that is not UTF-8 is escaped."""
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=str).encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":"), default=str).encode()
