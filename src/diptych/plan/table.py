"""A plan as text: what `src/plan.py` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diptych.base.terminal import counted
from diptych.plan.counts import Counts
from diptych.plan.layout import Layout, Machine
from diptych.plan.step import Step

SHARE = 0.1  # of a step: what the wire may cost before it is named
# What our own steps reach: the pairs a second of docs/evidence/performance.md × this plan's operations over the peak.
MEASURED = (
    "on one H200 (989 TFLOP/s at most; batch 256, bf16-mixed) this project measured 13 % on ViT-B/32, 27 % on"
    " ViT-B/16 and 14 % on RN50 (docs/evidence/performance.md)"
)


def table(counts: Counts, step: Step, curve: Sequence[Step], machine: Machine, samples: float) -> str:
    """The plan of one layout, and what other numbers of ranks would make of it."""
    return "\n".join(
        [
            describe(step.layout),
            "",
            *_model(counts),
            *_section("a rank sends in a step", _sent(step)),
            *_section("a rank holds", _held(step, machine)),
            *_section("a step takes", _time(step, machine)),
            f"\n{machine.mfu:.0%} of the peak is an assumption, and all times and costs here follow from it:",
            f"{MEASURED}.",
            "Measure a step on your machine and type machine.mfu=SHARE.",
            f"\nFirst to give: {first_to_give(step, machine)}.\n",
            *_curve(curve, machine, samples),
        ]
    )


def first_to_give(step: Step, machine: Machine) -> str:
    """What limits the layout: memory where it isn't enough, else the part of the traffic that costs most."""
    if step.held > machine.memory:
        largest = max(step.memory, key=lambda name: step.memory[name])
        return f"memory, {step.held / 1e9:.0f} of {machine.memory / 1e9:.0f} GB, most of it {largest}"
    over = max(0.0, step.hidden - step.compute)
    costs = [(time if not part.hidden else over * time / step.hidden, part.name) for part, time in step.wire]
    cost, name = max(costs, default=(0.0, ""))
    return f"{name}, {cost / step.seconds:.0%} of a step" if cost > SHARE * step.seconds else "computing"


def describe(layout: Layout) -> str:
    """A line about a layout."""
    shared = "a copy of the weights each (DDP)"
    if layout.shard > 1:
        shared = f"weights over {layout.shard:,} (FSDP)" if layout.replicas == 1 else f"over {layout.shard:,} (HSDP)"
    parts = f" in {layout.micro} micro-batches" if layout.micro > 1 else ""
    again = ", blocks computed again" if layout.recompute else ""
    loss = f"in tiles of {layout.tile or layout.pairs:,} round a ring" if layout.ring else "of gathered features"
    return (
        f"batch {layout.batch:,} on {counted(layout.ranks, 'rank')}: {counted(layout.pairs, 'pair')} each{parts},"
        f" {shared}{again};"
        f" loss {loss}"
    )


def _model(counts: Counts) -> Iterator[str]:
    image, text = counts.towers
    yield f"parameters            {counts.parameters:,} (image {image.parameters:,}, text {text.parameters:,})"
    flops = (counts.training_flops, 3 * image.flops, 3 * text.flops)
    yield "GFLOP a pair          {:,.1f} forward and backward (image {:,.1f}, text {:,.1f})".format(
        *(value / 1e9 for value in flops)
    )


def _section(title: str, lines: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield f"\n{title}"
    yield from (f"  {name:<28}{value}" for name, value in lines)


def _sent(step: Step) -> Iterator[tuple[str, str]]:
    for part, time in step.wire:
        note = "" if part.hidden else ", waited for"
        yield part.name, f"{part.sent / 1e6:10,.1f} MB  {time * 1e3:9,.2f} ms{note}"
    if not step.wire:
        yield "nothing", ""


def _held(step: Step, machine: Machine) -> Iterator[tuple[str, str]]:
    for name, size in step.memory.items():
        yield name, f"{size / 1e9:10,.2f} GB"
    yield "in all", f"{step.held / 1e9:10,.2f} GB of {machine.memory / 1e9:.0f}"


def _time(step: Step, machine: Machine) -> Iterator[tuple[str, str]]:
    share = f"at {machine.mfu:.0%} of {machine.flops / 1e12:,.0f} TFLOP/s"
    yield "computing", f"{step.compute:10.4f} s   {share}"
    yield "and the wire, hidden", f"{step.seconds:10.4f} s   where it can be: gradients and weights while computing"
    yield "and the wire, not hidden", f"{step.slowest:10.4f} s"


def _curve(curve: Sequence[Step], machine: Machine, samples: float) -> Iterator[str]:
    yield f"{samples:,.0f} pairs at batch {curve[0].layout.batch:,}, by ranks"
    heads = {
        "ranks": 8,
        "a rank": 9,
        "GB": 8,
        "s a step": 10,
        "pairs/s": 11,
        "days": 9,
        "GPU hours": 12,
        "computing": 11,
    }
    yield "".join(f"{head:>{width}}" for head, width in heads.items())
    for step in curve:
        days, ranks = step.days(samples), step.layout.ranks
        full = "" if step.held <= machine.memory else "  does not fit"
        yield (
            f"{ranks:>8,}{step.layout.pairs:>9,}{step.held / 1e9:>8.1f}{step.seconds:>10.4f}"
            f"{step.pairs_a_second:>11,.0f}{days:>9,.2f}{days * 24 * ranks:>12,.0f}"
            f"{step.compute / step.seconds:>11.0%}{full}"
        )
