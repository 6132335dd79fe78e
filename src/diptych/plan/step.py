"""Seconds of a step: operations at a given share of the peak, and what the wire adds to them."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.plan.counting import Counts
from diptych.plan.layout import Layout, Machine, Precision
from diptych.plan.memory import memory
from diptych.plan.wire import Traffic, seconds, traffic

DAY = 86_400.0


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
