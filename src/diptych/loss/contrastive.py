"""CLIP's symmetric cross-entropy over the global batch (Radford et al. 2021, figure 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych import distributed


def contrastive_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """This rank's rows of the symmetric cross-entropy over all ranks' pairs.

    image, text: [B, D], L2-normalised, row i of one belonging to row i of the other
    logit_scale: the multiplier itself, exp of the learned parameter, []
    Returns a scalar; its mean over ranks is the loss of the global batch, and so is the mean of its gradient.
    Logits are at least fp32 also under autocast: bf16 logits cost 2 % of gradient error.
    """
    with torch.autocast(image.device.type, enabled=False):
        wide = torch.promote_types(image.dtype, torch.float32)
        image, text, logit_scale = image.to(wide), text.to(wide), logit_scale.to(wide)
        all_images, all_texts = distributed.gather(image), distributed.gather(text)
        labels = torch.arange(len(image), device=image.device) + distributed.rank() * len(image)
        per_image = F.cross_entropy(logit_scale * image @ all_texts.T, labels)  # B×D, D×N -> B×N
        per_text = F.cross_entropy(logit_scale * text @ all_images.T, labels)
        return (per_image + per_text) / 2


class ContrastiveLoss(nn.Module):
    """`contrastive_loss` as a component of the config."""

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale [] -> scalar"""
        return contrastive_loss(image, text, logit_scale)
