"""Which pixels an answer hangs on: gradients of a picture's cosine with a class, averaged over noisy copies.

SmoothGrad (Smilkov et al. 2017), for any image tower, a ResNet or a ViT. Pure: a function and tensors in, a map out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity

COPIES = 16
NOISE = 0.15  # as a share of the pixels' range


def saliency(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, classes: Tensor, copies: int = COPIES, seed: int = 0
) -> Tensor:
    """encode: [N, 3, H, W] -> [N, D], differentiable; pixels float [N, 3, H, W], normalised; classes [N, D], the
    class that is asked about of each -> float [N, H, W], 0 to 1: the size of the gradient over colours, smoothed over
    3 × 3 pixels, its greatest made 1. All 0 where nothing depends on the picture."""
    generator = torch.Generator().manual_seed(seed)
    spread = NOISE * (pixels.amax(dim=(1, 2, 3), keepdim=True) - pixels.amin(dim=(1, 2, 3), keepdim=True))
    total = torch.zeros_like(pixels[:, :1])
    for _ in range(copies):
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        noisy = (pixels + spread * noise).requires_grad_(True)
        with torch.enable_grad():
            cosine = cosine_similarity(encode(noisy), classes.to(pixels), dim=1)
            (gradient,) = torch.autograd.grad(cosine.sum(), noisy)
        total += gradient.norm(dim=1, keepdim=True)
    smooth = avg_pool2d(total, 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return smooth / smooth.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(smooth.dtype).tiny)
