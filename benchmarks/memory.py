"""Peak memory of a training step, as predicted by `src/plan.py` and as measured.

python benchmarks/memory.py [MODEL …] [--batch 256] [--precision bf16-mixed] [--ranked] [--device cuda]

Measures each model with the whole batch at once, in four micro-batches, with activation checkpointing, with half of
the patches dropped, and with an average of the weights on the CPU. Captions fill the context, as in the plan. A step
is forward, loss, backward and fused AdamW, after two warm-up steps, in a process that does nothing else. On a GPU the
peak is that of its allocator, with weights, gradients and optimiser state. On a CPU it is the peak of the process,
minus its memory before the model was made. Attention then uses the fused kernel, as on the GPU of a plan, and the
average is in the same memory and is added to the plan. --ranked wraps the towers in DDP on one rank: its buckets hold
all gradients throughout, as on any number of ranks.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from contender import Actions, Contender, timed
from step import EOS, SOS, Whole, autocast, batch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diptych.commands.create import create_model
from diptych.loss import ContrastiveLoss
from diptych.plan.counts import count
from diptych.plan.layout import PRECISIONS, Layout
from diptych.plan.step import WORD, memory
from diptych.towers import transformer
from diptych.towers.clip import CLIP
from diptych.training.optim import adamw
from diptych.training.parallel import blocks_of, recomputed

MODELS = ["vit_b32", "vit_b16", "vit_l14", "rn50", "rn101", "rn50x4"]


@dataclass(frozen=True)
class Row:
    layout: Layout
    dropout: float = 0.0  # of patches
    averaged: bool = False

    def model(self, name: str) -> CLIP:
        return create_model(name, {"image.patch_dropout": self.dropout} if self.dropout else {}).train()


ROWS = {
    "at once": Row(Layout(1, 1)),
    "4 micro-batches": Row(Layout(1, 4, 4)),
    "blocks again": Row(Layout(1, 1, recompute=True)),
    "half of the patches": Row(Layout(1, 1), dropout=0.5),
    "average on the CPU": Row(Layout(1, 1), averaged=True),
}


def full(size: int, side: int, context: int) -> tuple[Tensor, Tensor]:
    images, tokens = batch(size, side)
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 49000, (size, context), generator=draw)
    tokens[:, 0], tokens[:, -1] = SOS, EOS
    return images, tokens


def planned(row: Row, name: str, size: int, precision: str, device: str, ranked: bool) -> float:
    """Predicted bytes. For ranks, those of one rank alone in DDP, without the other rank's features."""
    ranks = 2 if ranked else 1
    model, layout = row.model(name), replace(row.layout, ranks=ranks, batch=ranks * size)
    counts = count(model, model.context_length, precision == "bf16-mixed", layout.recompute)
    average = counts.parameters * WORD if row.averaged and device == "cpu" else 0
    return sum(memory(counts, layout, PRECISIONS[precision]).values()) + average


def step(row: Row, name: str, size: int, precision: str, device: str, ranked: bool = False) -> Actions:
    model = row.model(name)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999)) if row.averaged else None
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if row.layout.recompute:
        for block in blocks_of(model):
            recomputed(block)
    whole: nn.Module = Whole(model, ContrastiveLoss(tile=None), row.layout.micro)
    if ranked:
        whole = nn.parallel.DistributedDataParallel(whole, gradient_as_bucket_view=True)
    optimiser = adamw(model)
    images, tokens = (x.to(device) for x in full(size, model.image_size, model.context_length))

    def once() -> None:
        optimiser.zero_grad()
        with autocast(precision, device):
            loss = whole(images, tokens)
        loss.backward()
        optimiser.step()
        if average is not None:
            average.update_parameters(model)

    return {"step": once}


def as_on_gpu(*of: object) -> Actions:
    """`step`, in a CPU process with the GPU's settings."""
    transformer.is_written_out = lambda query: False
    return step(*of)  # type: ignore[arg-type]


def settled() -> None:
    """Runs a first step, because what torch loads for it isn't part of a model's memory."""
    step(ROWS["at once"], "rn_tiny", 2, "bf16-mixed", "cpu")["step"]()


def on_cpu(*of: object) -> tuple[float, list[float]]:
    """Peak bytes, and the seconds of three steps."""
    with Contender(settled, as_on_gpu, *of) as process:
        seconds = [process.seconds("step") for _ in range(3)]
        return process.memory(), seconds


def on_gpu(*of: object) -> tuple[float, list[float]]:
    once: Callable[[], object] = step(*of)["step"]  # type: ignore[arg-type]
    for _ in range(2):
        once()
    torch.cuda.reset_peak_memory_stats()
    seconds = [timed(once) for _ in range(3)]
    return torch.cuda.max_memory_allocated(), seconds


def one(name: str, row: str, size: int, precision: str, device: str, ranked: bool) -> None:
    """One row of the table, from a process with nothing else on the GPU."""
    if ranked:
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    of = ROWS[row], name, size, precision, device
    held, seconds = on_cpu(*of) if device == "cpu" else on_gpu(*of, ranked)
    plan = planned(*of, ranked)
    print(
        f"{name:<10}{size:>6}  {row:<22}{held / 1e9:9.2f}{plan / 1e9:9.2f}{plan / held - 1:+8.1%}"
        f"{1e3 * statistics.median(seconds):10.1f}"
    )
    if ranked:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, nargs="+", default=[256])
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--ranked", action="store_true", help="in DDP, on one rank")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU was found: `--device cpu` measures the memory of a process.")
    if given.row:
        one(given.models[0], given.row, given.batch[0], given.precision, given.device, given.ranked)
        return
    options = ["--precision", given.precision, "--device", given.device, *(["--ranked"] if given.ranked else [])]
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}, {' '.join(options)}")
    print(f"{'':<10}{'batch':>6}  {'':<22}{'counted':>9}{'plan':>9}{'GB':>8}{'ms':>10}", flush=True)
    for name in given.models:
        for size in given.batch:
            for row, what in ROWS.items():
                if what.dropout and not hasattr(create_model(name, {}).image, "patch_dropout"):
                    continue
                command = [sys.executable, __file__, name, "--batch", str(size), "--row", row, *options]
                ended = subprocess.run(command, text=True, capture_output=True)
                failed = [line for line in ended.stderr.splitlines() if "Error" in line] or ["it said nothing"]
                print(ended.stdout.rstrip() or f"{name:<10}{size:>6}  {row:<22}{failed[-1]}", flush=True)


if __name__ == "__main__":
    main()
