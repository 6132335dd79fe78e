"""400 million pairs on 256 ranks × 8 workers: load on store, network and memory, and the first bottleneck.

python benchmarks/scale.py

Lines marked R come from our real code over a synthetic index: `open_index` of 40,000 shards (sparse files of the
right sizes), `Stream`, `Order` and the walk of every block of an epoch. Lines marked A are computed from those, and
from the limits in the last table, which are assumptions. docs/evidence/scale.md explains the numbers.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diptych.data.io.files import Files
from diptych.data.stream.index import Index, Shard, open_index
from diptych.data.stream.order import BLOCK, Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.shards import Shelf
from diptych.data.stream.walk import Walk
from diptych.data.stream.worker import Place, Stream

MIB = 2.0**20
STEP = 100_000
# Assumed: an object store's requests per second for one prefix, a file server's look-ups, a node's link of 25 Gbit,
# and the bytes per second of the whole store.
REQUESTS, LOOKUPS, LINK, STORE = 5_500, 20_000, 25e9 / 8, 100e9


@dataclass(frozen=True)
class Setup:
    """A training set, and the ranks and workers that read it."""

    pairs: int = 400_000_000
    samples: int = 10_000  # per shard, on average
    pair_bytes: float = 50_000
    ranks: int = 256
    workers: int = 8
    ranks_a_node: int = 8
    streams: int = 2_048
    batch: int = 32_768
    rate: float = 1_000  # pairs per second and rank
    block: int = BLOCK

    @property
    def shards(self) -> int:
        return self.pairs // self.samples

    @property
    def readers(self) -> int:
        return self.ranks * self.workers


@dataclass(frozen=True)
class Epoch:
    """The reads of one epoch. runs: requests for a range of samples; shared: shards that more than one worker opens;
    block: samples of the largest block"""

    steps: int
    remainder: int
    runs: int
    shards: int
    shared: int
    block: int


@dataclass(frozen=True)
class Load:
    """The load of an epoch. requests: per second, of all readers, for data and SHARD.idx; held: bytes of encoded
    samples in a worker; node: bytes of all workers of a node, with their interpreters; network: bytes per second into
    a node; lookups: file look-ups at the start; first: seconds until all blocks of the first batch are read"""

    requests: float
    held: float
    node: float
    network: float
    lookups: int
    first: float


def synthetic(setup: Setup) -> Index:
    """Shards of unequal counts and sizes: log-normal around the means, as after a download with failures."""
    draw = np.random.default_rng(0)
    counts = np.maximum(1, setup.samples * draw.lognormal(-0.02, 0.2, setup.shards)).astype(int)
    sizes = (counts * setup.pair_bytes * draw.lognormal(-0.005, 0.1, setup.shards)).astype(int)
    each = zip(counts.tolist(), sizes.tolist(), strict=True)
    return Index(tuple(Shard(f"{n // 1000:03d}/{n:06d}.tar", *sized, True) for n, sized in enumerate(each)))


def walked(setup: Setup, index: Index) -> Epoch:
    """R: every block of every stream of an epoch, from the order itself."""
    order = Order(index, seed=0, epoch=0, batch_size=setup.batch, streams=setup.streams, block=setup.block)
    readers: dict[int, set[int]] = {}
    runs = largest = 0
    for stream in range(setup.streams):
        line = order.line(stream)
        for block in range(len(line)):
            largest = max(largest, line.size(block))
            for run in line.runs(block):
                runs += 1
                readers.setdefault(run.shard, set()).add(stream * setup.readers // setup.streams)
    shared = sum(len(own) > 1 for own in readers.values())
    return Epoch(order.steps, order.remainder, runs, len(readers), shared, largest)


def load(setup: Setup, epoch: Epoch, interpreter: float) -> Load:
    """A: requests, bytes and seconds. Each run needs two requests, for SHARD.idx and for the bytes. A worker keeps
    one block of each of its streams, since the next one fills while the last one empties."""
    held = setup.streams / setup.readers * epoch.block * setup.pair_bytes
    workers_a_node = setup.workers * setup.ranks_a_node
    nodes = setup.ranks / setup.ranks_a_node
    return Load(
        requests=2 * epoch.runs / setup.pairs * setup.ranks * setup.rate,
        held=held,
        node=workers_a_node * (held + interpreter),
        network=setup.ranks_a_node * setup.rate * setup.pair_bytes,
        lookups=setup.ranks * setup.shards,
        first=held * workers_a_node / min(LINK, STORE / nodes),
    )


def sparse(index: Index, folder: Path) -> tuple[Path, int]:
    """Writes the index and empty files of the right sizes beside it; returns the bytes of the index."""
    entries = []
    for number, shard in enumerate(index.shards):
        path = folder / shard.path
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.touch()
        os.truncate(path, shard.bytes)
        entry = {"path": shard.path, "samples": shard.samples, "bytes": shard.bytes}
        entries.append({**entry, "sha256": f"{number:064x}", "offsets": True})
    written = folder / "index.json"
    written.write_text(json.dumps({"version": 1, "shards": entries}))
    return written, written.stat().st_size


def resident() -> float:
    """Resident bytes of this process now; its peak would include those of the process it was forked from."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def started(setup: Setup, path: str) -> dict[str, float]:
    """R: what a rank does before it reads: seconds and bytes of each stage until a worker is at STEP."""
    found = {"interpreter": resident()}
    begin = time.perf_counter()
    index = open_index(path)
    found["open"], found["index"] = time.perf_counter() - begin, resident() - found["interpreter"]
    begin = time.perf_counter()
    stream = Stream(
        Order(index, seed=0, epoch=0, batch_size=setup.batch, streams=setup.streams, block=setup.block),
        Pairs(lambda *_: None, lambda *_: None),  # type: ignore[arg-type]
        start=STEP,
        stop=STEP + 1000,
        place=Place(world=setup.ranks),
        memory=0,
    )
    found["order"] = time.perf_counter() - begin
    begin = time.perf_counter()
    opened: list[int] = []
    shelf = Shelf(index, Files(), 0, lambda shard, _: opened.append(shard))
    for number in range(setup.streams // setup.readers):
        Walk(stream.order.at, number, STEP, STEP + 1000, shelf, stream.pairs)
    found["seek"], found["whole"] = time.perf_counter() - begin, resident()
    found["to a worker"] = len(pickle.dumps(index))
    return found


def variants(setup: Setup) -> Iterator[tuple[str, Setup]]:
    yield "as above", setup
    yield "shards of 1,000", replace(setup, samples=1_000)
    yield "shards of 100,000", replace(setup, samples=100_000)
    yield "K = 8,192", replace(setup, streams=8_192)
    yield "K = 32,768", replace(setup, streams=32_768)
    yield "16 workers, K = 4,096", replace(setup, workers=16, streams=4_096)
    yield "block of 512", replace(setup, block=512)
    yield "block of 8,192", replace(setup, block=8_192)
    yield "1,024 ranks, K = 8,192", replace(setup, ranks=1_024, streams=8_192)


def describe(setup: Setup, epoch: Epoch, ours: Load, start: dict[str, float], written: int) -> None:
    seconds = setup.pairs / (setup.ranks * setup.rate)
    total = setup.pairs * setup.pair_bytes
    sent = start["to a worker"] / MIB
    besides = (start["whole"] - start["interpreter"]) / MIB
    rows = [
        ("R", "steps an epoch", f"{epoch.steps:,}"),
        ("R", "pairs left out of it", f"{epoch.remainder:,}"),
        ("A", "an epoch", f"{total / 1e12:.1f} TB in {seconds / 60:.0f} minutes"),
        (
            "A",
            "read by all, and by a rank",
            f"{total / seconds / 1e9:.1f} GB/s, {ours.network / setup.ranks_a_node / 1e6:.0f} MB/s",
        ),
        ("R", "runs of samples read", f"{epoch.runs:,}, {epoch.runs / epoch.shards:.1f} a shard"),
        (
            "A",
            "requests a second, of all and of a worker",
            f"{ours.requests:.0f}, {ours.requests / setup.readers:.3f}",
        ),
        ("R", "shards opened by several workers", f"{epoch.shared:,} of {epoch.shards:,}"),
        ("R", "largest block", f"{epoch.block:,} samples"),
        ("A", "encoded samples that a worker holds", f"{ours.held / MIB:.0f} MiB"),
        ("R", "its interpreter; index, order and walks", f"{start['interpreter'] / MIB:.0f} MiB; {besides:.0f} MiB"),
        ("A", f"the workers of a node of {setup.ranks_a_node} ranks", f"{ours.node / MIB / 1024:.1f} GiB"),
        (
            "R",
            "the index on disk, and sent to a worker",
            f"{written / MIB:.1f}, {sent:.1f} MiB",
        ),
        ("R", "open the index, a look at each shard", f"{start['open']:.2f} s"),
        ("R", "lay the order of an epoch", f"{start['order']:.3f} s"),
        ("R", f"seek to step {STEP:,}", f"{start['seek']:.3f} s, then one shard opened a stream"),
        ("A", "until the first batch's blocks are read", f"{ours.first:.1f} s"),
    ]
    print(f"{setup.pairs:,} pairs in {setup.shards:,} shards, {setup.pair_bytes / 1000:.0f} kB a pair;", end=" ")
    print(f"{setup.ranks} ranks × {setup.workers} workers, batch {setup.batch:,},")
    print(f"K = {setup.streams:,}, {setup.rate:,.0f} pairs/s a rank. R: our code, run; A: arithmetic\n")
    for mark, name, value in rows:
        print(f"{mark}  {name:<44}{value}")


def compare(setup: Setup, start: dict[str, float]) -> None:
    """The same for other settings, and the fraction of each assumed limit that they use."""
    heads = {"requests/s": 11, "of limit": 9, "MiB held": 9, "GiB/node": 9, "link": 6, "look-ups s": 11, "first s": 8}
    print(f"\n{'':<23}" + "".join(f"{head:>{width}}" for head, width in heads.items()) + f"{'shared':>8}")
    for name, other in variants(setup):
        epoch = walked(other, synthetic(other))
        ours = load(other, epoch, start["whole"])
        print(
            f"{name:<23}{ours.requests:11.0f}{ours.requests / REQUESTS:9.1%}{ours.held / MIB:9.0f}"
            f"{ours.node / MIB / 1024:9.1f}{ours.network / LINK:6.0%}{ours.lookups / LOOKUPS:11.0f}"
            f"{ours.first:8.1f}{epoch.shared / epoch.shards:8.1%}"
        )
    print(f"assumed limits: {REQUESTS:,} requests/s for a prefix, {LINK * 8 / 1e9:.0f} Gbit/s into a node,", end=" ")
    print(f"{LOOKUPS:,} look-ups/s of a file\nserver, {STORE / 1e9:.0f} GB/s of the whole store;", end=" ")
    print("shared: shards that several workers open")


def main() -> None:
    setup = Setup()
    if len(sys.argv) > 1:  # the process that `started` measures: it contains nothing else
        print(json.dumps(started(setup, sys.argv[1])))
        return
    index = synthetic(setup)
    with tempfile.TemporaryDirectory() as folder:
        path, written = sparse(index, Path(folder))
        command = [sys.executable, __file__, str(path)]
        start = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    epoch = walked(setup, index)
    describe(setup, epoch, load(setup, epoch, start["whole"]), start, written)
    compare(setup, start)


if __name__ == "__main__":
    main()
