"""The gradient of one step, divided in every way, compared with one plain process in float64.

    PYTHONPATH=src:tests/support python tests/support/gradient_table.py

prints the largest relative difference over all parameters, for {clip, siglip} × {dense, tiled} × micro-batches ×
{DDP, FSDP} × ranks (gloo). The reference uses only our towers: the losses are written again here.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from drawn_tokens import drawn_tokens
from gloo import on_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from diptych.base.batch import normalise
from diptych.loss import ContrastiveLoss, SigLIPLoss
from diptych.towers.clip import CLIP
from diptych.towers.text import TextTransformer
from diptych.towers.vit import VisionTransformer
from diptych.training.accumulation import features
from diptych.training.parallel import average_gradients, shard

BATCH = 16
LOSSES = {"clip": ContrastiveLoss, "siglip": SigLIPLoss}
TILES = {"dense": None, "tiled": 3}  # a side that divides neither the batch nor a rank's part of it
PARTS = (1, 2, 4)
RANKS = (1, 2, 4)
WRAPS = ("DDP", "FSDP")


def towers() -> CLIP:
    torch.manual_seed(0)
    image = VisionTransformer(image_size=16, patch_size=8, width=16, layers=2, heads=2, embed_dim=12)
    text = TextTransformer(12, width=16, layers=2, heads=2, context_length=10, vocab_size=50)
    return CLIP(image, text).double()


def pairs() -> tuple[Tensor, Tensor]:
    """images float 0–1 [BATCH, 3, 16, 16]; tokens of 4 to 10 ids [BATCH, 10]"""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)
    return images, drawn_tokens(BATCH, generator)


def written_out(name: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The losses as in their papers, over the whole batch."""
    logits = scale * image @ text.T
    if name == "clip":
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    assert bias is not None
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * (logits + bias)).sum() / len(logits)


def reference(name: str) -> dict[str, Tensor]:
    """Every gradient, and the loss, of one process that uses only our towers."""
    model, loss = towers(), LOSSES[name]().double()
    images, tokens = pairs()
    image, text, scale = model(normalise(images, model.mean, model.std).double(), tokens)
    value = written_out(name, image, text, scale, getattr(loss, "logit_bias", None))
    value.backward()
    return {"": value.detach(), **_gradients(model, loss)}


def divided(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    """On one rank: the gradients for every way to divide the step."""
    found = {}
    for name, wrap, tile, parts in itertools.product(LOSSES, WRAPS, TILES, PARTS):
        if BATCH // world % parts == 0:
            found[" ".join((name, wrap, tile, str(parts)))] = _step(rank, world, name, wrap, TILES[tile], parts)
    return found


def _step(rank: int, world: int, name: str, wrap: str, tile: int | None, parts: int) -> dict[str, Tensor]:
    step = _Step(towers(), LOSSES[name](tile=tile).double(), parts)
    run: nn.Module = step
    if wrap == "FSDP":
        shard(step.model, init_device_mesh("cpu", (world,)))
        average_gradients(step.loss.parameters())
    elif world > 1:
        run = DistributedDataParallel(step)
    value = run(*(rows.chunk(world)[rank] for rows in pairs()))
    value.backward()
    mean = value.detach().clone()
    dist.all_reduce(mean)
    return {"": mean / world, **_gradients(step.model, step.loss)}


class _Step(nn.Module):
    """One step as in the trainer's module."""

    def __init__(self, model: CLIP, loss: nn.Module, parts: int) -> None:
        super().__init__()
        self.model, self.loss, self.parts = model, loss, parts

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        image, text = features(self.model, images, tokens, self.parts)
        return self.loss(image, text, self.model.logit_scale.exp())


def _gradients(model: nn.Module, loss: nn.Module) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **{f"loss.{key}": p for key, p in loss.named_parameters()}}
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in named.items()}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in gradients.items()}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of the loss and of any parameter's gradient, relative to that gradient's largest entry.

    Some gradients are zero except for rounding (a key's bias changes all scores equally), so the divisor is at least
    a millionth of the largest gradient. One NaN makes the result NaN, which `max` would ignore.
    """
    assert found.keys() == expected.keys()
    floor = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())
    differences = [
        float((found[name] - gradient).abs().max() / max(float(gradient.abs().max()), floor))
        for name, gradient in expected.items()
    ]
    return float(np.max(differences))


def differences(world: int) -> dict[str, float]:
    """way to divide the step -> its largest relative difference on any of `world` ranks"""
    expected = {name: reference(name) for name in LOSSES}
    ranks = on_ranks(world, divided)
    return {
        way: float(np.max([difference(rank[way], expected[way.split()[0]]) for rank in ranks])) for way in ranks[0]
    }


def main() -> None:
    columns = [(wrap, world) for wrap in WRAPS for world in RANKS]
    found = {world: differences(world) for world in RANKS}
    print("| loss | k |" + "".join(f" {wrap} W={world} |" for wrap, world in columns))
    print("|---|---|" + "---|" * len(columns))
    for name, tile, parts in itertools.product(LOSSES, TILES, PARTS):
        cells = [found[world][f"{name} {wrap} {tile} {parts}"] for wrap, world in columns]
        print(f"| {name}, {tile} | {parts} |" + "".join(f" {cell:.0e} |" for cell in cells))
    print(f"largest: {np.max([value for by_way in found.values() for value in by_way.values()]):.1e}")


if __name__ == "__main__":
    main()
