"""CLIP's symmetric cross-entropy over the global batch (Radford et al. 2021, figure 3), dense or in tiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.launch import distributed
from diptych.loss.log_sum_exp import log_sum_exps
from diptych.loss.logits import Tile, at_least_fp32, check_smoothing, check_tile, choose_tile, describe_tile
from diptych.loss.positives import mean_of_positives, positive_shares


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    groups: Tensor | None = None,
    tile: Tile = "auto",
    smoothing: float = 0.0,
) -> Tensor:
    """This rank's share of the symmetric cross-entropy over all ranks' pairs.

    image, text: [B, D], L2-normalised, row i of one belonging to row i of the other; the same B on every rank
    logit_scale: the multiplier itself, exp of the learned parameter, []
    groups: int64 [B], equal numbers for pairs of the same concept, which then share the target evenly (see
        `MultiPositiveLoss`); without them each pair is its own
    tile: side of the tiles, None for all logits at once, "auto" for the one or the other by their size
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
    """Cross-entropy is log-sum-exp less the target's mean of the logits, and that is one product with the target's
    mean of the features. Targets are symmetric, so over all ranks it is the same from images as from texts."""
    scaled = scale * image
    per_image, per_text = log_sum_exps(scaled, text, side)
    expected = text if groups is None else mean_of_positives(text, groups)
    if smoothing:
        expected = torch.lerp(expected, distributed.gather(text.mean(0)[None]).mean(0), smoothing)
    return ((per_image + per_text) / 2 - (scaled * expected).sum(1)).mean()


class ContrastiveLoss(nn.Module):
    """`contrastive_loss` as a component of the config: each image against all texts, each text against all images."""

    def __init__(self, tile: Tile = "auto", smoothing: float = 0.0) -> None:
        super().__init__()
        self.tile, self.smoothing = check_tile(tile), check_smoothing(smoothing)

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale [] -> scalar"""
        return contrastive_loss(image, text, logit_scale, tile=self.tile, smoothing=self.smoothing)

    def describe(self, rows: int, ranks: int, device: str) -> str:
        """A line for the log, for `rows` pairs a rank."""
        return describe_tile(self.tile, rows, rows * ranks, device)
