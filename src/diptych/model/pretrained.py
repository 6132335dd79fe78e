"""Start training from the weights of a whole model or of one tower. Files are read as data, never executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from diptych.base.errors import UserError
from diptych.base.terminal import counted, to_type
from diptych.data.text import bpe
from diptych.interop.architecture import architecture_of
from diptych.interop.files import plain_state, read_safetensors, read_torch
from diptych.interop.formats import read
from diptych.interop.heads import NO_HINTS, Hints
from diptych.interop.weights import fit, resampled
from diptych.model.load import ready
from diptych.towers.clip import CLIP


def start_from(model: CLIP, path: str | Path, tower: str | None = None, loss: nn.Module | None = None) -> list[str]:
    """Copy the weights of a checkpoint that `diptych.load` opens into `model`; returns notes for the log.

    tower: "image" or "text" for only this tower's weights; None for all, with the logit scale. The image tower
        `TimmTower` also starts from a file of timm's weights (`.safetensors`, or a state dict of torch).
    loss: gets SigLIP's logit bias if the file of a whole model has one and the loss has the parameter
    Positions are resampled if the image size or the context length differs. Everything else must be as in the file:
    names, shapes, and what shapes don't show (activation, heads, eps, mean and std of the pixels). If the file is a
    bare state dict, which doesn't show activation and heads, those of `model` count.
    Raises UserError for what does not fit.
    """
    key = f"model.{tower}.pretrained" if tower else "model.pretrained"
    source = f"{key}={path}"
    if tower == "image" and hasattr(model.image, "trunk") and _is_plain(Path(path)):
        return _start_trunk(model, Path(path), source)
    try:
        loaded = ready(read(path, _hints(model)))
    except UserError as error:
        raise UserError(str(error).replace("checkpoint=", f"{key}=", 1)) from error
    there = loaded.model
    taken = {name: value for name, value in there.state_dict().items() if tower in (None, name.partition(".")[0])}
    taken, notes = resampled(model, taken)
    own = {} if tower is None else model.state_dict()
    kept = {name: value for name, value in own.items() if name.partition(".")[0] != tower}
    fit(model, kept | taken, source)
    model.load_state_dict(kept | taken)
    _check_settings(model, there, tower, source)
    if tower != "image":
        _check_vocabulary(model, there, source)
    if tower != "text":
        _check_pixels(model, there.mean, there.std, source)
    if tower is None:
        notes += _start_bias(loss, loaded.describe.get("logit_bias"))
    return [f"starts from {source}, {counted(len(taken), 'tensor')}", *notes]


def _hints(model: CLIP) -> Hints:
    """The activation and heads of `model`, for a bare state dict, which doesn't show them."""
    try:
        found = architecture_of(model, "open_clip")
    except UserError:  # no bare state dict fits this design: `fit` will say why
        return NO_HINTS
    return Hints(found.text_quick_gelu, found.image_heads, found.text_heads, sure=False)


def _start_bias(loss: nn.Module | None, bias: float | None) -> list[str]:
    """Copy SigLIP's bias from the file into its loss. Other losses have none: a bias doesn't change a softmax."""
    if bias is None:
        return []
    ours = getattr(loss, "logit_bias", None)
    if not isinstance(ours, nn.Parameter):
        return [f"its logit bias of {bias:g} is SigLIP's and left out: the loss of this run has none"]
    with torch.no_grad():
        ours.fill_(bias)
    return [f"the loss starts with the file's logit bias of {bias:g}"]


def _check_settings(model: CLIP, there: CLIP, tower: str | None, source: str) -> None:
    """Raises UserError for settings that shapes don't show, such as GELU and QuickGELU, if they differ."""
    theirs = {name: _settings(module) for name, module in there.named_modules()}
    for name, module in model.named_modules():
        part = name.partition(".")[0]
        if not name or (tower is not None and part != tower) or theirs.get(name) == _settings(module):
            continue
        raise UserError(
            f"{source} has {theirs.get(name, 'nothing')} at {name} and the config {_settings(module)}: "
            f"give model.{part} the file's settings."
        )


def _check_vocabulary(model: CLIP, there: CLIP, source: str) -> None:
    """Raises UserError if the ids stand for other pieces of text in the file's vocabulary."""
    ours, theirs = (None if v is None else bpe.read(v).text for v in (model.vocabulary, there.vocabulary))
    if ours != theirs:
        raise UserError(
            f"{source} was trained with another vocabulary than model.text.vocabulary={model.vocabulary}:"
            " give the file that it was trained with."
        )


def _settings(module: nn.Module) -> str:
    heads = f"{module.heads} heads" if isinstance(getattr(module, "heads", None), int) else ""
    leaf = "" if any(True for _ in module.children()) else module.extra_repr()
    return f"{type(module).__name__}({', '.join(filter(None, (heads, leaf)))})"


def _check_pixels(model: CLIP, mean: Any, std: Any, source: str) -> None:
    """Raises UserError if the weights were trained with another normalisation of the pixels."""
    for name, theirs, ours in (("mean", mean, model.mean), ("std", std, model.std)):
        if not torch.allclose(torch.tensor(theirs), torch.tensor(ours), rtol=0, atol=1e-4):
            given = to_type(f"++model.{name}", list(theirs))
            raise UserError(f"{source} was trained with another {name} of the pixels: type {given}.")


def _is_plain(path: Path) -> bool:
    return path.is_file() and path.suffix in (".safetensors", ".pth", ".pt", ".bin")


def _start_trunk(model: CLIP, path: Path, source: str) -> list[str]:
    """Copy timm's weights into the trunk, without the classifier that they were trained with."""
    tower = cast(Any, model.image)
    try:
        state = plain_state((read_safetensors if path.suffix == ".safetensors" else read_torch)(path), path)
    except UserError as error:
        raise UserError(str(error).replace("checkpoint=", "model.image.pretrained=", 1)) from error
    heads = tuple(f"{name}." for name in tower.classifier)
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    fit(tower.trunk, state, source)
    tower.trunk.load_state_dict(state)
    _check_pixels(model, tower.mean, tower.std, source)
    return [f"starts from {source}, {counted(len(state), 'tensor')} of timm's {tower.name}"]
