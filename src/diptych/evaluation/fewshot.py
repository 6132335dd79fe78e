"""From a few labelled pictures a class: a linear probe that begins at the zero-shot classifier, a cache, and ridge.

Pure: features in, scores out. Each has one setting, chosen once on the embedded pairs' validation set and the
same for all numbers of shots and all sets: no shot is spent on tuning.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diptych.evaluation.features import similarity
from diptych.evaluation.probe import fit_logistic

C = 100.0  # inverse regularisation towards the zero-shot classifier
ALPHA, BETA = 3.0, 5.5  # the cache's weight, and its sharpness, which is Tip-Adapter's
RIDGE = 0.1


def draw_shots(labels: Tensor, k: int, seed: int) -> Tensor:
    """labels int64 [N] -> the numbers of k pictures of each class, of all where it has fewer, int64 [M]."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    starts = torch.searchsorted(shuffled[by_class], shuffled[by_class])
    place = torch.arange(len(labels)) - starts
    return order[by_class[place < k]]


def probe_from_zero_shot(shots: Tensor, labels: Tensor, classifier: Tensor, scale: float, images: Tensor) -> Tensor:
    """shots [M, D], labels int64 [M], classifier [C, D], images [N, D], all of unit length -> scores [N, C] of
    logistic regression whose weights are drawn to the zero-shot classifier's, not to 0: a probe that begins at
    nothing needs some four pictures a class to reach zero-shot (CLIP paper, section 3.1.5, figure 6)."""
    known = scale * similarity(shots, classifier)
    learned = fit_logistic(shots, labels, len(classifier), C, most=200, known=known)
    return scale * similarity(images, classifier) + learned.scores(images)


def cache_scores(shots: Tensor, labels: Tensor, classifier: Tensor, scale: float, images: Tensor) -> Tensor:
    """As above -> Tip-Adapter's scores without training (Zhang et al. 2022, section 3.2): zero-shot logits, and each
    shot's vote for its class, exp(-beta (1 - cosine))."""
    votes = (-BETA * (1 - similarity(images, shots))).exp() @ one_hot(labels, len(classifier)).to(images.dtype)
    return scale * similarity(images, classifier) + ALPHA * votes


def ridge_scores(shots: Tensor, labels: Tensor, classifier: Tensor, scale: float, images: Tensor) -> Tensor:
    """As above -> scores of least squares to one-hot targets with an L2 penalty, in closed form, from the shots
    alone: in the space of the shots where they are fewer than dimensions, which is the same solution."""
    del scale
    targets, mean = one_hot(labels, len(classifier)).double(), shots.double().mean(dim=0)
    x, new = shots.double() - mean, images.double() - mean
    if len(x) <= x.shape[1]:
        weights = x.T @ torch.linalg.solve(x @ x.T + RIDGE * torch.eye(len(x)).double(), targets)
    else:
        weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]).double(), x.T @ targets)
    return (new @ weights).float()


METHODS = {"linear_probe": probe_from_zero_shot, "cache": cache_scores, "ridge": ridge_scores}
