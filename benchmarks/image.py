"""Milliseconds per picture on one core, from JPEG bytes to a 224 × 224 training crop, ours and open_clip's.

python benchmarks/image.py [--levels]

Both take Inception's random box of 0.9 to 1 of the area. open_clip (Pillow, torchvision) returns a normalised float
tensor; ours returns bytes, and the device normalises the finished batch. The pictures are generated: 8 per size, with
JPEG quality 75, 85 or 95. Rounds over all pictures alternate between open_clip, ours, and ours with fast=True. Times
are medians of rounds, in CPU time. The percentages are those of ours without fast. The last column is ours with
CLIP's square crop.

--levels prints the difference of the pixels from Pillow's instead of the times.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests/peers"))

import pillow_pixels
import simple_tokenizer
from photos import encoded, photo

from diptych.data.pixels.decode import decode
from diptych.data.pixels.image import box_crop, take, train_image

SIZES = [(640, 480), (480, 640), (800, 600), (1024, 768), (1600, 1200)]
SIZE, COUNT, ROUNDS = 224, 8, 9


def pictures(width: int, height: int) -> list[bytes]:
    return [encoded(photo(width, height, seed), quality=(75, 85, 95)[seed % 3]) for seed in range(COUNT)]


def open_clip() -> Callable[[bytes], torch.Tensor]:
    """open_clip's transform for training, with Pillow's open before it, as in its loader."""
    site = simple_tokenizer.installed()
    if site is None:
        raise SystemExit("open_clip is not there: `make peers` installs it.")
    sys.path.append(str(site))
    import openings  # noqa: F401
    from open_clip.transform import image_transform

    transform: Any = image_transform(SIZE, is_train=True)
    names = {
        name: metadata.version(name) for name in ("open_clip_torch", "torchvision", "torch", "pillow", "simplejpeg")
    }
    print(", ".join(f"{name} {version}" for name, version in names.items()))
    return lambda data: transform(Image.open(io.BytesIO(data)))


def milliseconds(work: Callable[[int], object]) -> float:
    """Milliseconds per picture, over all pictures of one size."""
    begin = time.process_time()
    for number in range(COUNT):
        work(number)
    return (time.process_time() - begin) * 1e3 / COUNT


def timed(data: Sequence[bytes], peer: Callable[[bytes], object]) -> dict[str, float]:
    """Milliseconds of every variant: medians over the rounds."""
    crop: dict[str, Any] = {"crop": "resized", "scale": (0.9, 1.0)}
    decoded = [decode(each) for each in data]
    boxes = [box_crop(each.width, each.height, SIZE, number, (0.9, 1.0)) for number, each in enumerate(decoded)]
    ways: dict[str, Callable[[int], object]] = {
        "peer": lambda number: peer(data[number]),
        "ours": lambda number: train_image(data[number], SIZE, seed=number, **crop),
        "fast": lambda number: train_image(data[number], SIZE, seed=number, fast=True, **crop),
        "square": lambda number: train_image(data[number], SIZE, seed=number),
        "decode": lambda number: decode(data[number]),
        "resize": lambda number: take(decoded[number], boxes[number]),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, way in ways.items():
            taken = milliseconds(way)
            if round_:  # the first round is a warm-up
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def print_times() -> None:
    peer = open_clip()
    print("| picture | kB | open_clip ms | ours ms | ratio | fast ms | ratio | decode | resize | rest | square ms |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for width, height in SIZES:
        data = pictures(width, height)
        ms = timed(data, peer)
        ours, fast, whole = ms["ours"], ms["fast"], ms["peer"]
        rest = max(0.0, ours - ms["decode"] - ms["resize"])
        print(
            f"| {width}×{height} | {sum(map(len, data)) / COUNT / 1e3:.0f} | {whole:.2f} "
            f"| {ours:.2f} | **{whole / ours:.1f}** | {fast:.2f} | **{whole / fast:.1f}** "
            f"| {ms['decode'] / ours:.0%} | {ms['resize'] / ours:.0%} | {rest / ours:.0%} | {ms['square']:.2f} |",
            flush=True,
        )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")


def print_levels() -> None:
    print("| picture | crop | mean | largest | over 1 | fast: mean | largest |")
    print("|---|---|---|---|---|---|---|")
    for width, height in [*SIZES, (400, 300), (500, 1250)]:
        for crop in ("square", "resized"):
            apart: dict[bool, list[torch.Tensor]] = {False: [], True: []}
            for seed, data in enumerate(pictures(width, height)):
                expected = pillow_pixels.train_image(data, SIZE, seed=seed, crop=crop)
                for fast, found in apart.items():
                    ours = train_image(data, SIZE, seed=seed, crop=crop, fast=fast)
                    found.append(pillow_pixels.apart(ours, expected).float())
            plain, quick = torch.stack(apart[False]), torch.stack(apart[True])
            print(
                f"| {width}×{height} | {crop} | {plain.mean():.4f} | {plain.max():.0f} "
                f"| {(plain > 1).sum()} of {plain.numel():,} | {quick.mean():.2f} | {quick.max():.0f} |"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--levels", action="store_true")
    (print_levels if parser.parse_args().levels else print_times)()
