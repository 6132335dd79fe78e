"""SigLIP's sigmoid loss over the global batch (Zhai et al. 2023, equation 1), in tiles and around a ring of ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.launch import distributed
from diptych.loss.logits import Tile, at_least_fp32, check_tile, choose_tile, describe_tile, logit_tiles


def siglip_loss(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, tile: Tile = "auto") -> Tensor:
    """This rank's images against all ranks' texts; each pair is a question by itself: do the two belong together?

    image, text: [B, D], L2-normalised; row i of one belongs to row i of the other; the same B on every rank
    logit_scale, logit_bias: the logits are logit_scale · cosine + logit_bias, [] each
    tile: side of the tiles; None for all logits of two ranks at once; "auto" chooses by the number of logits
    Returns a scalar: the sum over pairs, divided by B. Its mean over ranks is the paper's loss of the global batch,
    and so is the mean of its gradient.
    """
    distributed.agree_on_shape(image)
    with torch.autocast(image.device.type, enabled=False):
        image, text, logit_scale, logit_bias = at_least_fp32(image, text, logit_scale, logit_bias)
        n = len(image)
        side = choose_tile(tile, n, n, image.dtype, image.device.type) or n
        scaled = logit_scale * image
        # -log sigmoid(-z) = softplus(z) of a negative, and -log sigmoid(z) = softplus(z) - z of a positive.
        softplus: Tensor = _SoftplusSums.apply(scaled, text, logit_bias, side)
        return (softplus - (scaled * text).sum(1) - logit_bias).mean()


class _SoftplusSums(torch.autograd.Function):
    """Sum over all ranks' right of softplus(left @ right.T + bias), for each own left. The backward pass computes the
    logits again, and the gradient of a text travels round the ring behind the text."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, bias: Tensor, tile: int) -> Tensor:
        ctx.tile = tile
        ctx.save_for_backward(left, right, bias)
        sums = left.new_zeros(len(left))

        def visit(right: Tensor) -> None:
            for i, _, logits, scratch in logit_tiles(left, right, tile):
                sums[i] += _softplus_(logits.add_(bias), scratch).sum(1)

        distributed.ring([right], visit)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        left, right, bias = ctx.saved_tensors
        to_left, to_bias = torch.zeros_like(left), torch.zeros_like(bias)

        def visit(right: Tensor) -> Tensor:
            to_right = torch.zeros_like(right)
            for i, j, logits, _ in logit_tiles(left, right, ctx.tile):
                logits.add_(bias).sigmoid_().mul_(gradient[i, None])
                to_bias.add_(logits.sum())
                to_left[i].addmm_(logits, right[j])  # R×C, C×D -> R×D
                to_right[j].addmm_(logits.T, left[i])
            return to_right

        return to_left, distributed.ring([right], visit), to_bias, None


def _softplus_(x: Tensor, scratch: Tensor) -> Tensor:
    """log(1 + exp(x)) in place. torch's own allocates memory and returns x above 20, inexact in float64."""
    torch.abs(x, out=scratch).neg_().exp_().log1p_()
    return x.clamp_(min=0).add_(scratch)


class SigLIPLoss(nn.Module):
    """`siglip_loss` with its learned bias; loss=siglip also starts the model's scale at the paper's 10."""

    def __init__(self, tile: Tile = "auto", bias_init: float = -10.0) -> None:
        """bias_init: strongly negative, since nearly all pairs are negatives (paper, section 3.2)"""
        super().__init__()
        self.tile = check_tile(tile)
        self.logit_bias = nn.Parameter(torch.tensor(float(bias_init)))

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """image, text [B, D], L2-normalised; logit_scale [] -> scalar"""
        return siglip_loss(image, text, logit_scale, self.logit_bias, self.tile)

    def describe(self, rows: int, ranks: int, device: str) -> str:
        """A line for the log about `rows` pairs on each rank."""
        return describe_tile(self.tile, rows, rows, device)
