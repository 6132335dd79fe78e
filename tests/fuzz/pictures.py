"""Encoded pictures and whole samples: what `decode` and `Pairs` make of bytes and captions from elsewhere."""

from __future__ import annotations

import io
import json
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz import mutate
from fuzz.cases import Trial
from fuzz.oracles import Lost
from PIL import Image

from diptych.data.pixels import decode
from diptych.data.pixels.image import TrainImage, eval_image
from diptych.data.stream.pairs import BadSample, Pairs
from diptych.data.text.tokenizer import Tokenizer

BadImage = decode.BadImage
FORMS = (
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "DDS",
    "JPEG2000",
    "EPS",
    "PDF",
)
READ = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")  # what `pairs.IMAGES` names
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "F", "CMYK", "YCbCr", "LAB")


@cache
def whole() -> list[tuple[str, bytes]]:
    """A small picture in every format and mode that Pillow can write."""
    found = []
    for mode in MODES:
        picture = Image.new("RGB", (23, 17), (200, 40, 90))
        picture.paste((10, 200, 30), (3, 3, 9, 9))
        if mode == "LA":
            picture = picture.convert("L").convert("LA")
        elif mode == "LAB":
            picture = Image.new("LAB", (23, 17), (90, 120, 130))
        else:
            picture = picture.convert("L").convert(mode) if mode in ("I;16", "I", "F") else picture.convert(mode)
        for form in FORMS:
            buffer = io.BytesIO()
            try:
                picture.save(buffer, form)
            except (OSError, ValueError, KeyError):
                continue
            found.append((f"{form} {mode}", buffer.getvalue()))
    assert len(found) > 40
    return found


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rng: Random) -> bytes:
    """A PNG whose header is right by its checksum and promises any size; few pixels follow, or a bomb of them."""
    bits, colour = rng.choice([(8, 2), (8, 6), (16, 0), (1, 0), (8, 3), (16, 6), (4, 3), (3, 2)])
    header = chunk(
        b"IHDR",
        struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, bits, colour, 0, 0, rng.choice([0, 0, 1])),
    )
    extra = b""
    if colour == 3:
        extra = chunk(b"PLTE", b"\x01\x02\x03" * rng.choice([1, 4, 256, 300]))
    if rng.random() < 0.3:
        extra += chunk(b"tRNS", rng.choice([b"\0\0", b"\x7f\xff", b"\0" * 6, b"\0" * 300, b""]))
    if rng.random() < 0.2:
        extra += chunk(
            rng.choice([b"iCCP", b"zTXt", b"iTXt", b"eXIf"]),
            b"x\0\0" + zlib.compress(bytes(2**24 if rng.random() < 0.2 else 10)),
        )
    rows = zlib.compress(bytes(min(width * height * 8 + height, 2**22)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def picture(rng: Random) -> tuple[bytes, bool]:
    """Encoded, and whether it is whole."""
    way = rng.random()
    if way < 0.1:
        name, data = rng.choice(whole())
        return data, name.startswith(READ)
    if way < 0.2:
        sizes = [0, 1, 2, 17, 3000, 20_000, 65_500, 2_000_000, 2**31 - 1, 2**32 - 1]
        return png(rng.choice(sizes), rng.choice(sizes), rng), False
    if way < 0.24:
        return rng.choice(
            [
                b"",
                b"\xff\xd8\xff",
                b"<svg/>",
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n",
                b"GIF89a",
                b"RIFF\0\0\0\0WEBP",
            ]
        ), False
    return mutate.data(rng.choice(whole())[1], rng), False


def pictures(rng: Random, folder: Path) -> Trial:
    data, good = picture(rng)
    size, seed = rng.choice([1, 16, 32, 64]), rng.getrandbits(63)
    train = TrainImage(size, crop=rng.choice(["square", "resized"]))

    def call() -> str:
        try:
            pixels = eval_image(data, size)
        except BadImage as error:
            if good and "bits a channel" not in str(error):
                raise Lost("a whole picture was refused", str(error)) from error
            try:
                train(data, seed)
            except BadImage:
                return str(error)
            raise Lost("an evaluation refuses what a training takes", str(error)) from error
        assert pixels.shape == (3, size, size) and pixels.dtype == torch.uint8
        assert train(data, seed).shape == (3, size, size)
        return "read"

    return Trial(call)


CAPTIONS: list[bytes] = [
    b"a red square",
    b"two\nlines",
    b"\xef\xbb\xbfa red square",
    b"\xef\xbb\xbf",
    b"\xe2\x80\x8b",
    b"",
    b" \n\t\n",
    b"\xff\xfe\x00",
    b"a\xe2\x80\xa8b",
    b"a\x00b",
    b"a" * 200_000,
    "🙂 日本語".encode(),
    b"&amp;&amp;&amp;lt;",
    b"<|endoftext|>",
]
JSONS: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"NaN",
    b"[" * 100_000,
    b'{"caption": ' + b"[" * 100_000,
    b'{"caption":' * 50_000,
    b'{"caption": 1e400}',
    b'{"caption": ' + b"9" * 5000 + b"}",
    b'{"caption": "\\ud800"}',
    b'{"caption": "a", "caption": "b"}',
    b"\xef\xbb\xbf" + b'{"caption": "a red square"}',
    b"\xff\xfe{\x00}\x00",
    b'{"captions": "not a list"}',
    b'{"caption": ["a list"]}',
    b'{"captions": [1, null, {"a": 2}, "text"]}',
]


def sample(rng: Random) -> dict[str, Any]:
    """As a tar's reader gives it: extension -> bytes, with `__key__` and `__url__`."""
    found: dict[str, Any] = {"__key__": "000", "__url__": "x.tar"}
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        name = rng.choice(["png", "jpg", "webp", "JPG", "a.png", "b.jpeg", "gif", "tif", "jfif", "PNG"])
        found[name] = picture(rng)[0] if rng.random() < 0.6 else whole()[0][1]
    if rng.random() < 0.6:
        found["txt"] = rng.choice(CAPTIONS)
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            found["json"] = rng.choice(JSONS)
        else:
            tree = mutate.mutated({"caption": "a red square", "captions": ["x", "y"], "label": "cat", "g": 3}, rng)
            found["json"] = json.dumps(tree).encode(errors="replace")
    return found


def samples(rng: Random, folder: Path) -> Trial:
    of = sample(rng)
    pairs = Pairs(
        TrainImage(16),
        Tokenizer(),
        groups=rng.choice([None, None, "g", "label"]),
        captions=rng.choice([None, None, "caption", "captions", "x"]),
    )

    def call() -> str:
        image, tokens, _ = pairs(of, rng.getrandbits(63))
        assert image.shape == (3, 16, 16)
        if tokens.tolist()[2:3] == [0]:
            raise Lost("a pair without a word in its caption")
        return "read"

    return Trial(call, documented=(BadSample,))
