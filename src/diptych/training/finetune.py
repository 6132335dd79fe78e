"""Which parts of a model a run trains: all, only the last blocks of a tower, or one tower (LiT's locked image
tower)."""

from __future__ import annotations

from diptych.base.errors import UserError
from diptych.towers.clip import CLIP


def finetune(model: CLIP, image: str | int = "all", text: str | int = "all", logit_scale: bool = True) -> list[str]:
    """Choose which parts of `model` are trained, in place; returns lines for the log, none if all is trained.

    image, text: "all" of the tower; "none" of it, like the image tower of LiT (Zhai et al. 2022, "Locked-image text
        Tuning"); or n, its last n blocks and its head (the last norm, the projection, the pooling)
    logit_scale: whether the temperature is learned

    Frozen parameters get no gradient, autograd keeps nothing for them and skips their backward pass, no optimiser has
    them, and they stay in eval mode (`CLIP.train`), so batch norms keep their statistics.
    Raises UserError for more blocks than the tower has, for an unknown word, and where nothing is left to train.
    """
    above = model.layers_above()
    for tower, given in (("image", image), ("text", text)):
        layers = {key: n for key, n in above.items() if key.startswith(f"{tower}.")}
        limit = _limit(tower, given, blocks=max(layers.values(), default=1) - 1)
        for name, n in layers.items():
            model.get_parameter(name).requires_grad_(n <= limit)
    model.logit_scale.requires_grad_(bool(logit_scale))
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained, every = sum(n for n, taken in counts if taken), sum(n for n, _ in counts)
    if not trained:
        raise UserError(
            "finetune.image=none, finetune.text=none and finetune.logit_scale=false leave nothing to train: "
            "set one of the towers to all or to a number of blocks."
        )
    model.train(model.training)
    choice = f"image: {image}, text: {text}, logit_scale: {str(bool(logit_scale)).lower()}"
    return [f"{trained:,} of {every:,} parameters are trained ({choice})"] if trained < every else []


def _limit(tower: str, given: str | int, blocks: int) -> int:
    """A parameter is trained if it has at most this many layers above it; -1 for no parameter."""
    if given == "all":
        return blocks + 1
    if given == "none":
        return -1
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= blocks:
        raise UserError(
            f"finetune.{tower}={given} is invalid: take all, none, or the number of last blocks to train, at most"
            f" {blocks}."
        )
    return given
