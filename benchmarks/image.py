"""Milliseconds a picture on one core, from JPEG bytes to a training square of 224, against open_clip's transform.

python benchmarks/image.py [--levels]

Both draw Inception's box of 0.9 to 1 of the area. open_clip's (Pillow, torchvision) ends in a normalised float
tensor, ours in bytes, which the device normalises once the batch is there. The pictures are made here: 8 a size, of
JPEG quality 75, 85 or 95. Rounds over all pictures alternate between the peer, ours and ours with fast=True; times
are medians of rounds, by the process's own time. The shares are of ours without fast; the last column is ours with
CLIP's square crop.
--levels: how far the pixels are from Pillow's instead of how long they take.
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
    """The peer's transform for training, behind Pillow's open as its loader has it."""
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
    """A picture, over all of a size."""
    begin = time.process_time()
    for number in range(COUNT):
        work(number)
    return (time.process_time() - begin) * 1e3 / COUNT


def timed(data: Sequence[bytes], peer: Callable[[bytes], object]) -> dict[str, float]:
    """Medians over the rounds of every way."""
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
            if round_:  # the first warms up
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
