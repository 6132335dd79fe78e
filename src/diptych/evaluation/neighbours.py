"""k-nearest-neighbour classification of frozen features, each neighbour's vote weighted by exp(cosine / 0.07)
(Wu et al. 2018; the protocol of DINO, Caron et al. 2021, with k = 20)."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.evaluation.features import similarity, unit


def knn(
    train: Tensor, train_labels: Tensor, images: Tensor, classes: int, k: int = 20, temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:  # fmt: skip
    """train [M, D], train_labels int64 [M], images [N, D] -> votes float32 [N, C] of the min(k, M) nearest.
    Memory: `chunk` × M. Raises UserError for features that are not finite."""
    train, images = unit(train, "training features"), unit(images, "image features")
    votes = []
    for part in images.split(chunk):
        near = similarity(part, train).topk(min(k, len(train)), dim=1)
        weights = ((near.values - near.values[:, :1]) / temperature).exp()  # less the greatest: a common factor
        votes.append(torch.zeros(len(part), classes).scatter_add_(1, train_labels[near.indices], weights))
    return torch.cat(votes)
