"""What a training step holds at its worst moment, as `src/plan.py` predicts it and as the GPU's allocator counts it.

python benchmarks/memory.py [MODEL …] [--batch 256] [--precision bf16-mixed] [--ranked]

Of each model: the whole batch at once, in four micro-batches, and with every block computed again. Captions fill the
context, as the plan's do. A step is forward, loss, backward and fused AdamW, after two that warm up; counted is the
most that the allocator had given out at once, weights, gradients and optimiser's state included, in a process that
has nothing else there. --ranked wraps the
towers in DDP on one rank: its buckets hold all gradients throughout, as on any number of ranks, which is what a plan
is made for. On a CPU nothing counts allocations: `benchmarks/parallel.py` looks at processes there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from contender import timed
from step import EOS, SOS, Whole, batch
from torch import Tensor, nn

import diptych
from diptych.loss import ContrastiveLoss
from diptych.plan.counting import count
from diptych.plan.layout import PRECISIONS, Layout
from diptych.plan.memory import memory
from diptych.training.optim import adamw
from diptych.training.parallel import blocks_of, recomputed

MODELS = ["vit_b32", "vit_b16", "vit_l14", "rn50", "rn101", "rn50x4"]


def full(size: int, side: int, context: int) -> tuple[Tensor, Tensor]:
    images, tokens = batch(size, side)
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 49000, (size, context), generator=draw)
    tokens[:, 0], tokens[:, -1] = SOS, EOS
    return images.cuda(), tokens.cuda()


def step(name: str, layout: Layout, precision: str, ranked: bool) -> dict[str, Any]:
    """peak: bytes; seconds: of a step; plan: bytes by purpose"""
    model = diptych.create_model(name).train()
    counts = count(model, model.context_length, precision == "bf16-mixed", layout.recompute)
    model.cuda().to(memory_format=torch.channels_last)
    if layout.recompute:
        for block in blocks_of(model):
            recomputed(block)
    whole: nn.Module = Whole(model, ContrastiveLoss(tile=None), layout.micro)
    if ranked:
        whole = nn.parallel.DistributedDataParallel(whole, gradient_as_bucket_view=True)
    optimiser = adamw(model)
    images, tokens = full(layout.pairs, model.image_size, model.context_length)

    def once() -> None:
        optimiser.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = whole(images, tokens)
        loss.backward()
        optimiser.step()

    for _ in range(2):
        once()
    found = {"seconds": statistics.median(timed(once) for _ in range(3)), "peak": torch.cuda.max_memory_allocated()}
    return found | {"plan": memory(counts, layout, PRECISIONS[precision])}


ROWS = {"at once": Layout(1, 1), "4 micro-batches": Layout(1, 4, 4), "blocks again": Layout(1, 1, recompute=True)}


def one(name: str, row: str, size: int, precision: str, ranked: bool) -> None:
    """A row, in the process that has nothing else on the GPU."""
    if ranked:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        dist.init_process_group("nccl", rank=0, world_size=1)
    found = step(name, replace(ROWS[row], batch=size), precision, ranked)
    planned = sum(found["plan"].values())
    print(
        f"{name:<12}{row:<20}{found['peak'] / 1e9:9.2f}{planned / 1e9:9.2f}{planned / found['peak'] - 1:+8.1%}"
        f"{1e3 * found['seconds']:10.1f}"
    )
    if ranked:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--ranked", action="store_true", help="in DDP, on one rank")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("No GPU is to be seen here, and nothing else counts what is allocated: see benchmarks/parallel.py.")
    if given.row:
        one(given.models[0], given.row, given.batch, given.precision, given.ranked)
        return
    options = ["--batch", str(given.batch), "--precision", given.precision, *(["--ranked"] if given.ranked else [])]
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {' '.join(options)}")
    print(f"{'':<32}{'counted':>9}{'plan':>9}{'':>8}{'ms':>10}   GB", flush=True)
    for name in given.models:
        for row in ROWS:
            command = [sys.executable, __file__, name, "--row", row, *options]
            ended = subprocess.run(command, text=True, capture_output=True)
            failed = (ended.stderr.strip().splitlines() or ["no output"])[-1]
            print(ended.stdout.rstrip() or f"{name:<12}{row:<20}{failed}", flush=True)


if __name__ == "__main__":
    main()
