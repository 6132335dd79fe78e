"""The error of each precision: loss and gradient of one step of the small models, relative to float64.

    python benchmarks/precision.py

The gradient's error is |g − g64| / |g64| over all parameters at once. The batch is 32 seeded pictures and captions;
the weights are a run's initial weights. Nothing is timed.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from diptych import create_model
from diptych.loss import ContrastiveLoss
from diptych.training.accumulation import features
from diptych.training.precision import NAMES, make_precision, tower_dtype

BATCH = 32


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    words = torch.randint(1, 49000, (BATCH, 8), generator=generator)
    edges = [torch.full((BATCH, 1), number) for number in (49406, 49407)]
    return images, torch.cat([edges[0], words, edges[1]], dim=1)


def step(model: torch.nn.Module, precision: str, parts: int) -> tuple[float, Tensor]:
    """The loss and the whole gradient, in float64."""
    plugin = make_precision(precision, "cpu")
    model = plugin.convert_module(copy.deepcopy(model))
    with plugin.forward_context():
        image, text = features(model, *batch(), parts=parts, dtype=tower_dtype(precision))
        loss = ContrastiveLoss()(image, text, model.logit_scale.exp())
    scale = 1024.0 if precision == "16-mixed" else 1.0  # a scale without overflow or underflow
    (loss * scale).backward()
    return loss.item(), torch.cat([p.grad.double().flatten() / scale for p in model.parameters()])


def main() -> None:
    print(f"{'model':10}{'precision':12}{'k':>3}{'loss, relative':>18}{'gradient, relative':>20}")
    for name in ("vit_tiny", "rn_tiny"):
        torch.manual_seed(0)
        model = create_model(name).train()
        for parts in (1, 4):
            exact, direction = step(model, "64-true", parts)
            for precision in NAMES[:-1]:
                loss, gradient = step(model, precision, parts)
                error = (gradient - direction).norm() / direction.norm()
                print(f"{name:10}{precision:12}{parts:3}{abs(loss - exact) / exact:18.1e}{error:20.1e}", flush=True)


if __name__ == "__main__":
    main()
