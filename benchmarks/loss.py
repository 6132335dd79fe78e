"""Peak extra memory and time, forward and backward, of the tiled loss and the dense loss, in one run.

python benchmarks/loss.py [--loss clip|siglip] [--n 32768] [--dense 16384] [--threads 1] [--rounds 3]

The dense clip loss is tile=None, the same formula as open_clip's ClipLoss. The dense siglip loss is the formula over
one matrix, since ours has no dense version. The dense loss runs at --dense pairs. If that is below --n, its numbers
at --n are extrapolated by the square of the ratio, marked ~. Before anything is timed, gradients are compared: both
in fp32 at --dense pairs, and each with float64 at 2,048 pairs, at scales of 20 and 100.

Memory: each loss and size runs in its own process, which resets the system's peak of resident memory after the
features exist and a small loss has run. Time: rounds alternate between the losses in one process; medians, minimum
and maximum.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.loss import contrastive_loss, siglip_loss
from diptych.loss.logits import CPU_TILE

D, SMALL, SCALE = 512, 2048, 20.0
MB = 1e6


def dense_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    sign = torch.full((len(image), len(image)), -1.0, dtype=image.dtype).fill_diagonal_(1.0)
    return -F.logsigmoid(sign * (scale * image @ text.T + bias)).sum() / len(image)


LOSSES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "clip": {
        "dense": lambda *x: contrastive_loss(*x[:3], tile=None),
        "tiled": lambda *x: contrastive_loss(*x[:3], tile=CPU_TILE),
    },
    "siglip": {
        "dense": dense_siglip,
        "tiled": lambda *x: siglip_loss(*x, tile=CPU_TILE),
    },
}


def inputs(n: int, scale: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Texts that are closer to their own images than to others, but not so close that nothing is left to learn.
    Returns image, text, scale, bias."""
    draw = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(n, D, generator=draw), dim=1)
    text = F.normalize(image + 0.3 * torch.randn(n, D, generator=draw), dim=1)
    return [x.to(dtype).requires_grad_() for x in (image, text, torch.tensor(scale), torch.tensor(-10.0))]


def step(loss: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
    """Forward and backward -> the gradients, of the inputs that have one"""
    for x in values:
        x.grad = None
    loss(*values).backward()
    return [x.grad for x in values if x.grad is not None]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def status(name: str) -> int:
    """A field of the process's /proc/self/status, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def peak(loss: Callable[..., Tensor], n: int) -> int:
    """Peak bytes of a forward and backward, without the features but with the gradients."""
    step(loss, inputs(256, SCALE))  # threads and libraries allocate their memory
    values = inputs(n, SCALE)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    step(loss, values)
    return status("VmHWM") - before


def show_differences(loss: str, n: int) -> None:
    dense, tiled = LOSSES[loss]["dense"], LOSSES[loss]["tiled"]
    print("largest difference of gradients, relative to the largest of its tensor:")
    for scale in (SCALE, 100.0):
        exact = step(dense, inputs(SMALL, scale, torch.float64))
        small = [difference(step(f, inputs(SMALL, scale)), exact) for f in (dense, tiled)]
        print(
            f"  to float64, {SMALL:,} pairs, scale {scale:.0f}: dense {small[0]:.1e}, tiled {small[1]:.1e}",
            flush=True,
        )
    values = inputs(n, SCALE)
    found = difference(step(tiled, values), step(dense, values))
    print(f"  tiled to dense, {n:,} pairs, scale {SCALE:.0f}: {found:.1e}", flush=True)


def times(loss: str, sizes: dict[str, list[int]], rounds: int) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Wall seconds and CPU seconds for each loss and size, round by round."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name in sizes:
            for n in sizes[name]:
                values = inputs(n, SCALE)
                wall, own = time.perf_counter(), time.process_time()
                step(LOSSES[loss][name], values)
                spent = (time.perf_counter() - wall, time.process_time() - own)
                found.setdefault((name, n), []).append(spent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=LOSSES, default="clip")
    parser.add_argument("--n", type=int, default=32768)
    parser.add_argument("--dense", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # the process that `peak` measures
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        print(peak(LOSSES[given.loss][given.peak], given.n))
        return
    sizes = {"dense": [given.dense], "tiled": sorted({given.dense, given.n})}
    machine = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"{given.loss}, D = {D}, fp32, forward and backward; torch {torch.__version__}, {given.threads} thread(s)")
    print(f"{machine[1] if machine else 'unknown CPU'}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    show_differences(given.loss, given.dense)
    memory = {}
    for name, lengths in sizes.items():
        for n in lengths:
            command = [sys.executable, __file__, "--loss", given.loss, "--peak", name, "--n", str(n)]
            memory[name, n] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    spent = times(given.loss, sizes, given.rounds)
    print(f"{'':<7}{'pairs':>8}{'peak MB':>10}{'own s':>9}{'spread':>16}{'clock s':>9}{'spread':>16}")
    for name, n in memory:
        wall, own = zip(*spent[name, n], strict=True)
        print(f"{name:<7}{n:>8,}{memory[name, n] / MB:>10,.0f}", end="")
        for each in (own, wall):
            print(f"{statistics.median(each):>9.2f}{f'{min(each):.2f}–{max(each):.2f}':>16}", end="")
        print()
    medians = {key: [statistics.median(each) for each in zip(*spent[key], strict=True)] for key in spent}
    for n in sizes["tiled"]:
        factor, mark = (n / given.dense) ** 2, "~" if n != given.dense else ""
        less = memory["dense", given.dense] * factor / memory["tiled", n]
        wall, own = (
            a / (b * factor) for a, b in zip(medians["tiled", n], medians["dense", given.dense], strict=True)
        )
        ratios = f"memory {mark}1/{less:.0f}, own time {mark}{own:.2f}, clock {mark}{wall:.2f}"
        print(f"{n:,} pairs, tiled to dense: {ratios}")


if __name__ == "__main__":
    main()
