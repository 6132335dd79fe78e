"""Bytes that one rank sends in a step, by purpose, and how long they take.

The ideal ring (Patarasuk & Yuan 2009) sends, over W ranks: of an all-gather W - 1 times a rank's own share, of a
reduce-scatter the same, of an all-reduce both. `Backend` says which backend differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from diptych.plan.counts import Counts
from diptych.plan.layout import NCCL, Backend, Layout, Machine, Precision
from diptych.towers.text import part_of

FEATURE = 4  # bytes of a feature's element: unit length is taken in fp32, whatever the precision
STATISTIC = 4
GRADIENT = 4
BUCKET = 25 * 2**20  # bytes that DDP reduces in one call


@dataclass(frozen=True)
class Traffic:
    """What a rank sends in a step for one purpose.

    sent: bytes; ranks: of a group, each `stride` from the next; hops: one after another, of all calls
    hidden: whether it can run while the rank computes
    neighbours: whether a rank sends only to the two beside it, as the loss's ring does
    """

    name: str
    sent: float
    ranks: int
    hops: float
    stride: int = 1
    hidden: bool = True
    neighbours: bool = False


def all_gather(ranks: int, own: float) -> float:
    """own: bytes of a rank -> bytes that a rank sends"""
    return (ranks - 1) * own


def reduce_scatter(ranks: int, whole: float, backend: Backend = NCCL) -> float:
    """whole: bytes that each rank brings -> bytes that a rank sends"""
    return (ranks - 1) / ranks * whole * backend.reduce_scatter


def all_reduce(ranks: int, whole: float) -> float:
    """whole: bytes that each rank brings -> bytes that a rank sends"""
    return 2 * (ranks - 1) / ranks * whole


def traffic(counts: Counts, layout: Layout, precision: Precision, backend: Backend = NCCL) -> list[Traffic]:
    """All that a rank sends in a step, counters and norms of a few bytes aside."""
    if layout.ranks == 1:
        return []
    parts = [features(counts.embed_dim, layout, backend)]
    parts += _norms(counts, layout, backend)
    parts += _gradients(counts, layout, backend)
    if layout.shard > 1:
        parts.append(_weights(counts, layout, precision, backend))
    elif buffers := sum(tower.buffers for tower in counts.towers):
        sent = (layout.ranks - 1) / layout.ranks * buffers  # of the mean rank: the first one sends them all
        parts.append(Traffic("buffers", sent, layout.ranks, _tree(layout.ranks), hidden=False))
    return parts


def features(dimensions: int, layout: Layout, backend: Backend = NCCL) -> Traffic:
    """Of both towers, gathered, and the gradients of all ranks' features scattered back in backward.

    In the ring the texts alone go round, to W - 1 ranks, in forward and again in backward, and their gradients come
    W ranks on, home; with them two numbers a row, which a feature of some hundred dimensions hides.
    """
    ranks, own = layout.ranks, layout.pairs * dimensions * FEATURE
    if layout.ring:
        handed = 3 * ranks - 2
        return Traffic("features, in a ring", handed * own, ranks, handed, hidden=False, neighbours=True)
    sent = 2 * (all_gather(ranks, own) + reduce_scatter(ranks, ranks * own, backend))
    return Traffic("features", sent, ranks, 4 * (ranks - 1), hidden=False)


def _norms(counts: Counts, layout: Layout, backend: Backend) -> Iterator[Traffic]:
    """Batch norm gathers a mean and a variance a channel, both at once; backward scatters their gradients."""
    ranks = layout.ranks
    norms = [channels for tower in counts.towers for channels in tower.norms]
    if not norms:
        return
    own = sum(norms) * STATISTIC
    forward, backward = 2 * all_gather(ranks, own), 2 * reduce_scatter(ranks, ranks * own, backend)
    sent = layout.micro * (layout.forwards * forward + backward)
    hops = layout.micro * (layout.forwards + 1) * len(norms) * (ranks - 1)
    yield Traffic("batch norm", sent, ranks, hops, hidden=False)


def _gradients(counts: Counts, layout: Layout, backend: Backend) -> Iterator[Traffic]:
    """Once a step: over all ranks (DDP), or scattered in each group and then summed over groups."""
    whole = counts.trained * GRADIENT
    if layout.shard > 1:
        sent = reduce_scatter(layout.shard, whole, backend)
        yield Traffic("gradients, in a shard group", sent, layout.shard, _units(counts) * (layout.shard - 1))
    if layout.replicas > 1:
        share = whole / layout.shard
        calls = math.ceil(share / BUCKET) if layout.shard == 1 else _units(counts)
        name = "gradients" if layout.shard == 1 else "gradients, over replicas"
        hops = calls * _tree(layout.replicas)
        yield Traffic(name, all_reduce(layout.replicas, share), layout.replicas, hops, layout.shard)


def _weights(counts: Counts, layout: Layout, precision: Precision, backend: Backend) -> Traffic:
    """FSDP: each micro-batch gathers a block's weights on its way forward and on its way back, where a block that is
    computed again keeps them until it is done; what a tower has beside its blocks is gathered once and stays."""
    shard, whole, calls = layout.shard, 0.0, 0
    for tower, parts in ((counts.image, 1), (counts.text, _parts(layout.at_once, backend))):
        passes, blocks = 2 * layout.micro * parts, sum(tower.blocks)
        whole += (passes * blocks + tower.parameters - blocks) * precision.gathered
        calls += passes * len(tower.blocks) + 1
    return Traffic("weights", all_gather(shard, whole / shard), shard, calls * (shard - 1))


def _parts(captions: int, backend: Backend) -> int:
    """How often the text tower calls each of its blocks: it takes captions in parts, short ones with short ones."""
    return math.ceil(captions / part_of(captions, backend.device))


def _units(counts: Counts) -> int:
    """What FSDP reduces in calls of its own: every block, and the rest of each tower."""
    return sum(len(tower.blocks) + 1 for tower in counts.towers)


def _tree(ranks: int) -> int:
    """Hops of an all-reduce or broadcast up and down a tree, which NCCL takes where a ring's would be many."""
    return 2 * math.ceil(math.log2(ranks))


def seconds(part: Traffic, machine: Machine) -> float:
    """How long the wire is busy with it.

    A backend's ring leaves each node once and there are as many rings as links, so the m ranks of a group in one node
    share the m links out of it. Between neighbours two links leave a node, one in each direction, and all ranks wait
    for those.
    """
    near = max(1, min(part.ranks, machine.node // part.stride))  # ranks of the group in a node
    if near == part.ranks:
        return part.sent / machine.inside + part.hops * machine.hop_inside
    if part.neighbours:
        return part.sent / min(machine.inside, 2 * machine.between) + part.hops * machine.hop_between
    hop = machine.hop_inside * (1 - 1 / near) + machine.hop_between / near
    return part.sent / min(machine.inside, machine.between * near) + part.hops * hop
