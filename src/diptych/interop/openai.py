"""OpenAI's files: a state dict, plain or in a TorchScript archive.

What they don't say is the same for all of OpenAI's models: heads of 64 channels, QuickGELU, mean and std. But others
save state dicts under these names too, so one that isn't OpenAI's for sure needs a source for its heads (`heads.py`),
and what else is assumed is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.interop.architecture import Architecture, architecture_of, infer
from diptych.interop.heads import Hints, attention_width, openai_heads, with_heads
from diptych.interop.names import BOOKKEEPING, openai_from_ours, ours_from_openai, to_openai
from diptych.interop.weights import Weights, take_logit_bias
from diptych.towers.clip import OPENAI_MEAN, OPENAI_STD

log = logging.getLogger(__name__)


def from_state(state: Mapping[str, Tensor], path: Path, hints: Hints, archive: bool) -> Weights:
    """archive: whether it is a TorchScript archive, as only OpenAI publishes. It, or the three numbers that OpenAI's
    files hold beside parameters, leave no doubt; without them what is assumed is logged."""
    kept = [key for key in BOOKKEEPING if key in state]
    ours = ours_from_openai(state)
    bias = take_logit_bias(ours, str(path))
    certain = archive or bool(kept)
    quick = hints.quick_gelu is not False or (certain and not hints.sure)
    found = replace(infer(ours, str(path)), image_quick=quick, text_quick=quick)
    architecture = with_heads(found, hints, str(path), by_openai=certain)
    if not certain:
        _log_assumed(architecture, hints, path)
    describe = {"origin": {"format": "openai", "kept": kept}, **bias}
    return Weights(architecture.config(), ours, path, describe, spell=to_openai)


def _log_assumed(architecture: Architecture, hints: Hints, path: Path) -> None:
    assumed = []
    if hints.quick_gelu is None:
        assumed.append("QuickGELU as activation (for GELU give quick_gelu=false)")
    if None in (hints.image_heads, hints.text_heads):
        heads = f"{architecture.image_heads} image and {architecture.text_heads} text heads"
        assumed.append(f"{heads}, as known models of this shape have (otherwise give image_heads=N, text_heads=N)")
    assumed.append("OpenAI's mean and std of the pixels")
    log.warning(
        "%s holds weights alone, which don't show everything. Assumed: %s. To be sure, put the model's"
        " open_clip_config.json beside the file",
        path,
        "; ".join(assumed),
    )


def write(weights: Weights, out: Path) -> None:
    """A plain state dict at `out`, with the three numbers that OpenAI's files hold beside their parameters.

    Raises UserError for what these files can't say: other heads, activations or colours.
    """
    architecture = architecture_of(weights.check(), "openai")
    _implied(architecture, infer(weights.state, str(weights.path)))
    if "logit_bias" in weights.describe:
        log.warning("%s: OpenAI's files have no place for SigLIP's logit bias: it is left out", weights.path)
    state = openai_from_ours(weights.state)
    origin = weights.describe.get("origin", {})
    numbers = (architecture.image_size, architecture.context_length, architecture.vocab_size)
    for key, number in zip(BOOKKEEPING, numbers, strict=True):
        if origin.get("format") != "openai" or key in origin.get("kept", ()):
            state[key] = torch.tensor(number)
    torch.save(state, out)


def _implied(architecture: Architecture, by_openai: Architecture) -> None:
    expected = {
        "image_heads": openai_heads(attention_width(architecture)),
        "text_heads": openai_heads(architecture.text_width),
        "image_size": by_openai.image_size,
    }
    for key, implied in expected.items():
        own = getattr(architecture, key)
        if implied != own:
            raise UserError(
                f"OpenAI's files don't say {key}, which they imply to be {implied} and which is {own} in this model:"
                " take format=open_clip."
            )
    if architecture.image_mlp is not None:
        raise UserError(
            "OpenAI's files imply MLPs 4 times as wide as the tower; the image tower is"
            f" {architecture.image_width} wide and its MLPs {architecture.image_mlp}: take format=open_clip."
        )
    if not (architecture.image_quick and architecture.text_quick):
        raise UserError("OpenAI's files imply QuickGELU and this model has GELU: take format=open_clip.")
    if architecture.mean != OPENAI_MEAN or architecture.std != OPENAI_STD:
        raise UserError(
            "OpenAI's files imply the mean and std of its own pictures and this model has others:"
            " take format=open_clip."
        )
