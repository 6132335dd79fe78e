"""One row of a source: where its image and its text lie, and the sample of a shard that it becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.captions import BadSample, captions_of, parse_json, texts
from diptych.data.sources.formats import image_format


class LeftOut(ValueError):
    """The row gives no sample; the message is a reason to count by."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Light enough to be listed by the million and sent to another process: no image is read yet.

    name: what the source calls it, kept in the sample's JSON as `source`
    image: the image's file, or an address that is none
    captions: None where they lie beside the image, in files of its name ending in .txt or .json
    fields: what else the source says of it
    """

    name: str
    image: str
    captions: tuple[str, ...] | None = None
    fields: dict[str, Any] = field(default_factory=dict)

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
        if not text:
            raise LeftOut("empty caption")
        extension = image_format(image)
        if extension is None:
            raise LeftOut("not an image")
        return {"__key__": key, extension: image, "txt": text, "json": _json({"source": self.name, **fields})}

    def _image(self) -> bytes:
        if "://" in self.image:
            raise LeftOut("image is a URL, which is not downloaded here")
        try:
            data = Path(self.image).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise LeftOut("image file is missing") from error
        except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
            raise LeftOut("image file can't be read") from error
        if not data:
            raise LeftOut("image of zero bytes")
        return data

    def _beside(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        image = Path(self.image)
        files = {name: image.with_suffix(f".{name}") for name in ("txt", "json")}
        found: dict[str, Any] = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
        if not found:
            raise LeftOut("no caption")
        try:
            fields = parse_json(found["json"]) if "json" in found else {}
            return captions_of(found), fields if isinstance(fields, dict) else {"json": fields}
        except BadSample as error:
            raise LeftOut(str(error)) from error
        except ValueError as error:
            raise LeftOut("the .json beside the image is not readable") from error


def _json(fields: dict[str, Any]) -> bytes:
    """Values that JSON doesn't know (dates of a Parquet file) as text; text that is no UTF-8 escaped."""
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=str).encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":"), default=str).encode()
