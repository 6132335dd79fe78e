"""Cross-entropy where several pairs are of one concept: same-concept images or several captions are no negatives."""

from __future__ import annotations

from torch import Tensor

from diptych.base.errors import UserError
from diptych.loss.contrastive import ContrastiveLoss, contrastive_loss


class MultiPositiveLoss(ContrastiveLoss):
    """`contrastive_loss` with the target of a row spread evenly over all pairs of its group.

    It is the mean of -log p over a row's positives: L_out of supervised contrastive learning (Khosla et al. 2020,
    equation 2), between images and texts in both directions as in UniCL (Yang et al. 2022, section 3.2). The mean
    stands outside the logarithm: inside (L_in), one easy positive satisfies a row, which then no longer pulls the
    others; Khosla et al. find that worse by far. The target stays a distribution, so groups of any size weigh alike,
    and the least value is its entropy, not 0. With distinct groups it is ContrastiveLoss.
    """

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor, groups: Tensor | None = None) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale []; groups int64 [B] -> scalar"""
        if groups is None:
            raise UserError(
                "loss=multi_positive needs to know which samples are of one concept: say data.groups=FIELD, "
                "or take loss=clip."
            )
        return contrastive_loss(image, text, logit_scale, groups, tile=self.tile, smoothing=self.smoothing)
