"""Accuracy, calibration and confusions, counted over pictures.

`Accuracy` and `Calibration` are torchmetrics' metrics: added up batch by batch, and over ranks where each has a
share.

What torchmetrics' own metrics can't do here: equal scores are ordered by class, numbers are exact (they divide in
float32), and memory is bounded (its calibration error keeps every confidence, its stable per-class counts a matrix of
C × C). tests/evaluation/test_accuracy.py compares both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from diptych.base.errors import UserError
from diptych.evaluation.features import check_labels, probabilities, similarity, unit

TOP = 5
BINS = 15


class Accuracy(Metric):
    """Top-1, top-5 and the mean over classes, from the rank of each picture's own class.

    classes: C; over_ranks: whether each rank counts pictures of its own, and `compute` adds them up
    """

    full_state_update = False
    right: Tensor
    count: Tensor
    near: Tensor

    def __init__(self, classes: int, over_ranks: bool = False) -> None:
        super().__init__(sync_on_compute=over_ranks)
        for name, size in (("right", classes), ("count", classes), ("near", 1)):
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, ranks: Tensor, labels: Tensor) -> None:
        """ranks int64 [N], how many classes come before a picture's own; labels int64 [N]. N may be 0."""
        classes = len(self.count)
        self.count += torch.bincount(labels, minlength=classes).to(self.count.device)
        self.right += torch.bincount(labels[ranks == 0], minlength=classes).to(self.count.device)
        self.near += (ranks < TOP).sum().to(self.near.device)

    def compute(self) -> dict[str, float | int]:
        """{"top1", "top5", "n", "mean_per_class"}: the last over the classes that occur"""
        n, seen = int(self.count.sum()), self.count > 0
        if not n:
            raise UserError("No picture of a set could be read, so it has no accuracy: check its files.")
        return {
            "top1": int(self.right.sum()) / n,
            "top5": int(self.near) / n,
            "n": n,
            "mean_per_class": (self.right.double() / self.count)[seen].mean().item(),
        }


class Calibration(Metric):
    """The expected calibration error over equal bins of confidence (Guo et al. 2017, section 2), a bin open below.

    over_ranks: as for `Accuracy`
    """

    full_state_update = False
    count: Tensor
    confidence: Tensor
    right: Tensor

    def __init__(self, bins: int = BINS, over_ranks: bool = False) -> None:
        super().__init__(sync_on_compute=over_ranks)
        self.bins = bins
        self.add_state("count", torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("confidence", "right"):
            self.add_state(name, torch.zeros(bins, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """confidence [N], the probability of the answer given; right bool [N]. N may be 0."""
        place = (confidence * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1).to(self.count.device)
        self.count += torch.bincount(place, minlength=self.bins)
        self.confidence.index_add_(0, place, confidence.double().to(place.device))
        self.right.index_add_(0, place, right.double().to(place.device))

    def compute(self) -> dict[str, Any]:
        """{"ece", "bins": [{"confidence", "accuracy", "n"}]}"""
        n = self.count.clamp(min=1)
        mean, accuracy = self.confidence / n, self.right / n
        rows = zip(mean.tolist(), accuracy.tolist(), self.count.tolist(), strict=True)
        return {
            "ece": ((mean - accuracy).abs() * self.count).sum().item() / max(1, int(self.count.sum())),
            "bins": [{"confidence": c, "accuracy": a, "n": n} for c, a, n in rows],
        }


def calibration(confidence: Tensor, right: Tensor, bins: int = BINS) -> dict[str, Any]:
    """confidence [N], the probability of the answer given; right bool [N] -> {"ece", "bins": [{"confidence",
    "accuracy", "n"}]}, as `Calibration` counts them."""
    tally = Calibration(bins)
    tally.update(confidence, right)
    return tally.compute()


def details(features: Tensor, classifier: Tensor, labels: Tensor, scale: float, chunk: int = 4096) -> dict[str, Any]:
    """features [N, D], classifier [C, D], labels int64 [N], scale: what the model multiplies cosines by ->
    {"ece", "bins", "per_class": [[right, n] of each class], "confusions": the 20 most frequent [true, said, n],
    of equals the surest; "said": N answers}.
    Memory: `chunk` × C. Raises UserError for features that are not finite, a scale that is not, and labels without a
    class."""
    said, sure = sureness(features, classifier, scale, chunk)
    check_labels(labels, len(said), len(classifier))
    right = said == labels
    counts = torch.bincount(labels, minlength=len(classifier))
    hits = torch.bincount(labels[right], minlength=len(classifier))
    pairs = torch.stack([labels[~right], said[~right]], dim=1)
    wrong, which, times = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    surest = torch.zeros(len(wrong)).index_add_(0, which, sure[~right].float())  # of equal counts, the surest errors
    order = (times + surest / (surest.max() + 1 if len(surest) else 1)).argsort(descending=True, stable=True)[:20]
    return {
        **calibration(sure, right),
        "per_class": torch.stack([hits, counts], dim=1).tolist(),
        "confusions": torch.cat([wrong[order], times[order, None]], dim=1).tolist(),
        "said": said.tolist(),
    }


def sureness(features: Tensor, classifier: Tensor, scale: float, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """features [N, D], classifier [C, D] -> int64 [N], the answers by `zeroshot.answers`' rule, and [N], the
    probability of each."""
    images, classes = unit(features, "image features"), unit(classifier, "class embeddings")
    said, sure = [], []
    for part in images.split(chunk):
        scores = similarity(part, classes)
        said.append(scores.argmax(dim=1))
        sure.append(probabilities(scores, scale).gather(1, said[-1][:, None])[:, 0])
    return torch.cat(said), torch.cat(sure)
