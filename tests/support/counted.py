"""The bytes that steps on real ranks send, for tests and `benchmarks/parallel.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from sockets import bytes_sent
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diptych.commands.create import create_model
from diptych.launch.distributed import synchronise_batch_norm
from diptych.loss import ContrastiveLoss
from diptych.plan.counts import Live
from diptych.plan.layout import Layout
from diptych.towers.clip import CLIP
from diptych.training.accumulation import features
from diptych.training.parallel import blocks_of, mesh_of, recomputed, shard

TOKENS, DIMENSIONS = 12, 256


@dataclass(frozen=True)
class Case:
    """A step to run: of a small model of conf/model, of one batch norm, or only of the loss on features of
    DIMENSIONS. norm: its channels"""

    layout: Layout
    model: str | None = None
    loss: nn.Module | None = None
    norm: int | None = None


def sent(rank: int, world: int, cases: Sequence[Case]) -> list[int]:
    """Bytes that this rank sends in one step of each case."""
    return [_sent(_step(case)) for case in cases]


def _step(case: Case) -> Callable[[], None]:
    if case.norm:
        return _norm_step(case.norm)
    return _model_step(case) if case.model else _loss_step(case)


def _sent(step: Callable[[], None]) -> int:
    """The first step isn't counted, because it makes buffers and groups."""
    step()
    dist.barrier()
    before = bytes_sent()
    step()
    dist.barrier()
    return bytes_sent() - before


def _loss_step(case: Case) -> Callable[[], None]:
    loss = case.loss or ContrastiveLoss()

    def step() -> None:
        image, text = (nn.functional.normalize(x, dim=1) for x in torch.randn(2, case.layout.pairs, DIMENSIONS))
        loss(image.requires_grad_(), text.requires_grad_(), torch.tensor(10.0)).backward()

    return step


def _norm_step(channels: int) -> Callable[[], None]:
    norm = synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(channels)))
    return lambda: norm(torch.randn(2, channels, 2, 2, requires_grad=True)).square().sum().backward()


def _model_step(case: Case) -> Callable[[], None]:
    """Towers, loss and gradients, wrapped for ranks as in the trainer."""
    assert case.model is not None
    layout = case.layout
    model = synchronise_batch_norm(small(case.model))
    trained: nn.Module = _Step(model, layout.micro, case.loss)
    if layout.shard == 1:
        trained = DistributedDataParallel(trained, gradient_as_bucket_view=True)
    else:
        for block in blocks_of(model) if layout.recompute else ():
            recomputed(block)
        shard(model, mesh_of("cpu", layout.ranks, layout.replicas))
    return lambda: trained(*batch(layout.pairs)).backward()


def copies(rank: int, world: int, gathered: torch.dtype | None) -> int:
    """Bytes that a sharded forward pass keeps for any batch size: under autocast, or with weights
    `gathered` in that type."""
    model = small("vit_tiny")
    shard(model, mesh_of("cpu", world), gathered)
    few, more = (_kept(model, pairs, autocast=gathered is None) for pairs in (8, 16))
    return 2 * few - more


def between_parts(rank: int, world: int, parts: int) -> list[int]:
    """Bytes that live when a part of the pictures is encoded again in DDP's backward pass, what was before the step
    aside; one number for each part."""
    whole = _Step(small("vit_tiny"), parts)
    trained, live, found = DistributedDataParallel(whole, gradient_as_bucket_view=True), Live(), []
    images, tokens = batch(8 * parts)
    for _ in range(2):  # DDP makes its buckets in the first step
        trained(images, tokens).backward()
    whole.model.image.register_forward_pre_hook(lambda *_: found.append(live.now))
    with live:
        trained(images, tokens).backward()
    return found[parts:]


class _Step(nn.Module):
    """The trainer's forward pass: the micro-batches of one tower, then those of the other."""

    def __init__(self, model: CLIP, parts: int, loss: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.parts, self.loss = model, parts, loss or ContrastiveLoss()

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        return self.loss(*features(self.model, images, tokens, self.parts), self.model.logit_scale.exp())


def _kept(model: CLIP, pairs: int, autocast: bool) -> int:
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    images, tokens = batch(pairs)
    images = images if autocast else images.bfloat16()
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = model.encode_image(images), model.encode_text(tokens)
    kept = sum(storage.nbytes() for storage in seen.values())
    sum(each.float().sum() for each in features).backward()
    return kept


def small(name: str) -> CLIP:
    return create_model(name, {"text.vocab_size": 2000, "text.context_length": TOKENS})


def batch(pairs: int) -> tuple[Tensor, Tensor]:
    """32-pixel images, and captions that fill the context and end with [EOS], the highest id."""
    tokens = torch.randint(1, 1998, (pairs, TOKENS))
    tokens[:, -1] = 1999
    return torch.randn(pairs, 3, 32, 32), tokens
