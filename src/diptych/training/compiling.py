"""The towers through torch.compile, in place: names in checkpoints stay as they are."""

from __future__ import annotations

from diptych.towers.clip import CLIP


def compile_towers(model: CLIP) -> None:
    """Compile both towers of `model` when they are first called."""
    model.image.compile()
    model.text.compile(dynamic=True)
