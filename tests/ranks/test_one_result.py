"""Law 1: loss and every parameter's gradient on 2 and 4 gloo ranks equal one process on the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn_tokens import drawn_tokens
from gloo import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from diptych.launch.distributed import SyncBatchNorm, gather, synchronise_batch_norm, world_size
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, Bottleneck, ModifiedResNet
from diptych.towers.text import CBOW, TextTransformer
from diptych.towers.vit import VisionTransformer

BATCH = 8


def small_clip(kind: str) -> CLIP:
    """A CLIP of a few thousand parameters in float64; `kind` names its image and text tower."""
    torch.manual_seed(0)
    images = {
        "vit": lambda: VisionTransformer(image_size=16, patch_size=8, width=16, layers=2, heads=2, embed_dim=12),
        "resnet": lambda: ModifiedResNet(16, [1, 1], 8, 12, block=BasicBlock, stem_pool=False),
        "bottleneck": lambda: ModifiedResNet(32, [1, 1], 8, 12, block=Bottleneck),
    }
    texts = {
        "transformer": lambda: TextTransformer(12, width=16, layers=2, heads=2, context_length=10, vocab_size=50),
        "cbow": lambda: CBOW(12, width=16, context_length=10, vocab_size=50),
    }
    image, text = kind.split("-")
    model = CLIP(images[image](), texts[text]()).double()
    for module in model.modules():  # the last norm of a block starts at zero, which would hide its branch
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    return images, drawn_tokens(BATCH, generator)


def step(rank: int, world: int, kind: str) -> dict[str, Any]:
    """One forward and backward as the trainer does it, on this rank's rows."""
    model: nn.Module = synchronise_batch_norm(small_clip(kind))
    if world > 1:
        model = DistributedDataParallel(model)
    images, tokens = (x.chunk(world)[rank] for x in batch())
    image, text, scale = model(images, tokens)
    loss = ContrastiveLoss()(image, text, scale)
    loss.backward()
    plain = model.module if world > 1 else model
    return {
        "loss": loss.detach(),
        "gradients": {name: p.grad for name, p in plain.named_parameters()},
        "buffers": dict(plain.named_buffers()),
    }


KINDS = ["vit-transformer", "resnet-transformer", "bottleneck-cbow"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_equal_one_process(world: int, kind: str) -> None:
    alone = step(0, 1, kind)
    ranks = on_ranks(world, step, kind)
    loss = torch.stack([result["loss"] for result in ranks]).mean()
    assert abs(loss - alone["loss"]) / alone["loss"] < 1e-12
    # Some gradients are zero but for rounding (a key's bias moves all scores alike), so none is measured
    # against less than a millionth of the largest.
    floor = 1e-6 * max(float(gradient.abs().max()) for gradient in alone["gradients"].values())
    for result in ranks:
        assert result["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            assert gradient.abs().max() > 0, name
            difference = (result["gradients"][name] - gradient).abs().max() / max(gradient.abs().max(), floor)
            assert difference < 1e-10, (name, float(difference))
        for name, buffer in alone["buffers"].items():
            torch.testing.assert_close(result["buffers"][name], buffer, rtol=1e-12, atol=1e-12)


def norm_step(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    x = (torch.randn(8, 3, 5, 5, dtype=torch.float64) * 3 + 2).requires_grad_()
    norm = SyncBatchNorm(3).double()
    nn.init.uniform_(norm.weight)
    out = norm(x.chunk(world)[rank])
    weight = torch.arange(1.0, out.numel() * world + 1, dtype=torch.float64).view(8, 3, 5, 5).chunk(world)[rank]
    (out * weight).square().sum().backward()
    norm.eval()
    return {
        "out": out.detach(),
        "x": gather(x.grad.chunk(world)[rank].contiguous()).detach(),
        "weight": gather(norm.weight.grad[None]).sum(0).detach(),
        "mean": norm.running_mean,
        "var": norm.running_var,
        "eval": norm(torch.ones(1, 3, 2, 2, dtype=torch.float64)).detach(),
    }


@pytest.mark.parametrize("world", [2, 4])
def test_batch_norm_over_ranks_is_batch_norm(world: int) -> None:
    alone = norm_step(0, 1)
    ranks = on_ranks(world, norm_step)
    torch.testing.assert_close(torch.cat([r["out"] for r in ranks]), alone["out"], rtol=1e-12, atol=1e-12)
    for name in ("x", "weight", "mean", "var", "eval"):
        torch.testing.assert_close(ranks[0][name], alone[name], rtol=1e-10, atol=1e-10)


def test_one_process_has_no_group_and_gather_is_the_identity() -> None:
    x = torch.ones(2)
    assert world_size() == 1
    assert gather(x) is x


@pytest.mark.slow
def test_the_usual_mistake_is_seen_by_this_test() -> None:
    """Gathering without gradient, as many trainers do, fails the comparison by far: the test can fail."""
    alone, ranks = step(0, 1, KINDS[0]), on_ranks(2, wrong_step, KINDS[0])
    name = "image.conv1.weight"
    ours, theirs = alone["gradients"][name].flatten(), ranks[0]["gradients"][name].flatten()
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) < 0.99


def wrong_step(rank: int, world: int, kind: str) -> dict[str, Any]:
    import diptych.loss.contrastive as module

    with_gradient = module.distributed.gather
    module.distributed.gather = lambda x: _own_rows(with_gradient(x).detach(), x, rank)  # type: ignore[assignment]
    return step(rank, world, kind)


def _own_rows(gathered: torch.Tensor, x: torch.Tensor, rank: int) -> torch.Tensor:
    parts = list(gathered.chunk(world_size()))
    parts[rank] = x
    return torch.cat(parts)
