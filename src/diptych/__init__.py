"""Diptych: train, evaluate and study contrastive image–text models whose numbers can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from diptych.data.text.tokenizer import Tokenizer as Tokenizer
    from diptych.evaluation.zeroshot import zero_shot_classifier as zero_shot_classifier
    from diptych.model.load import load as load

__version__ = "0.1.0"
__all__ = ["Tokenizer", "create_model", "load", "zero_shot_classifier"]

_HOMES = {
    "Tokenizer": "diptych.data.text.tokenizer",
    "load": "diptych.model.load",
    "zero_shot_classifier": "diptych.evaluation.zeroshot",
}


def __getattr__(name: str) -> Any:
    """The public names, imported where used, so that `import diptych` costs nothing; subpackages likewise."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("data", "evaluation", "interop", "loss", "towers", "training"):
        return importlib.import_module(f"diptych.{name}")
    if name == "distributed":  # for a loss of one's own: docs/losses.md
        return importlib.import_module("diptych.launch.distributed")
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")


def create_model(name: str, **overrides: Any) -> nn.Module:
    """A CLIP with random weights, as `conf/model/NAME.yaml` says it.

    overrides: keys of that file with `__` for a dot, or a dict for a part:
        create_model("vit_b32", image__image_size=288, text={"layers": 6})
    Raises UserError for an unknown model or key, and for a value that a part doesn't take.
    """
    from diptych.commands.create import create_model as create

    return create(name, {key.replace("__", "."): value for key, value in overrides.items()})
