"""Compares the plan of a training step with measurements on this machine, then plans for 256 and 1,024 GPUs.

python benchmarks/parallel.py

First the bytes that 2 and 4 gloo ranks send in a step, counted by the kernel (TCP_INFO of each process's sockets),
and those of `diptych.plan.wire`. Then the memory of a process, and that of `diptych.plan.step`. Then only the plan,
for the paper's nine models at batch 32,768. docs/evidence/scale.md explains the numbers.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
import counted
from gloo import on_ranks

from diptych.commands.create import create_model
from diptych.loss import ContrastiveLoss, SigLIPLoss
from diptych.plan.counts import Counts, count
from diptych.plan.layout import GLOO, NCCL, PRECISIONS, Backend, Layout, Machine, arrange
from diptych.plan.step import Step, memory, step_of
from diptych.plan.table import first_to_give
from diptych.plan.wire import features, traffic
from diptych.towers.clip import CLIP
from diptych.training.accumulation import features as towers
from diptych.training.parallel import blocks_of, recomputed

SINGLE, MIXED = PRECISIONS["32-true"], PRECISIONS["bf16-mixed"]
NINE = ("rn50", "rn101", "rn50x4", "rn50x16", "rn50x64", "vit_b32", "vit_b16", "vit_l14", "vit_l14_336")
BATCH = 32_768


def cases(world: int) -> Iterator[tuple[str, counted.Case]]:
    """The cases on `world` ranks: 64 pairs each, 512 for the loss alone."""
    alone, model = Layout(world, 512 * world), Layout(world, 64 * world)
    ring = replace(alone, ring=True, tile=128)
    sharded = replace(model, shard=world)
    yield "loss alone, gathered", counted.Case(alone, loss=ContrastiveLoss(tile=None))
    yield "loss alone, in tiles round a ring", counted.Case(ring, loss=ContrastiveLoss(tile=128))
    yield "SigLIP's alone, round a ring", counted.Case(ring, loss=SigLIPLoss(tile=128))
    yield "DDP, ViT", counted.Case(model, "vit_tiny")
    yield "DDP, ViT, 4 micro-batches", counted.Case(replace(model, micro=4), "vit_tiny")
    yield "DDP, ResNet", counted.Case(model, "rn_tiny")
    yield "FSDP, ViT", counted.Case(sharded, "vit_tiny")
    yield "FSDP, ViT, 4 micro-batches", counted.Case(replace(sharded, micro=4), "vit_tiny")
    yield "FSDP, ViT, blocks computed again", counted.Case(replace(sharded, recompute=True), "vit_tiny")
    yield "FSDP, ResNet", counted.Case(sharded, "rn_tiny")
    if world == 4:
        yield "HSDP, 2 copies over 2 ranks, ViT", counted.Case(replace(model, shard=2), "vit_tiny")


def modelled(case: counted.Case, backend: Backend) -> float:
    if case.model is None:
        return features(counted.DIMENSIONS, case.layout, backend).sent
    counts = count(counted.small(case.model), counted.TOKENS, half=False)
    return sum(part.sent for part in traffic(counts, case.layout, SINGLE, backend))


def show_wire() -> None:
    print(f"MB that a rank sends in a step\n{'':<6}{'':<36}{'counted':>9}{'model':>9}{'':>8}{'on NCCL':>9}")
    for world in (2, 4):
        named = list(cases(world))
        ranks = on_ranks(world, counted.sent, [case for _, case in named])
        for (name, case), sent in zip(named, zip(*ranks, strict=True), strict=True):
            found, ours = sum(sent) / world, modelled(case, GLOO)
            columns = f"{found / 1e6:9.3f}{ours / 1e6:9.3f}{ours / found - 1:+8.1%}"
            print(f"W = {world} {name:<36}{columns}{modelled(case, NCCL) / 1e6:9.3f}", flush=True)


# Wide enough that the CPU's attention kernel stores what a GPU's stores, instead of the plain kernel.
TRIED = {
    "vit_b16": {
        "image.image_size": 160, "image.width": 512, "image.layers": 6, "text.layers": 6, "text.context_length": 96,
        "text.vocab_size": 8000,
    },
    "rn50": {
        "image.image_size": 128, "image.width": 32, "text.layers": 6, "text.width": 256, "text.context_length": 96,
        "text.vocab_size": 8000,
    },
}  # fmt: skip
PAIRS = 32


def held() -> Iterator[tuple[str, str, Layout]]:
    for name in TRIED:
        yield f"{name}, small", name, Layout(1, PAIRS)
        yield "  4 micro-batches", name, Layout(1, PAIRS, 4)
        yield "  blocks computed again", name, Layout(1, PAIRS, recompute=True)


def peak(name: str, layout: Layout) -> float:
    """Peak bytes that training steps add to this process. A small model's step ran before, because what torch loads
    for a first step doesn't count."""
    torch.set_num_threads(1)
    _train(counted.small("rn_tiny"), Layout(1, 2))
    before = _resident()
    _train(create_model(name, TRIED[name]), layout)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0 - before


