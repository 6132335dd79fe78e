"""The towers through torch.compile, in place: names in checkpoints stay as they are."""

from __future__ import annotations

from diptych.towers.clip import CLIP


def compile_towers(model: CLIP) -> None:
    """Compile both towers of `model`, each when it is first called.

    The text tower reads off the tokens how long its captions are, on the host, which no graph can hold. So its blocks
    are compiled, once for captions of any length: what would otherwise be compiled anew for each is a size there.
    """
    model.image.compile()
    getattr(model.text, "transformer", model.text).compile(dynamic=True)
