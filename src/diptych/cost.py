"""What a pair costs: floating-point operations, counted on a model without memory."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych.towers.clip import CLIP

CPU_FLOPS_PER_CORE = 5e10  # what training reaches on a current core in fp32, order of magnitude


def training_flops(model: CLIP) -> int:
    """Operations of one pair's forward and backward pass: three times the forward's (multiply and add are two).

    The image tower is counted; the text tower is estimated, from above, as two a weight and token of a full context.
    """
    hollow = copy.deepcopy(model.image).to("meta").eval()
    images = torch.zeros(1, 3, model.image_size, model.image_size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        hollow(images)
    matrices = sum(p.numel() for name, p in model.text.named_parameters() if p.ndim == 2 and "embedding" not in name)
    return 3 * (counter.get_total_flops() + 2 * matrices * model.context_length)
