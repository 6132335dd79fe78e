"""Cross-entropy over phrases (class names or n-grams), where an image's features are the logits of the phrases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.loss.logits import at_least_fp32, check_smoothing


def phrase_cross_entropy(image: Tensor, text: Tensor, logit_scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """This rank's mean of -log p over each row's phrases.

    image: [B, D], unit length; logit_scale · image are the logits of the D phrases
    text: [B, D], equal positive numbers at a row's phrases, 0 elsewhere
    logit_scale: []
    smoothing: share of the target that is spread evenly over all D phrases (Szegedy et al. 2016, section 7)

    With one phrase in each row it is the softmax cross-entropy of a classifier; with several it is the naive n-gram
    loss (Li et al. 2017, section 3.2). A row without a phrase adds 0. Rows aren't compared with one another, so ranks
    gather nothing: the mean over ranks is the loss of the global batch, and so is the mean of its gradient.
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text, logit_scale = at_least_fp32(image, text, logit_scale)
        target = text / text.sum(dim=1, keepdim=True).clamp(min=torch.finfo(text.dtype).tiny)
        if smoothing:
            target = torch.lerp(target, target.sum(dim=1, keepdim=True) / target.shape[1], smoothing)
        return -(target * (logit_scale * image).log_softmax(dim=1)).sum(dim=1).mean()


class PhraseCrossEntropy(nn.Module):
    """`phrase_cross_entropy` as a config's `loss`."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = check_smoothing(smoothing)

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale [] -> scalar"""
        return phrase_cross_entropy(image, text, logit_scale, self.smoothing)
