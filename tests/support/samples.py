"""Small real shards and pictures that the tests share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220), "yellow": (230, 210, 40)}


def picture(number: int, side: int = 40, form: str = "PNG") -> bytes:
    """A coloured square with a seeded texture: distinct, and of one of four classes (number % 4)."""
    rng = np.random.default_rng(number)
    colour = np.array(list(COLOURS.values())[number % 4])
    pixels = np.clip(colour + rng.normal(0, 25, (side, side + number % 5, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def caption(number: int) -> str:
    return f"a {list(COLOURS)[number % 4]} square, number {number}"


def write_shards(
    folder: Path, counts: list[int], change: Callable[[int, dict], dict] | None = None, index: bool = True
) -> Path:
    """Shards of `counts` samples; `change` may spoil a sample. Returns the index's path."""
    folder.mkdir(parents=True, exist_ok=True)
    number, entries = 0, []
    for shard, count in enumerate(counts):
        path = folder / f"train-{shard:06d}.tar"
        with wds.TarWriter(str(path)) as writer:
            for _ in range(count):
                sample = {"__key__": f"{number:06d}", "png": picture(number), "txt": caption(number).encode()}
                writer.write(change(number, sample) if change else sample)
                number += 1
        entries.append({"path": path.name, "samples": count, "bytes": path.stat().st_size})
    if index:
        (folder / "index.json").write_text(json.dumps({"version": 1, "shards": entries}))
    return folder / "index.json"


def benchmark(root: Path, **spoiled: bytes) -> Path:
    """A set in CLIP_benchmark's layout; `spoiled` replaces members of sample 2."""
    (root / "test").mkdir(parents=True)
    (root / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a {c} square.\n{c}\n")
    with wds.TarWriter(str(root / "test/0.tar"), encoder=False) as writer:
        for n in range(6):
            sample = {"__key__": f"{n:03d}", "png": picture(n), "cls": str(n % 4).encode(), "txt": b"square"}
            writer.write({k: v for k, v in (sample | (spoiled if n == 2 else {})).items() if v})
    return root
