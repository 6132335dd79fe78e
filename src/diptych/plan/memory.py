"""Bytes that one rank holds at the worst moment of a step, by purpose.

Their sum counts some twice, since in the backward pass gradients come as activations go, and leaves out what an
operation needs while it runs: `benchmarks/parallel.py` says how far off that is.
"""

from __future__ import annotations

from diptych.plan.counting import Counts
from diptych.plan.layout import Layout, Precision
from diptych.plan.wire import FEATURE

WORD = 4  # bytes of a weight, a gradient and each of AdamW's moments, in every precision
LOGITS = 4  # matrices of pairs × batch that the dense loss holds at once: both directions, and a gradient of each


def memory(counts: Counts, layout: Layout, precision: Precision) -> dict[str, float]:
    """What fills a rank; the interpreter, the allocator's gaps, workspaces and what CUDA takes for itself aside."""
    parts = {
        "weights": counts.parameters * WORD / layout.shard,
        "gradients": counts.trained * WORD / layout.shard,
        "optimiser": counts.trained * 2 * WORD / layout.shard,  # AdamW's two moments
    }
    if layout.shard > 1:
        parts["gathered weights"] = _gathered(counts, precision)
    if precision.half and (layout.shard == 1 or precision.gathered == WORD):
        parts["16-bit copies"] = _copies(counts, layout)
    parts["activations"] = layout.at_once * kept(counts, layout)
    parts["pixels"] = 3 * counts.image_size**2 * (layout.pairs + 4 * layout.at_once)  # bytes, and floats of a part
    parts |= _loss(counts, layout)
    return {name: size for name, size in parts.items() if size}


def kept(counts: Counts, layout: Layout) -> float:
    """Bytes that a pair leaves for the backward pass: of both towers, or in micro-batches of one after the other.
    A block that is computed again leaves its input, and one block at a time everything."""
    towers = [
        tower.outside + tower.inputs + tower.block if layout.recompute else tower.kept for tower in counts.towers
    ]
    if layout.micro > 1:
        return max(towers)
    return sum(towers) - (min(tower.block for tower in counts.towers) if layout.recompute else 0)


def _copies(counts: Counts, layout: Layout) -> float:
    """Of the weights that autocast wrote: backward needs them, so they are not divided by shards, and a block that is
    computed again, or a tower in micro-batches, has its own for that long."""
    if layout.recompute:
        return max((2.0 * block for tower in counts.towers for block in tower.blocks), default=0.0)
    return (max if layout.micro > 1 else sum)(tower.copies for tower in counts.towers)


def _gathered(counts: Counts, precision: Precision) -> float:
    """FSDP: the block at work and the next one, the gradient of the one before, and what is beside the blocks."""
    largest = max((block for tower in counts.towers for block in tower.blocks), default=0)
    rest = counts.parameters - sum(sum(tower.blocks) for tower in counts.towers)
    return largest * (2 * precision.gathered + WORD) + rest * (precision.gathered + WORD)


def _loss(counts: Counts, layout: Layout) -> dict[str, float]:
    """Features and their gradients, of this rank and of all, or in the ring of two blocks more; and logits."""
    row = counts.embed_dim * FEATURE
    side = layout.pairs if layout.tile is None else min(layout.tile, layout.pairs)
    if layout.ring:
        return {"features": 8 * layout.pairs * row, "logits": 2.0 * WORD * side**2}
    gathered = 4 * layout.batch * row * (layout.ranks > 1)
    return {
        "features": 4 * layout.pairs * row + gathered,
        "logits": 1.0 * LOGITS * WORD * layout.pairs * layout.batch,
    }
