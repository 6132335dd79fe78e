"""Which parts of a model a run trains: the locked image tower of LiT, the last blocks of a tower, or everything."""

from __future__ import annotations

from diptych.base.errors import UserError
from diptych.towers.clip import CLIP


def finetune(model: CLIP, image: str | int = "all", text: str | int = "all", logit_scale: bool = True) -> list[str]:
    """Choose what of `model` is trained, in place; returns what to say of it in the log, nothing for everything.

    image, text: "all" of the tower; "none" of it, as the image tower of LiT (Zhai et al. 2022, "Locked-image
        text Tuning"); or n, its last n blocks and its head (the last norm, the projection, the pooling)
    logit_scale: whether the temperature is learned

    What isn't trained takes no gradient, so autograd keeps nothing for it and its backward pass isn't run, no
    optimiser holds it, and it stays in eval mode (`CLIP.train`): batch norms keep their statistics.
    Raises UserError for more blocks than there are, an unknown word, and where nothing is left to train.
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
            "take all, or a number of blocks, for one of the towers."
        )
    model.train(model.training)
    choice = f"image: {image}, text: {text}, logit_scale: {str(bool(logit_scale)).lower()}"
    return [f"{trained:,} of {every:,} parameters are trained ({choice})"] if trained < every else []


def _limit(tower: str, given: str | int, blocks: int) -> int:
    """The most layers that may stand above a parameter which is trained; -1 for none."""
    if given == "all":
        return blocks + 1
    if given == "none":
        return -1
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= blocks:
        raise UserError(
            f"finetune.{tower}={given}: take all, none, or how many of the tower's {blocks} blocks, from the last,"
            " are trained."
        )
    return given
