"""What all formats say of a model, in their own words: read off names and shapes, or off a model of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.interop.names import blocks, to_openai
from diptych.towers.clip import CLIP, OPENAI_MEAN, OPENAI_STD
from diptych.towers.resnet import Bottleneck, ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.towers.transformer import QuickGELU, ResidualAttentionBlock, Transformer
from diptych.towers.vit import VisionTransformer

STRIDE = 32  # of the modified ResNet's four stages and stem
BLOCKS = "image.transformer.resblocks"
NORMS = (nn.LayerNorm, nn.BatchNorm2d)


@dataclass(frozen=True)
class Architecture:
    """A CLIP of OpenAI's design: ViT or modified ResNet of bottlenecks, and a text Transformer.

    patch_size: of the ViT, None for the ResNet; image_layers: blocks of the ViT, or of each stage
    image_heads, text_heads: None where names and shapes are all there is, which don't show them (`heads.py`)
    image_mlp: channels inside the ViT's MLPs; None for 4 times the width
    image_quick, text_quick: QuickGELU, OpenAI's, or else GELU; nothing in a ResNet asks for the first
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
    image_quick: bool = True
    text_quick: bool = True
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    def config(self) -> dict[str, Any]:
        """What `build` takes, in plain data: how a checkpoint of ours describes itself."""
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
            image |= {"patch_size": self.patch_size, "activation": _activation(self.image_quick)}
            image |= {} if self.image_mlp is None else {"mlp_width": self.image_mlp}
        text = {
            "_target_": _path(TextTransformer),
            "embed_dim": self.embed_dim,
            "width": self.text_width,
            "layers": self.text_layers,
            "heads": self.text_heads,
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "activation": _activation(self.text_quick),
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
    """Read off a state dict in our names: all but the heads, which no name and no shape shows, and the activation,
    which is set to OpenAI's QuickGELU.

    Raises UserError for a state dict of another family or with a missing key, which it names.
    """
    text_width, embed_dim = _shape(state, "text.text_projection", 2, source)
    context_length, _ = _shape(state, "text.positional_embedding", 2, source)
    vocab_size, _ = _shape(state, "text.token_embedding.weight", 2, source)
    image = _infer_resnet(state, source) if "image.layer1.0.conv1.weight" in state else _infer_vit(state, source)
    return Architecture(
        **image,
        embed_dim=embed_dim,
        text_width=text_width,
        text_layers=blocks(state, "text.transformer.resblocks"),
        text_heads=None,
        context_length=context_length,
        vocab_size=vocab_size,
    )


def _infer_vit(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    width, _, patch, _ = _shape(state, "image.conv1.weight", 4, source)
    grid = _grid(state, "image.positional_embedding", source)
    first = f"{BLOCKS}.0.mlp.c_fc.weight"
    inner = _shape(state, first, 2, source)[0] if first in state else 4 * width
    return {
        "image_size": grid * patch,
        "patch_size": patch,
        "image_width": width,
        "image_layers": blocks(state, BLOCKS),
        "image_heads": None,
        "image_mlp": None if inner == 4 * width else inner,
    }


def _infer_resnet(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    width = _shape(state, "image.layer1.0.conv1.weight", 4, source)[0]
    layers = tuple(blocks(state, f"image.layer{stage}") for stage in (1, 2, 3, 4))
    return {
        "image_size": _grid(state, "image.attnpool.positional_embedding", source) * STRIDE,
        "patch_size": None,
        "image_width": width,
        "image_layers": layers,
        "image_heads": None,
    }


def _grid(state: Mapping[str, Tensor], key: str, source: str) -> int:
    rows = _shape(state, key, 2, source)[0]
    grid = math.isqrt(max(0, rows - 1))
    if grid == 0 or grid**2 + 1 != rows:
        raise UserError(
            f"{source} is of another model: {to_openai(key)} has {rows} rows there, no square grid and one."
        )
    return grid


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int, source: str) -> tuple[int, ...]:
    if key not in state:
        raise UserError(f"{source} is of another model: it lacks {to_openai(key)}.")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise UserError(
            f"{source} is of another model: {to_openai(key)} is {list(shape)} there and has {dimensions} dimensions"
            " here."
        )
    return shape


def architecture_of(model: CLIP, target: str) -> Architecture:
    """What a model of ours is. Raises UserError where `target`, a format, can't describe it."""
    if not isinstance(model.text, TextTransformer):
        raise _inexpressible(target, f"a {type(model.text).__name__} text tower")
    if isinstance(model.image, VisionTransformer):
        patch, width = model.image.conv1.kernel_size[0], model.image.conv1.out_channels
        layers: int | tuple[int, ...] = len(model.image.transformer.resblocks)
        image_heads, image_quick = _blocks_of(model.image.transformer, target)
        inner = cast(ResidualAttentionBlock, model.image.transformer.resblocks[0]).mlp.c_fc.out_features
        mlp = None if inner == 4 * width else inner
    elif isinstance(model.image, ModifiedResNet):
        patch, width, image_quick, mlp = None, model.image.conv3.out_channels, True, None
        stages = [getattr(model.image, stage) for stage in model.image.stages]
        if len(stages) != 4 or not all(isinstance(block, Bottleneck) for stage in stages for block in stage):
            raise _inexpressible(target, "a ResNet of basic blocks or of other than four stages")
        layers, image_heads = tuple(len(stage) for stage in stages), model.image.attnpool.heads
    else:
        raise _inexpressible(target, f"a {type(model.image).__name__} image tower")
    text_heads, text_quick = _blocks_of(model.text.transformer, target)
    found = Architecture(
        image_size=model.image_size,
        patch_size=patch,
        image_width=width,
        image_layers=layers,
        image_heads=image_heads,
        embed_dim=model.text.embed_dim,
        text_width=model.text.ln_final.normalized_shape[0],
        text_layers=len(model.text.transformer.resblocks),
        text_heads=text_heads,
        context_length=model.context_length,
        vocab_size=model.text.token_embedding.num_embeddings,
        image_mlp=mlp,
        image_quick=image_quick,
        text_quick=text_quick,
        mean=tuple(model.mean),
        std=tuple(model.std),
    )
    if model.vocabulary is not None:
        raise _inexpressible(target, "a vocabulary of its own")
    with torch.device("meta"):
        plain = build(found.config())
    if _shows(plain) != _shows(model):
        raise _inexpressible(
            target, "this variant of our towers (registers, pooling, projection or norms of its own)"
        )
    return found


def _shows(model: nn.Module) -> tuple[dict[str, torch.Size], dict[str, float]]:
    """Shapes by name, and what no shape shows: the epsilons of norms."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return shapes, {name: module.eps for name, module in model.named_modules() if isinstance(module, NORMS)}


def _blocks_of(transformer: Transformer, target: str) -> tuple[int, bool]:
    """Heads, and whether QuickGELU."""
    if len(transformer.resblocks) == 0:
        raise _inexpressible(target, "a Transformer without layers")
    block = transformer.resblocks[0]
    assert isinstance(block, ResidualAttentionBlock)
    activation = block.mlp.gelu
    if not isinstance(activation, QuickGELU) and not (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    ):
        raise _inexpressible(target, f"the activation {activation}")
    return block.attn.heads, isinstance(activation, QuickGELU)


def _inexpressible(target: str, what: str) -> UserError:
    return UserError(
        f"The format {target} can't describe {what}: take format=diptych (docs/interop.md lists what exports)."
    )
