"""A model in numbers, counted in a step on the meta device: without memory, weights or data."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diptych.base.errors import UserError
from diptych.model.cost import forward_flops
from diptych.model.patches import hollow_pictures
from diptych.towers.clip import CLIP
from diptych.training.parallel import blocks_of, recomputed  # what FSDP gathers, and what is computed again

CAST = (F.linear, torch.addmm, F.conv2d, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.einsum)
FEW, MORE = 16, 32  # pairs of two steps: their difference is what a pair adds


@dataclass(frozen=True)
class Bytes:
    """Of n samples: fixed + n · each."""

    fixed: float
    each: float

    def of(self, samples: float) -> float:
        return self.fixed + samples * self.each


@dataclass(frozen=True)
class Tower:
    """A tower in numbers.

    flops: of one sample's forward pass, multiply and add being two
    parameters, trained: elements; buffers: bytes; blocks: parameters of each block; norms: channels of each
        batch norm
    kept: bytes that stay for the backward pass, without parameters and samples; `fixed` are 16-bit copies of weights
        that autocast made
    forward, backward: the most bytes at once in either pass, with what is kept; gradients of parameters are freed as
        soon as they are there
    """

    flops: float
    parameters: int
    trained: int
    buffers: int
    blocks: tuple[int, ...]
    norms: tuple[int, ...]
    kept: Bytes
    forward: Bytes
    backward: Bytes


@dataclass(frozen=True)
class Counts:
    """Two towers in numbers, pixels a side of a picture, and dimensions of a feature."""

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


def count(model: CLIP, tokens: int, half: bool, recompute: bool = False) -> Counts:
    """The numbers of `model`, as a GPU runs it with fused attention.

    tokens: of every caption; half: whether matrices multiply in 16 bits, by autocast: under bf16-true, where the rest
        is 16 bits wide too, less is kept; recompute: whether blocks keep their inputs alone
    """
    if not 2 <= tokens <= model.context_length:
        raise UserError(
            f"tokens={tokens} is not a caption's length: give 2 to the text tower's {model.context_length}."
        )
    hollow = copy.deepcopy(model).to("meta").train()
    as_on_gpu = _AsOnGPU(tokens, half)
    if recompute:
        for block in blocks_of(hollow):
            block.forward = _under(as_on_gpu, block.forward)  # in the backward pass, which leaves it, too
            recomputed(block)
    size = model.image_size

    def captions(n: int) -> tuple[Tensor, ...]:
        return (torch.zeros(n, tokens, dtype=torch.long, device="meta"),)

    towers = [
        _tower(t, make, as_on_gpu)
        for t, make in ((hollow.image, partial(hollow_pictures, model)), (hollow.text, captions))
    ]
    return Counts(towers[0], towers[1], size, cast(int, model.image.embed_dim))


def _tower(tower: nn.Module, make: Callable[[int], tuple[Tensor, ...]], as_on_gpu: _AsOnGPU) -> Tower:
    few, more = (_step(tower, make(n), as_on_gpu) for n in (FEW, MORE))
    with as_on_gpu:
        flops = forward_flops(tower, make(FEW)) / FEW
    lines = []
    for least, most in zip(few, more, strict=True):
        each = (most - least) / (MORE - FEW)
        lines.append(Bytes(least - FEW * each, each))
    parameters = list(tower.parameters())
    norms = [m.num_features for m in tower.modules() if isinstance(m, nn.BatchNorm2d)]
    return Tower(
        flops=flops,
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        buffers=sum(b.nbytes for b in tower.buffers()),
        blocks=tuple(sum(p.numel() for p in block.parameters()) for block in blocks_of(tower)),
        norms=tuple(norms),
        kept=lines[0],
        forward=lines[1],
        backward=lines[2],
    )


def _step(tower: nn.Module, inputs: tuple[Tensor, ...], as_on_gpu: _AsOnGPU) -> tuple[int, int, int]:
    """Bytes of a forward and backward pass that frees each parameter's gradient as soon as it is there: kept after
    the forward pass, the most in it, and the most in the backward pass."""
    live = Live()
    handles = [p.register_post_accumulate_grad_hook(_free) for p in tower.parameters() if p.requires_grad]
    with live:
        with as_on_gpu:
            features = tower(*inputs)
        kept, most = live.now, live.most
        live.most = 0
        if features.requires_grad:
            torch.autograd.backward(features, torch.zeros_like(features))
    for handle in handles:
        handle.remove()
    return kept, most, max(live.most, kept)


def _under(mode: _AsOnGPU, forward: Callable[..., Any]) -> Callable[..., Any]:
    def within(*inputs: Any) -> Any:
        with mode:
            return forward(*inputs)

    return within


def _free(parameter: Tensor) -> None:
    parameter.grad = None


class _AsOnGPU(TorchFunctionMode):
    """What the meta device lacks: captions have a length, attention is the fused kernel, and autocast casts what it
    would on a GPU."""

    def __init__(self, tokens: int, half: bool) -> None:
        super().__init__()
        self.tokens, self.half = tokens, half
        self.cast: dict[int, tuple[Tensor, Tensor]] = {}  # autocast casts a parameter once, and forgets it at its end
        self.depth = 0

    def __enter__(self) -> _AsOnGPU:
        self.depth += 1
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self.depth -= 1
        if not self.depth:
            self.cast.clear()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.Tensor.__int__:  # the text tower asks for the place of [EOS]
            return self.tokens - 1
        if function is F.scaled_dot_product_attention:
            query, key, value = (self._low(x) for x in args[:3])
            if query.dtype == torch.bfloat16:
                return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
            return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
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


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations make, while they live: `now`, and the `most` so far; on the meta device,
    or where the tensors are. Weights and samples, which were there before, are not counted: operations only read
    them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known | self._seen:
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        self._seen.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size
