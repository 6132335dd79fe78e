"""Start from weights that are there: a whole model's, or one tower's. Files are read as data, never executed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.base.terminal import counted, to_type
from diptych.towers.clip import CLIP
from diptych.towers.layers import resize_positions, resize_text_positions

if TYPE_CHECKING:
    from diptych.interop.heads import Hints


def start_from(model: CLIP, path: str | Path, tower: str | None = None, loss: nn.Module | None = None) -> list[str]:
    """Give `model` the weights of a checkpoint that `diptych.load` opens; returns what to say of it in the log.

    tower: "image" or "text" for that tower's weights alone; None for all, the logit scale included. The image
        tower `TimmTower` also takes a file of timm's own weights (`.safetensors`, or a state dict of torch).
    loss: gets SigLIP's logit bias, where a whole model's file has one and the loss takes one
    Positions are resampled where the image size or the context differs. Everything else must be the file's: names,
    shapes, and what shapes don't show (activation, heads, eps, mean and deviation of the pixels). Where the file is a
    bare state dict, which doesn't say activation and heads, those of `model` are taken.
    Raises UserError for what does not fit.
    """
    key = f"model.{tower}.pretrained" if tower else "model.pretrained"
    source = f"{key}={path}"
    if tower == "image" and hasattr(model.image, "trunk") and _is_plain(Path(path)):
        return _start_trunk(model, Path(path), source)
    from diptych.interop.reading import read  # here, since timm's own file needs none of what they open
    from diptych.model.load import ready

    try:
        loaded = ready(read(path, _hints(model)))
    except UserError as error:
        raise UserError(str(error).replace("checkpoint=", f"{key}=", 1)) from error
    there = loaded.model
    taken = {name: value for name, value in there.state_dict().items() if tower in (None, name.partition(".")[0])}
    taken, notes = _resampled(model, taken)
    own = {} if tower is None else model.state_dict()
    kept = {name: value for name, value in own.items() if name.partition(".")[0] != tower}
    _fit(model, kept | taken, source)
    _check_settings(model, there, tower, source)
    if tower != "image":
        _check_vocabulary(model, there, source)
    if tower != "text":
        _check_pixels(model, there.mean, there.std, source)
    if tower is None:
        notes += _start_bias(loss, loaded.describe.get("logit_bias"))
    return [f"starts from {source}, {counted(len(taken), 'tensor')}", *notes]


def _hints(model: CLIP) -> Hints:
    """What the config says of activation and heads, for a file of weights alone."""
    from diptych.interop.architecture import architecture_of
    from diptych.interop.heads import NO_HINTS, Hints

    try:
        found = architecture_of(model, "open_clip")
    except UserError:  # not a design that such a file could hold: it is refused for its names and shapes
        return NO_HINTS
    return Hints(found.text_quick, found.image_heads, found.text_heads, sure=False)


def _start_bias(loss: nn.Module | None, bias: float | None) -> list[str]:
    """SigLIP's bias from the file into its loss; another loss has no use for it: softmax takes no notice of it."""
    if bias is None:
        return []
    ours = getattr(loss, "logit_bias", None)
    if not isinstance(ours, nn.Parameter):
        return [f"its logit bias of {bias:g} is SigLIP's and left out: the loss of this run has none"]
    with torch.no_grad():
        ours.fill_(bias)
    return [f"the loss starts with the file's logit bias of {bias:g}"]


def _fit(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state`, or say in one sentence which key does not fit, and how."""
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name, shape in expected.items():
        if name not in state:
            raise UserError(f"{source} is of another model than the config's: it lacks {name}.")
        if (found := list(state[name].shape)) != shape:
            raise UserError(
                f"{source} is of another model than the config's: {name} is {found} there and {shape} here."
            )
    for name in state.keys() - expected.keys():
        raise UserError(f"{source} is of another model than the config's: it has the unknown key {name}.")
    model.load_state_dict(state)


def _resampled(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`state` with the position embeddings that `model` needs, and what was done."""
    state, notes = dict(state), []
    for name, here in model.state_dict().items():
        there = state.get(name)
        if there is None or not name.endswith("positional_embedding") or there.shape[1:] != here.shape[1:]:
            continue
        if len(there) == len(here):
            continue
        if name.startswith("text."):
            state[name] = resize_text_positions(there, len(here))
            way = "cut" if len(here) < len(there) else "resampled, linearly,"
            notes.append(f"{name} is {way} from {len(there)} to {counted(len(here), 'token')}")
            continue
        grid = cast(int, model.get_submodule(name.rpartition(".")[0]).grid)
        side = math.isqrt(max(0, len(there) - len(here) + grid**2))
        if len(there) - side**2 == len(here) - grid**2:
            state[name] = resize_positions(there, side, (grid, grid))
            notes.append(f"{name} is resampled, bicubically, from {side}×{side} to {grid}×{grid} places")
    return state, notes


def _check_settings(model: CLIP, there: CLIP, tower: str | None, source: str) -> None:
    """Refuse a model that would compute something else with these weights: no shape tells GELU from QuickGELU."""
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
    """Refuse a text tower that learned other words by the same ids."""
    from diptych.data.text import bpe

    ours, theirs = (None if v is None else bpe.read(v).text for v in (model.vocabulary, there.vocabulary))
    if ours != theirs:
        raise UserError(
            f"{source} was trained on another vocabulary than model.text.vocabulary={model.vocabulary}:"
            " give the file that it was trained with."
        )


def _settings(module: nn.Module) -> str:
    heads = f"{module.heads} heads" if isinstance(getattr(module, "heads", None), int) else ""
    leaf = "" if any(True for _ in module.children()) else module.extra_repr()
    return f"{type(module).__name__}({', '.join(filter(None, (heads, leaf)))})"


def _check_pixels(model: CLIP, mean: Any, std: Any, source: str) -> None:
    """Refuse another normalisation of the pixels than the weights were trained with."""
    for name, theirs, ours in (("mean", mean, model.mean), ("std", std, model.std)):
        if not torch.allclose(torch.tensor(theirs), torch.tensor(ours), rtol=0, atol=1e-4):
            given = to_type(f"++model.{name}", list(theirs))
            raise UserError(f"{source} was trained with another {name} of the pixels: type {given}.")


def _is_plain(path: Path) -> bool:
    return path.is_file() and path.suffix in (".safetensors", ".pth", ".pt", ".bin")


def _start_trunk(model: CLIP, path: Path, source: str) -> list[str]:
    """timm's own weights into the trunk, less the classifier that it was trained with."""
    from diptych.interop.files import plain_state, read_safetensors, read_torch

    tower = cast(Any, model.image)
    try:
        state = plain_state((read_safetensors if path.suffix == ".safetensors" else read_torch)(path), path)
    except UserError as error:
        raise UserError(str(error).replace("checkpoint=", "model.image.pretrained=", 1)) from error
    heads = tuple(f"{name}." for name in tower.classifier)
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    _fit(tower.trunk, state, source)
    _check_pixels(model, tower.mean, tower.std, source)
    return [f"starts from {source}, {counted(len(state), 'tensor')} of timm's {tower.name}"]
