"""Distance of the order from a uniform shuffle, for sorted shards: the worst case.

python benchmarks/shuffle.py

A million samples in 1,000 shards, with 100 sorted classes, so a shard has one class, and ten shards in a row have the
same. For each order: the variance of a class's count in a batch of 1,024, relative to that of a uniform draw (1 is as
good as uniform; 10 means batches as uneven as uniform ones of a tenth of the size). For comparison, webdataset's
usual shuffle is simulated: shards permuted, then a buffer of 5,000 per reader, from which each sample is drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diptych.data.stream.index import Index, Shard
from diptych.data.stream.order import Order

SHARDS, SIZE, CLASSES, BATCH, BATCHES = 1000, 1000, 100, 1024, 120


def ours(streams: int, block: int) -> NDArray[np.int64]:
    """The classes [BATCHES, BATCH] of batches spread over an epoch."""
    index = Index(tuple(Shard(f"{n}.tar", SIZE, 0) for n in range(SHARDS)))
    order = Order(index, seed=0, epoch=0, batch_size=BATCH, streams=streams, block=block)
    steps = np.linspace(0, order.steps - 1, BATCHES).astype(int)
    shards = np.array([[shard for shard, _ in order.batch(int(step))] for step in steps])
    return shards * CLASSES // SHARDS


def buffered(readers: int, buffer: int) -> NDArray[np.int64]:
    """webdataset's shuffle: each reader shuffles its own shards; batches come from the readers in turn."""
    rng = np.random.default_rng(0)
    shards = rng.permutation(SHARDS)
    streams = []
    for reader in range(readers):
        line = np.repeat(shards[reader::readers] * CLASSES // SHARDS, SIZE)
        held, out = list(line[:buffer]), []
        for value in line[buffer:]:
            place = rng.integers(len(held))
            out.append(held[place])
            held[place] = value
        streams.append(np.array(out)[: (len(out) // BATCH) * BATCH].reshape(-1, BATCH))
    batches = np.concatenate(streams)
    return batches[np.linspace(0, len(batches) - 1, BATCHES).astype(int)]


def unevenness(batches: NDArray[np.int64]) -> float:
    counts = np.array([np.bincount(batch, minlength=CLASSES) for batch in batches])
    mean = BATCH / CLASSES
    return float(((counts - mean) ** 2).mean() / (mean * (1 - 1 / CLASSES)))


if __name__ == "__main__":
    print("order                                     held samples   variance / uniform")
    for streams, block in ((8, 2048), (64, 512), (256, 128), (1024, 128)):
        held, uneven = streams * min(block, SIZE), unevenness(ours(streams, block))
        print(f"{f'ours, {streams} streams, blocks of {block}':<44}{held:>9,}{uneven:>18.2f}")
    for readers in (1, 8):
        name = f"webdataset, {readers} readers, buffers of 5,000"
        print(f"{name:<44}{5000 * readers:>9,}{unevenness(buffered(readers, 5000)):>18.2f}")
