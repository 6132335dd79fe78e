"""The trainer's exact step for your own training loop: forward, loss, backward, optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diptych.base.allocator import keep_freed_memory
from diptych.base.batch import normalise
from diptych.base.errors import UserError
from diptych.launch import distributed
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.training.accumulation import encoded
from diptych.training.module import MAX_LOG_SCALE
from diptych.training.optim import adamw
from diptych.training.parallel import average
from diptych.training.precision import NAMES, tower_dtype

Step = Callable[[Tensor, Tensor], Tensor]


def build_step(
    model: CLIP,
    lr: float = 5e-4,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    weight_decay: float = 0.2,
    precision: str = "32-true",
    *,
    loss: nn.Module | None = None,
    clip: float | None = None,
) -> Step:
    """One optimiser step as the trainer runs it: (images, tokens) -> the loss before the step, detached, [].

    images: float [B, 3, H, W], prepared as for `model(images, tokens)`; or uint8, which are prepared here
    tokens: int64 [B, L]
    lr, betas, eps, weight_decay: of AdamW, which doesn't decay gains, biases and the logit scale (`optim.adamw`)
    precision: one of `precision.NAMES`, except 16-mixed
    loss: (image [B, D], text [B, D], scale []) -> scalar; by default CLIP's, over the pairs of all ranks
    clip: largest norm of the whole gradient; None for no clipping (the trainer's default is 1.0)

    The model is changed in place: to training mode and channels_last, and to float64 under 64-true. On a CPU the
    process keeps the memory that it frees from then on, which saves time and changes no number (`allocator.py`). In a
    process group each rank has its own B pairs of one global batch, and gradients are averaged over ranks. Since the
    loss gathers features with their gradients, the step equals that of the global batch in one process.
    `step.optimizer` is the optimiser, for a schedule or a checkpoint. Raises UserError for an unknown precision, and
    for a model with patch dropout, since the samples' seeds in the data choose the patches.
    """
    if precision not in NAMES or precision == "16-mixed":
        others = ", ".join(name for name in NAMES if name != "16-mixed")
        raise UserError(f"build_step doesn't support precision={precision}: choose one of {others}.")
    if getattr(model.image, "patch_dropout", 0):
        raise UserError("build_step can't drop patches: create the model with image.patch_dropout=0.")
    loss = ContrastiveLoss() if loss is None else loss
    if precision == "64-true":
        model.double()
        loss.double()
    model.any_size = True
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if distributed.world_size() > 1:
        distributed.synchronise_batch_norm(model)
    device, dtype = model.logit_scale.device, tower_dtype(precision)
    if device.type == "cpu":
        keep_freed_memory()
    optimizer = adamw(model, loss, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def features(images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        text = encoded(model.text, dtype, tokens)
        if images.dtype == torch.uint8:
            images = normalise(images, model.mean, model.std)
        return encoded(model.image, dtype, images.to(model.logit_scale.dtype)), text

    def step(images: Tensor, tokens: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            value = loss(*features(images, tokens), model.logit_scale.exp())
        value.backward()
        for parameter in parameters:
            if parameter.grad is not None:
                average(parameter)
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOG_SCALE)
        return value.detach()

    step.optimizer = optimizer  # type: ignore[attr-defined]
    return step
