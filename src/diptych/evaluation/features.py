"""Features and scores on their way into a measure: finite, unit length, float32."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.base.errors import UserError


def unit(features: Tensor, what: str) -> Tensor:
    """[N, D] of any float type -> float32 [N, D], rows of length 1.

    A comparison with NaN is false, which an accuracy counts as an ordinary mistake; that would hide a broken model.
    So a row that is not finite, or has no direction, raises UserError naming `what`.
    """
    features = features.detach().float()
    if features.ndim != 2 or features.shape[0] == 0:
        raise UserError(f"The {what} must be a non-empty [N, D] array; this one is {list(features.shape)}.")
    bad = ~features.isfinite().all(dim=1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise UserError(
            f"The {what} hold NaN or infinity in {int(bad.sum())} of {len(bad)} rows, the first is row "
            f"{first}: check the training loss, and the precision that the model ran in."
        )
    if not features.any(dim=1).all():
        first = int((~features.any(dim=1)).nonzero()[0])
        raise UserError(f"The {what} are all zero in row {first}, so it has no direction to compare.")
    return normalize(features, dim=1)


def similarity(left: Tensor, right: Tensor) -> Tensor:
    """float32 [N, D], float32 [M, D] -> [N, M], in float32 even where the caller is under autocast:
    bfloat16 keeps 8 bits, too few to tell the best of a thousand classes from the second best."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T


def rank_of(scores: Tensor, target: Tensor) -> Tensor:
    """scores [N, C], target int64 [N] -> int64 [N]: how many columns come before the target, best first.

    Equal scores are ordered by column, as in a stable sort. With a plain `scores > own` a model that gives every
    class the same score would always be right; with topk it would depend on the device.
    """
    own = scores.gather(1, target[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < target[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def probabilities(scores: Tensor, scale: float) -> Tensor:
    """Cosines [N, C] -> the softmax of scale · cosine over classes. Raises UserError as `finite_scale` does."""
    return (finite_scale(scale) * scores).softmax(dim=1)


def finite_scale(scale: float) -> float:
    """What a model multiplies cosines by, as it is. Raises UserError where it is not finite."""
    if not math.isfinite(scale):
        raise UserError(
            f"The model's logit scale is {scale}, so it has no probabilities: the training diverged, or the weights"
            " are damaged. Use an earlier checkpoint."
        )
    return scale


def check_labels(labels: Tensor, images: int, classes: int) -> None:
    """Raises UserError where there is not one label for each image, or where a label is not a class."""
    if len(labels) != images:
        raise UserError(f"There are {images} images but {len(labels)} labels: each image needs one.")
    if labels.min() < 0 or labels.max() >= classes:
        outside = labels[(labels < 0) | (labels >= classes)][0].item()
        raise UserError(
            f"Label {outside} is outside the {classes} classes 0…{classes - 1}: "
            "the labels and the class names are not of one set."
        )
