"""What kind of image some bytes are, told from their first bytes alone."""

from __future__ import annotations

MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
SAME = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"}


def image_format(data: bytes) -> str | None:
    """The extension that belongs to the bytes, or None where they begin like no image that is read here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    return next((extension for magic, extension in MAGIC.items() if data.startswith(magic)), None)


def fits(extension: str, found: str) -> bool:
    """Whether a file of this extension may hold the format that was found."""
    last = extension.rsplit(".", 1)[-1].lower()
    return SAME.get(last, last) == found
