"""OpenAI's files: a state dict, plain or in a TorchScript archive.

What they don't say is the same for all of OpenAI's models: heads of 64 channels, QuickGELU, mean and std.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diptych.errors import UserError
from diptych.interop.architecture import Architecture, architecture_of, infer
from diptych.interop.names import BOOKKEEPING, openai_from_ours, ours_from_openai, to_openai
from diptych.interop.weights import Weights
from diptych.towers.clip import OPENAI_MEAN, OPENAI_STD

log = logging.getLogger(__name__)


def from_state(state: Mapping[str, Tensor], path: Path, quick_gelu: bool | None, certain: bool) -> Weights:
    """certain: whether the file is OpenAI's beyond doubt, so that its activation needs no guess."""
    kept = [key for key in BOOKKEEPING if key in state]
    if quick_gelu is None and not certain and not kept:
        log.warning(
            "%s doesn't say its activation: QuickGELU is taken, as in OpenAI's models; for GELU put its"
            " open_clip_config.json beside it, or give quick_gelu=False",
            path,
        )
    ours = ours_from_openai(state)
    quick = quick_gelu is not False
    architecture = replace(infer(ours, str(path)), image_quick=quick, text_quick=quick)
    describe = {"origin": {"format": "openai", "kept": kept}}
    return Weights(architecture.config(), ours, path, describe, spell=to_openai)


def write(weights: Weights, out: Path) -> None:
    """A plain state dict at `out`, with the three numbers that OpenAI's files hold beside their parameters.

    Raises UserError for what these files can't say: other heads, activations or colours.
    """
    architecture = architecture_of(weights.check(), "openai")
    _implied(architecture, infer(weights.state, str(weights.path)))
    state = openai_from_ours(weights.state)
    origin = weights.describe.get("origin", {})
    numbers = (architecture.image_size, architecture.context_length, architecture.vocab_size)
    for key, number in zip(BOOKKEEPING, numbers, strict=True):
        if origin.get("format") != "openai" or key in origin.get("kept", ()):
            state[key] = torch.tensor(number)
    torch.save(state, out)


def _implied(architecture: Architecture, by_openai: Architecture) -> None:
    for key in ("image_heads", "text_heads", "image_size"):
        implied, own = getattr(by_openai, key), getattr(architecture, key)
        if implied != own:
            raise UserError(
                f"OpenAI's files don't say {key}, which they imply to be {implied} and which is {own} in this model:"
                " take format=open_clip."
            )
    if not (architecture.image_quick and architecture.text_quick):
        raise UserError("OpenAI's files imply QuickGELU and this model has GELU: take format=open_clip.")
    if architecture.mean != OPENAI_MEAN or architecture.std != OPENAI_STD:
        raise UserError(
            "OpenAI's files imply the mean and std of its own pictures and this model has others:"
            " take format=open_clip."
        )
