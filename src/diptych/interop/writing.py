"""Weights -> a file or folder of a named format, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from diptych.errors import UserError
from diptych.interop import huggingface, open_clip, openai, own
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
) -> Path:
    """Read one format, write another, without a digit lost; returns what was written.

    format: diptych, open_clip or huggingface, folders; or openai, one `.pt`
    image_size, context_length: positions are resampled for them
    Raises UserError for an unknown format, one that can't hold the model, or an `out` that is there already.
    """
    out = Path(out)
    if format not in WRITERS:
        raise UserError(f"format={format} is unknown: take one of {', '.join(WRITERS)}.")
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out={out} exists: nothing is written over; give a new name.")
    weights = read(checkpoint, quick_gelu)
    if image_size is not None or context_length is not None:
        weights = weights.resized(image_size, context_length)
    return write(weights, format, out)


def write(weights: Weights, format: str, out: Path) -> Path:
    """Under another name first, then renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    _remove(partial)
    try:
        WRITERS[format](weights, partial)
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    finally:
        _remove(partial)
    return out


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
