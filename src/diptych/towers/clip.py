"""CLIP: an image tower, a text tower and the logit scale (Radford et al. 2021, section 2.3, figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import UserError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class CLIP(nn.Module):
    """Two towers into one space of D dimensions.

    image: [B, 3, H, W] -> [B, D], with `image_size` and `embed_dim`
    text: int64 [B, L] -> [B, D], with `context_length` and `embed_dim`
    logit_scale_init: logarithm of the inverse temperature at the start; the paper's is 1/0.07
    mean, std: what the image tower wants subtracted from pixels (0 to 1) and their rest divided by; the
        model keeps them for whoever prepares its images and doesn't apply them

    With OpenAI's names, `image.` is `visual.` and `text.` is the top level; `logit_scale` is the same.
    Raises UserError where the towers' dimensions differ.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        logit_scale_init: float = math.log(1 / 0.07),
        mean: Sequence[float] = OPENAI_MEAN,
        std: Sequence[float] = OPENAI_STD,
    ) -> None:
        super().__init__()
        if image.embed_dim != text.embed_dim:
            raise UserError(
                f"The image tower gives {image.embed_dim} dimensions and the text tower {text.embed_dim}: "
                "set the same model.image.embed_dim and model.text.embed_dim."
            )
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale_init)))
        self.mean = tuple(mean)
        self.std = tuple(std)

    @property
    def image_size(self) -> int:
        """Pixels a side that the image tower was made for."""
        return cast(int, self.image.image_size)

    @property
    def context_length(self) -> int:
        """Tokens that the text tower reads at most."""
        return cast(int, self.text.context_length)

    @property
    def vocabulary(self) -> str | None:
        """What the ids stand for: a file in CLIP's merges format, or its text; None for OpenAI's. The tower keeps
        it for whoever makes the tokenizer and doesn't read it."""
        return cast(str | None, self.text.vocabulary)

    @property
    def reads_sentences(self) -> bool:
        """Whether the text tower takes any text, not class names alone."""
        return getattr(self.text, "reads_sentences", True)

    def encode_image(self, images: Tensor, normalize: bool = False, kept: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W], already less `mean` and over `std` -> [B, D]; unit length with `normalize`. kept: in a
        training step the patches that are read, if not all (`training.patches`)."""
        features = self.image(images) if kept is None else self.image(images, kept)
        return unit(features) if normalize else features

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Tokens int64 [B, L] -> [B, D]; unit length with `normalize`."""
        features = self.text(tokens)
        return unit(features) if normalize else features

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both features at unit length, [B, D] and [B, D], and the scale of their cosines, a scalar."""
        image = self.encode_image(images, normalize=True)
        text = self.encode_text(tokens, normalize=True)
        return image, text, self.logit_scale.exp()

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the layers of its own tower above it; the logit scale has none."""
        above = {"logit_scale": 0}
        for name, tower in (("image", self.image), ("text", self.text)):
            above |= {f"{name}.{key}": layers for key, layers in cast(Any, tower).layers_above().items()}
        return above

    def train(self, mode: bool = True) -> CLIP:
        """As of every module, but that a part without a trained parameter stays in eval mode: the batch norms of a
        frozen tower keep their statistics, and nothing in it drops out."""
        super().train(mode)
        for module in self.modules() if mode else ():
            if (parameters := list(module.parameters())) and not any(p.requires_grad for p in parameters):
                module.eval()
        return self


def unit(features: Tensor) -> Tensor:
    """Rows at length 1, at least in float32: cosines times 100 need more than bf16's three digits."""
    if features.dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    return F.normalize(features, dim=-1)
