"""From a run, or a checkpoint file, to a model that is ready to use. Files are read as data, never executed."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.batch import normalise
from diptych.building import build
from diptych.data import bpe
from diptych.data.image import eval_pixels
from diptych.data.tokenizer import Tokenizer
from diptych.encode import tokenizer_for
from diptych.errors import UserError
from diptych.towers.clip import CLIP


@dataclass
class Loaded:
    """model: in eval mode; preprocess: PIL image -> float [3, H, W], normalised; tokenizer: texts -> int64 [N, L];
    describe: what the checkpoint says of itself; step: optimiser steps taken; path: the file read"""

    model: CLIP
    tokenizer: Tokenizer
    describe: dict[str, Any]
    step: int
    path: Path

    def preprocess(self, image: Any) -> Tensor:
        """PIL image -> float [3, H, W]: resized (bicubic), centre-cropped, normalised as in training."""
        pixels = eval_pixels(image, self.model.image_size)
        return normalise(pixels[None], self.model.mean, self.model.std)[0]


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint that a run folder or a file stands for. Raises UserError when there is none."""
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise UserError(f"checkpoint={path} does not exist: give a run's folder or a checkpoint file.")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors and plain data of a checkpoint. Raises UserError for anything else, and runs none of it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint={path} is refused: not a whole file of plain tensors ({first}).") from error
    if not isinstance(checkpoint, dict) or "diptych" not in checkpoint:
        raise UserError(f"checkpoint={path} was not written by a run of ours: its own description is missing.")
    return checkpoint


def load(path: str | Path) -> Loaded:
    """Open a run folder (its last checkpoint) or a `.ckpt` file.

    Raises UserError for a missing, damaged, foreign or ill-fitting file, naming what does not fit.
    """
    file = checkpoint_file(path)
    checkpoint = read_checkpoint(file)
    describe = checkpoint["diptych"]
    model = build(describe["model"])
    if not isinstance(model, CLIP):
        raise UserError(f"checkpoint={file} describes no model of two towers: refused.")
    state = {
        key.removeprefix("model."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("model.")
    }
    fit_state(model, state, str(file))
    if model.vocabulary is not None and not bpe.is_text(model.vocabulary):
        raise UserError(f"checkpoint={file} names the vocabulary {model.vocabulary} and does not carry it: refused.")
    return Loaded(
        model.eval(),
        tokenizer_for(model),
        describe,
        int(checkpoint.get("global_step", 0)),
        file,
    )


def fit_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state`, or say in one sentence which key of `source` does not fit."""
    expected = model.state_dict()
    for key in expected.keys() ^ state.keys():
        side = "lacks" if key in expected else "has the unknown key"
        raise UserError(f"{source} is of another model: it {side} {key}.")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise UserError(
                f"{source} is of another model: {key} is {list(value.shape)} there and"
                f" {list(expected[key].shape)} here."
            )
    model.load_state_dict(state)
