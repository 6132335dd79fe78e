"""What stands behind an accuracy: whether the model's probabilities are true, which classes it misses and for which.

Pure: tensors in, numbers out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diptych.errors import UserError
from diptych.evaluation.features import similarity, unit

BINS = 15


def calibration(confidence: Tensor, right: Tensor, bins: int = BINS) -> dict[str, Any]:
    """confidence [N], the probability of the answer given; right bool [N] -> {"ece", "bins": [{"confidence",
    "accuracy", "n"}]}: the expected calibration error over equal bins of confidence (Guo et al. 2017, section 2)."""
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins)
    sums = [torch.zeros(bins).double().index_add_(0, place, each.double()) for each in (confidence, right)]
    mean, accuracy = (each / count.clamp(min=1) for each in sums)
    rows = zip(mean.tolist(), accuracy.tolist(), count.tolist(), strict=True)
    return {
        "ece": ((mean - accuracy).abs() * count).sum().item() / len(confidence),
        "bins": [{"confidence": c, "accuracy": a, "n": n} for c, a, n in rows],
    }


def details(features: Tensor, classifier: Tensor, labels: Tensor, scale: float, chunk: int = 4096) -> dict[str, Any]:
    """features [N, D], classifier [C, D], labels int64 [N], scale: what the model multiplies cosines by ->
    {"ece", "bins", "per_class": [[right, n] of each class], "confusions": the 20 most frequent [true, said, n],
    of equals the surest}.
    Memory: `chunk` × C. Raises UserError for features that are not finite, and labels without a class."""
    images, classes = unit(features, "image features"), unit(classifier, "class embeddings")
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"There are {len(labels)} labels up to {int(labels.max())} for {len(images)} pictures and "
                        f"{len(classes)} classes: the labels and the class names are not of one set.")  # fmt: skip
    best = [(scale * similarity(part, classes)).softmax(dim=1).max(dim=1) for part in images.split(chunk)]
    said, sure = torch.cat([each.indices for each in best]), torch.cat([each.values for each in best])
    right = said == labels
    counts = torch.bincount(labels, minlength=len(classes))
    hits = torch.bincount(labels[right], minlength=len(classes))
    pairs = torch.stack([labels[~right], said[~right]], dim=1)
    wrong, which, times = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    surest = torch.zeros(len(wrong)).index_add_(0, which, sure[~right].float())  # of equal counts, the surest errors
    order = (times + surest / (surest.max() + 1 if len(surest) else 1)).argsort(descending=True, stable=True)[:20]
    return {
        **calibration(sure, right),
        "per_class": torch.stack([hits, counts], dim=1).tolist(),
        "confusions": torch.cat([wrong[order], times[order, None]], dim=1).tolist(),
    }
