"""What an embedding space is like, without a classifier: spread, dimension, neighbours. Tensors in, numbers out.

The gap between the modalities is in `diptych.report.geometry.modality_gap`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.evaluation.features import similarity, unit

CHUNK = 1024


def alignment(left: Tensor, right: Tensor) -> float:
    """left, right [N, D], row i a pair -> the mean squared distance of unit vectors of a pair, 0 to 4 (Wang and Isola
    2020, section 4.1, alpha = 2)."""
    return (2 - 2 * (unit(left, "features") * unit(right, "features")).sum(dim=1)).mean().item()


def uniformity(features: Tensor) -> float:
    """features [N, D] -> log of the mean of exp(-2 d²) over pairs of different rows, 0 for one point, about -4 for an
    even spread (Wang and Isola 2020, section 4.1, t = 2). Memory: `CHUNK` × N."""
    features = unit(features, "features")
    n = len(features)
    if n < 2:
        raise UserError("Uniformity is of pairs: give at least two pictures.")
    total = sum((4 * rows - 4).exp().sum().double().item() for _, rows in _cosines(features))
    return math.log((total - n) / (n * (n - 1)))  # a row with itself counts exp(0)


def intrinsic_dimension(features: Tensor) -> float:
    """features [N, D] -> TwoNN's estimate (Facco et al. 2017): N over the sum of log ratios of the distances to the
    second and to the first neighbour, the largest tenth of the ratios left out. Rows that occur twice are one."""
    distinct = unit(features, "features").unique(dim=0)
    if len(distinct) < 4:
        raise UserError(f"The intrinsic dimension needs four different pictures; here are {len(distinct)}.")
    ratios = []
    for start, rows in _cosines(distinct):
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = -math.inf
        first, second = (2 - 2 * rows.topk(2, dim=1).values.double()).clamp_min(1e-12).sqrt().unbind(dim=1)
        ratios.append(second / first)
    ordered = torch.cat(ratios).sort().values
    kept = ordered[: max(3, int(0.9 * len(ordered)))].log()
    # Of the ratios' distribution 1 - r^-d, cut at its 90 % quantile: the slope through the origin, as in the paper.
    y = -torch.log1p(-torch.arange(1, len(kept) + 1, dtype=torch.float64) / len(ordered))
    return ((kept * y).sum() / kept.square().sum()).item()


def purity(features: Tensor, labels: Tensor, k: int = 5) -> float | None:
    """features [N, D], labels int64 [N] -> the share of the k nearest others that are of a row's own class, over rows
    whose class has others, and of as many neighbours as it has. None where no class has two."""
    features = unit(features, "features")
    others = torch.bincount(labels)[labels] - 1
    shares = []
    for start, rows in _cosines(features):
        here = slice(start, start + len(rows))
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = -math.inf
        near = labels[rows.topk(min(k, len(features) - 1), dim=1).indices] == labels[here, None]
        most = others[here].clamp(max=near.shape[1])
        counted = torch.arange(near.shape[1]) < most[:, None]
        shares.append(((near & counted).sum(dim=1) / most)[most > 0])
    found = torch.cat(shares)
    return found.double().mean().item() if len(found) else None


def _cosines(features: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First row and its chunk's cosines with all rows, [n, N]."""
    for start in range(0, len(features), CHUNK):
        yield start, similarity(features[start : start + CHUNK], features)
