"""open_clip: OpenAI's names, and a JSON that says what names and shapes don't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diptych.errors import UserError
from diptych.interop.architecture import HEAD_WIDTH, STRIDE, Architecture


def with_config(found: Architecture, config: Mapping[str, Any], source: str) -> Architecture:
    """The architecture that names and shapes gave, with what open_clip's `model_cfg` adds: heads and activation.

    Raises UserError where it says something else than the weights.
    """
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    head_width = vision.get("head_width", HEAD_WIDTH)
    width = found.image_width * (STRIDE if found.patch_size is None else 1)
    quick = bool(config.get("quick_gelu", False))
    expected = {"embed_dim": config.get("embed_dim", found.embed_dim), "image_size": vision.get("image_size")}
    for key, value in expected.items():
        if value is not None and value != getattr(found, key):
            raise UserError(f"{source} says {key} {value}, and the weights beside it {getattr(found, key)}.")
    return replace(
        found,
        image_heads=max(1, width // head_width),
        text_heads=text.get("heads", found.text_heads),
        image_quick=quick or found.patch_size is None,
        text_quick=quick,
    )
