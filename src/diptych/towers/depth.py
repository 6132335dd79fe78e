"""How many layers of a tower stand above a parameter: what freezing and layer-wise learning rates go by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn


def layers_above(tower: nn.Module, blocks: Sequence[nn.Module], head: Iterable[str]) -> dict[str, int]:
    """Every parameter's name -> the layers between it and the features.

    blocks: of the tower, first to last; head: names of the tower's children and parameters behind the blocks
    0 for the head, 1 for the last block, len(blocks) for the first, one more for all before it (patches,
    positions, embeddings, stem).
    """
    above = {id(p): len(blocks) - place for place, block in enumerate(blocks) for p in block.parameters()}
    first, head = len(blocks) + 1, set(head)
    return {
        name: above.get(id(parameter), 0 if name.partition(".")[0] in head else first)
        for name, parameter in tower.named_parameters()
    }
