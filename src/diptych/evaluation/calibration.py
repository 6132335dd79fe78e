"""What stands behind an accuracy: whether the model's probabilities are true, which classes it misses and for which.

Pure: tensors in, numbers out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.evaluation.features import similarity, unit
from diptych.evaluation.tallies import BINS, Calibration
from diptych.evaluation.zeroshot import probabilities


def calibration(confidence: Tensor, right: Tensor, bins: int = BINS) -> dict[str, Any]:
    """confidence [N], the probability of the answer given; right bool [N] -> {"ece", "bins": [{"confidence",
    "accuracy", "n"}]}, as `tallies.Calibration` counts them."""
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
    if len(labels) != len(said) or labels.min() < 0 or labels.max() >= len(classifier):
        raise UserError(f"There are {len(labels)} labels up to {int(labels.max())} for {len(said)} pictures and "
                        f"{len(classifier)} classes: the labels and the class names are not of one set.")  # fmt: skip
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
