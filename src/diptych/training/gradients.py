"""What is measured on gradients between the backward pass and the optimiser's step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

TOWERS = ("image", "text")


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """The norm of the gradient of `module.model.image` and `.text`, each [], and that of all of `module`, "all".

    A tower that is frozen has none. Nothing waits for the device; all ranks get the same numbers.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            tower = name.split(".")[1] if name.startswith("model.") else ""
            groups.setdefault(tower if tower in TOWERS else "", []).append(parameter.grad)
    norms = {name: _norm(gradients) for name, gradients in groups.items()}
    every = torch.linalg.vector_norm(torch.stack(list(norms.values()))) if norms else torch.tensor(0.0)
    return {tower: norms[tower] for tower in TOWERS if tower in norms} | {"all": every}


def _norm(gradients: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def with_nan_if_not_finite(loss: Tensor) -> Tensor:
    """The loss [], unchanged; but where it is not finite, its gradient is NaN throughout.

    An infinite loss can have a finite gradient. So whatever went wrong on one rank reaches all of them with the
    gradients that they exchange anyway, and all decide alike.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
