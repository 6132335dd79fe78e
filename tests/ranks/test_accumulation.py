"""Law 1: a batch encoded in k parts on W ranks has the gradient of the whole batch in one process, in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from drawn_tokens import drawn_tokens
from gloo import on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diptych.base.batch import normalise
from diptych.launch.distributed import synchronise_batch_norm
from diptych.loss import ContrastiveLoss
from diptych.model.patches import kept_patches
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.towers.vit import VisionTransformer
from diptych.training.accumulation import features

BATCH, PARTS = 16, (1, 2, 4)
KINDS = ("vit", "half the patches", "resnet")


class Trained(nn.Module):
    """What DDP wraps: one step's forward pass, as `ContrastiveModule.training_step` has it."""

    def __init__(self, model: CLIP, parts: int) -> None:
        super().__init__()
        self.model, self.loss, self.parts = model, ContrastiveLoss(), parts

    def forward(self, images: Tensor, tokens: Tensor, seeds: Tensor) -> Tensor:
        kept = kept_patches(self.model, seeds, images)
        image, text = features(self.model, images, tokens, self.parts, kept=kept)
        return self.loss(image, text, self.model.logit_scale.exp())


def small_clip(kind: str) -> CLIP:
    torch.manual_seed(0)
    vit = partial(VisionTransformer, image_size=16, patch_size=8, width=16, layers=2, heads=2, embed_dim=12)
    image = {
        "vit": vit,
        "half the patches": partial(vit, patch_dropout=0.5),
        "resnet": lambda: ModifiedResNet(16, [1, 1], 8, 12, block=BasicBlock, stem_pool=False),
    }[kind]()
    text = TextTransformer(12, width=16, layers=2, heads=2, context_length=10, vocab_size=50)
    model = CLIP(image, text).double()
    for module in model.modules():  # the last norm of a block starts at zero, which would hide its branch
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return synchronise_batch_norm(model)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, tokens and the samples' seeds."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (BATCH, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return images, drawn_tokens(BATCH, generator), torch.arange(BATCH) + 40


def step(rank: int, world: int, kind: str, parts: int) -> dict[str, Any]:
    model = small_clip(kind)
    module: nn.Module = Trained(model, parts)
    reduced = [0]
    if world > 1:
        module = DistributedDataParallel(module)
        module.register_comm_hook(reduced, _counted)
    loss = module(*(x.chunk(world)[rank] for x in batch()))
    loss.backward()
    return {
        "loss": loss.detach(),
        "reduced": reduced[0],
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "buffers": dict(model.named_buffers()),
    }


def _counted(reduced, bucket):  # type: ignore[no-untyped-def]  # DDP wants annotations that are no strings, or none
    """DDP's own mean, and how many numbers went over the wire."""
    reduced[0] += bucket.buffer().numel()
    sent = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
    return sent.then(lambda done: done.value()[0])


def steps(rank: int, world: int) -> dict[str, Any]:
    """Every kind and number of parts in one start of the ranks."""
    return {f"{kind} {parts}": step(rank, world, kind, parts) for kind in KINDS for parts in PARTS}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return steps(0, 1)


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest of any parameter, relative to its largest; none is measured against less than a millionth of the
    model's largest, since some gradients are zero but for rounding."""
    floor = 1e-6 * max(float(gradient.abs().max()) for gradient in theirs.values())
    assert ours.keys() == theirs.keys()
    each = [float((ours[n] - g).abs().max() / max(g.abs().max(), floor)) for n, g in theirs.items()]
    return float(np.max(each))  # NaN where one is, which `max` would pass over


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("parts", PARTS[1:])
def test_parts_of_a_batch_have_its_gradient(alone: dict[str, Any], parts: int, kind: str) -> None:
    whole, ours = alone[f"{kind} 1"], alone[f"{kind} {parts}"]
    assert abs(ours["loss"] - whole["loss"]) < 1e-12
    assert difference(ours["gradients"], whole["gradients"]) < 1e-10


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_ranks_and_parts_have_one_gradient(alone: dict[str, Any], world: int) -> None:
    """With batch norms for the same parts: what a norm sees is a micro-batch over all ranks."""
    ranks = on_ranks(world, steps)
    for name, one in alone.items():
        numbers = sum(gradient.numel() for gradient in one["gradients"].values())
        loss = torch.stack([ours[name]["loss"] for ours in ranks]).mean()
        assert abs(loss - one["loss"]) < 1e-12, name
        for ours in ranks:
            assert difference(ours[name]["gradients"], one["gradients"]) < 1e-10, name
            assert ours[name]["reduced"] == numbers, name  # each gradient once a step, whatever the parts
            for key, buffer in one["buffers"].items():
                torch.testing.assert_close(ours[name]["buffers"][key], buffer, rtol=1e-12, atol=1e-12)


def test_statistics_move_once_a_part(alone: dict[str, Any]) -> None:
    """The running statistics after a step in k parts are those of k forward passes."""
    for parts in PARTS:
        model = small_clip("resnet")
        images, *_ = batch()
        for part in range(parts):
            model.encode_image(normalise(images[part::parts], model.mean, model.std).double())
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(alone[f"resnet {parts}"]["buffers"][name], buffer, rtol=1e-12, atol=1e-12)
    assert difference(alone["resnet 2"]["gradients"], alone["resnet 1"]["gradients"]) > 1e-3  # so k is part of it
