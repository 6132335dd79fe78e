"""open_clip's folders: OpenAI's names, and `open_clip_config.json` for what names and shapes don't show."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.terminal import one_line
from diptych.interop.architecture import (
    Architecture,
    architecture_of,
    infer,
    openai_from_ours,
    ours_from_openai,
    to_openai,
)
from diptych.interop.files import read_json
from diptych.interop.heads import attention_width
from diptych.interop.weights import Weights, take_logit_bias

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# In open_clip's order of preference.
CANDIDATES = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
HEAD_WIDTH, TEXT_HEADS, MLP_RATIO = 64, 8, 4.0  # open_clip's defaults
# Settings that our towers have, or that change nothing after training. Any other setting needs another tower, unless
# it has its default.
KNOWN = {
    "vision_cfg": {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"},
    "text_cfg": {"layers", "width", "heads", "context_length", "vocab_size"},
}
DEFAULTS: dict[str, Any] = {
    "pool_type": ("tok", "argmax"),
    "pos_embed_type": "learnable",
    "proj_type": "linear",
    "output_tokens": (True, False),
    "attn_pooler_queries": 256,
    "attn_pooler_heads": 8,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "eos_id": 2,
    "hf_model_pretrained": True,
    "mlp_ratio": MLP_RATIO,
}
log = logging.getLogger(__name__)


def with_config(found: Architecture, config: Mapping[str, Any], source: str) -> Architecture:
    """`found`, read off names and shapes, with the heads and the activation of open_clip's `model_cfg`.

    Raises UserError if the config contradicts the weights or needs towers that we don't have.
    """
    vision, text = _tower(config, "vision_cfg", source), _tower(config, "text_cfg", source)
    said = {
        "embed_dim": config.get("embed_dim"),
        "image_size": _side(vision.get("image_size"), source),
        "image_layers": tuple(depth) if isinstance(depth := vision.get("layers"), list) else depth,
        "image_width": vision.get("width"),
        "text_width": text.get("width"),
        "text_layers": text.get("layers"),
        "context_length": text.get("context_length"),
        "vocab_size": text.get("vocab_size"),
    }
    for key, value in said.items():
        if value is not None and value != getattr(found, key):
            raise UserError(
                f"{source} says that {key} is {value}, and the weights beside it have {getattr(found, key)}."
            )
    quick = config.get("quick_gelu", False) is True
    _check_mlp(found, vision.get("mlp_ratio", MLP_RATIO), source)
    head_width, text_heads = vision.get("head_width", HEAD_WIDTH), text.get("heads", TEXT_HEADS)
    if not all(type(number) is int and number > 0 for number in (head_width, text_heads)):
        raise UserError(
            f"{source} is refused: head_width={head_width} and heads={text_heads} must be positive integers."
        )
    image_heads = max(1, attention_width(found) // head_width)
    return replace(
        found, image_heads=image_heads, text_heads=text_heads, image_quick_gelu=quick, text_quick_gelu=quick
    )


def _check_mlp(found: Architecture, ratio: Any, source: str) -> None:
    """Raises UserError if `mlp_ratio` gives another width than the weights of a ViT have."""
    there = found.image_mlp or 4 * found.image_width
    if found.patch_size is None or (isinstance(ratio, int | float) and int(found.image_width * ratio) == there):
        return
    raise UserError(
        f"{source} says vision_cfg.mlp_ratio={ratio}, and the MLPs of the weights beside it are {there} wide,"
        f" in a tower of width {found.image_width}."
    )


def _tower(config: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    tower = config.get(name, {})
    if not isinstance(tower, Mapping):
        raise UserError(f"{source} is refused: its {name} is not a mapping.")
    for key, value in tower.items():
        default = DEFAULTS.get(key)
        usual = value in default if isinstance(default, tuple) else value == default
        if key not in KNOWN[name] and value and not usual:
            raise UserError(f"{source} has {name}.{key}={value}, which no tower of ours supports.")
    return tower


def _side(size: Any, source: str) -> int | None:
    if isinstance(size, list):
        if len(set(size)) != 1:
            raise UserError(f"{source} has vision_cfg.image_size={size}: our towers only support square images.")
        return size[0]
    return size


def from_state(state: Mapping[str, Tensor], path: Path) -> Weights:
    """The weights of a state dict with open_clip's config beside its file, `path`."""
    source = path.parent / CONFIG
    config = read_json(source)
    model, pictures = config.get("model_cfg", config), config.get("preprocess_cfg", {})
    if not isinstance(model, Mapping) or not isinstance(pictures, Mapping):
        raise UserError(f"{source} is refused: its model_cfg or preprocess_cfg is not a mapping.")
    ours = ours_from_openai(state)
    architecture = with_config(infer(ours, str(path)), model, str(source))
    mean, std = pictures.get("mean") or architecture.mean, pictures.get("std") or architecture.std
    architecture = replace(architecture, mean=tuple(mean), std=tuple(std))
    for key, usual in (("interpolation", "bicubic"), ("resize_mode", "shortest")):
        if pictures.get(key, usual) != usual:
            log.warning("%s prepares images with %s=%s, we use %s", source, key, one_line(pictures[key]), usual)
    describe = {"origin": {"format": "open_clip"}} | take_logit_bias(ours, str(path))
    return Weights(architecture.config(), ours, path, describe, spell=to_openai)


def write(weights: Weights, out: Path) -> None:
    """Write a folder that open_clip opens as `local-dir:`. Raises UserError if the format can't store the model."""
    architecture = architecture_of(weights.check(), "open_clip")
    config = {
        "model_cfg": model_cfg(architecture),
        "preprocess_cfg": {
            "mean": list(architecture.mean),
            "std": list(architecture.std),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    state = {name: value.contiguous() for name, value in openai_from_ours(weights.state).items()}
    if (bias := weights.describe.get("logit_bias")) is not None:
        config["model_cfg"]["init_logit_bias"] = bias  # makes open_clip's model have a bias to load
        state["logit_bias"] = torch.tensor(bias, dtype=state["logit_scale"].dtype)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})


def model_cfg(architecture: Architecture) -> dict[str, Any]:
    """open_clip's `model_cfg`. Raises UserError for a ViT whose activation isn't the text tower's."""
    if architecture.patch_size is not None and architecture.image_quick_gelu != architecture.text_quick_gelu:
        raise UserError(
            "open_clip's format has one activation for both towers, and this model has two: use format=huggingface."
        )
    assert architecture.image_heads is not None
    layers = architecture.image_layers
    mlp = {} if architecture.image_mlp is None else {"mlp_ratio": _mlp_ratio(architecture)}
    return {
        "embed_dim": architecture.embed_dim,
        "quick_gelu": architecture.text_quick_gelu,
        "vision_cfg": {
            "image_size": architecture.image_size,
            "layers": list(layers) if isinstance(layers, tuple) else layers,
            "width": architecture.image_width,
            "patch_size": architecture.patch_size,
            "head_width": attention_width(architecture) // architecture.image_heads,
            **mlp,
        },
        "text_cfg": {
            "context_length": architecture.context_length,
            "vocab_size": architecture.vocab_size,
            "width": architecture.text_width,
            "heads": architecture.text_heads,
            "layers": architecture.text_layers,
        },
    }


def _mlp_ratio(architecture: Architecture) -> float:
    """The shortest ratio that gives the MLP's width in open_clip, which rounds down."""
    width, inner = architecture.image_width, architecture.image_mlp
    assert inner is not None
    ratios = (math.ceil(inner / width * 10**digits) / 10**digits for digits in range(1, 16))
    return next(ratio for ratio in ratios if int(width * ratio) == inner)
