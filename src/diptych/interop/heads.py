"""The number of attention heads in a state dict's towers, which the weights don't show.

It comes, in this order, from the caller, from OpenAI's rule if the file is certainly OpenAI's, or from a table of
the published models. If none of them gives it, the model is refused: a wrong number of heads gives wrong features
without any error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.base.errors import UserError
from diptych.interop.architecture import STRIDE, Architecture

OPENAI_HEAD_WIDTH = 64  # channels per head in all of OpenAI's models: its code divides by it (`build_model`)

# Width and depth -> heads, for every ViT, ResNet and text Transformer of this design in OpenAI's and open_clip's
# configs (3.3.0). A ResNet's width is that of its first stage.
IMAGE_HEADS: dict[tuple[int, int | tuple[int, ...]], int] = {
    (384, 12): 6,  # ViT-S
    (512, 12): 8,  # ViT-M
    (768, 12): 12,  # ViT-B
    (896, 12): 14,  # ViT-B-plus
    (1024, 24): 16,  # ViT-L
    (1280, 32): 16,  # ViT-H
    (1408, 40): 16,  # ViT-g
    (1664, 48): 16,  # ViT-bigG
    (1792, 56): 16,  # ViT-e
    (64, (3, 4, 6, 3)): 32,  # RN50
    (64, (3, 4, 23, 3)): 32,  # RN101
    (80, (4, 6, 10, 6)): 40,  # RN50x4
    (96, (6, 8, 18, 8)): 48,  # RN50x16
    (128, (3, 15, 36, 10)): 64,  # RN50x64
}
TEXT_HEADS: dict[tuple[int, int], int] = {
    (256, 10): 4,
    (384, 12): 6,
    (512, 12): 8,
    (640, 12): 10,
    (768, 12): 12,
    (1024, 12): 16,
    (1024, 24): 16,
    (1280, 32): 20,
    (1280, 36): 20,
}


@dataclass(frozen=True)
class Hints:
    """What the caller knows about a bare state dict and its weights don't show; None where unknown.

    quick_gelu: QuickGELU (OpenAI's activation) or GELU; image_heads, text_heads: attention heads of the towers
    sure: False if the hints only count where nothing else gives a value, such as the config of a run that starts
        from the file
    """

    quick_gelu: bool | None = None
    image_heads: int | None = None
    text_heads: int | None = None
    sure: bool = True


NO_HINTS = Hints()


def with_heads(found: Architecture, hints: Hints, source: str, by_openai: bool = False) -> Architecture:
    """`found` with both numbers of heads. by_openai: the file is certainly OpenAI's

    Raises UserError if a number is unknown or doesn't divide the width.
    """

    def heads(tower: str, hint: int | None, channels: int, layers: Any, known: int | None) -> int:
        known = openai_heads(channels) if by_openai else known
        number = (hint or known) if hints.sure else (known or hint)
        key = f"{tower}_heads"
        if number is None:
            raise UserError(
                f"{source} doesn't say how many attention heads its {tower} tower has, and no known model has its"
                f" width of {channels} with {layers} layers: give {key}=N to src/convert.py or diptych.load, or put"
                " the model's open_clip_config.json beside the file."
            )
        if type(number) is not int or number < 1 or channels % number:
            raise UserError(
                f"{source}: {key}={number} can't be right: it doesn't divide the tower's width of {channels}."
            )
        return number

    image, text = (found.image_width, found.image_layers), (found.text_width, found.text_layers)
    return replace(
        found,
        image_heads=heads("image", hints.image_heads, attention_width(found), image[1], IMAGE_HEADS.get(image)),
        text_heads=heads("text", hints.text_heads, *text, TEXT_HEADS.get(text)),
    )


def attention_width(found: Architecture) -> int:
    """The channels that the heads of the image tower divide: the width of a ViT, or of a ResNet's last stage."""
    return found.image_width * (STRIDE if found.patch_size is None else 1)


def openai_heads(width: int) -> int:
    """The number of heads that OpenAI's code gives a tower of this width."""
    return max(1, width // OPENAI_HEAD_WIDTH)
