"""Meta's SPDL: its tar reader, FFmpeg's JPEG decoder and scaler, its pipeline of threads.

FFmpeg's filter crops and scales a random box of 0.9–1 of the area in the decoding thread. "bicubic": SPDL's default
for the scaler; "accurate": with swscale's exact rounding and full chroma, which is closer to Pillow.
"""

from __future__ import annotations

import io
import math
import random
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import simple_tokenizer
import spdl.io
import torch
from PIL import Image
from spdl.pipeline import PipelineBuilder
from torch import Tensor

FLAGS = {"bicubic": "bicubic", "accurate": "bicubic+accurate_rnd+full_chroma_int"}


def source(folder: Path) -> Iterator[tuple[bytes, str]]:
    """Encoded image and caption of every sample. Shards are in random order; SPDL does not shuffle samples."""
    tars = sorted(folder.glob("*.tar"))
    random.Random(0).shuffle(tars)
    for tar in tars:
        with tar.open("rb") as file:
            held: dict[str, bytes] = {}
            for name, data in spdl.io.iter_tarfile(file):
                held[name.rsplit(".", 1)[1]] = data
                if len(held) == 2:
                    yield held["jpg"], held["txt"].decode()
                    held = {}


def box(width: int, height: int) -> str:
    """torchvision's random resized crop, as FFmpeg's crop filter."""
    for _ in range(10):
        area, ratio = width * height * random.uniform(0.9, 1.0), math.exp(random.uniform(-1, 1) * math.log(4 / 3))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if across <= width and down <= height:
            left, top = random.randint(0, width - across), random.randint(0, height - down)
            return f"crop={across}:{down}:{left}:{top}:exact=1,"
    return f"crop={min(width, height)}:{min(width, height)},"


def scaled(data: bytes, flags: str, crop: bool) -> Any:
    """224×224 RGB frames, still in FFmpeg's memory."""
    packets = spdl.io.demux_image(data)
    cut = box(packets.width, packets.height) if crop else ""
    return spdl.io.decode_packets(packets, filter_desc=f"{cut}scale=224:224:flags={flags},format=pix_fmts=rgb24")


def batches(args: Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of uint8 [B, 224, 224, 3] and int64 [B, 77]; args.workers: decoding threads, at least one."""
    site = simple_tokenizer.installed(Path(sys.prefix))
    assert site is not None
    tokenizer, flags = simple_tokenizer.load(site)(), FLAGS[args.setting]

    def decode(pair: tuple[bytes, str]) -> tuple[Any, str]:
        return scaled(pair[0], flags, crop=True), pair[1]

    def collate(pairs: list[tuple[Any, str]]) -> tuple[Tensor, Tensor]:
        frames, captions = zip(*pairs, strict=True)
        return spdl.io.to_torch(spdl.io.convert_frames(list(frames))), tokenizer(list(captions))

    threads = max(1, args.workers)
    pipeline = (
        PipelineBuilder()
        .add_source(source(args.folder))
        .pipe(decode, concurrency=threads)
        .aggregate(args.batch, drop_last=True)
        .pipe(collate)
        .add_sink(3)
        .build(num_threads=threads)
    )
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


def difference(args: Namespace) -> float:
    """Mean difference from Pillow's decode and bicubic resize of the whole picture, in levels of 255."""
    pairs, total = list(islice(source(args.folder), 16)), 0.0
    for data, _ in pairs:
        picture = Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BICUBIC)
        exact = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(224, 224, 3)
        near = spdl.io.to_torch(spdl.io.convert_frames(scaled(data, FLAGS[args.setting], crop=False)))
        total += (near.float() - exact.float()).abs().mean().item()
    return total / len(pairs)
