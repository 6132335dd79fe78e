"""Tensors and the config that they fit: what stands between a file of any format and a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.towers.clip import CLIP
from diptych.towers.layers import resize_positions, resize_text_positions

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A model as it was read: nothing is rounded or built yet.

    config: nested `_target_` mappings for `build`; state: tensors in our names, as stored, dtype included
    describe: what else the file says of itself; step: optimiser steps taken; path: the file
    spell: our name -> the file's, for messages
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    path: Path
    describe: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    spell: Callable[[str], str] = str

    def model(self) -> CLIP:
        """The model in eval mode and float32. Raises UserError for what does not fit."""
        return model_of(self.config, self.state, str(self.path), self.spell)

    def check(self) -> CLIP:
        """The model without memory for its weights, once all fits. Raises UserError for what does not."""
        model = skeleton(self.config, self.state, str(self.path))
        fit(model, self.state, str(self.path), self.spell)
        return model

    def resized(self, image_size: int | None = None, context_length: int | None = None) -> Weights:
        """For another image size and context: image positions are resampled (bicubic, antialiased), text
        positions cut, or resampled (linear) where more are asked for. What was done is logged.
        """
        config, state = dict(self.config), dict(self.state)
        for tower, key, value in (("image", "image_size", image_size), ("text", "context_length", context_length)):
            if value is not None:
                config[tower] = dict(config[tower]) | {key: value}
        model = skeleton(config, state, str(self.path))
        expected = model.state_dict()
        for key in [key for key in expected if key.endswith("positional_embedding") and key in state]:
            before, after = len(state[key]), len(expected[key])
            if before != after and state[key].dim() == 2:
                image = key.startswith("image.")
                grid = cast(int, model.get_submodule(key.rpartition(".")[0]).grid) if image else None
                state[key], how = _positions(state[key], after, grid)
                log.warning("%s: %s %s from %d to %d positions", self.path, self.spell(key), how, before, after)
        return replace(self, config=config, state=state)


def _positions(table: Tensor, rows: int, grid: int | None) -> tuple[Tensor, str]:
    """grid: the side of the grid wanted, beside which some rows may have no place; None for text"""
    if grid is not None:
        old = math.isqrt(len(table) - (rows - grid**2))
        return resize_positions(table.float(), old, (grid, grid)).to(table.dtype), "resampled (bicubic)"
    return resize_text_positions(table, rows), "cut" if rows < len(table) else "resampled (linear)"


def take_logit_bias(state: dict[str, Tensor], source: str) -> dict[str, float]:
    """Take SigLIP's bias, which belongs to the loss here, out of `state`: {"logit_bias": b}, or {} without one.

    Raises UserError where it is no finite number.
    """
    value = state.pop("logit_bias", None)
    if value is None:
        return {}
    if value.numel() != 1 or not value.is_floating_point() or not value.isfinite().all():
        raise UserError(f"{source} is refused: its logit_bias is no finite number.")
    return {"logit_bias": value.item()}


def model_of(
    config: Mapping[str, Any], state: Mapping[str, Tensor], source: str, spell: Callable[[str], str] = str
) -> CLIP:
    """The model that `config` describes, with a copy of `state`, in eval mode and float32.

    Nothing is allocated before all names and shapes fit. Raises UserError with what in `source` does not.
    """
    model = skeleton(config, state, source)
    fit(model, state, source, spell)
    model = model.to_empty(device="cpu")
    model.load_state_dict(dict(state))
    return model.eval()


def skeleton(config: Any, state: Mapping[str, Tensor], source: str) -> CLIP:
    """The described model without memory for its weights. Raises UserError for what can't be a CLIP."""
    try:
        _bounded(config, len(state), source)
        with torch.device("meta"):
            model = build(config)
    except RecursionError as error:
        raise UserError(f"{source} is refused: its description has no end.") from error
    if not isinstance(model, CLIP):
        raise UserError(f"{source} describes no model of two towers: refused.")
    for name, values in (("mean", model.mean), ("std", model.std)):
        if len(values) != 3 or not all(isinstance(value, Real) and math.isfinite(value) for value in values):
            raise UserError(f"{source} is refused: its {name} is {list(values)}, not three numbers.")
    return model


def _bounded(config: Any, most: int, source: str) -> None:
    """A description from elsewhere could ask for blocks without end: no more than there are tensors."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if key == "layers":
            depths = value if isinstance(value, list | tuple) else [value]
            whole = all(isinstance(depth, int) and depth >= 0 for depth in depths)
            if not whole or len(depths) > most or sum(depths) > most:
                raise UserError(f"{source} is refused: it describes {value} layers and holds {most} tensors.")
        _bounded(value, most, source)


def fit(model: CLIP, state: Mapping[str, Tensor], source: str, spell: Callable[[str], str] = str) -> None:
    """Raises UserError naming the first key of `source` that the model lacks, doesn't know or has otherwise."""
    expected = model.state_dict()
    for key in expected:
        if key not in state:
            raise UserError(
                f"{source} is of another model: it lacks {spell(key)}, which is {list(expected[key].shape)} here."
            )
    for key, value in state.items():
        if key not in expected:
            raise UserError(
                f"{source} is of another model: it has the unknown key {spell(key)}, {list(value.shape)} there."
            )
        if value.shape != expected[key].shape:
            raise UserError(
                f"{source} is of another model: {spell(key)} is {list(value.shape)} there and"
                f" {list(expected[key].shape)} here."
            )
        kinds = FLOATS if expected[key].is_floating_point() else (expected[key].dtype,)
        if value.dtype not in kinds:
            raise UserError(f"{source} is refused: {spell(key)} holds {value.dtype}, which no weights of ours do.")
