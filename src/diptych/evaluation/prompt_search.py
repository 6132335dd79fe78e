"""Which templates to average: greedy choice of an ensemble on a split that no result is reported on.

The ensembles of the CLIP paper (section 3.1.4) were found by hand on ImageNet; here each step adds the template that
helps most. Pure: tensors in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diptych.base.errors import UserError
from diptych.evaluation.features import similarity, unit


@dataclass(frozen=True)
class Search:
    """chosen: templates by number, in the order they were added; a template may come again, which weighs it more.
    accuracy, loss: of the ensemble after each, on the tuning split. best: how many of them to take"""

    chosen: list[int]
    accuracy: list[float]
    loss: list[float]

    @property
    def best(self) -> int:
        """The shortest ensemble of the highest accuracy."""
        return 1 + self.accuracy.index(max(self.accuracy))


def ensemble(prompts: Tensor) -> Tensor:
    """prompts [T, C, D], unit rows -> classifier [C, D]: the mean over templates at unit length, as
    `zero_shot_classifier` takes it."""
    return unit(prompts.mean(dim=0), "class embeddings")


def greedy(images: Tensor, labels: Tensor, prompts: Tensor, scale: float, most: int) -> Search:
    """images [N, D], labels int64 [N], prompts [T, C, D] (each class in each template), scale: what the model
    multiplies cosines by -> at most `most` steps.

    A step takes the template whose ensemble is most often right, of equals the one of the least cross-entropy, then
    the first. Raises UserError for features that are not finite, and labels without a class.
    """
    images = unit(images, "image features")
    count, classes = prompts.shape[:2]
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"The tuning split has labels {int(labels.min())}…{int(labels.max())} for {classes} classes.")
    each = torch.stack([unit(prompt, f"text features of template {t}") for t, prompt in enumerate(prompts)])
    total = torch.zeros_like(each[0])
    search = Search([], [], [])
    for _ in range(most):
        tried = [_measure(images, labels, ensemble((total + each[t])[None]), scale) for t in range(count)]
        best = max(range(count), key=lambda t: (tried[t][0], -tried[t][1], -t))
        total = total + each[best]
        search.chosen.append(best)
        search.accuracy.append(tried[best][0])
        search.loss.append(tried[best][1])
    return search


def _measure(
    images: Tensor, labels: Tensor, classifier: Tensor, scale: float, chunk: int = 4096
) -> tuple[float, float]:
    """Top-1 and cross-entropy. Argmax takes the first of equals, as `classify` does."""
    right, loss = 0, 0.0
    for image, label in zip(images.split(chunk), labels.split(chunk), strict=True):
        scores = similarity(image, classifier)
        right += int((scores.argmax(dim=1) == label).sum())
        loss += cross_entropy(scale * scores, label, reduction="sum").item()
    return right / len(labels), loss / len(labels)
