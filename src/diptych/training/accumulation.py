"""Exact large batches in little memory: the gradient of the whole batch, with the activations of only a part of it.

A contrastive loss compares all pairs of a batch, so the mean of k small losses (which trainers call accumulation) is
a different objective. Here the loss is that of the whole batch, and only the towers work part by part: features are
computed without keeping activations, and each part is encoded again when its gradient is needed. This is GradCache
(Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") with autograd's
checkpointing: there is one backward pass, so data-parallel ranks reduce gradients once per step, and the logit scale
gets its gradient once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.base.batch import normalise
from diptych.towers.clip import CLIP, unit
from diptych.training.precision import computed_in


def features(
    model: CLIP,
    images: Tensor,
    tokens: Tensor,
    parts: int = 1,
    dtype: torch.dtype | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W], uint8 or float 0–1, and tokens [B, L] -> image and text features [B, D], L2-normalised.

    parts: number of micro-batches in which the rows are encoded; B is a multiple. Micro-batch j has the rows j,
        j + parts, …: so a micro-batch over all ranks has the same samples for any number of ranks
    dtype: in which the towers compute, see `computed_in`; None for the weights' own (or autocast's)
    kept: int64 [B, K], the patches of each image to encode, see `patches.kept_patches`; None for all

    Pixels become floats inside a part, so the floats of the whole batch are never in memory. Batch norm sees one part
    at a time: its statistics are those of a micro-batch (over all ranks, `distributed.SyncBatchNorm`), and its
    running statistics move once per part.
    """

    def image(rows: Tensor, *kept: Tensor) -> Tensor:
        pixels = normalise(rows, model.mean, model.std).to(model.logit_scale.dtype)
        return encoded(model.image, dtype, pixels, *kept)

    def text(rows: Tensor) -> Tensor:
        return encoded(model.text, dtype, rows)

    # Captions first: the text tower asks the device for their lengths, and then the device has no other work to
    # finish.
    words = _in_parts(text, model.text, (tokens,), parts)
    return _in_parts(image, model.image, (images,) if kept is None else (images, kept), parts), words


def encoded(tower: nn.Module, dtype: torch.dtype | None, *inputs: Tensor) -> Tensor:
    """Features [B, D] at unit length; computed in `dtype`, or for None in the weights' own type (or autocast's)."""
    return unit(tower(*inputs) if dtype is None else computed_in(dtype, tower, *inputs))


def _in_parts(encode: Callable[..., Tensor], tower: nn.Module, rows: tuple[Tensor, ...], parts: int) -> Tensor:
    """encode(*rows), part by part, and again in the backward pass: each [B, …] -> [B, D], in the rows' order."""
    if parts == 1:
        return encode(*rows)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), untracked(tower)

    # checkpoint restores random states and autocast; a frozen tower keeps nothing and is not computed again.
    encoded = [
        checkpoint(encode, *(row[j::parts] for row in rows), use_reentrant=False, context_fn=contexts)
        for j in range(parts)
    ]
    return torch.stack(encoded, dim=1).flatten(0, 1)


@contextmanager
def untracked(tower: nn.Module) -> Iterator[None]:
    """Within, batch norms update copies of their running statistics: a part that is encoded again was counted before.

    Copies instead of a flag, since both passes must save the same tensors for autograd.
    """
    kept = [(norm, name, b) for norm in batch_norms(tower) for name, b in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` whose output depends on the other samples of a micro-batch."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
