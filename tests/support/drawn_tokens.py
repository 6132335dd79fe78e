"""Token rows of unequal length for small text towers, drawn from a generator."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn_tokens(rows: int, generator: torch.Generator) -> Tensor:
    """int64 [rows, 10]: 2 to 8 ids below 48 between 48 (begin) and 49 (end, the highest), then zeros."""
    tokens = torch.zeros(rows, 10, dtype=torch.long)
    for row in range(rows):
        length = 2 + row % 7
        tokens[row, 1 : length + 1] = torch.randint(1, 48, (length,), generator=generator)
        tokens[row, 0], tokens[row, length + 1] = 48, 49
    return tokens
