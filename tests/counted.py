"""What steps on real ranks send, part by part, for tests and `benchmarks/parallel.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from sockets import bytes_sent
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diptych.config import create_model
from diptych.distributed import synchronise_batch_norm
from diptych.loss import ContrastiveLoss

TOKENS = 12


def sent_by(step: Callable[[], None]) -> int:
    """Bytes that this rank sends in a step; the first one, which sets things up, isn't counted."""
    step()
    dist.barrier()
    before = bytes_sent()
    step()
    dist.barrier()
    return bytes_sent() - before


def features(rank: int, world: int, pairs: int, dimensions: int) -> int:
    """The loss alone, forward and backward."""
    loss = ContrastiveLoss()

    def step() -> None:
        image, text = (nn.functional.normalize(x, dim=1) for x in torch.randn(2, pairs, dimensions))
        loss(image.requires_grad_(), text.requires_grad_(), torch.tensor(10.0)).backward()

    return sent_by(step)


def whole(rank: int, world: int, name: str, pairs: int) -> int:
    """A step of a small model of conf/model: towers, loss and gradients, data-parallel."""
    model = DistributedDataParallel(synchronise_batch_norm(small(name)))
    loss = ContrastiveLoss()

    def step() -> None:
        loss(*model(*batch(pairs))).backward()

    return sent_by(step)


def small(name: str) -> nn.Module:
    return create_model(name, {"text.vocab_size": 2000, "text.context_length": TOKENS})


def batch(pairs: int) -> tuple[Tensor, Tensor]:
    """32-pixel images and captions as long as the context, which [EOS], the highest id, ends."""
    tokens = torch.randint(1, 1998, (pairs, TOKENS))
    tokens[:, -1] = 1999
    return torch.randn(pairs, 3, 32, 32), tokens
