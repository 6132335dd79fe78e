"""Cross-entropy of phrases that an image's features are the logits of: class names, or n-grams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.loss.logits import at_least_fp32, check_smoothing


def phrase_cross_entropy(image: Tensor, text: Tensor, logit_scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """image [B, D], unit length: D phrases' logits but for the scale; text [B, D]: equal positive numbers at a row's
    phrases, else 0; logit_scale [] -> this rank's mean of -log p over each row's phrases.
    smoothing: share of the target that is spread evenly over all D phrases (Szegedy et al. 2016, section 7)

    With one phrase a row it is the softmax cross-entropy of a classifier, with several the naive n-gram loss (Li et
    al. 2017, section 3.2). A row without a phrase adds 0. No rows are compared with one another, so ranks gather
    nothing: the mean over ranks is the global batch's, and so is that of its gradient.
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text, logit_scale = at_least_fp32(image, text, logit_scale)
        target = text / text.sum(dim=1, keepdim=True).clamp(min=torch.finfo(text.dtype).tiny)
        if smoothing:
            target = torch.lerp(target, target.sum(dim=1, keepdim=True) / target.shape[1], smoothing)
        return -(target * (logit_scale * image).log_softmax(dim=1)).sum(dim=1).mean()


class PhraseCrossEntropy(nn.Module):
    """`phrase_cross_entropy` as a component of the config."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = check_smoothing(smoothing)

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale [] -> scalar"""
        return phrase_cross_entropy(image, text, logit_scale, self.smoothing)
