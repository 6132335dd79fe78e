"""Load a run, or weights of any known format, as a model that is ready to use. Files are data, never executed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.base.batch import normalise
from diptych.base.errors import UserError
from diptych.base.templates import remembered
from diptych.building.targets import trusting
from diptych.data.pixels.image import eval_pixels
from diptych.data.text import bpe
from diptych.data.text.tokenizer import Tokenizer
from diptych.interop.files import read_torch
from diptych.interop.formats import read
from diptych.interop.heads import Hints
from diptych.interop.own import refuse_instantiator
from diptych.interop.sharded import read_rest
from diptych.interop.weights import Weights
from diptych.model.encode import tokenizer_for
from diptych.towers.clip import CLIP


@dataclass
class Loaded:
    """model: in eval mode; tokenizer: texts -> int64 [N, L]; describe: what the checkpoint says about itself;
    step: optimiser steps taken; path: of the file"""

    model: CLIP
    tokenizer: Tokenizer
    describe: dict[str, Any]
    step: int
    path: Path

    @property
    def templates(self) -> list[str]:
        """The prompt templates that the run was validated with, with `{}`; none for a model of another program."""
        return remembered(self.describe)

    def preprocess(self, image: Any) -> Tensor:
        """PIL image -> float [3, H, W]: resized (bicubic), centre-cropped, and normalised as in training."""
        pixels = eval_pixels(image, self.model.image_size)
        return normalise(pixels[None], self.model.mean, self.model.std)[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors and plain data in a checkpoint of ours; no tensors if it is a folder. Raises UserError for anything
    else. Nothing in it is executed."""
    checkpoint = read_rest(path) if path.is_dir() else read_torch(path)
    if not isinstance(checkpoint, dict) or "diptych" not in checkpoint:
        raise UserError(f"checkpoint={path} was not written by a run of Diptych: its own description is missing.")
    refuse_instantiator(checkpoint, path)
    return checkpoint


def load(
    path: str | Path,
    image_size: int | None = None,
    context_length: int | None = None,
    quick_gelu: bool | None = None,
    image_heads: int | None = None,
    text_heads: int | None = None,
    allow_targets: Iterable[str] = (),
) -> Loaded:
    """Load a run folder (its last checkpoint), a checkpoint file, an exported folder, or files of OpenAI, open_clip
    or Hugging Face.

    image_size, context_length: instead of the checkpoint's; positions are resampled, which is logged
    quick_gelu: the activation, for a state dict in OpenAI's names without a config beside it
    image_heads, text_heads: the attention heads for such a state dict; not needed for models of a known shape
    allow_targets: your own classes that a run's model may contain: full names, or prefixes such as `mine.`

    The model is in float32, whatever dtype the file has.
    Raises UserError for a file that is missing, damaged, of an unknown format, or doesn't fit, naming what doesn't.
    """
    with trusting(allow_targets):
        weights = read(path, Hints(quick_gelu, image_heads, text_heads))
        if image_size is not None or context_length is not None:
            weights = weights.resized(image_size, context_length)
        return ready(weights)


def ready(weights: Weights) -> Loaded:
    """The model of these weights, with its tokenizer. Raises UserError for what does not fit."""
    model = weights.model()
    describe = {"model": weights.config, **weights.describe}
    return Loaded(model, _tokenizer(model, weights.path), describe, weights.step, weights.path)


def _tokenizer(model: CLIP, path: Path) -> Tokenizer:
    if model.vocabulary is not None and not bpe.is_text(model.vocabulary):
        raise UserError(f"checkpoint={path} names the vocabulary {model.vocabulary} but doesn't contain it: refused.")
    ids = model.text.vocab_size
    if model.vocabulary is None and ids != Tokenizer.vocab_size:
        raise UserError(
            f"checkpoint={path} was trained with another vocabulary: it has {ids} ids, OpenAI's"
            f" {Tokenizer.vocab_size}."
        )
    return tokenizer_for(model)
