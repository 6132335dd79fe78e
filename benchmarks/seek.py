"""Resume at step 100,000 of 400 million pairs: what a worker opens, reads and holds, and how long it takes.

python benchmarks/seek.py [--json]

Real code over an artificial set: an index.json of 40,000 unequal shards in a real file, and shards whose bytes are
generated when they are read, since 20 TB don't fit on this disk: one web-size JPEG with its caption, repeated, as tar
members. The process is one of 256 ranks × 8 workers and owns one of 2,048 streams. The time is from the start of a
new worker, in its own process, to its first part of a batch. Memory is the worker's peak.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.io.files import Files
from diptych.data.pixels.image import TrainImage
from diptych.data.stream.index import open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.shards import Sample
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream
from diptych.data.text.tokenizer import Tokenizer

SHARDS, PAIRS, STEP, BATCH, STREAMS = 40_000, 400_000_000, 100_000, 32_768, 2_048
STREAM = 1_099  # any of them


def sample() -> bytes:
    """A web-size picture and its caption as tar members."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
    picture = io.BytesIO()
    rough.save(picture, "JPEG", quality=88)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, content in (("0.jpg", picture.getvalue()), ("0.txt", b"a picture that stands for many")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
        end = out.offset
    return tar.getvalue()[:end]


class MadeUp(Files):
    """Shards that repeat one sample; `log` gets a line for each shard that is opened."""

    def __init__(self, unit: bytes, counts: dict[str, int], log: Path) -> None:
        super().__init__()
        self.unit, self.counts, self.log = unit, counts, log

    def __getstate__(self) -> dict[str, Any]:
        return {"unit": self.unit, "counts": self.counts, "log": self.log}

    def size(self, path: str) -> int | None:
        count = self.counts.get(Path(path).name)
        return super().size(path) if count is None else count * len(self.unit) + 1024

    def read(self, path: str) -> bytes:
        if path.endswith(".idx"):
            count = self.counts[Path(path).stem]
            return (np.arange(count + 1, dtype="<i8") * len(self.unit)).tobytes()
        return super().read(path)

    def open(self, path: str, start: int = 0, stop: int | None = None, size: int | None = None) -> BinaryIO:
        if Path(path).name not in self.counts:
            return super().open(path, start, stop, size)
        assert start % len(self.unit) == 0
        stop = self.counts[Path(path).name] * len(self.unit) if stop is None else stop
        with self.log.open("a") as log:
            log.write(f"{Path(path).name}\n")
        return io.BufferedReader(_Again(self.unit, stop - start), len(self.unit))


class _Again(io.RawIOBase):
    def __init__(self, unit: bytes, left: int) -> None:
        self.unit, self.left, self.at = unit, left, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.unit[self.at : self.at + min(len(buffer), self.left)]
        buffer[: len(data)] = data
        self.left -= len(data)
        self.at = (self.at + len(data)) % len(self.unit)
        return len(data)


class Weighed(Pairs):
    """Pairs that write their process's peak memory, in kB, to a file."""

    peak: Path

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        status = Path("/proc/self/status").read_text()
        self.peak.write_text(status.partition("VmHWM:")[2].split()[0])
        return super().__call__(sample, seed)


def opens(stream: Stream) -> int:
    """The largest number of shards that a stream opens to resume at STEP."""
    epoch, within = divmod(STEP, stream.order.steps)
    order = stream.order.at(epoch)
    most = 0
    for number in range(STREAMS):
        line = order.line(number)
        most = max(most, len({run.shard for run in line.runs(line.find(within * order.per_stream))}))
    return most


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    unit = sample()
    spread = np.random.default_rng(1).integers(-1000, 1001, SHARDS // 2)
    counts = {f"{n:06d}.tar": int(10_000 + (-1) ** n * spread[n // 2]) for n in range(SHARDS)}
    entries = [
        {"path": name, "samples": count, "bytes": count * len(unit) + 1024, "offsets": True}
        for name, count in counts.items()
    ]
    (folder / "index.json").write_text(json.dumps({"version": 1, "shards": entries}))
    files = MadeUp(unit, counts, folder / "opened")
    begin = time.perf_counter()
    index = open_index(str(folder / "index.json"), files)
    opened = time.perf_counter()
    assert index.samples == PAIRS
    pairs = Weighed(TrainImage(224, crop="resized"), Tokenizer())
    pairs.peak = folder / "peak"
    stream = Stream(
        Order(index, seed=0, epoch=0, batch_size=BATCH, streams=STREAMS),
        pairs,
        start=STEP,
        stop=STEP + 10,
        place=Place(STREAM, STREAMS),
        memory=0,
        files=files,
    )
    ready = time.perf_counter()
    assert len(next(iter(Steps(stream, workers=0, max_bad=0.01)))) == BATCH // STREAMS
    here = time.perf_counter()
    assert len(next(iter(Steps(stream, workers=1, max_bad=0.01)))) == BATCH // STREAMS
    first = time.perf_counter()
    (name, *_) = (folder / "opened").read_text().split()
    result = {
        "pairs": index.samples,
        "shards": SHARDS,
        "epoch": STEP // stream.order.steps,
        "step of the epoch": STEP % stream.order.steps,
        "shards that a stream opens, most of all 2,048": opens(stream),
        "this one opens": name,
        "open the index, s": round(opened - begin, 2),
        "make the order, s": round(ready - opened, 2),
        "seek, read a block, make the first part, s": round(here - ready, 2),
        "the same, and start a worker for it, s": round(first - here, 2),
        "worker's peak, MB": round(int((folder / "peak").read_text()) / 1024),
        "a pair, bytes": len(unit),
    }
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<48}{value}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
