"""What a step takes of a rank: seconds, which are operations at a given share of the peak and what the wire adds to
them; and bytes at the worst moment, by purpose.

What the towers hold is counted in a step on the meta device (`counts`), the rest is written down here.
`benchmarks/memory.py` and `benchmarks/parallel.py` compare the sum with what allocators count.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.plan.counts import Bytes, Counts
from diptych.plan.layout import Layout, Machine, Precision
from diptych.plan.wire import FEATURE, Traffic, seconds, traffic

DAY = 86_400.0
WORD = 4  # bytes of a weight, a gradient and each of AdamW's moments, in every precision
LOGITS = 4  # matrices of pairs × batch that the dense loss holds at once: both directions, and a gradient of each


@dataclass(frozen=True)
class Step:
    """One step of a rank. compute: seconds without any wire; wire: what is sent, with the seconds of each part
    memory: bytes by purpose"""

    layout: Layout
    compute: float
    wire: list[tuple[Traffic, float]]
    memory: dict[str, float]

    @property
    def hidden(self) -> float:
        """Seconds of the wire that can pass while the rank computes."""
        return sum(time for part, time in self.wire if part.hidden)

    @property
    def waited(self) -> float:
        return sum(time for part, time in self.wire if not part.hidden)

    @property
    def seconds(self) -> float:
        """With everything hidden that can be."""
        return max(self.compute, self.hidden) + self.waited

    @property
    def slowest(self) -> float:
        """With nothing hidden."""
        return self.compute + self.hidden + self.waited

    @property
    def pairs_a_second(self) -> float:
        return self.layout.batch / self.seconds

    @property
    def held(self) -> float:
        return sum(self.memory.values())

    def days(self, samples: float) -> float:
        return samples / self.pairs_a_second / DAY


def step_of(counts: Counts, layout: Layout, precision: Precision, machine: Machine) -> Step:
    """The step of `layout` on `machine`."""
    wire = [(part, seconds(part, machine)) for part in traffic(counts, layout, precision)]
    return Step(
        layout, flops(counts, layout) / (machine.flops * machine.mfu), wire, memory(counts, layout, precision)
    )


def flops(counts: Counts, layout: Layout) -> float:
    """Operations of a rank's step: both towers, what is computed again, and the loss."""
    again = (layout.forwards - 1) * counts.forward_flops
    return layout.pairs * (counts.training_flops + again + loss_flops(counts, layout))


def loss_flops(counts: Counts, layout: Layout) -> float:
    """Of a pair: matrix products with a row of all logits; in the ring both directions share one, and it is computed
    again in backward."""
    products = 4 if layout.ring else 6
    return products * 2.0 * layout.batch * counts.embed_dim


def memory(counts: Counts, layout: Layout, precision: Precision) -> dict[str, float]:
    """What fills a rank; the interpreter, the allocator's gaps, workspaces and what CUDA takes for itself aside."""
    parts = {
        "weights": counts.parameters * WORD / layout.shard,
        "gradients": counts.trained * WORD / layout.shard,
        "optimiser": counts.trained * 2 * WORD / layout.shard,  # AdamW's two moments
    }
    if layout.shard > 1:
        parts["gathered weights"] = _gathered(counts, precision)
    parts |= _computing(counts, layout, precision)
    if layout.ranks == layout.micro == 1 and not layout.recompute:  # no buckets hold them: activations make room
        passing = parts["activations"] + parts["the block at work"]
        parts["gradients"] = max(0.0, parts["gradients"] - passing)
    parts["pixels"] = 3 * counts.image_size**2 * (layout.pairs + 4 * layout.at_once)  # bytes, and floats of a part
    parts |= _loss(counts, layout)
    return {name: size for name, size in parts.items() if size}


def _computing(counts: Counts, layout: Layout, precision: Precision) -> dict[str, float]:
    """What the towers' passes hold at the worst moment: the caption's tower goes first and is kept through the
    picture's; in micro-batches one tower is at work, and nothing of another part is kept."""
    image, text, pairs = counts.image, counts.text, layout.at_once
    behind = Bytes(0, 0) if layout.micro > 1 else text.kept
    # Micro-batches' gradients are summed on their own, and then put into DDP's buckets.
    summed = WORD if layout.micro > 1 and layout.ranks > layout.shard == 1 else 0
    moments = [
        (behind, image.forward, image.kept, 0),
        (behind, image.backward, image.kept, summed * image.trained),
        (Bytes(0, 0), text.forward, text.kept, 0),
        (Bytes(0, 0), text.backward, text.kept, summed * text.trained),
    ]

    def held(moment: tuple[Bytes, Bytes, Bytes, int]) -> float:
        before, at_most, _, sums = moment
        return before.of(pairs) + at_most.of(pairs) + sums

    before, at_most, kept, sums = max(moments, key=held)
    fixed = before.fixed + kept.fixed
    autocast = precision.half and not (layout.shard > 1 and precision.gathered < WORD)  # else shards come in 16 bits
    return {
        "16-bit copies": fixed if autocast else 0.0,
        "activations": pairs * (before.each + kept.each) + (0.0 if precision.half else fixed),
        "the block at work": at_most.of(pairs) - kept.of(pairs),
        "sums over micro-batches": float(sums),
    }


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