def _train(model: CLIP, layout: Layout) -> None:
    """Runs two steps: the second has the optimiser's state from its start."""
    optimiser, loss = torch.optim.AdamW(model.parameters(), fused=True), ContrastiveLoss(tile=None)
    if layout.recompute:
        for block in blocks_of(model):
            recomputed(block)
    images = torch.randint(0, 256, (layout.pairs, 3, model.image_size, model.image_size), dtype=torch.uint8)
    tokens = torch.randint(1, 1998, (layout.pairs, model.context_length))
    tokens[:, -1] = 1999
    for _ in range(2):
        loss(*towers(model, images, tokens, layout.micro), model.logit_scale.exp()).backward()
        optimiser.step()
        optimiser.zero_grad()


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def show_memory() -> None:
    """Measures each in its own process, whose allocator returns freed memory."""
    print(f"\nMB of a step on one rank, fp32, batch {PAIRS}\n{'':<30}{'counted':>9}{'model':>9}{'':>8}")
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_ARENA_MAX": "1",
    }
    for title, name, layout in held():
        asked = json.dumps([name, layout.micro, layout.recompute])
        command = [sys.executable, __file__, asked]
        found = float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        model = create_model(name, TRIED[name])
        ours = sum(memory(count(model, model.context_length, False, layout.recompute), layout, SINGLE).values())
        print(f"{title:<30}{found / 1e6:9.0f}{ours / 1e6:9.0f}{ours / found - 1:+8.1%}", flush=True)


def fitting(counts: Counts, ranks: int, replicas: int | None, machine: Machine) -> Step:
    """The step with the fewest micro-batches that fit."""
    step = None
    for micro in (2**n for n in range(20)):
        if BATCH % (ranks * micro):
            break
        layout = arrange(ranks, BATCH, micro, ContrastiveLoss(), replicas)
        step = step_of(counts, layout, MIXED, machine)
        if step.held <= machine.memory:
            break
    assert step is not None
    return step


def show_plan() -> None:
    machine = Machine()
    inside, between = machine.inside / 1e9, machine.between / 1e9
    print(
        f"\nbatch {BATCH:,}, bf16-mixed, captions of 77 tokens; {machine.mfu:.0%} of {machine.flops / 1e12:.0f}",
        end=" ",
    )
    print(f"TFLOP/s; {inside:.0f} GB/s in a node of {machine.node}, {between:.0f} GB/s a rank out of it;")
    print("k: micro-batches, as few as fit; GB that a rank sends and holds; ms a step: no wire, hidden, not hidden")
    print(
        f"{'':<12}{'ranks':>6}{'':>6}{'k':>3}{'features':>9}{'norms':>7}{'grads':>7}{'weights':>8}{'held':>7}", end=""
    )
    print(f"{'none':>8}{'hidden':>8}{'not':>8}  first to give")
    for name in NINE:
        with torch.device("meta"):
            model = create_model(name, {})
        counts = count(model, 77, half=True)
        for ranks in (256, 1024):
            for title, replicas in (("DDP", None), ("FSDP", 1), ("HSDP", ranks // 8)):
                _row(name, title, fitting(counts, ranks, replicas, machine), machine)


def _row(name: str, title: str, step: Step, machine: Machine) -> None:
    sent = [sum(p.sent for p, _ in step.wire if p.name.startswith(s)) for s in ("feat", "batch", "grad", "weights")]
    gigabytes = "".join(f"{value / 1e9:>{width}.2f}" for value, width in zip(sent, (9, 7, 7, 8), strict=True))
    times = "".join(f"{1e3 * value:8.1f}" for value in (step.compute, step.seconds, step.slowest))
    layout = step.layout
    print(
        f"{name:<12}{layout.ranks:>6,}{title:>6}{layout.micro:>3}{gigabytes}{step.held / 1e9:7.1f}{times}", end="  "
    )
    print(first_to_give(step, machine), flush=True)


def main() -> None:
    if len(sys.argv) > 1:  # the process that `show_memory` measures
        name, micro, recompute = json.loads(sys.argv[1])
        print(peak(name, Layout(1, PAIRS, micro, recompute=recompute)))
        return
    show_wire()
    show_memory()
    show_plan()


if __name__ == "__main__":
    main()
