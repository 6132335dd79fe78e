"""Optimisers and schedules: AdamW as in CLIP's paper, Muon for matrices, plain SGD; linear warm-up, then cosine or
constant.

All optimisers take a model and its loss; a loss's own parameters (SigLIP's bias) get no weight decay. `layer_decay`
is for fine-tuning, BEiT's rule (Bao et al. 2021, after ELECTRA's): parameters n layers below the head have the
learning rate lr · layer_decay^n. n is 1 for the last block of a tower and b + 1 for the embeddings before b blocks;
each tower counts its own layers. Heads and the logit scale have the full rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diptych.base.errors import UserError
from diptych.base.quantities import BelowOne, NotNegative, Positive


def decays(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices and convolutions, not "gains or biases" (paper, appendix F), and not
    the logit scale."""
    return parameter.ndim >= 2


LOSS = "loss."


def _trainable(model: nn.Module, loss: nn.Module | None) -> list[tuple[str, nn.Parameter]]:
    """Trained parameters of the model by name, and of the loss with the prefix LOSS."""
    named = [*model.named_parameters(), *(loss.named_parameters(LOSS.rstrip(".")) if loss is not None else ())]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def _scales(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """Parameter's name -> factor of its learning rate; 1 for names that are missing."""
    if layer_decay is None:
        return {}
    if not 0 < layer_decay <= 1:
        raise UserError(
            f"optim.layer_decay={layer_decay} must be above 0 and at most 1: 0.75 is usual, null for none."
        )
    above: dict[str, int] = model.layers_above()  # type: ignore[operator]
    return {name: layer_decay**layers for name, layers in above.items()}


def _groups(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float, scales: dict[str, float]
) -> list[dict[str, Any]]:
    """One group for each pair of rate and decay. The group with the highest rate is first: that rate is logged."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        decayed = decays(parameter) and not name.startswith(LOSS)
        found.setdefault((scales.get(name, 1.0), decayed), []).append(parameter)
    return [
        {"params": found[scale, decayed], "lr": lr * scale, "weight_decay": weight_decay if decayed else 0.0}
        for scale, decayed in sorted(found, reverse=True)
    ]


def adamw(
    model: nn.Module,
    loss: nn.Module | None = None,
    *,
    lr: Positive = 5e-4,
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98),
    eps: Positive = 1e-6,
    weight_decay: NotNegative = 0.2,
    layer_decay: Positive | None = None,
) -> AdamW:
    """AdamW with decoupled weight decay, on matrices only; the defaults are the paper's for ViTs (appendix F)."""
    groups = _groups(_trainable(model, loss), lr, weight_decay, _scales(model, layer_decay))
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


def sgd(
    model: nn.Module,
    loss: nn.Module | None = None,
    *,
    lr: Positive = 0.1,
    momentum: BelowOne = 0.9,
    weight_decay: NotNegative = 0.0,
    layer_decay: Positive | None = None,
) -> SGD:
    """Plain SGD with momentum. A gradient that is twice too large moves the weights twice as far, which AdamW would
    hide; so tests compare several ranks with one process under SGD."""
    groups = _groups(_trainable(model, loss), lr, weight_decay, _scales(model, layer_decay))
    return SGD(groups, lr=lr, momentum=momentum)


class Muon(Optimizer):
    """torch.optim.Muon for hidden matrices and flattened convolutions, AdamW for all other parameters.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix. Embeddings, positions, the first convolution,
    gains, biases and the logit scale are not hidden matrices, so AdamW trains them.

    lr: of Muon; adamw_lr: of AdamW; the schedule and layer_decay apply to both
    """

    needs_whole_matrices = True  # `commands.config` refuses it where a rank has a part of each

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None = None,
        *,
        lr: Positive = 0.02,
        momentum: BelowOne = 0.95,
        weight_decay: NotNegative = 0.02,
        adamw_lr: float = 1.5e-3,
        betas: tuple[BelowOne, BelowOne] = (0.9, 0.98),
        eps: Positive = 1e-8,
        adamw_weight_decay: float = 0.2,
        layer_decay: Positive | None = None,
    ) -> None:
        named, scales = _trainable(model, loss), _scales(model, layer_decay)
        # The model's first convolution; if it is frozen, the first trained one is a hidden matrix.
        first = next((name for name, parameter in model.named_parameters() if parameter.ndim == 4), None)
        hidden = [(n, p) for n, p in named if _is_hidden(n, p) and n != first]
        if not hidden:
            raise UserError("optim=muon: the model has no hidden matrix to train. Take optim=adamw.")
        groups = _groups(hidden, lr, weight_decay, scales)
        self._originals = [p for group in groups for p in group["params"]]
        self._matrices = [nn.Parameter(_as_matrix(p.detach())) for p in self._originals]
        matrix = {id(p): m for p, m in zip(self._originals, self._matrices, strict=True)}
        self._muon = torch.optim.Muon(
            [{**group, "params": [matrix[id(p)] for p in group["params"]]} for group in groups],
            lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="original",
        )  # fmt: skip
        rest = [(n, p) for n, p in named if id(p) not in matrix]
        self._adamw = AdamW(
            _groups(rest, adamw_lr, adamw_weight_decay, scales),
            lr=adamw_lr, betas=(betas[0], betas[1]), eps=eps, fused=True,
        )  # fmt: skip
        shown = [{**inner, "params": g["params"]} for inner, g in zip(self._muon.param_groups, groups, strict=True)]
        super().__init__([*shown, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for original, matrix in zip(self._originals, self._matrices, strict=True):
            matrix.data = _as_matrix(original.detach())  # in each step, since moving a model replaces its memory
            matrix.grad = None if original.grad is None else _as_matrix(original.grad, like=original)
        self._take_over_rates()
        self._muon.step()
        self._adamw.step()
        return loss

    def _inner_groups(self) -> list[dict[str, Any]]:
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def _take_over_rates(self) -> None:
        """The schedule writes the rates of our groups, and the inner optimisers use those of theirs."""
        for ours, inner in zip(self.param_groups, self._inner_groups(), strict=True):
            inner["lr"] = ours["lr"]

    def state_dict(self) -> dict[str, Any]:
        self._take_over_rates()
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        for ours, inner in zip(self.param_groups, self._inner_groups(), strict=True):
            ours.update({name: value for name, value in inner.items() if name != "params"})


def _is_hidden(name: str, parameter: Tensor) -> bool:
    return parameter.ndim in (2, 4) and "embedding" not in name and not name.startswith(LOSS)


def _as_matrix(x: Tensor, like: Tensor | None = None) -> Tensor:
    """[O, I, H, W] -> [O, I·H·W] (columns in memory order); shares the memory if x is a parameter."""
    if x.ndim == 2:
        return x
    layout = x if like is None else like
    if layout.is_contiguous(memory_format=torch.channels_last) and not layout.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.view(len(x), -1) if like is None else x.reshape(len(x), -1)


def _ramp(steps: int, warmup: float) -> int:
    return math.ceil(warmup * steps) if warmup < 1 else int(warmup)


def warmup_constant(optimizer: Optimizer, steps: int, warmup: NotNegative = 0.04) -> LambdaLR:
    """Linear warm-up, then a constant learning rate. With a warm-up in steps nothing depends on the run's length, so
    a run can become longer on a resume.

    warmup: steps, or below 1 the share of `steps`
    """
    ramp = _ramp(steps, warmup)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, ramp)))


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: NotNegative = 0.04) -> LambdaLR:
    """Linear warm-up, then cosine to zero at `steps` (paper, section 2.5).

    warmup: steps (at least 1), or below 1 the share of `steps`
    Raises UserError if the run ends before its warm-up.
    """
    ramp = _ramp(steps, warmup)
    if warmup >= 1 and ramp >= steps:
        raise UserError(
            f"schedule.warmup={ramp} must be below the run's {steps} steps: take fewer, or a share below 1."
        )

    def factor(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - ramp) / max(1, steps - ramp))))

    return LambdaLR(optimizer, factor)
