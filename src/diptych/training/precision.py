"""The precisions of a step. In all of them the logits, the loss, the statistics of norms, the stored weights, their
gradients over ranks and the optimiser's state are float32 (float64 under 64-true).

32-true     float32 throughout
bf16-mixed  matrix products and convolutions in bfloat16 (torch.autocast)
16-mixed    the same in float16, with a gradient scaler
bf16-true   the towers in bfloat16 throughout, from float32 weights: half the activations of bf16-mixed
64-true     float64 throughout, for proofs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from diptych.base.errors import UserError

NAMES = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")  # Lightning's


def resolve_precision(precision: str, accelerator: str = "auto") -> str:
    """ "auto" -> bf16-mixed if the hardware multiplies in bf16, otherwise 32-true; other names stay the same.

    Raises UserError for a name that is not in NAMES.
    """
    if precision in NAMES:
        return precision
    if precision != "auto":
        raise UserError(f"trainer.precision={precision} is unknown: take one of auto, {', '.join(NAMES)}.")
    if accelerator != "cpu" and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def make_precision(name: str, device: str) -> Precision:
    """Lightning's precision plug-in for one of NAMES. device: "cuda" or "cpu"."""
    if name == "16-mixed":
        return ScaledHalf(device)
    if name == "bf16-mixed":
        return MixedPrecision("bf16-mixed", device)
    return Doubled() if name == "64-true" else Precision()


def tower_dtype(name: str) -> torch.dtype | None:
    """The type for `computed_in`; None where the weights' own type or autocast decides."""
    return torch.bfloat16 if name == "bf16-true" else None


def computed_in(dtype: torch.dtype, tower: nn.Module, *inputs: Tensor) -> Tensor:
    """tower(*inputs), with all inside in `dtype`: each [B, …] -> [B, D] in `dtype`.

    The tower's own weights keep their type and get gradients of their type: a bfloat16 weight has three digits and
    would lose any update below a 256th of itself. Batch norms keep the type of their weights and running statistics.
    """
    norms = {id(p) for m in tower.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    weights = {name: p.to(dtype) for name, p in tower.named_parameters() if id(p) not in norms}
    return functional_call(tower, weights, tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs))


class Doubled(Precision):
    """float64 weights. Lightning's own plug-in also changes torch's default type, but only in the forward pass, not
    when a part of a batch is encoded again."""

    precision = "64-true"

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module.double()


class ScaledHalf(MixedPrecision):
    """Autocast to float16 with a gradient scaler, on CPUs too.

    Lightning's own plug-in leaves the unscaling to fused optimisers; here gradients are always unscaled before they
    are measured or clipped. The scaler's state is saved in checkpoints.
    """

    scaler: torch.amp.GradScaler

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        result = closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        self.scaler.step(optimizer, **kwargs)  # does nothing where a gradient is not finite
        self.scaler.update()
        return result
