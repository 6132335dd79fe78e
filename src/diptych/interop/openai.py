"""OpenAI's files: a state dict, plain or in a TorchScript archive.

What they don't say is the same for all of OpenAI's models: heads of 64 channels, QuickGELU, mean and std. Others save
state dicts with these names too. A file that isn't certainly OpenAI's needs a source for its heads (`heads.py`), and
the other assumptions are logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.interop.architecture import (
    BOOKKEEPING,
    Architecture,
    architecture_of,
    infer,
    openai_from_ours,
    ours_from_openai,
    to_openai,
)
from diptych.interop.heads import Hints, attention_width, openai_heads, with_heads
from diptych.interop.weights import Weights, take_logit_bias

log = logging.getLogger(__name__)


def from_state(state: Mapping[str, Tensor], path: Path, hints: Hints, archive: bool) -> Weights:
    """The weights of a state dict in OpenAI's names without a config.

    archive: whether it is from a TorchScript archive, which only OpenAI publishes. An archive, or the three numbers
    that OpenAI's files hold beside the parameters, make the file certainly OpenAI's. Otherwise what is assumed is
    logged.
    """
    kept = [key for key in BOOKKEEPING if key in state]
    ours = ours_from_openai(state)
    bias = take_logit_bias(ours, str(path))
    certain = archive or bool(kept)
    quick = hints.quick_gelu is not False or (certain and not hints.sure)
    found = replace(infer(ours, str(path)), image_quick_gelu=quick, text_quick_gelu=quick)
    architecture = with_heads(found, hints, str(path), by_openai=certain)
    if not certain:
        _log_assumed(architecture, hints, path)
    describe = {"origin": {"format": "openai", "kept": kept}, **bias}
    return Weights(architecture.config(), ours, path, describe, spell=to_openai)


def _log_assumed(architecture: Architecture, hints: Hints, path: Path) -> None:
    assumed = []
    if hints.quick_gelu is None:
        assumed.append("QuickGELU as the activation (for GELU give quick_gelu=false)")
    if None in (hints.image_heads, hints.text_heads):
        heads = f"{architecture.image_heads} image and {architecture.text_heads} text heads"
        assumed.append(f"{heads}, as in known models of this shape (for others give image_heads=N, text_heads=N)")
    assumed.append("OpenAI's mean and std of the pixels")
    log.warning(
        "%s holds only weights, which don't show everything. Assumed: %s. To be sure, put the model's"
        " open_clip_config.json beside the file",
        path,
        "; ".join(assumed),
    )


def write(weights: Weights, out: Path) -> None:
    """Write a plain state dict to `out`, with the three numbers that OpenAI's files hold beside the parameters.

    Raises UserError for what these files can't store: other heads, activations, or mean and std.
    """
    architecture = architecture_of(weights.check(), "openai")
    check_readers(architecture, infer(weights.state, str(weights.path)))
    if "logit_bias" in weights.describe:
        log.warning("%s: OpenAI's format can't store SigLIP's logit bias: it is left out", weights.path)
    state = openai_from_ours(weights.state)
    origin = weights.describe.get("origin", {})
    numbers = (architecture.image_size, architecture.context_length, architecture.vocab_size)
    for key, number in zip(BOOKKEEPING, numbers, strict=True):
        if origin.get("format") != "openai" or key in origin.get("kept", ()):
            state[key] = torch.tensor(number)
    with out.open("wb") as file:  # given a path, torch writes its name into the file, and the name is a temporary one
        torch.save(state, file)


def check_readers(architecture: Architecture, shown: Architecture) -> None:
    """Raises UserError if readers of OpenAI's format would build another model. shown: by names and shapes"""
    image_heads, text_heads = openai_heads(attention_width(shown)), openai_heads(shown.text_width)
    reader = replace(shown, image_heads=image_heads, text_heads=text_heads, image_mlp=None)
    for each in fields(Architecture):
        own, assumed = getattr(architecture, each.name), getattr(reader, each.name)
        if own != assumed:
            raise UserError(
                f"OpenAI's format has no {each.name}: its readers assume {assumed}, and this model has {own}: use"
                " format=open_clip."
            )
