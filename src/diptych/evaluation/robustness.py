"""Robustness under distribution shift: paired bootstrap intervals, and effective robustness (Taori et al. 2020).

Pure: arrays in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.errors import UserError

RESAMPLES = 10_000


def interval(hits: Tensor | Sequence[Tensor], seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """hits [N], one number a picture: 1 where a model is right, or the difference of two models' -> the 95 %
    percentile interval of their mean over bootstrap resamples of the pictures (Efron 1979); of several sets, of the
    mean of their means, each set resampled by itself. Memory: O(N + resamples).

    A picture's numbers stay together, so the interval of a difference is the paired one. It says how far other
    pictures would move the mean, and nothing of other trainings.
    """
    sets = [hits] if isinstance(hits, Tensor) else list(hits)
    if not all(map(len, sets)):
        raise UserError("A bootstrap interval needs at least one picture.")
    generator = torch.Generator().manual_seed(seed)
    means = sum(_resampled(each.double(), resamples, generator) for each in sets) / len(sets)
    assert isinstance(means, Tensor)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _resampled(hits: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Means of resamples: how often each value is drawn, of which there are few, is multinomial."""
    values, counts = hits.unique(return_counts=True)
    total = torch.zeros(resamples, dtype=torch.float64)
    left = torch.full((resamples,), float(len(hits)), dtype=torch.float64)
    remaining = len(hits)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        drawn = torch.binomial(left, torch.full_like(left, count / remaining), generator=generator)
        total += drawn * value
        left, remaining = left - drawn, remaining - count
    return total / len(hits)


def logit(share: float, n: int) -> float:
    """Of an accuracy over n pictures; 0 and 1 are taken as half a picture from the end."""
    share = min(max(share, 0.5 / n), 1 - 0.5 / n)
    return math.log(share / (1 - share))


def effective_robustness(model: tuple[float, float], baseline: tuple[float, float], n: int) -> float:
    """Accuracy on the shifted set less what is expected of a model of this accuracy on the usual one (Taori et al.
    2020, section 3, in logits as there).

    model, baseline: accuracies on the usual set and on the shifted one; n: pictures of the smaller
    With one baseline, the line of what is expected has slope 1 and goes through it: as many logits are lost.
    """
    lost = logit(baseline[0], n) - logit(baseline[1], n)
    return model[1] - 1 / (1 + math.exp(lost - logit(model[0], n)))
