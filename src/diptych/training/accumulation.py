"""Exact large batches on small memory: the gradient of the whole batch with the activations of a part of it.

A contrastive loss compares all pairs of a batch, so the mean of k small losses (what trainers call accumulation)
is another objective. Here the loss is that of the whole batch, and only the towers work part by part: features are
computed without keeping activations, and each part is encoded again when its gradient is due. GradCache (Gao et al.
2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") as autograd's own checkpointing: one
backward pass, so data-parallel ranks reduce gradients once a step, and the logit scale has its gradient once.
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

    parts: micro-batches that the rows are encoded in, B being a multiple. Micro-batch j takes rows j, j + parts, …:
        with B a rank's share, a micro-batch over all ranks holds the same samples for any number of ranks
    dtype: what the towers compute in, see `computed_in`; None for the weights' own (or autocast's)
    kept: int64 [B, K], the patches that are read of each picture, see `patches.kept_patches`; None for all

    Pixels become floats inside a part, so the floats of the whole batch never exist. Batch norm sees one part at a
    time: its statistics are those of a micro-batch (over all ranks, `distributed.SyncBatchNorm`), and its running
    ones move once a part.
    """

    def image(rows: Tensor, *kept: Tensor) -> Tensor:
        pixels = normalise(rows, model.mean, model.std)
        if dtype is not None:
            return unit(computed_in(dtype, model.image, pixels, *kept))
        return model.encode_image(pixels.to(model.logit_scale.dtype), True, *kept)

    def text(rows: Tensor) -> Tensor:
        if dtype is not None:
            return unit(computed_in(dtype, model.text, rows))
        return model.encode_text(rows, normalize=True)

    # Captions first: their tower asks the device how long they are, which then has nothing else to finish.
    words = _in_parts(text, model.text, (tokens,), parts)
    return _in_parts(image, model.image, (images,) if kept is None else (images, kept), parts), words


def _in_parts(encode: Callable[..., Tensor], tower: nn.Module, rows: tuple[Tensor, ...], parts: int) -> Tensor:
    """encode(*rows), a part at a time and again in the backward pass: each [B, …] -> [B, D], in the rows' order."""
    if parts == 1:
        return encode(*rows)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), untracked(tower)

    # Random draws and autocast are restored by checkpoint; a frozen tower keeps nothing and is never encoded again.
    encoded = [
        checkpoint(encode, *(row[j::parts] for row in rows), use_reentrant=False, context_fn=contexts)
        for j in range(parts)
    ]
    return torch.stack(encoded, dim=1).flatten(0, 1)


@contextmanager
def untracked(tower: nn.Module) -> Iterator[None]:
    """Batch norms move copies of their running statistics: a part that is encoded again was counted before.

    Copies, and not a flag, since autograd must find the same tensors kept by both passes.
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
