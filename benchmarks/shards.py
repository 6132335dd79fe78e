"""Web-size JPEGs with captions, in webdataset shards with an index: what the loaders' benchmarks read.

python benchmarks/shards.py [FOLDER]

They are generated once, from seeds, into a cache folder under the system's temporary folder, where the benchmarks
look for them. Pictures are 640×480 to 1600×1200 (4:3 and 3:2, portrait and landscape), JPEG quality 75 to 95: noise
at many scales with shapes on top, with about as many bytes per pixel as photographs. Captions are mostly plain
English, some with quotes, emoji or entities.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from webdataset import ShardWriter

from diptych.data.stream.index import scan

SHARDS, SAMPLES, SMALL = 8, 150, 18  # samples per shard; SMALL: of the quick set
WORDS = (
    "a the of in with on and photo old red blue small large wooden street house market river mountain dog cat bird "
    "woman man child bicycle train boat flower tree garden table kitchen window light morning evening winter summer "
    "beach city bridge vintage modern handmade portrait landscape close-up detail view black white green yellow"
)
EXTRAS = ["", "", "", "", "", "", " | Shop", " – “detail”", " 🌄", " &amp; more", " (2019)"]


def folder(quick: bool = False) -> Path:
    """The folder of the shards, which are made if they don't exist yet: *.tar, SHARD.idx and index.json."""
    path = Path(tempfile.gettempdir()) / f"diptych-benchmark-{'quick' if quick else 'full'}-1"
    if not (path / "index.json").exists():
        make(path, SMALL if quick else SAMPLES)
    return path


def make(path: Path, samples: int, shards: int = SHARDS) -> None:
    """Write the shards, one process per core, then the index."""
    path.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(write, [path] * shards, range(shards), [samples] * shards))
    index(path)


def write(path: Path, number: int, samples: int) -> None:
    with ShardWriter(str(path / f"%03d-{number:03d}.tar"), maxcount=samples, verbose=0) as sink:
        for at in range(samples):
            draw = random.Random(number * samples + at)
            sink.write({"__key__": f"{number:03d}{at:06d}", "jpg": picture(draw), "txt": caption(draw)})


def index(path: Path) -> None:
    """index.json and SHARD.idx for the tars of a folder."""
    entries = []
    for tar in sorted(path.glob("*.tar")):
        shard, offsets = scan(str(tar))
        assert offsets is not None
        Path(f"{tar}.idx").write_bytes(offsets.astype("<i8").tobytes())
        entries.append({"path": tar.name, "samples": shard.samples, "bytes": shard.bytes, "offsets": True})
    (path / "index.json").write_text(json.dumps({"version": 1, "shards": entries}))


def picture(draw: random.Random) -> bytes:
    """A JPEG of 640×480 … 1600×1200: octaves of noise halving in strength, shapes, a little grain."""
    width = draw.randrange(640, 1601, 16)
    size = (width, width * 3 // 4) if draw.random() < 0.7 else (width, width * 2 // 3)
    size = size if draw.random() < 0.7 else size[::-1]
    noise = np.random.default_rng(draw.getrandbits(32))
    image = octave(noise, 3, size)
    for cells in (6, 13, 27, 55, 111, 223):
        image = Image.blend(image, octave(noise, cells, size), 0.3)
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randrange(3, 12)):
        shape = draw.choice([pen.ellipse, pen.rectangle])
        left, top = draw.randrange(size[0]), draw.randrange(size[1])
        shape([left, top, left + draw.randrange(20, 400), top + draw.randrange(20, 400)], fill=draw.getrandbits(24))
    image = Image.blend(image, octave(noise, max(size) // 2, size), 0.05)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=draw.randrange(75, 96))
    return file.getvalue()


def octave(noise: np.random.Generator, cells: int, size: tuple[int, int]) -> Image.Image:
    """Random colours on a grid `cells` wide, enlarged to `size`."""
    grid = noise.integers(0, 256, (max(2, cells * size[1] // size[0]), cells, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR)


def caption(draw: random.Random) -> str:
    words = WORDS.split()
    words = [words[int(len(words) * draw.random() ** 1.5)] for _ in range(draw.randrange(4, 18))]
    return " ".join(words).capitalize() + draw.choice(EXTRAS)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]), SAMPLES)
    print(sys.argv[1] if len(sys.argv) > 1 else folder())
