"""Weights of OpenAI, open_clip and Hugging Face: in and out, without a digit lost, and read as data.

One file a format. They share `Weights`, what every format is read into, and `Architecture`, what it says of a CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.interop.architecture import infer, openai_from_ours, ours_from_openai, to_openai
from diptych.interop.heads import Hints, with_heads
from diptych.interop.open_clip import with_config
from diptych.interop.weights import Weights, take_logit_bias
from diptych.towers.clip import CLIP

__all__ = ["from_open_clip", "to_open_clip"]


def to_open_clip(model: CLIP) -> dict[str, Tensor]:
    """The model's state dict in OpenAI's names, which open_clip loads with strict=True; tensors are shared."""
    return openai_from_ours(model.state_dict())


def from_open_clip(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    quick_gelu: bool | None = None,
    image_heads: int | None = None,
    text_heads: int | None = None,
) -> CLIP:
    """A model of ours, in eval mode and float32, from a state dict of open_clip or OpenAI; tensors are copied.

    config: open_clip's `model_cfg`, which gives heads and activation; names and shapes don't
    quick_gelu: the activation. None: according to `config`, or else OpenAI's QuickGELU
    image_heads, text_heads: None: according to `config`, or else those of the known model of this width and depth
        (`heads.py`)

    SigLIP's `logit_bias` belongs to the loss here and is left out. Raises UserError for a state dict of another
    family, for a key that is missing, unknown or of another shape, and if the number of heads is unknown.
    """
    source = "The state dict"
    ours = ours_from_openai(state)
    take_logit_bias(ours, source)
    architecture = infer(ours, source)
    if config is not None:
        architecture = with_config(architecture, config, "The config")
    if quick_gelu is not None:
        architecture = replace(architecture, image_quick_gelu=quick_gelu, text_quick_gelu=quick_gelu)
    hints = Hints(quick_gelu, image_heads or architecture.image_heads, text_heads or architecture.text_heads)
    architecture = with_heads(architecture, hints, source)
    return Weights(architecture.config(), ours, Path(source), spell=to_openai).model()
