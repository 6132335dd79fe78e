"""PNGs of every colour type and bit depth, written from the specification, and their pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(samples: np.ndarray, kind: int, depth: int, *chunks: bytes) -> bytes:
    """samples: [h, w, channels] of `depth` bits; chunks: PLTE, tRNS and others, before the pixels"""
    height, width, _ = samples.shape
    bits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(height, -1, 2), axis=2)[..., 16 - depth :]
    rows = np.packbits(bits.reshape(height, -1), axis=1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def drawn(kind: int, depth: int, seed: int = 0) -> np.ndarray:
    """Random samples [6, 7, channels], the first and last values among them."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 1 << depth, (6, 7, CHANNELS[kind]))
    samples[0, 0], samples[0, 1] = 0, (1 << depth) - 1
    return samples


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[h, w, 3] and [h, w] of 0 to 255 -> the picture over white, not rounded."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)
