"""How many attention heads a state dict's towers have: the weights don't show it, so someone has to say it.

In this order: the caller; OpenAI's rule, where the file is OpenAI's for sure; a table of the models that others
publish weights of. A model that none of them knows is refused: a wrong number of heads gives wrong features without
any error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.base.errors import UserError
from diptych.interop.architecture import STRIDE, Architecture

OPENAI_HEAD_WIDTH = 64  # channels a head in all of OpenAI's models: its own code divides by it (`build_model`)

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
    """What the caller says of a bare state dict, for what its weights don't show; None where nothing is said.

    quick_gelu: QuickGELU (OpenAI's activation) or GELU; image_heads, text_heads: attention heads of the towers
    sure: False for what counts only where nothing else says it, such as the config of a run that starts from the file
    """

    quick_gelu: bool | None = None
    image_heads: int | None = None
    text_heads: int | None = None
    sure: bool = True


NO_HINTS = Hints()


def with_heads(found: Architecture, hints: Hints, source: str, by_openai: bool = False) -> Architecture:
    """`found` with both numbers of heads. by_openai: the file is OpenAI's for sure.

    Raises UserError where nothing says them, and for heads that don't divide the width.
    """
    image_channels, text_channels = attention_width(found), found.text_width
    known: dict[str, int | None]
    if by_openai:
        known = {"image_heads": openai_heads(image_channels), "text_heads": openai_heads(text_channels)}
    else:
        known = {
            "image_heads": IMAGE_HEADS.get((found.image_width, found.image_layers)),
            "text_heads": TEXT_HEADS.get((text_channels, found.text_layers)),
        }
    said = {"image_heads": hints.image_heads, "text_heads": hints.text_heads}
    first, second = (said, known) if hints.sure else (known, said)
    chosen = {key: first[key] or second[key] for key in said}
    shapes = {"image_heads": (image_channels, found.image_layers), "text_heads": (text_channels, found.text_layers)}
    for key, (channels, layers) in shapes.items():
        heads = chosen[key]
        if heads is None:
            tower = key.partition("_")[0]
            raise UserError(
                f"{source} doesn't say how many attention heads its {tower} tower has, and no known model has its"
                f" width of {channels} with {layers} layers: give {key}=N (src/convert.py and diptych.load take it),"
                " or put the open_clip_config.json of the model beside the file."
            )
        if type(heads) is not int or heads < 1 or channels % heads:
            raise UserError(
                f"{source}: {key}={heads} can't be right, as it doesn't divide the tower's width of {channels}."
            )
    return replace(found, image_heads=chosen["image_heads"], text_heads=chosen["text_heads"])


def attention_width(found: Architecture) -> int:
    """Channels that the image tower's heads share: a ViT's width, or those of a ResNet's last stage."""
    return found.image_width * (STRIDE if found.patch_size is None else 1)


def openai_heads(width: int) -> int:
    """By OpenAI's rule."""
    return max(1, width // OPENAI_HEAD_WIDTH)
