"""Memory and operations of one step for each `trainer.accumulate`, as ratios to k = 1.

Memory is the peak of bytes in live tensors, without weights and gradients. Both are counted, not timed, so the
numbers are the same on any machine.

    python benchmarks/accumulation.py
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych import create_model
from diptych.loss import ContrastiveLoss
from diptych.plan.counts import Live
from diptych.towers.clip import CLIP
from diptych.training.accumulation import features

BATCH, PARTS, IDS = 64, (1, 2, 4, 8, 16), 1000  # few ids: an embedding's gradient is as large as its table


def step(model: CLIP, rows: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (rows, 3, 32, 32), generator=generator, dtype=torch.uint8)
    words = torch.randint(1, IDS - 2, (rows, 8), generator=generator)
    edges = [torch.full((rows, 1), number) for number in (IDS - 2, IDS - 1)]
    image, text = features(model, images, torch.cat([edges[0], words, edges[1]], dim=1), parts=parts)
    ContrastiveLoss()(image, text, model.logit_scale.exp()).backward()


def measured(model: CLIP, rows: int, parts: int) -> tuple[int, int]:
    """Returns the peak bytes in live tensors, and the operations, of one step."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Live() as live:
        step(model, rows, parts)
    with FlopCounterMode(display=False) as counter:
        step(model, rows, parts)
    return live.most, counter.get_total_flops()


def main() -> None:
    print(f"{BATCH} pairs{'k':>14}{'peak MB':>10}{'of k=1':>9}{'operations of k=1':>20}")
    for name in ("vit_tiny", "rn_tiny"):
        torch.manual_seed(0)
        model = create_model(name, **{"text.vocab_size": IDS}).train()
        found = {parts: measured(model, BATCH, parts) for parts in PARTS}
        for parts, (peak, operations) in found.items():
            ratios = (peak / found[1][0], operations / found[1][1])
            print(f"{name:16}{parts:6}{peak / 2**20:10.1f}{ratios[0]:9.2f}{ratios[1]:20.2f}", flush=True)


if __name__ == "__main__":
    main()
