"""Any file or folder with a CLIP in it -> Weights, by what it holds, not by what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.terminal import meant
from diptych.interop import files, huggingface, open_clip, openai, own, sharded
from diptych.interop.heads import NO_HINTS, Hints
from diptych.interop.names import unwrap
from diptych.interop.torchscript import is_torchscript, read_torchscript
from diptych.interop.weights import Weights

LAST = Path("checkpoints") / "last.ckpt"


def read(path: str | Path, hints: Hints = NO_HINTS) -> Weights:
    """A run's folder, a checkpoint of ours (sharded, too), an exported folder, OpenAI's, open_clip's or Hugging
    Face's files.

    hints: what an OpenAI-named state dict that has no config beside it doesn't say
    Raises UserError for what is missing, damaged, foreign or hostile.
    """
    path = Path(path)
    if path.is_dir():
        path = _chosen(path)
    if path.is_dir():
        return sharded.read(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path} does not exist: {meant('checkpoint', path)}")
    if path.suffix == ".safetensors":
        return _recognised(files.read_safetensors(path), path, hints)
    if is_torchscript(path):
        return _recognised(files.plain_state(read_torchscript(path), path), path, hints, archive=True)
    content = files.read_torch(path)
    if not isinstance(content, Mapping):
        raise files.refuse(path, f"it holds no state dict but a {type(content).__name__}")
    if "state_dict" not in content:
        return _recognised(files.plain_state(content, path), path, hints)
    own.refuse_instantiator(content, path)
    if "diptych" in content or _has(content["state_dict"], f"{own.PREFIX}image.", f"{own.PREFIX}text."):
        return own.from_checkpoint(content, path)
    return _recognised(files.plain_state(content["state_dict"], path), path, hints)


def _chosen(folder: Path) -> Path:
    """The file of weights in a folder, or the folder itself where it is a sharded checkpoint."""
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
        f"checkpoint={folder} holds no model: {LAST}, {own.CONFIG} with {own.WEIGHTS}, {open_clip.CONFIG} or"
        f" {huggingface.CONFIG} with weights beside it, or {sharded.METADATA} would say one."
    )


def _recognised(state: Mapping[str, Tensor], path: Path, hints: Hints, archive: bool = False) -> Weights:
    try:
        return _by_names(unwrap(state), path, hints, archive)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise files.refuse(path, f"what lies beside it is no description of a CLIP ({error!r})") from error


def _by_names(state: Mapping[str, Tensor], path: Path, hints: Hints, archive: bool) -> Weights:
    if _has(state, "vision_model.", "text_model."):
        return huggingface.from_state(state, path)
    if _has(state, "image."):
        return own.from_state(state, path)
    if not _has(state, "visual."):
        some = ", ".join(list(state)[:3]) or "no tensor at all"
        raise UserError(f"checkpoint={path} is no CLIP that is known here: it has {some}.")
    if not archive and (path.parent / open_clip.CONFIG).is_file():
        return open_clip.from_state(state, path)
    return openai.from_state(state, path, hints, archive)


def _has(state: Any, *prefixes: str) -> bool:
    return isinstance(state, Mapping) and any(isinstance(name, str) and name.startswith(prefixes) for name in state)
