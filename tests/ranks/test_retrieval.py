"""Retrieval over ranks: the same numbers as one process's, whatever the number of ranks and the size of a chunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo import on_ranks
from torch import Tensor

from diptych.evaluation.retrieval import recall

IMAGES, CAPTIONS = 23, 3


def pairs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(IMAGES, 8, generator=generator)
    owner = torch.arange(IMAGES).repeat_interleave(CAPTIONS)[torch.randperm(IMAGES * CAPTIONS, generator=generator)]
    return image, image[owner] + torch.randn(len(owner), 8, generator=generator), owner


def share(rank: int, world: int) -> list[dict[str, Any]]:
    return [recall(*pairs(), chunk=chunk) for chunk in (1, 5, 64, None)]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_share_the_queries(world: int) -> None:
    alone = recall(*pairs())
    assert 0.2 < alone["text_to_image"]["R@1"] < 0.9  # type: ignore[index]
    assert on_ranks(world, share) == [[alone] * 4] * world
