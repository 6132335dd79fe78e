"""How a step is divided over ranks, and the machine: its precision, its backend, its links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from diptych.base.errors import UserError
from diptych.loss import SigLIPLoss
from diptych.loss.logits import choose_tile


def check_whole(key: str, value: object) -> None:
    """Raises UserError for a value that does not count things."""
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{key}={value} must be a whole number of at least 1.")


@dataclass(frozen=True)
class Layout:
    """ranks: of the whole run; batch: pairs of a step, over all ranks; micro: micro-batches of a rank's share

    shard: ranks that hold one copy of the weights between them: 1 is DDP, all of them FSDP, between the two HSDP
    ring: whether the loss hands features from neighbour to neighbour, or gathers them
    tile: side of the squares that a rank's logits are computed in; None for all at once
    recompute: whether a block keeps its input alone (activation checkpointing)

    Raises UserError for a batch that the ranks can't share.
    """

    ranks: int
    batch: int
    micro: int = 1
    shard: int = 1
    ring: bool = False
    tile: int | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        for key, value in (
            ("ranks", self.ranks),
            ("data.batch_size", self.batch),
            ("trainer.accumulate", self.micro),
        ):
            check_whole(key, value)
        if self.batch % (self.ranks * self.micro):
            least = self.ranks * self.micro
            near = max(1, round(self.batch / least)) * least
            raise UserError(
                f"data.batch_size={self.batch} can't be shared by {self.ranks} ranks × {self.micro} micro-batches:"
                f" take a multiple of {least}, such as {near}."
            )

    @property
    def replicas(self) -> int:
        """Copies of the weights."""
        return self.ranks // self.shard

    @property
    def pairs(self) -> int:
        """Of a rank."""
        return self.batch // self.ranks

    @property
    def at_once(self) -> int:
        """Pairs of a rank whose activations are kept at the same time."""
        return self.pairs // self.micro

    @property
    def forwards(self) -> int:
        """Forward passes of a pair: what isn't kept is computed again, by micro-batch and by block."""
        return 1 + (self.micro > 1) + self.recompute

    def alike(self, loss: nn.Module) -> Iterator[Layout]:
        """The same run on other numbers of ranks, a sixteenth of them to four times as many, where they divide the
        batch. Shards are all ranks where they were, or keep their number."""
        for sixteenths in (1, 2, 4, 8, 16, 32, 64):
            ranks, left = divmod(self.ranks * sixteenths, 16)
            if left or not ranks or self.batch % (ranks * self.micro):
                continue
            shard = ranks if self.shard == self.ranks > 1 else self.shard
            if ranks % shard == 0:
                yield _arranged(ranks, self.batch, self.micro, loss, shard, self.recompute)


def arrange(
    ranks: int, batch: int, micro: int, loss: nn.Module, replicas: int | None = None, recompute: bool = False
) -> Layout:
    """A layout from what a config says. replicas: copies of the weights, None for one on each rank

    Raises UserError for replicas that don't divide the ranks, and as `Layout` does.
    """
    if replicas is not None and (replicas < 1 or ranks % replicas):
        raise UserError(
            f"trainer.strategy.replicas={replicas} does not divide the {ranks} ranks: give a divisor of them."
        )
    return _arranged(ranks, batch, micro, loss, 1 if replicas is None else ranks // replicas, recompute)


def _arranged(ranks: int, batch: int, micro: int, loss: nn.Module, shard: int, recompute: bool) -> Layout:
    """The loss decides by the size of its logits, as it does in a run on a GPU; SigLIP's always takes a ring."""
    plain = Layout(ranks, batch, micro, shard, recompute=recompute)
    sigmoid = isinstance(loss, SigLIPLoss)
    columns = plain.pairs if sigmoid else batch
    tile = choose_tile(getattr(loss, "tile", None), plain.pairs, columns, torch.float32, "cuda")
    return replace(plain, ring=sigmoid or tile is not None, tile=tile)


@dataclass(frozen=True)
class Precision:
    """half: whether matrices multiply in 16 bits; gathered: bytes of a weight's element on FSDP's way to all ranks.
    Weights, gradients and optimiser's state have 4 bytes in all of them (`diptych.training.precision`)."""

    half: bool
    gathered: int = 4


PRECISIONS = {
    "32-true": Precision(half=False),
    "bf16-mixed": Precision(half=True),
    "16-mixed": Precision(half=True),
    "bf16-true": Precision(half=True, gathered=2),
}


def precision_named(name: str) -> Precision:
    """Raises UserError for a precision that no plan knows."""
    if name not in PRECISIONS:
        raise UserError(f"trainer.precision={name} has no plan: take one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


@dataclass(frozen=True)
class Backend:
    """reduce_scatter: bytes sent for what an ideal ring sends; device: what its ranks compute on"""

    reduce_scatter: float = 1.0
    device: str = "cuda"


NCCL = Backend()
GLOO = Backend(reduce_scatter=2.0, device="cpu")  # it runs an all-reduce and drops the other ranks' shares


@dataclass(frozen=True)
class Machine:
    """What a rank runs on; the defaults are an H100's data sheet, four fifths of its links' line rates (NVLink 450
    GB/s, 400 Gbit/s of network a GPU, each way), and assumed latencies.

    flops: peak a second; mfu: the share of it that the model's own operations reach; memory: bytes of a rank
    node: ranks that the fast links join; inside, between: bytes a second that a rank sends there
    hop_inside, hop_between: seconds until the next rank of a ring has something to send on
    """

    flops: float = 989e12
    mfu: float = 0.4
    memory: float = 80e9
    node: int = 8
    inside: float = 360e9
    between: float = 40e9
    hop_inside: float = 1e-6
    hop_between: float = 5e-6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or value <= 0:
                raise UserError(f"machine.{field.name}={value} must be a number above 0.")
        if self.mfu > 1:
            raise UserError(f"machine.mfu={self.mfu} is a share of the peak: give at most 1.")
