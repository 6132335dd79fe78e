"""CLIP: an image tower, a text tower and the logit scale (Radford et al. 2021, section 2.3, figure 3)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class CLIP(nn.Module):
    """Two towers into one space of D dimensions.

    image: [B, 3, H, W] -> [B, D], with `image_size` and `embed_dim`
    text: int64 [B, L] -> [B, D], with `context_length` and `embed_dim`
    logit_scale_init: logarithm of the inverse temperature at the start; the paper's is 1/0.07
    mean, std: of the pixels (0 to 1): the image tower expects (pixels - mean) / std. The model only stores them, for
        the code that prepares its images; it doesn't apply them

    OpenAI's names are `visual.` for `image.` and no prefix for `text.`; `logit_scale` is the same.
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
        _check_tower(image, "image", IMAGE)
        _check_tower(text, "text", TEXT)
        if image.embed_dim != text.embed_dim:
            raise UserError(
                f"The image tower returns {image.embed_dim} dimensions and the text tower {text.embed_dim}: "
                "set the same model.image.embed_dim and model.text.embed_dim."
            )
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale_init)))
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.any_size = False  # no warning about other sizes than image_size: a run may start with small images

    @property
    def image_size(self) -> int:
        """Side in pixels that the image tower was made for."""
        return cast(int, self.image.image_size)

    @property
    def context_length(self) -> int:
        """The most tokens that the text tower reads."""
        return cast(int, self.text.context_length)

    @property
    def vocabulary(self) -> str | None:
        """The tokens' vocabulary: a file in CLIP's merges format, or its text; None for OpenAI's. The tower only
        stores it, for the code that makes the tokenizer."""
        return cast(str | None, self.text.vocabulary)

    @property
    def reads_sentences(self) -> bool:
        """Whether the text tower encodes any text, not only class names."""
        return getattr(self.text, "reads_sentences", True)

    def encode_image(self, images: Tensor, normalize: bool = False, kept: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W], already (pixels - mean) / std -> [B, D]; unit length with `normalize`. kept: the
        patches that a training step encodes; None for all (`model.patches`). Raises ValueError for anything but a
        batch of RGB images; warns once where their size is not the one that the model was made for."""
        if images.shape[1:] != (3, self.image_size, self.image_size):
            self._check_shape(images)
        features = self.image(images) if kept is None else self.image(images, kept)
        return unit(features) if normalize else features

    def _check_shape(self, images: Tensor) -> None:
        side = self.image_size
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"The images have the shape {list(images.shape)}, and this model takes [B, 3, {side}, {side}]:"
                " prepare them with its `preprocess`."
            )
        if not self.any_size:
            self.any_size = True  # warn once
            given = f"{images.shape[2]} × {images.shape[3]}"
            warnings.warn(
                f"Images have {given} pixels and this model is made for {side} × {side}: its positions are resampled."
                " Prepare them with its `preprocess`, or load it with another image_size=.",
                stacklevel=3,
            )

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Tokens int64 [B, L] -> [B, D]; unit length with `normalize`."""
        features = self.text(tokens)
        return unit(features) if normalize else features

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image and text features at unit length, [B, D] each, and the factor of their cosines, a scalar."""
        image = self.encode_image(images, normalize=True)
        text = self.encode_text(tokens, normalize=True)
        return image, text, self.logit_scale.exp()

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the number of layers of its own tower above it; 0 for the logit scale."""
        above = {"logit_scale": 0}
        for name, tower in (("image", self.image), ("text", self.text)):
            if not hasattr(tower, "layers_above"):  # a user's own tower: one layer
                above |= {f"{name}.{key}": 0 for key, _ in tower.named_parameters()}
                continue
            above |= {f"{name}.{key}": layers for key, layers in cast(Any, tower).layers_above().items()}
        return above

    def train(self, mode: bool = True) -> CLIP:
        """As `nn.Module.train`, but a part with no trained parameter stays in eval mode: the batch norms of a frozen
        tower keep their statistics, and its dropout does nothing."""
        super().train(mode)
        for module in self.modules() if mode else ():
            if (parameters := list(module.parameters())) and not any(p.requires_grad for p in parameters):
                module.eval()
        return self


# The attributes that a tower must have beside `forward`; docs/models.md describes them.
IMAGE = {"image_size": "pixels a side", "embed_dim": "dimensions of its features"}
TEXT = {
    "embed_dim": "dimensions of its features",
    "context_length": "tokens that it reads at most",
    "vocab_size": "number of ids",
}


def _check_tower(tower: nn.Module, name: str, wanted: dict[str, str]) -> None:
    named = f"The {name} tower {type(tower).__module__}.{type(tower).__qualname__}"
    if not isinstance(tower, nn.Module):
        raise UserError(f"{named} is no torch.nn.Module: docs/models.md says what a tower is.")
    for key, meaning in wanted.items():
        value = getattr(tower, key, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            said = f"has {key}={value!r}" if hasattr(tower, key) else f"has no {key}"
            raise UserError(f"{named} {said}: it needs a whole number of at least 1, its {meaning} (docs/models.md).")
    if name == "text" and not hasattr(tower, "vocabulary"):
        raise UserError(
            f"{named} has no vocabulary: it needs the text of its merges, or None for OpenAI's (docs/models.md)."
        )


def unit(features: Tensor) -> Tensor:
    """Rows at length 1, in float32 or float64: cosines are multiplied by up to 100, and bf16 has only three
    digits."""
    if features.dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    return F.normalize(features, dim=-1)


def check_towers(model: CLIP) -> None:
    """Run a user's own towers on two samples on the device "meta", where the cost of a step is counted. Raises
    UserError for an image tower that fails there, and for a tower whose features don't have `embed_dim`
    dimensions."""
    pixels = torch.zeros(2, 3, model.image_size, model.image_size, device="meta")
    tokens = torch.zeros(2, model.context_length, dtype=torch.long, device="meta")
    for name, tower, given in (("image", model.image, pixels), ("text", model.text, tokens)):
        if type(tower).__module__.startswith("diptych."):
            continue
        named = f"The {name} tower {type(tower).__module__}.{type(tower).__qualname__}"
        try:
            with torch.no_grad():
                found = tower(given)
        except Exception as error:
            if name == "text":  # it may read the ids' values, and its cost isn't counted this way
                continue
            raise UserError(
                f"{named} can't encode {list(given.shape)} on the device meta: {error} (docs/models.md)."
            ) from error
        wanted = [2, tower.embed_dim]
        if not isinstance(found, Tensor) or list(found.shape) != wanted:
            said = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(f"{named} returns {said} for {list(given.shape)}: it must be {wanted} (docs/models.md).")
