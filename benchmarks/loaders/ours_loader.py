"""Our loader as in training: order, shards, pixels, tokens, replacing and counting bad samples."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pillow_pixels
from torch import Tensor

from diptych.data.pixels import image
from diptych.data.pixels.image import TrainImage
from diptych.data.stream import steps, worker
from diptych.data.stream.index import open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.shards import Shelf, read_whole
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream
from diptych.data.text.tokenizer import Tokenizer

SETTINGS: dict[str, dict[str, Any]] = {
    "resized": {"crop": "resized", "scale": (0.9, 1.0)},
    "resized fast": {"crop": "resized", "scale": (0.9, 1.0), "fast": True},
    "square": {"crop": "square"},
    "square fast": {"crop": "square", "fast": True},
}
STREAMS = 8


def batches(args: Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch from step `args.start` on; for each step a tuple of uint8 [B, 3, 224, 224] and int64 [B, 77]."""
    index = open_index(f"{args.folder}/index.json")
    source = Stream(
        Order(index, seed=0, epoch=0, batch_size=args.batch, streams=STREAMS),
        Pairs(TrainImage(224, **SETTINGS[args.setting]), Tokenizer()),
        start=args.start,
        stop=index.samples // args.batch,
        place=Place(),
        memory=0,
    )
    for batch in Steps(source, args.workers, max_bad=0.0):
        yield batch.images, batch.tokens


class Clock:
    """Seconds of each stage; a stage that is called inside another counts only for itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.within: list[str] = []
        self.since = time.perf_counter()

    def enter(self, stage: str) -> None:
        self._charge()
        self.within.append(stage)

    def leave(self) -> None:
        self._charge()
        self.within.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        stage = self.within[-1] if self.within else "rest"
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.since
        self.since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return wrapper

    def timed_items(self, stage: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = iter(function(*args, **kwargs))
            step = self.timed(stage, lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return wrapper


def shares(args: Namespace) -> dict[str, float]:
    """Fraction of the time in each stage of one epoch, in this process."""
    clock = Clock()
    image.decode = clock.timed("decode", image.decode)
    image.take = clock.timed("resize", image.take)
    TrainImage.__call__ = clock.timed("augment", TrainImage.__call__)  # type: ignore[method-assign]
    Tokenizer.__call__ = clock.timed("tokenize", Tokenizer.__call__)  # type: ignore[method-assign]
    Shelf.samples = clock.timed_items("read", Shelf.samples)  # type: ignore[method-assign]
    worker.stack = clock.timed("collate", worker.stack)
    steps.joined = clock.timed("collate", steps.joined)
    for _ in batches(args):
        pass
    clock._charge()
    whole = sum(clock.seconds.values())
    return {stage: seconds / whole for stage, seconds in clock.seconds.items()}


def difference(args: Namespace) -> float:
    """Mean difference from the same crops made by Pillow alone, in levels of 255."""
    setting = SETTINGS[args.setting]
    made, total = TrainImage(224, **setting), 0.0
    samples = list(islice(read_whole(open_index(f"{args.folder}/index.json")), 16))
    for seed, sample in enumerate(samples):
        exact = pillow_pixels.train_image(sample["jpg"], 224, seed=seed, crop=setting["crop"])
        total += pillow_pixels.apart(made(sample["jpg"], seed), exact).float().mean().item()
    return total / len(samples)
