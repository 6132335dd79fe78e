"""How pairs per second change with batch, caption length, picture size, towers and ranks, and with the operations.

python benchmarks/growth.py [--out docs/evidence/growth.png] [--rounds 3]

Measures a training step of ViT-B/32 in fp32, as in `step.py`, and changes one thing at a time. All captions have the
same length. Each round measures all points, so that a change of the machine's speed affects all of them. The dashed
line assumes everywhere the arithmetic speed of the series' best point: where the measured line is below it, something
other than arithmetic costs time. Ranks have one thread each and share the batch by DDP over gloo.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from contender import timed
from step import EOS, SOS, Whole, whole
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import diptych
from diptych.base.allocator import keep_freed_memory
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.training.optim import adamw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from gloo import on_ranks


@dataclass(frozen=True)
class Point:
    model: str = "vit_b32"
    batch: int = 16
    tokens: int = 20
    side: int = 224


BASE = Point()
SERIES: dict[str, dict[str, Point]] = {
    "batch": {str(n): replace(BASE, batch=n) for n in (1, 2, 4, 8, 16, 32)},
    "tokens of a caption": {str(n): replace(BASE, tokens=n) for n in (5, 10, 20, 40, 77)},
    "pixels a side": {str(n): replace(BASE, side=n) for n in (96, 128, 160, 224, 288, 352)},
    "towers": {name: replace(BASE, model=name, batch=8) for name in ("vit_b32", "rn50", "rn101", "vit_b16")},
}
RANKS = (1, 2)


def prepared(point: Point, rank: int = 0, world: int = 1) -> tuple[CLIP, Callable[[], Tensor]]:
    """A model, and its forward pass over a rank's part of the point's batch."""
    torch.manual_seed(0)
    model = diptych.create_model(point.model, image__image_size=point.side).train()
    model.to(memory_format=torch.channels_last)
    draw, share = torch.Generator().manual_seed(rank), point.batch // world
    images = torch.randint(0, 256, (share, 3, point.side, point.side), generator=draw, dtype=torch.uint8)
    tokens = torch.zeros(share, 77, dtype=torch.long)
    tokens[:, : point.tokens] = torch.randint(1, 49000, (share, point.tokens), generator=draw)
    tokens[:, 0], tokens[:, point.tokens - 1] = SOS, EOS
    step: nn.Module = Whole(model, ContrastiveLoss())
    if world > 1:
        step = nn.parallel.DistributedDataParallel(step, gradient_as_bucket_view=True)
    return model, partial(step, images, tokens)


def seconds(point: Point, rank: int = 0, world: int = 1) -> float:
    """Seconds of one step, after a warm-up step."""
    keep_freed_memory()  # as training does, on every rank
    model, forward = prepared(point, rank, world)
    optimiser = adamw(model)
    whole(forward, optimiser)
    return timed(partial(whole, forward, optimiser))


def operations(point: Point) -> float:
    _, forward = prepared(replace(point, batch=2))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return 3 * counter.get_total_flops() / 2


def on_rank(rank: int, world: int) -> float:
    return seconds(BASE, rank, world)


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """Pairs per second of every point: the median over rounds."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for series, points in SERIES.items():
            for name, point in points.items():
                times.setdefault((series, name), []).append(seconds(point))
        for world in RANKS:
            times.setdefault(("ranks of one thread", str(world)), []).append(max(on_ranks(world, on_rank)))
    found: dict[str, dict[str, float]] = {}
    for (series, name), each in times.items():
        point = SERIES[series][name] if series in SERIES else BASE
        found.setdefault(series, {})[name] = point.batch / statistics.median(each)
    return found


def by_operations(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Pairs per second of every point at the arithmetic speed of the best point of its series."""
    lines = {}
    for series, points in SERIES.items():
        need = {name: operations(point) for name, point in points.items()}
        best = max(found[series][name] * need[name] for name in points)
        lines[series] = {name: best / need[name] for name in points}
    first = found["ranks of one thread"]["1"]
    lines["ranks of one thread"] = {str(world): world * first for world in RANKS}
    return lines


def draw(found: dict[str, dict[str, float]], lines: dict[str, dict[str, float]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.9), dpi=150, layout="constrained")
    for axes, (series, points) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        axes.plot(
            list(lines[series]), list(lines[series].values()), "--", color="#aab6d3", label="by operations alone"
        )
        axes.plot(list(points), list(points.values()), "o-", color="#2f4f9e", label="measured")
        axes.set_xlabel(series)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("pairs a second")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/evidence/growth.png")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, fp32; {BASE}")
    found = measured(given.rounds)
    lines = by_operations(found)
    for series, points in found.items():
        print(f"\n{series:<22}{'pairs/s':>9}{'by operations':>15}")
        for name, rate in points.items():
            print(f"{name:<22}{rate:9.2f}{lines[series][name]:15.2f}{rate / lines[series][name]:8.0%}")
    draw(found, lines, given.out)


if __name__ == "__main__":
    main()
