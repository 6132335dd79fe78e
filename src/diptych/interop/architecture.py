"""What all formats say about a CLIP of OpenAI's design, in our names: read off a state dict, or off a model of ours.

OpenAI's parameter names, which open_clip uses too, map one to one to ours:

| ours                  | OpenAI's                 |
|-----------------------|--------------------------|
| `image.conv1.weight`  | `visual.conv1.weight`    |
| `text.ln_final.bias`  | `ln_final.bias`          |
| `logit_scale`         | `logit_scale`            |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.towers.clip import CLIP, OPENAI_MEAN, OPENAI_STD
from diptych.towers.resnet import Bottleneck, ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.towers.transformer import QuickGELU, ResidualAttentionBlock, Transformer
from diptych.towers.vit import VisionTransformer

# What OpenAI's files hold beside the parameters: three integers, as tensors.
BOOKKEEPING = ("input_resolution", "context_length", "vocab_size")
WRAPPERS = ("module.", "_orig_mod.")  # prefixes of data parallelism and torch.compile
STRIDE = 32  # of the modified ResNet's stem and four stages
NORMS = (nn.LayerNorm, nn.BatchNorm2d)


def to_openai(name: str) -> str:
    """`image.x` -> `visual.x`, `text.x` -> `x`."""
    tower, _, rest = name.partition(".")
    return {"image": f"visual.{rest}", "text": rest}.get(tower, name)


def to_ours(name: str) -> str:
    """`visual.x` -> `image.x`, `x` -> `text.x`; `text.x`, as some models of open_clip have it, stays."""
    tower, _, rest = name.partition(".")
    if tower == "visual":
        return f"image.{rest}"
    return name if tower == "text" or name in ("logit_scale", "logit_bias") else f"text.{name}"


def openai_from_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in our names -> in OpenAI's."""
    return {to_openai(name): value for name, value in state.items()}


def ours_from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in OpenAI's names -> in ours, without the prefixes of wrappers and without the bookkeeping."""
    return {to_ours(name): value for name, value in unwrap(state).items() if name not in BOOKKEEPING}


def unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefix that all its names have if a wrapped model was saved."""
    state = dict(state)
    for wrapper in WRAPPERS * 2:
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


@dataclass(frozen=True)
class Architecture:
    """A CLIP of OpenAI's design: a ViT or a modified ResNet of bottlenecks, and a text Transformer.

    patch_size: of the ViT, None for the ResNet; image_layers: blocks of the ViT, or of each stage of the ResNet
    image_heads, text_heads: None if unknown, since names and shapes don't show them (`heads.py`)
    image_mlp: channels inside the ViT's MLPs; None for 4 times the width
    image_quick_gelu, text_quick_gelu: True for QuickGELU, as in OpenAI's models, False for GELU; a ResNet ignores it
    """

    image_size: int
    patch_size: int | None
    image_width: int
    image_layers: int | tuple[int, ...]
    image_heads: int | None
    embed_dim: int
    text_width: int
    text_layers: int
    text_heads: int | None
    context_length: int
    vocab_size: int
    image_mlp: int | None = None
    image_quick_gelu: bool = True
    text_quick_gelu: bool = True
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    def config(self) -> dict[str, Any]:
        """The config for `build`, in plain data: how our checkpoints describe the model."""
        image: dict[str, Any] = {
            "image_size": self.image_size,
            "width": self.image_width,
            "heads": self.image_heads,
            "embed_dim": self.embed_dim,
        }
        if isinstance(self.image_layers, tuple):
            image |= {"_target_": _path(ModifiedResNet), "layers": list(self.image_layers)}
        else:
            image |= {"_target_": _path(VisionTransformer), "layers": self.image_layers}
            image |= {"patch_size": self.patch_size, "activation": _activation(self.image_quick_gelu)}
            image |= {} if self.image_mlp is None else {"mlp_width": self.image_mlp}
        text = {
            "_target_": _path(TextTransformer),
            "embed_dim": self.embed_dim,
            "width": self.text_width,
            "layers": self.text_layers,
            "heads": self.text_heads,
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "activation": _activation(self.text_quick_gelu),
        }
        return {
            "_target_": _path(CLIP),
            "image": image,
            "text": text,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _activation(quick: bool) -> dict[str, str]:
    return {"_target_": _path(QuickGELU) if quick else "torch.nn.GELU"}


def infer(state: Mapping[str, Tensor], source: str) -> Architecture:
    """The architecture that names and shapes of a state dict in our names show: everything but the heads, which are
    None, and the activation, which is set to OpenAI's QuickGELU.

    Raises UserError for a state dict of another family or with a missing key, naming the key.
    """

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        if key not in state:
            raise UserError(f"{source} is of another model: it lacks {to_openai(key)}.")
        found = tuple(state[key].shape)
        if len(found) != dimensions:
            raise UserError(
                f"{source} is of another model: {to_openai(key)} is {list(found)} there and has"
                f" {dimensions} dimensions here."
            )
        return found

    def grid(key: str) -> int:
        rows = shape(key, 2)[0]
        side = math.isqrt(max(0, rows - 1))
        if side == 0 or side**2 + 1 != rows:
            raise UserError(
                f"{source} is of another model: {to_openai(key)} has {rows} rows there, not a square grid plus one."
            )
        return side

    image: dict[str, Any]
    if "image.layer1.0.conv1.weight" in state:
        image = {
            "image_size": grid("image.attnpool.positional_embedding") * STRIDE,
            "patch_size": None,
            "image_width": shape("image.layer1.0.conv1.weight", 4)[0],
            "image_layers": tuple(_blocks(state, f"image.layer{stage}") for stage in (1, 2, 3, 4)),
        }
    else:
        width, _, patch, _ = shape("image.conv1.weight", 4)
        first = "image.transformer.resblocks.0.mlp.c_fc.weight"
        inner = shape(first, 2)[0] if first in state else 4 * width
        image = {
            "image_size": grid("image.positional_embedding") * patch,
            "patch_size": patch,
            "image_width": width,
            "image_layers": _blocks(state, "image.transformer.resblocks"),
            "image_mlp": None if inner == 4 * width else inner,
        }
    text_width, embed_dim = shape("text.text_projection", 2)
    return Architecture(
        **image,
        image_heads=None,
        embed_dim=embed_dim,
        text_width=text_width,
        text_layers=_blocks(state, "text.transformer.resblocks"),
        text_heads=None,
        context_length=shape("text.positional_embedding", 2)[0],
        vocab_size=shape("text.token_embedding.weight", 2)[0],
    )


def _blocks(names: Iterable[str], prefix: str) -> int:
    """The number of blocks `prefix.0.…`, `prefix.1.…`."""
    start = f"{prefix}."
    return len({name[len(start) :].split(".", 1)[0] for name in names if name.startswith(start)})


def architecture_of(model: CLIP, target: str) -> Architecture:
    """The architecture of a model of ours. Raises UserError for a model that `target`, a format, can't store."""
    if not isinstance(model.text, TextTransformer):
        raise _not_stored(target, f"a {type(model.text).__name__} text tower")
    if isinstance(model.image, VisionTransformer):
        image_heads, image_quick_gelu = _heads_and_quick(model.image.transformer, target)
    elif isinstance(model.image, ModifiedResNet):
        stages = [getattr(model.image, stage) for stage in model.image.stages]
        if len(stages) != 4 or not all(isinstance(block, Bottleneck) for stage in stages for block in stage):
            raise _not_stored(target, "a ResNet of basic blocks or without exactly four stages")
        image_heads, image_quick_gelu = model.image.attnpool.heads, True
    else:
        raise _not_stored(target, f"a {type(model.image).__name__} image tower")
    if model.vocabulary is not None:
        raise _not_stored(target, "a custom vocabulary")
    text_heads, text_quick_gelu = _heads_and_quick(model.text.transformer, target)
    variant = _not_stored(target, "this variant of our towers (registers, or another pooling, projection or norm)")
    try:
        shown = infer(model.state_dict(), target)
    except UserError as error:
        raise variant from error
    found = replace(
        shown,
        image_size=model.image_size,
        image_heads=image_heads,
        text_heads=text_heads,
        image_quick_gelu=image_quick_gelu,
        text_quick_gelu=text_quick_gelu,
        mean=tuple(model.mean),
        std=tuple(model.std),
    )
    with torch.device("meta"):
        plain = build(found.config())
    if _signature(plain) != _signature(model):
        raise variant
    return found


def _signature(model: nn.Module) -> tuple[dict[str, torch.Size], dict[str, float]]:
    """The shapes by name, and what shapes don't show: the epsilons of norms."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return shapes, {name: module.eps for name, module in model.named_modules() if isinstance(module, NORMS)}


def _heads_and_quick(transformer: Transformer, target: str) -> tuple[int, bool]:
    """The number of heads, and whether the activation is QuickGELU."""
    if len(transformer.resblocks) == 0:
        raise _not_stored(target, "a Transformer without layers")
    block = transformer.resblocks[0]
    assert isinstance(block, ResidualAttentionBlock)
    activation = block.mlp.gelu
    quick = isinstance(activation, QuickGELU)
    if not quick and not (isinstance(activation, nn.GELU) and activation.approximate == "none"):
        raise _not_stored(target, f"the activation {activation}")
    return block.attn.heads, quick


def _not_stored(target: str, what: str) -> UserError:
    return UserError(
        f"The format {target} can't store {what}: use format=diptych (docs/interop.md lists which models export)."
    )
