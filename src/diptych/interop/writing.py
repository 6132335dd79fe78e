"""Weights -> a file or folder of a named format, whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from diptych.base.errors import UserError
from diptych.base.files import beside, refusing
from diptych.interop import huggingface, open_clip, openai, own
from diptych.interop.heads import Hints
from diptych.interop.reading import read
from diptych.interop.weights import Weights

WRITERS = {
    "diptych": own.write,
    "openai": openai.write,
    "open_clip": open_clip.write,
    "huggingface": huggingface.write,
}


def convert(
    checkpoint: str | Path,
    format: str,
    out: str | Path,
    image_size: int | None = None,
    context_length: int | None = None,
    quick_gelu: bool | None = None,
    image_heads: int | None = None,
    text_heads: int | None = None,
) -> Path:
    """Read one format, write another, without a digit lost; returns what was written.

    format: diptych, open_clip or huggingface, folders; or openai, one `.pt`
    image_size, context_length: positions are resampled for them
    quick_gelu, image_heads, text_heads: as in `diptych.load`
    Raises UserError for an unknown format, one that can't hold the model, or an `out` that is there already.
    """
    out = Path(out)
    if format not in WRITERS:
        raise UserError(f"format={format} is unknown: take one of {', '.join(WRITERS)}.")
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out={out} exists: nothing is written over; give a new name.")
    weights = read(checkpoint, Hints(quick_gelu, image_heads, text_heads))
    if image_size is not None or context_length is not None:
        weights = weights.resized(image_size, context_length)
    return write(weights, format, out)


def write(weights: Weights, format: str, out: Path) -> Path:
    """Whole, or not at all. Raises UserError where the disk refuses it."""
    with refusing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with beside(out) as partial:
            with _naming_the_disk():
                WRITERS[format](weights, partial)
            if out.is_dir():
                out.rmdir()
    return out


@contextmanager
def _naming_the_disk() -> Iterator[None]:
    """safetensors and torch raise errors of their own where the disk refuses a write."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        if "inline_container" in str(error):
            raise OSError(errno.EIO, "the disk takes no more of it") from error
        raise
