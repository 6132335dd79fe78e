"""What a model is in numbers, counted in a forward pass on the meta device: no memory, no weights, no data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from diptych.errors import UserError
from diptych.towers.clip import CLIP
from diptych.training.parallel import BLOCKS  # what FSDP gathers, and checkpointing recomputes, one by one

CAST = (F.linear, F.conv2d, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.einsum)
FEW, MORE = 2, 4  # pairs of two passes: their difference is what a pair adds


@dataclass(frozen=True)
class Tower:
    """A tower in numbers.

    flops: of one sample's forward pass, multiply and add being two
    parameters, trained: elements; buffers: bytes; blocks: parameters of each block; norms: channels of each
        batch norm
    kept: bytes that a sample leaves for the backward pass, its own aside; inputs: of its blocks' inputs; outside:
        of what is no block; block: of the largest block
    copies: bytes kept whatever the batch: weights that autocast wrote in 16 bits
    """

    flops: float
    parameters: int
    trained: int
    buffers: int
    blocks: tuple[int, ...]
    norms: tuple[int, ...]
    kept: float
    inputs: float
    outside: float
    block: float
    copies: float


@dataclass(frozen=True)
class Counts:
    """Two towers in numbers, and what a pair is made of: pixels a side, dimensions of a feature."""

    image: Tower
    text: Tower
    image_size: int
    embed_dim: int

    @property
    def towers(self) -> tuple[Tower, Tower]:
        return self.image, self.text

    @property
    def parameters(self) -> int:
        return sum(tower.parameters for tower in self.towers) + 1  # the logit scale

    @property
    def trained(self) -> int:
        return sum(tower.trained for tower in self.towers) + 1

    @property
    def forward_flops(self) -> float:
        return sum(tower.flops for tower in self.towers)

    @property
    def training_flops(self) -> float:
        """Forward and backward of a pair: three forwards, of a frozen tower one."""
        return sum((3 if tower.trained else 1) * tower.flops for tower in self.towers)


def count(model: CLIP, tokens: int, half: bool) -> Counts:
    """The numbers of `model`, as a GPU runs it with fused attention.

    tokens: of every caption; half: whether matrices multiply in 16 bits, by autocast: under bf16-true, where the rest
        is 16 bits wide too, less is kept
    """
    if not 2 <= tokens <= model.context_length:
        raise UserError(f"tokens={tokens} is no caption: give 2 to the text tower's {model.context_length}.")
    hollow = copy.deepcopy(model).to("meta").train()
    size = model.image_size

    def images(n: int) -> Tensor:
        return torch.zeros(n, 3, size, size, device="meta")

    def captions(n: int) -> Tensor:
        return torch.zeros(n, tokens, dtype=torch.long, device="meta")

    towers = [_tower(t, make, tokens, half) for t, make in ((hollow.image, images), (hollow.text, captions))]
    return Counts(towers[0], towers[1], size, cast(int, model.image.embed_dim))


def _tower(tower: nn.Module, make: Callable[[int], Tensor], tokens: int, half: bool) -> Tower:
    few, more = (_pass(tower, make(n), tokens, half) for n in (FEW, MORE))
    each = [(b - a) / (MORE - FEW) for a, b in zip(few.kept, more.kept, strict=True)]
    parameters = list(tower.parameters())
    blocks = [module for module in tower.modules() if isinstance(module, BLOCKS)]
    norms = [m.num_features for m in tower.modules() if isinstance(m, nn.BatchNorm2d)]
    return Tower(
        flops=few.flops / FEW,
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        buffers=sum(b.nbytes for b in tower.buffers()),
        blocks=tuple(sum(p.numel() for p in block.parameters()) for block in blocks),
        norms=tuple(norms),
        kept=sum(each),
        inputs=more.inputs / MORE,
        outside=each[0],
        block=max(each[1:], default=0.0),
        copies=sum(few.kept) - FEW * sum(each),
    )


class _Pass:
    """One forward pass. kept: bytes kept outside blocks, then in each block; inputs: bytes of the blocks' inputs"""

    def __init__(self, samples: Tensor) -> None:
        self.flops, self.inputs = 0, 0
        self.kept = [0]
        self.place = 0
        # Held, so that no address is taken twice. The samples themselves are the trainer's, not the tower's.
        self.seen = {samples.untyped_storage()._cdata: samples}

    def save(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter):
            return tensor
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen[storage._cdata] = tensor
            self.kept[self.place] += storage.nbytes()
        return tensor

    def enter(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.inputs += inputs[0].untyped_storage().nbytes()
        self.kept.append(0)
        self.place = len(self.kept) - 1

    def leave(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self.place = 0


def _pass(tower: nn.Module, inputs: Tensor, tokens: int, half: bool) -> _Pass:
    found, counter = _Pass(inputs), FlopCounterMode(display=False)
    with ExitStack() as stack:
        for module in tower.modules():
            if isinstance(module, BLOCKS):
                stack.enter_context(_hooked(module, found))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(found.save, lambda tensor: tensor))
        stack.enter_context(_AsOnGPU(tokens, half))
        stack.enter_context(counter)
        tower(inputs)
    found.flops = counter.get_total_flops()
    return found


@contextmanager
def _hooked(block: nn.Module, found: _Pass) -> Iterator[None]:
    handles = block.register_forward_pre_hook(found.enter), block.register_forward_hook(found.leave)
    yield
    for handle in handles:
        handle.remove()


class _AsOnGPU(TorchFunctionMode):
    """What the meta device can't do by itself: captions have a length, attention keeps what the fused kernel
    keeps, and autocast casts what it would."""

    def __init__(self, tokens: int, half: bool) -> None:
        super().__init__()
        self.tokens, self.half = tokens, half
        self.cast: dict[int, tuple[Tensor, Tensor]] = {}  # autocast casts a parameter once

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.Tensor.__int__:  # the text tower asks for the place of [EOS]
            return self.tokens - 1
        if function is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*(self._low(x) for x in args[:3]))
        if function in CAST:
            args = tuple(self._low(x) for x in args)
        return function(*args, **(kwargs or {}))

    def _low(self, x: Any) -> Any:
        if not (self.half and isinstance(x, Tensor) and x.dtype == torch.float32):
            return x
        if not isinstance(x, nn.Parameter):
            return x.bfloat16()
        if id(x) not in self.cast:
            self.cast[id(x)] = x, x.bfloat16()
        return self.cast[id(x)][1]


class _FusedAttention(torch.autograd.Function):
    """Flash attention's memory and operations: it keeps its inputs, its output and a sum a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = (query @ key.transpose(-2, -1)) @ value
        out = mixed.transpose(1, 2).contiguous().transpose(1, 2)  # B×H×L×D, in memory as the next matrix reads it
        ctx.save_for_backward(query, key, value, out, out.new_empty(out.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise NotImplementedError("counting goes forward alone")
