"""Pairs a second from shards to batches, ours against webdataset's own pipeline, in one run.

python benchmarks/stream.py

Both read the embedded shards in one process, decode one picture a sample with Pillow, resize and crop it to 32 px
and tokenise one caption; both read the tars anew each epoch. The ratio is of medians over interleaved epochs. What
ours does besides (global order, replacement and count of bad samples, a cursor) is in it.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import webdataset as wds

from diptych.data.image import TrainImage, train_image
from diptych.data.index import open_index
from diptych.data.pairs import Pairs
from diptych.data.steps import Steps
from diptych.data.stream import Place, Stream
from diptych.data.tokenizer import Tokenizer

INDEX = Path(__file__).parents[1] / "data/emoji/train/index.json"
BATCH, SIZE, ROUNDS = 64, 32, 7


def ours(tokenizer: Tokenizer) -> int:
    stream = Stream(
        open_index(str(INDEX)),
        Pairs(TrainImage(SIZE), tokenizer),
        seed=0,
        batch_size=BATCH,
        streams=8,
        start=0,
        stop=27,
        place=Place(),
        memory=0,
    )
    return sum(len(batch) for batch in Steps(stream, workers=0, max_bad=0.0))


def webdataset(tokenizer: Tokenizer) -> int:
    def pair(sample: dict) -> tuple[torch.Tensor, torch.Tensor]:
        images = [data for name, data in sample.items() if name.endswith("webp")]
        caption = random.choice(json.loads(sample["json"])["captions"])
        seed = random.getrandbits(60)
        return train_image(random.choice(images), SIZE, seed=seed), tokenizer([caption])[0]

    urls = [shard.path for shard in open_index(str(INDEX)).shards]
    dataset = wds.WebDataset(urls, shardshuffle=8).shuffle(4096).map(pair).batched(BATCH, partial=False)
    return sum(len(images) for images, _ in dataset)


def rate(read: Callable[[Tokenizer], int], tokenizer: Tokenizer) -> float:
    begin = time.perf_counter()
    return read(tokenizer) / (time.perf_counter() - begin)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tokenizer = Tokenizer()
    rates: dict[str, list[float]] = {"ours": [], "webdataset": []}
    for _ in range(ROUNDS):
        rates["ours"].append(rate(ours, tokenizer))
        rates["webdataset"].append(rate(webdataset, tokenizer))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:<12}{median:8,.0f} pairs/s")
    print(f"ratio       {medians['ours'] / medians['webdataset']:8.2f}")
