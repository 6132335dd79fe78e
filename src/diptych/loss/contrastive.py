"""CLIP's symmetric cross-entropy over the global batch (Radford et al. 2021, figure 3), dense or in tiles; with one
positive for each row, or several."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.base.errors import UserError
from diptych.launch import distributed
from diptych.loss.logits import (
    Tile,
    at_least_fp32,
    check_smoothing,
    check_tile,
    choose_tile,
    describe_tile,
    log_sum_exps,
)


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    groups: Tensor | None = None,
    tile: Tile = "auto",
    smoothing: float = 0.0,
) -> Tensor:
    """This rank's share of the symmetric cross-entropy over all ranks' pairs.

    image, text: [B, D], L2-normalised; row i of one belongs to row i of the other; the same B on every rank
    logit_scale: the multiplier itself, exp of the learned parameter, []
    groups: int64 [B], equal numbers for pairs of the same concept, which then share the target evenly (see
        `MultiPositiveLoss`); None: each pair is its own concept
    tile: side of the tiles; None for all logits at once; "auto" chooses by the number of logits
    smoothing: share of the target that is spread evenly over all pairs (Szegedy et al. 2016, section 7)
    Returns a scalar; its mean over ranks is the loss of the global batch, and so is the mean of its gradient.
    """
    distributed.agree_on_shape(image)
    with torch.autocast(image.device.type, enabled=False):
        image, text, logit_scale = at_least_fp32(image, text, logit_scale)
        n, ranks = len(image), distributed.world_size()
        side = choose_tile(tile, n, n * ranks, image.dtype, image.device.type)
        if side is None:
            return _dense(image, text, logit_scale, groups, smoothing)
        return _tiled(image, text, logit_scale, groups, smoothing, side)


def _dense(image: Tensor, text: Tensor, scale: Tensor, groups: Tensor | None, smoothing: float) -> Tensor:
    all_images, all_texts = distributed.gather(image), distributed.gather(text)
    if groups is None:
        target = torch.arange(len(image), device=image.device) + distributed.rank() * len(image)
    else:
        target = positive_shares(groups, image.dtype)
    per_image = F.cross_entropy(scale * image @ all_texts.T, target, label_smoothing=smoothing)  # B×D, D×N -> B×N
    per_text = F.cross_entropy(scale * text @ all_images.T, target, label_smoothing=smoothing)
    return (per_image + per_text) / 2


def _tiled(image: Tensor, text: Tensor, scale: Tensor, groups: Tensor | None, smoothing: float, side: int) -> Tensor:
    """Cross-entropy is the log-sum-exp of the logits minus their mean under the target. That mean is one product with
    the features' mean under the target. Targets are symmetric, so images and texts have the same mean over all ranks.
    """
    scaled = scale * image
    per_image, per_text = log_sum_exps(scaled, text, side)
    expected = text if groups is None else mean_of_positives(text, groups)
    if smoothing:
        expected = torch.lerp(expected, distributed.gather(text.mean(0)[None]).mean(0), smoothing)
    return ((per_image + per_text) / 2 - (scaled * expected).sum(1)).mean()


class ContrastiveLoss(nn.Module):
    """`contrastive_loss` as a config's `loss`: each image against all texts, each text against all images."""

    def __init__(self, tile: Tile = "auto", smoothing: float = 0.0) -> None:
        super().__init__()
        self.tile, self.smoothing = check_tile(tile), check_smoothing(smoothing)

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale [] -> scalar"""
        return contrastive_loss(image, text, logit_scale, tile=self.tile, smoothing=self.smoothing)

    def describe(self, rows: int, ranks: int, device: str) -> str:
        """A line for the log about `rows` pairs on each rank."""
        return describe_tile(self.tile, rows, rows * ranks, device)


class MultiPositiveLoss(ContrastiveLoss):
    """`contrastive_loss` where the pairs of one group are each other's positives, not negatives.

    The target of a row is spread evenly over all pairs of its group, so the loss is the mean of -log p over a row's
    positives: L_out of supervised contrastive learning (Khosla et al. 2020, equation 2), between images and texts in
    both directions as in UniCL (Yang et al. 2022, section 3.2). The mean is outside the logarithm. Inside (L_in), one
    easy positive satisfies a row, which then no longer pulls the others; Khosla et al. find that much worse. The
    target stays a distribution, so groups of any size have the same weight, and the smallest possible loss is the
    target's entropy, not 0. With distinct groups it equals ContrastiveLoss.
    """

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor, groups: Tensor | None = None) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale []; groups int64 [B] -> scalar"""
        if groups is None:
            raise UserError(
                "loss=multi_positive needs to know which samples are of one concept: give data.groups=FIELD, "
                "or take loss=clip."
            )
        return contrastive_loss(image, text, logit_scale, groups, tile=self.tile, smoothing=self.smoothing)


def positive_shares(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """groups: int64 [n], equal numbers for the same concept -> [n, N]

    Each row spreads 1 evenly over the pairs of all ranks that are in its group, itself included."""
    same = (groups[:, None] == distributed.gather(groups)).to(dtype)
    return same / same.sum(1, keepdim=True)


def mean_of_positives(x: Tensor, groups: Tensor) -> Tensor:
    """positive_shares [n, N] @ x of all ranks [N, D] -> [n, D], without that matrix and without all of x."""
    _, place, counts = distributed.gather(groups).unique(return_inverse=True, return_counts=True)
    own = place[distributed.rank() * len(groups) :][: len(groups)]
    return _GroupSums.apply(x, groups) / counts[own, None]


class _GroupSums(torch.autograd.Function):
    """Sums over the rows of all ranks that share a group. The map is symmetric, so its backward is the map itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Tensor) -> Tensor:
        ctx.save_for_backward(groups)
        return _group_sums(x, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _group_sums(gradient, *ctx.saved_tensors), None


def _group_sums(x: Tensor, groups: Tensor) -> Tensor:
    known, own = groups.unique(return_inverse=True)
    sums = x.new_zeros(len(known), x.shape[1])

    def visit(x: Tensor, groups: Tensor) -> None:
        place = torch.searchsorted(known, groups).clamp_(max=len(known) - 1)
        sums.index_add_(0, place, x * (known[place] == groups)[:, None])

    distributed.ring([x, groups], visit)
    return sums[own]
