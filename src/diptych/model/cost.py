"""The floating-point operations of a pair, counted on the meta device, without memory for the model."""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diptych.data.sets.evalset import EvalSet
from diptych.model.patches import hollow_pictures
from diptych.towers.clip import CLIP

CPU_FLOPS_PER_CORE = 5e10  # that training reaches on a current core in fp32, order of magnitude


def training_flops(model: CLIP) -> int:
    """The operations of one pair's forward and backward pass: three times the forward pass, or once for a frozen
    tower. A multiplication and an addition count as two.

    The image tower is counted. The text tower is an upper bound: two per weight and token of a full context.
    """
    text = 2 * _text_matrices(model) * model.context_length
    return _passes(model.image) * image_flops(model, training=True) + _passes(model.text) * text


def _passes(tower: nn.Module) -> int:
    return 3 if any(parameter.requires_grad for parameter in tower.parameters()) else 1


def image_flops(model: CLIP, training: bool = False) -> int:
    """The operations of one image's forward pass. training: only of the patches that a training step reads"""
    inputs = hollow_pictures(model, 1)
    return forward_flops(copy.deepcopy(model.image).to("meta").eval(), inputs if training else inputs[:1])


def forward_flops(tower: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Operations of a forward pass; tower and inputs may be on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(*inputs)
    return counter.get_total_flops()


def affordable_pictures(model: CLIP, seconds: float = 60.0) -> int:
    """The number of images that this machine's CPU encodes in about `seconds`."""
    return max(1, int(seconds * CPU_FLOPS_PER_CORE * (os.cpu_count() or 1) / image_flops(model)))


def affordable(sets: list[EvalSet], model: CLIP) -> list[EvalSet]:
    """The sets to evaluate after training: on a CPU, a sample of each set if all images would take much longer than a
    minute. `evaluate.py` always takes all images."""
    pictures = sum(map(len, sets))
    count = pictures if torch.cuda.is_available() else affordable_pictures(model)
    if count >= pictures:
        return sets
    return [evalset.sample(max(10, len(evalset) * count // pictures)) for evalset in sets]


def _text_matrices(model: CLIP) -> int:
    return sum(p.numel() for name, p in model.text.named_parameters() if p.ndim == 2 and "embedding" not in name)
