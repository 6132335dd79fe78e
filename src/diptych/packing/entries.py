"""One row of a source: where its image and its text lie, and the sample of a shard that it becomes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.base.files import NotRegular, open_regular, read_regular
from diptych.data.stream.pairs import BadSample, captions_of, parse_json, texts
from diptych.packing.formats import image_format
from diptych.packing.parquet import Cell

LARGEST = 1 << 30  # bytes of one image's file, as of one in a tar
OUTSIDE = "image path that leads out of source.root"


class LeftOut(ValueError):
    """The row gives no sample; the message is a reason to count by."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Light enough to be listed by the million and sent to another process: no image is read yet.

    name: what the source calls it, kept in the sample's JSON as `source`
    image: the image's file, or an address that is none, or its place in a table that holds it
    captions: None where they are beside the image, in files of its name
    fields: what else the source says of it
    beside: those files: (txt or json, path)
    root: the folder of paths that a cell of a table may hold in the place of bytes
    """

    name: str
    image: str | Cell
    captions: tuple[str, ...] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    beside: tuple[tuple[str, str], ...] = ()
    root: str = ""

    def sample(self, key: str) -> dict[str, str | bytes]:
        """The image's bytes as they are, under the extension that they ask for, captions as lines of `txt`, and
        the rest as `json`. Raises LeftOut."""
        image = self._image()
        captions, fields = self._beside() if self.captions is None else (self.captions, self.fields)
        lines = texts(" ".join(caption.split()) for caption in captions)
        try:
            text = "\n".join(lines).encode()
        except UnicodeEncodeError as error:  # bytes that are no UTF-8 came in as surrogates
            raise LeftOut("caption is not UTF-8") from error
        if b"\0" in text:
            raise LeftOut("caption with a null byte")
        if not text:
            raise LeftOut("empty caption")
        extension = image_format(image)
        if extension is None:
            raise LeftOut("not an image")
        return {"__key__": key, extension: image, "txt": text, "json": _json({"source": self.name, **fields})}

    def _image(self) -> bytes:
        if isinstance(self.image, str):
            return _read(self.image)
        value = self.image.read()
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


def inside(root: str, path: str) -> str | None:
    """A path, relative to `root` or not -> the file, or None where it is outside of `root`: a table from elsewhere
    must not name any file of this machine."""
    top = os.path.abspath(root)  # noqa: PTH100 (links are followed later, and `..` is resolved before)
    file = os.path.normpath(Path(top) / path)
    return file if file.startswith(top.rstrip(os.sep) + os.sep) else None


def _read(file: str) -> bytes:
    if "://" in file:
        raise LeftOut("image is a URL, which is not downloaded here")
    try:
        with open_regular(file) as opened:
            if os.fstat(opened.fileno()).st_size > LARGEST:
                raise LeftOut("image file of more than 1 GB")
            data = opened.read()
    except NotRegular as error:
        raise LeftOut("image file is none, but a pipe, a device or a socket") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise LeftOut("image file is missing") from error
    except LeftOut:
        raise
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
        raise LeftOut("image file can't be read") from error
    if not data:
        raise LeftOut("image of zero bytes")
    return data


def _json(fields: dict[str, Any]) -> bytes:
    """Values that JSON doesn't know (dates of a Parquet file) as text; text that is no UTF-8 escaped."""
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=str).encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":"), default=str).encode()
