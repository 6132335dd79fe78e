"""Robustness under distribution shift: paired bootstrap intervals, and effective robustness (Taori et al. 2020).

Pure: arrays in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.base.errors import UserError

RESAMPLES = 10_000
Share = Tensor | float


def interval(hits: Tensor | Sequence[Tensor], seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """hits [N], one number a picture: 1 where a model is right, or the difference of two models' -> the 95 %
    percentile interval of their mean over bootstrap resamples of the pictures (Efron 1979); of several sets, of the
    mean of their means, each set resampled by itself. Memory: O(N + resamples).

    A picture's numbers stay together, so the interval of a difference is the paired one. It says how far other
    pictures would move the mean, and nothing about other trainings.
    """
    sets = [hits] if isinstance(hits, Tensor) else list(hits)
    generator = torch.Generator().manual_seed(seed)
    return _ends(sum(_resampled(each[:, None], resamples, generator)[:, 0] for each in sets) / len(sets))


def _ends(means: Tensor | float) -> tuple[float, float]:
    assert isinstance(means, Tensor)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _resampled(numbers: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """[N, C], C numbers a picture -> [resamples, C], their means over pictures drawn again. How often each row is
    drawn, of which there are few kinds, is multinomial."""
    if not len(numbers):
        raise UserError("A bootstrap interval needs at least one picture.")
    kinds, counts = numbers.double().unique(dim=0, return_counts=True)
    total = torch.zeros(resamples, numbers.shape[1], dtype=torch.float64)
    left = torch.full((resamples,), float(len(numbers)), dtype=torch.float64)
    remaining = len(numbers)
    for kind, count in zip(kinds, counts.tolist(), strict=True):
        drawn = torch.binomial(left, torch.full_like(left, count / remaining), generator=generator)
        total += drawn[:, None] * kind
        left, remaining = left - drawn, remaining - count
    return total / len(numbers)


def logit(share: Tensor | float, n: int) -> Tensor:
    """Of an accuracy over n pictures; 0 and 1 are taken as half a picture from the end."""
    return torch.as_tensor(share, dtype=torch.float64).clamp(0.5 / n, 1 - 0.5 / n).logit()


def effective_robustness(model: tuple[Share, Share], baseline: tuple[Share, Share], n: int) -> Tensor:
    """Accuracy on the shifted set less what is expected of a model of this accuracy on the usual one (Taori et al.
    2020, section 3, in logits as there), float64 of the accuracies' shape.

    model, baseline: accuracies on the usual set and on the shifted one; n: pictures of the smaller
    With one baseline, the line of what is expected has slope 1 and goes through it: as many logits are lost.
    """
    lost = logit(baseline[0], n) - logit(baseline[1], n)
    return torch.as_tensor(model[1], dtype=torch.float64) - torch.sigmoid(logit(model[0], n) - lost)


def effective_robustness_interval(
    usual: Tensor, shifted: Sequence[Tensor], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """usual [N, 2] and each of shifted [M, 2]: whether the model and the baseline are right on a picture -> the mean
    of the shifted sets' effective robustness, and its 95 % bootstrap interval.

    The usual set is resampled as well, with the same draw for all shifted sets, since what is expected depends on it.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = _resampled(usual, resamples, generator)
    found, spread = 0.0, torch.zeros(resamples, dtype=torch.float64)
    for hits in shifted:
        n, again = min(len(usual), len(hits)), _resampled(hits, resamples, generator)
        model, baseline = torch.stack([usual.double().mean(0), hits.double().mean(0)], dim=1).unbind()
        found += effective_robustness((model[0], model[1]), (baseline[0], baseline[1]), n).item() / len(shifted)
        spread += effective_robustness((drawn[:, 0], again[:, 0]), (drawn[:, 1], again[:, 1]), n) / len(shifted)
    return found, _ends(spread)
