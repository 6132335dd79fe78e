"""The shape of an embedding space: pure functions of features, for notebooks and reports."""

import torch
from torch import Tensor

from diptych.evaluation.features import similarity, unit


def similarity_matrix(left: Tensor, right: Tensor) -> Tensor:
    """[N, D], [M, D] -> cosines float32 [N, M]."""
    return similarity(unit(left, "left features"), unit(right, "right features"))


def pca(features: Tensor, dims: int = 2) -> tuple[Tensor, Tensor]:
    """[N, D] -> the first `dims` principal components' coordinates [N, dims], and the share of the variance
    each explains [dims]. Signs are fixed so that a component's largest coordinate is positive: the same
    features give the same map."""
    centred = features.float() - features.float().mean(dim=0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    points = left[:, :dims] * values[:dims]
    largest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    # A component without variance (fewer distinct rows than dims) has no sign and no share.
    total = values.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    return points * torch.where(largest < 0, -1.0, 1.0), values[:dims].square() / total


def neighbours(queries: Tensor, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """queries [Q, D], features [N, D] -> cosines float32 [Q, K] and rows int64 [Q, K], nearest first,
    K = min(k, N). A query that is itself a row of `features` is its own first neighbour."""
    best = similarity_matrix(queries, features).topk(min(k, len(features)), dim=1)
    return best.values, best.indices


def modality_gap(image: Tensor, text: Tensor) -> dict[str, float]:
    """image [N, D], text [N, D], row i a pair -> how far apart the two modalities lie (Liang et al. 2022,
    "Mind the Gap", §2): "gap" is the distance between the two means of the unit vectors, 0–2; "image_cone"
    and "text_cone" are the mean cosine within a modality (1: all alike), "pairs" that of the pairs, and
    "others" that of an image with all texts but its own."""
    image, text = unit(image, "image features"), unit(text, "text features")
    mean_image, mean_text = image.mean(dim=0), text.mean(dim=0)
    pairs, n = (image * text).sum(dim=1).mean(), len(image)
    return {
        "gap": (mean_image - mean_text).norm().item(),
        "image_cone": _cone(mean_image, n),
        "text_cone": _cone(mean_text, n),
        "pairs": pairs.item(),
        "others": ((mean_image @ mean_text * n - pairs) / (n - 1)).item() if n > 1 else float("nan"),
    }


def _cone(mean: Tensor, n: int) -> float:
    """The mean cosine of two different unit vectors out of n, from their mean: |mean|² counts each of the n²
    ordered pairs, n of which are a vector with itself."""
    return ((mean.square().sum() * n - 1) / (n - 1)).item() if n > 1 else float("nan")
