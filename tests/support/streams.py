"""A stream over small shards, and a comparison of its batches."""

from __future__ import annotations

from pathlib import Path

import torch

from diptych.base.batch import Batch
from diptych.data.pixels.image import TrainImage
from diptych.data.stream.index import open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream


def letters(texts: list[str]) -> torch.Tensor:
    """A tokenizer small enough to read: code points, 24 of them."""
    return torch.tensor([[ord(c) for c in text[:24].ljust(24)] for text in texts])


FIRST = Place()


def steps(
    index: Path, place: Place = FIRST, workers: int = 0, start: int = 0, stop: int = 12, **changes: object
) -> Steps:
    options = {"seed": 5, "batch_size": 16, "streams": 4, "memory": 0, "max_bad": 0.0} | changes
    max_bad, memory = options.pop("max_bad"), options.pop("memory")
    stream = Stream(
        Order(open_index(str(index)), epoch=0, **options),
        Pairs(TrainImage(24), letters),
        start=start,
        stop=stop,
        place=place,
        memory=memory,
    )
    return Steps(stream, workers, max_bad)


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        a.keys == b.keys
        and torch.equal(a.images, b.images)
        and torch.equal(a.tokens, b.tokens)
        and torch.equal(a.seeds, b.seeds)
        and a.step == b.step
        for a, b in zip(left, right, strict=True)
    )


def joined(ranks: list[list[Batch]]) -> list[Batch]:
    return [
        Batch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.seeds for part in parts]),
            [key for part in parts for key in part.keys],
            parts[0].step,
        )
        for parts in zip(*ranks, strict=True)
    ]
