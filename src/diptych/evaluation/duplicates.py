"""Test pictures that training had too: the same bytes, nearly the same pixels, nearly the same embedding. Pure."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.evaluation.features import similarity, unit

BITS = 4  # of 64 in which hashes of near-duplicates may differ
LEVELS = 10.0  # of 255 by which their pixels may: simple drawings on white share hashes and little else
COSINE = 0.98  # of embeddings


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
