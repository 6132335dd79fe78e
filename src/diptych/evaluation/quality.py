"""What an embedding space is like, without a classifier: spread, dimension, neighbours, the gap between modalities;
and test pictures that training had too: the same bytes, nearly the same pixels, nearly the same embedding.

Pure: tensors in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.evaluation.features import similarity, unit

CHUNK = 1024
BITS = 4  # of 64 in which hashes of near-duplicates may differ
LEVELS = 10.0  # of 255 by which their pixels may: simple drawings on white share hashes and little else
COSINE = 0.98  # of embeddings


def alignment(left: Tensor, right: Tensor) -> float:
    """left, right [N, D], row i a pair -> the mean squared distance of unit vectors of a pair, 0 to 4 (Wang and Isola
    2020, section 4.1, alpha = 2)."""
    return (2 - 2 * (unit(left, "features") * unit(right, "features")).sum(dim=1)).mean().item()


def uniformity(features: Tensor) -> float:
    """features [N, D] -> log of the mean of exp(-2 d²) over pairs of different rows, 0 for one point, about -4 for an
    even spread (Wang and Isola 2020, section 4.1, t = 2). Memory: `CHUNK` × N."""
    features = unit(features, "features")
    n = len(features)
    if n < 2:
        raise UserError("Uniformity is of pairs: give at least two pictures.")
    total = sum((4 * rows - 4).exp().sum().double().item() for _, rows in _cosines(features))
    return math.log((total - n) / (n * (n - 1)))  # a row with itself counts exp(0)


def intrinsic_dimension(features: Tensor) -> float:
    """features [N, D] -> TwoNN's estimate (Facco et al. 2017): N over the sum of log ratios of the distances to the
    second and to the first neighbour, the largest tenth of the ratios left out. Rows that occur twice are one."""
    distinct = unit(features, "features").unique(dim=0)
    if len(distinct) < 4:
        raise UserError(f"The intrinsic dimension needs four different pictures; here are {len(distinct)}.")
    ratios = []
    for start, rows in _cosines(distinct):
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = -math.inf
        first, second = (2 - 2 * rows.topk(2, dim=1).values.double()).clamp_min(1e-12).sqrt().unbind(dim=1)
        ratios.append(second / first)
    ordered = torch.cat(ratios).sort().values
    kept = ordered[: max(3, int(0.9 * len(ordered)))].log()
    # Of the ratios' distribution 1 - r^-d, cut at its 90 % quantile: the slope through the origin, as in the paper.
    y = -torch.log1p(-torch.arange(1, len(kept) + 1, dtype=torch.float64) / len(ordered))
    return ((kept * y).sum() / kept.square().sum()).item()


def purity(features: Tensor, labels: Tensor, k: int = 5) -> float | None:
    """features [N, D], labels int64 [N] -> the share of the k nearest others that are of a row's own class, over rows
    whose class has others, and of as many neighbours as it has. None where no class has two."""
    features = unit(features, "features")
    others = torch.bincount(labels)[labels] - 1
    shares = []
    for start, rows in _cosines(features):
        here = slice(start, start + len(rows))
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = -math.inf
        near = labels[rows.topk(min(k, len(features) - 1), dim=1).indices] == labels[here, None]
        most = others[here].clamp(max=near.shape[1])
        counted = torch.arange(near.shape[1]) < most[:, None]
        shares.append(((near & counted).sum(dim=1) / most)[most > 0])
    found = torch.cat(shares)
    return found.double().mean().item() if len(found) else None


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
    """image [N, D], text [N, D], row i a pair -> how far apart the two modalities are (Liang et al. 2022,
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


def difference_hash(image: Tensor) -> int:
    """uint8 [3, H, W] -> 64 bits: of grey values averaged to 8 × 9, whether each is darker than its right neighbour.
    It stays nearly the same when a picture is resized or recompressed."""
    grey = image.float().mean(dim=0)[None, None]
    small = torch.nn.functional.adaptive_avg_pool2d(grey, (8, 9))[0, 0]
    bits = (small[:, :-1] < small[:, 1:]).flatten().tolist()
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def near_hashes(tested: list[int], trained: list[int], bits: int = BITS) -> list[int]:
    """Of each tested hash the number of the nearest trained one, if it differs in at most `bits` bits; else -1."""
    as_bits = [
        ((torch.tensor([each >> place & 1 for each in hashes for place in range(64)]).view(-1, 64) * 2) - 1).float()
        for hashes in (tested, trained)
    ]
    found: list[int] = []
    for part in as_bits[0].split(1024):
        best = (part @ as_bits[1].T).max(dim=1)  # 64 less twice the bits that differ
        found += torch.where(best.values >= 64 - 2 * bits, best.indices, -1).tolist()
    return found


def same_pixels(left: Tensor, right: Tensor, levels: float = LEVELS) -> bool:
    """uint8 [3, H, W] twice -> whether 16 × 16 thumbnails differ by at most `levels` of 255 in the mean."""
    small = [torch.nn.functional.adaptive_avg_pool2d(each.float(), 16) for each in (left, right)]
    return (small[0] - small[1]).abs().mean().item() <= levels


def near_embeddings(tested: Tensor, trained: Tensor, cosine: float = COSINE) -> list[int]:
    """Of each row of tested [N, D] the nearest row of trained [M, D], if its cosine is at least `cosine`; else -1."""
    trained = unit(trained, "training features")
    found: list[int] = []
    for part in unit(tested, "image features").split(1024):
        best = similarity(part, trained).max(dim=1)
        found += torch.where(best.values >= cosine, best.indices, -1).tolist()
    return found


def _cosines(features: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First row and its chunk's cosines with all rows, [n, N]."""
    for start in range(0, len(features), CHUNK):
        yield start, similarity(features[start : start + CHUNK], features)
