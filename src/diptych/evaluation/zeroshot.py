"""Zero-shot classification: class names become the classifier (CLIP paper, §3.1.2 and §3.1.4).

Pure: tensors in, numbers out. A model is anything with `encode_text`, a tokenizer anything that turns a
list of strings into int64 [N, L]. Put the model in eval mode before.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from diptych.errors import UserError
from diptych.evaluation.features import rank_of, similarity, unit
from diptych.evaluation.prompts import prompts


class TextEncoder(Protocol):
    def encode_text(self, tokens: Tensor) -> Tensor: ...  # int64 [B, L] -> [B, D]


@torch.no_grad()
def zero_shot_classifier(
    model: TextEncoder,
    tokenizer: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[str],
    batch_size: int = 256,
) -> Tensor:
    """C names, T templates -> float32 [C, D] on the model's device, rows of length 1.

    A class is the mean of its T prompts' unit vectors, scaled to unit length again: an ensemble over the
    embedding space, as cheap to apply as one prompt. `batch_size` counts prompts; a class is never split.
    Raises UserError without names or templates, or where a text feature is not finite.
    """
    if not names or not templates:
        raise UserError("A zero-shot classifier needs at least one class name and one template.")
    device = _device(model)
    step = max(1, batch_size // len(templates))
    rows = []
    for start in range(0, len(names), step):
        chosen = names[start : start + step]
        tokens = tokenizer(prompts(chosen, templates)).to(device)
        features = unit(model.encode_text(tokens), "text features")  # C'·T × D
        rows.append(features.unflatten(0, (len(chosen), len(templates))).mean(dim=1))
    return unit(torch.cat(rows), "class embeddings")


def classify(image_features: Tensor, classifier: Tensor, labels: Tensor, chunk: int = 4096) -> dict[str, float | int]:
    """image_features [N, D], classifier [C, D], labels int64 [N] ->
    {"top1", "top5", "n", "mean_per_class"}, shares 0–1.

    top5 looks at the first min(5, C) classes. mean_per_class is the mean of top-1 over the classes that
    occur in `labels`. Equal scores are ordered by class index. Memory: `chunk` × C floats.
    Raises UserError for features that are not finite, and labels of another number or outside 0…C-1.
    """
    images, classes = unit(image_features, "image features"), unit(classifier, "class embeddings")
    labels = labels.to(images.device)
    _check_labels(labels, len(images), len(classes))
    scores = _scores(images, classes, chunk)
    ranks = torch.cat([rank_of(s, label) for s, label in zip(scores, labels.split(chunk), strict=True)])
    right = labels[ranks == 0]
    counts = torch.bincount(labels, minlength=len(classes))
    hits = torch.bincount(right, minlength=len(classes))
    return {
        "top1": len(right) / len(labels),
        "top5": int((ranks < 5).sum()) / len(labels),
        "n": len(labels),
        "mean_per_class": (hits.double() / counts)[counts > 0].mean().item(),
    }


def hits(image_features: Tensor, classifier: Tensor, labels: Tensor, chunk: int = 4096) -> Tensor:
    """image_features [N, D], classifier [C, D], all of unit length, labels int64 [N] -> bool [N], whether each
    picture's first class is its own; argmax takes the first of equals, as `classify` does."""
    said = [scores.argmax(dim=1) for scores in _scores(image_features, classifier, chunk)]
    return torch.cat(said) == labels


def top_k(image_features: Tensor, classifier: Tensor, scale: float, k: int) -> tuple[Tensor, Tensor]:
    """image_features [N, D], classifier [C, D] -> probabilities float32 [N, K], class indices int64 [N, K],
    K = min(k, C), best first. The probability is the softmax over all C classes of scale · cosine."""
    images, classes = unit(image_features, "image features"), unit(classifier, "class embeddings")
    best = (scale * similarity(images, classes)).softmax(dim=1).topk(min(k, len(classes)), dim=1)
    return best.values, best.indices


def _scores(images: Tensor, classes: Tensor, chunk: int) -> Iterator[Tensor]:
    for part in images.split(chunk):
        yield similarity(part, classes)


def _device(model: object) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    if not isinstance(model, nn.Module):
        return torch.device("cpu")
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _check_labels(labels: Tensor, images: int, classes: int) -> None:
    if len(labels) != images:
        raise UserError(f"There are {images} images but {len(labels)} labels: each image needs one.")
    if labels.min() < 0 or labels.max() >= classes:
        outside = labels[(labels < 0) | (labels >= classes)][0].item()
        raise UserError(
            f"Label {outside} is outside the {classes} classes 0…{classes - 1}: "
            "the labels and the class names are not of one set."
        )
