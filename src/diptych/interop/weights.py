"""Weights: what every format is read into and written from, the tensors and the config of one model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.towers.clip import CLIP
from diptych.towers.layers import resize_positions, resize_text_positions

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A model as a file stores it: nothing is rounded or built yet.

    config: nested `_target_` mappings for `build`; state: tensors in our names, as stored, dtype included
    path: of the file, for messages; describe: what else the file says about itself; step: optimiser steps taken
    spell: our name of a tensor -> the file's, for messages
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    path: Path
    describe: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    spell: Callable[[str], str] = str

    def check(self) -> CLIP:
        """The model on the meta device, without memory for its weights. Raises UserError for names, shapes and types
        that don't fit."""
        model = skeleton(self.config, self.state, str(self.path))
        fit(model, self.state, str(self.path), self.spell)
        return model

    def model(self) -> CLIP:
        """The model in eval mode and float32, with a copy of the tensors. Raises UserError as `check` does, before
        anything is allocated."""
        model = self.check().to_empty(device="cpu")
        model.load_state_dict(self.state)
        return model.eval()

    def resized(self, image_size: int | None = None, context_length: int | None = None) -> Weights:
        """The weights for another image size and context length, with resampled positions, which is logged."""
        config = dict(self.config)
        for tower, key, value in (("image", "image_size", image_size), ("text", "context_length", context_length)):
            if value is not None:
                config[tower] = dict(config[tower]) | {key: value}
        state, notes = resampled(skeleton(config, self.state, str(self.path)), self.state, self.spell)
        for note in notes:
            log.warning("%s: %s", self.path, note)
        return replace(self, config=config, state=state)


def resampled(
    model: nn.Module, state: Mapping[str, Tensor], spell: Callable[[str], str] = str
) -> tuple[dict[str, Tensor], list[str]]:
    """`state` with position embeddings for the grid and the context of `model`, and one note for each that changed.

    Image positions are resampled (bicubic, antialiased), except rows that are in no grid, such as the class token's.
    Text positions are cut, or resampled (linear) where `model` has more. What can't be resampled stays: `fit` reports
    it.
    """
    state, notes = dict(state), []
    for name, wanted in model.state_dict().items():
        table = state.get(name)
        if table is None or not name.endswith("positional_embedding") or table.shape[1:] != wanted.shape[1:]:
            continue
        before, after = len(table), len(wanted)
        if before == after:
            continue
        if name.startswith("text."):
            state[name] = resize_text_positions(table, after)
            how = "cut" if after < before else "resampled (linear)"
        else:
            grid = cast(int, model.get_submodule(name.rpartition(".")[0]).grid)
            side = math.isqrt(max(0, before - (after - grid**2)))
            if side == 0 or before - side**2 != after - grid**2:
                continue
            state[name] = resize_positions(table.float(), side, (grid, grid)).to(table.dtype)
            how = "resampled (bicubic)"
        notes.append(f"{spell(name)} {how} from {before} to {after} positions")
    return state, notes


def take_logit_bias(state: dict[str, Tensor], source: str) -> dict[str, float]:
    """Take SigLIP's bias, which belongs to the loss here, out of `state`: {"logit_bias": b}, or {} without one.

    Raises UserError if it is not one finite number.
    """
    value = state.pop("logit_bias", None)
    if value is None:
        return {}
    if value.numel() != 1 or not value.is_floating_point() or not value.isfinite().all():
        raise UserError(f"{source} is refused: its logit_bias is not one finite number.")
    return {"logit_bias": value.item()}


def skeleton(config: Any, state: Mapping[str, Tensor], source: str) -> CLIP:
    """The model that `config` describes, on the meta device. Raises UserError for what can't be a CLIP."""
    try:
        _bounded(config, len(state), source)
        with torch.device("meta"):
            model = build(config)
    except RecursionError as error:
        raise UserError(f"{source} is refused: its description is nested without end.") from error
    if not isinstance(model, CLIP):
        raise UserError(f"{source} describes no model of two towers: refused.")
    for name, values in (("mean", model.mean), ("std", model.std)):
        if len(values) != 3 or not all(isinstance(value, Real) and math.isfinite(value) for value in values):
            raise UserError(f"{source} is refused: its {name} is {list(values)}, not three numbers.")
    return model


def _bounded(config: Any, most: int, source: str) -> None:
    """A hostile description could ask for any number of blocks. No model has more blocks than tensors."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if key == "layers":
            depths = value if isinstance(value, list | tuple) else [value]
            whole = all(isinstance(depth, int) and depth >= 0 for depth in depths)
            if not whole or len(depths) > most or sum(depths) > most:
                raise UserError(f"{source} is refused: it describes {value} layers and holds {most} tensors.")
        _bounded(value, most, source)


def fit(model: nn.Module, state: Mapping[str, Tensor], source: str, spell: Callable[[str], str] = str) -> None:
    """Raises UserError for the first key of `source` that is missing, unknown, or of another shape or type than in
    `model`."""
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
            raise UserError(f"{source} is refused: {spell(key)} holds {value.dtype}, not one of {_named(kinds)}.")


def _named(kinds: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(kind).removeprefix("torch.") for kind in kinds)
