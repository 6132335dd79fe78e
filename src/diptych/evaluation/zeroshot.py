"""Zero-shot classification: class names become the classifier (CLIP paper, §3.1.2 and §3.1.4).

Pure: tensors in, numbers out. A model is anything with `encode_text`, a tokenizer anything that turns a
list of strings into int64 [N, L]. Put the model in eval mode before.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cosine_similarity

from diptych.base.errors import UserError
from diptych.base.templates import canonical
from diptych.evaluation.accuracy import Accuracy
from diptych.evaluation.features import check_labels, probabilities, rank_of, similarity, unit

COPIES = 16  # of a picture, each with other noise
NOISE = 0.15  # as a share of the pixels' range


class TextEncoder(Protocol):
    def encode_text(self, tokens: Tensor) -> Tensor: ...  # int64 [B, L] -> [B, D]


def fill(template: str, name: str) -> str:
    """("a drawing of a {}.", "cow face") -> "a drawing of a cow face.". Other braces, in the template or in
    the name, are left as they are."""
    return name.join(canonical(template).split("{}"))


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """C names, T templates -> C·T prompts, all of the first class first."""
    return [fill(template, name) for name in names for template in templates]


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
    Raises UserError without names or templates, for a text instead of a list, or where a feature is not finite.
    """
    for what, given in (("names", names), ("templates", templates)):
        if isinstance(given, str):  # a sequence too: each letter would be a class
            raise UserError(f"{what}={given!r} is one text: give a list of {what}, such as [{given!r}].")
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
    tally = Accuracy(len(classifier))
    count(tally, image_features, classifier, labels, chunk)
    return tally.compute()


def count(tally: Accuracy, image_features: Tensor, classifier: Tensor, labels: Tensor, chunk: int = 4096) -> None:
    """Add pictures to a tally, none where there is none; otherwise as `classify`."""
    if not len(image_features):
        return tally.update(labels, labels)
    for scores, of in _scores_of(image_features, classifier, labels, chunk):
        tally.update(rank_of(scores, of), of)


def answers(image_features: Tensor, classifier: Tensor, chunk: int = 4096) -> Tensor:
    """image_features [N, D], classifier [C, D] -> int64 [N], the class of the highest cosine, of equals the first.

    The one rule for what a model says: `classify`, `hits`, `top_k` and `calibration.details` all follow it.
    Probabilities don't decide: in float32 many cosines give one probability.
    """
    images, classes = unit(image_features, "image features"), unit(classifier, "class embeddings")
    return torch.cat([scores.argmax(dim=1) for scores in _scores(images, classes, chunk)])


def hits(image_features: Tensor, classifier: Tensor, labels: Tensor, chunk: int = 4096) -> Tensor:
    """image_features [N, D], classifier [C, D], labels int64 [N] -> bool [N], whether a picture's answer is right."""
    return answers(image_features, classifier, chunk) == labels


def top_k(image_features: Tensor, classifier: Tensor, scale: float, k: int) -> tuple[Tensor, Tensor]:
    """image_features [N, D], classifier [C, D] -> probabilities float32 [N, K], class indices int64 [N, K],
    K = min(k, C), best first by cosine, of equals the first. The probability is the softmax over all C classes of
    scale · cosine. Raises UserError for a scale that is not finite."""
    images, classes = unit(image_features, "image features"), unit(classifier, "class embeddings")
    scores = similarity(images, classes)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return probabilities(scores, scale).gather(1, best), best


def saliency(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, classes: Tensor, copies: int = COPIES, seed: int = 0
) -> Tensor:
    """Which pixels an answer depends on: gradients of a picture's cosine with a class, averaged over noisy copies
    (SmoothGrad, Smilkov et al. 2017), for any image tower.

    encode: [N, 3, H, W] -> [N, D], differentiable; pixels float [N, 3, H, W], normalised; classes [N, D], the
    class of each that is asked about -> float [N, H, W], 0 to 1: the size of the gradient over colours, smoothed over
    3 × 3 pixels, its greatest made 1. All 0 where nothing depends on the picture."""
    generator = torch.Generator().manual_seed(seed)
    spread = NOISE * (pixels.amax(dim=(1, 2, 3), keepdim=True) - pixels.amin(dim=(1, 2, 3), keepdim=True))
    total = torch.zeros_like(pixels[:, :1])
    for _ in range(copies):
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        noisy = (pixels + spread * noise).requires_grad_(True)
        with torch.enable_grad():
            cosine = cosine_similarity(encode(noisy), classes.to(pixels), dim=1)
            (gradient,) = torch.autograd.grad(cosine.sum(), noisy)
        total += gradient.norm(dim=1, keepdim=True)
    smooth = avg_pool2d(total, 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return smooth / smooth.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(smooth.dtype).tiny)


def _scores_of(
    image_features: Tensor, classifier: Tensor, labels: Tensor, chunk: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosines [n, C] and labels [n], `chunk` pictures at a time."""
    images, classes = unit(image_features, "image features"), unit(classifier, "class embeddings")
    labels = labels.to(images.device)
    check_labels(labels, len(images), len(classes))
    return zip(_scores(images, classes, chunk), labels.split(chunk), strict=True)


def _scores(images: Tensor, classes: Tensor, chunk: int) -> Iterator[Tensor]:
    for part in images.split(chunk):
        yield similarity(part, classes)


def _device(model: object) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    if not isinstance(model, nn.Module):
        return torch.device("cpu")
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
