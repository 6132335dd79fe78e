"""Any format in, any format out: a file or folder with a CLIP in it -> Weights -> a file or folder of a named format.

What a file holds decides how it is read, not its name.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.files import beside, refusing
from diptych.base.terminal import meant
from diptych.interop import files, huggingface, open_clip, openai, own, sharded
from diptych.interop.architecture import unwrap
from diptych.interop.heads import NO_HINTS, Hints
from diptych.interop.torchscript import is_torchscript, read_torchscript
from diptych.interop.weights import Weights

LAST = Path("checkpoints") / "last.ckpt"
WRITERS = {
    "diptych": own.write,
    "openai": openai.write,
    "open_clip": open_clip.write,
    "huggingface": huggingface.write,
}


def read(path: str | Path, hints: Hints = NO_HINTS) -> Weights:
    """The weights in a run's folder, a checkpoint of ours (sharded or not), an exported folder, or files of OpenAI,
    open_clip or Hugging Face.

    hints: what a state dict in OpenAI's names doesn't say if no config is beside it
    Raises UserError for what is missing, damaged, of an unknown format, or hostile.
    """
    path = Path(path)
    if path.is_dir():
        path = _chosen(path)
    if path.is_dir():
        return sharded.read(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path} does not exist: {meant('checkpoint', path)}")
    archive = False
    if path.suffix == ".safetensors":
        state = files.read_safetensors(path)
    elif archive := is_torchscript(path):
        state = files.plain_state(read_torchscript(path), path)
    else:
        content = files.read_torch(path)
        if isinstance(content, Mapping) and "state_dict" in content:
            own.refuse_instantiator(content, path)
            if "diptych" in content or _has(content["state_dict"], f"{own.PREFIX}image.", f"{own.PREFIX}text."):
                return own.from_checkpoint(content, path)
            content = content["state_dict"]
        state = files.plain_state(content, path)
    try:
        return _recognised(unwrap(state), path, hints, archive)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise files.refuse(path, f"the config beside it is no description of a CLIP ({error!r})") from error


def _chosen(folder: Path) -> Path:
    """The file of weights in a folder, or the folder itself if it is a sharded checkpoint."""
    if (folder / sharded.METADATA).is_file():
        return folder
    if (folder / LAST).exists():
        return _chosen(folder / LAST) if (folder / LAST).is_dir() else folder / LAST
    kinds = {
        own.CONFIG: (own.WEIGHTS,),
        open_clip.CONFIG: open_clip.CANDIDATES,
        huggingface.CONFIG: huggingface.CANDIDATES,
    }
    for config, candidates in kinds.items():
        found = [folder / name for name in candidates if (folder / name).is_file()]
        if (folder / config).is_file() and found:
            return found[0]
    raise UserError(
        f"checkpoint={folder} holds no model. A folder with a model has {LAST}, {own.CONFIG} with {own.WEIGHTS},"
        f" {open_clip.CONFIG} or {huggingface.CONFIG} with weights beside it, or {sharded.METADATA}."
    )


def _recognised(state: Mapping[str, Tensor], path: Path, hints: Hints, archive: bool) -> Weights:
    """The weights of a state dict whose names tell the format."""
    if _has(state, "vision_model.", "text_model."):
        return huggingface.from_state(state, path)
    if _has(state, "image."):
        return own.from_state(state, path)
    if not _has(state, "visual."):
        some = f"the tensors {', '.join(list(state)[:3])}" if state else "no tensors"
        raise UserError(f"checkpoint={path} is not a CLIP of a known format: it has {some}.")
    if not archive and (path.parent / open_clip.CONFIG).is_file():
        return open_clip.from_state(state, path)
    return openai.from_state(state, path, hints, archive)


def _has(state: Any, *prefixes: str) -> bool:
    return isinstance(state, Mapping) and any(isinstance(name, str) and name.startswith(prefixes) for name in state)


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
    """Read any format and write another, without a digit lost; returns the path that was written.

    format: diptych, open_clip or huggingface, which are folders; or openai, one `.pt`
    image_size, context_length: positions are resampled for them
    quick_gelu, image_heads, text_heads: as in `diptych.load`
    Raises UserError for an unknown format, a format that can't store the model, or an `out` that exists.
    """
    out = Path(out)
    if format not in WRITERS:
        raise UserError(f"format={format} is unknown: use one of {', '.join(WRITERS)}.")
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out={out} exists and is not overwritten: give a new name.")
    weights = read(checkpoint, Hints(quick_gelu, image_heads, text_heads))
    if image_size is not None or context_length is not None:
        weights = weights.resized(image_size, context_length)
    return write(weights, format, out)


def write(weights: Weights, format: str, out: Path) -> Path:
    """Write all of it or nothing. Raises UserError if the disk refuses the write."""
    with refusing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with beside(out) as partial:
            with _as_oserror():
                WRITERS[format](weights, partial)
            if out.is_dir():
                out.rmdir()
    return out


@contextmanager
def _as_oserror() -> Iterator[None]:
    """Turn the errors that safetensors and torch raise when the disk refuses a write into OSError."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        if "inline_container" in str(error):
            raise OSError(errno.EIO, "the write failed") from error
        raise
