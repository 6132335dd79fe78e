"""Tensors and the config that they fit, between a file and a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.building import build
from diptych.errors import UserError
from diptych.towers.clip import CLIP

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def model_of(config: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> CLIP:
    """The model that `config` describes, with a copy of `state`, in eval mode and float32.

    Nothing is allocated before all names and shapes fit. Raises UserError with what in `source` does not.
    """
    model = skeleton(config, state, source)
    fit(model, state, source)
    model = model.to_empty(device="cpu")
    model.load_state_dict(dict(state))
    return model.eval()


def skeleton(config: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> CLIP:
    """The described model without memory for its weights. Raises UserError for what can't be a CLIP."""
    _bounded(config, len(state), source)
    with torch.device("meta"):
        model = build(config)
    if not isinstance(model, CLIP):
        raise UserError(f"{source} describes no model of two towers: refused.")
    return model


def _bounded(config: Any, most: int, source: str) -> None:
    """A description from elsewhere could ask for blocks without end: no more than there are tensors."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if key == "layers":
            depths = value if isinstance(value, list | tuple) else [value]
            if not all(isinstance(depth, int) for depth in depths) or len(depths) > most or sum(depths) > most:
                raise UserError(f"{source} is refused: it describes {value} layers and holds {most} tensors.")
        _bounded(value, most, source)


def fit(model: CLIP, state: Mapping[str, Tensor], source: str) -> None:
    """Raises UserError naming the first key of `source` that the model lacks, doesn't know or has otherwise."""
    expected = model.state_dict()
    for key in [*expected, *state]:
        if key not in state:
            raise UserError(
                f"{source} is of another model: it lacks {key}, which is {list(expected[key].shape)} here."
            )
        if key not in expected:
            raise UserError(f"{source} is of another model: it has the unknown key {key}.")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise UserError(
                f"{source} is of another model: {key} is {list(value.shape)} there and"
                f" {list(expected[key].shape)} here."
            )
        if expected[key].is_floating_point() and (value.dtype not in FLOATS or value.layout != torch.strided):
            raise UserError(f"{source} is refused: {key} holds {value.dtype}, which are no plain numbers to train.")
