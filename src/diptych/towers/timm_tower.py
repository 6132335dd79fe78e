"""Any image model that timm lists, as an image tower.

timm is an optional dependency (`pip install -e ".[timm]"`): it imports torchvision, which some torch builds lack.
A model's name may come from a checkpoint of someone else, so only names in timm's own list are allowed, and nothing
is downloaded.

    python -m diptych.towers.timm_tower NAME    # prints what to type for that model: its size, mean and std
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.base.terminal import say, to_type


class TimmTower(nn.Module):
    """Images [B, 3, H, W] -> features [B, embed_dim]: timm's pooled features, projected.

    name: of timm's list, with or without a tag, such as `vit_small_patch16_224.augreg_in21k_ft_in1k`; the tag only
        selects mean and std, since the weights start at random
    image_size: side in pixels; timm models of a fixed size are built for it
    mean, std: with which the weights of that tag were trained. The CLIP around the tower has its own, from its
        config; `python -m diptych.towers.timm_tower NAME` prints them

    Parameters are named as timm's are, after `trunk.`. Raises UserError where timm is missing, doesn't list the name
    or can't build the model.
    """

    def __init__(self, name: str, image_size: int, embed_dim: int) -> None:
        super().__init__()
        timm, given = _timm(), _look_up(name)
        options = {"img_size": image_size} if given["fixed_input_size"] else {}
        try:
            self.trunk = timm.create_model(name, pretrained=False, num_classes=0, **options)
        except (RuntimeError, TypeError, AssertionError, ValueError) as error:
            raise UserError(
                f"timm can't build model.image.name={name} for images of {image_size}: {error}"
            ) from error
        self.name, self.image_size, self.embed_dim = name, image_size, embed_dim
        self.mean, self.std, self.classifier = given["mean"], given["std"], given["classifier"]
        width = getattr(self.trunk, "head_hidden_size", None) or self.trunk.num_features
        self.proj = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.proj.weight, std=width**-0.5)
        self.register_load_state_dict_post_hook(_count_again)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.trunk(images))

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the number of layers above it, according to timm's own groups. timm's last group
        is a block or only the last norm; the norm counts as part of the head, like the projection."""
        groups = importlib.import_module("timm.models").group_parameters(
            self.trunk, self.trunk.group_matcher(coarse=False), reverse=True
        )
        last = max(groups.values())
        last += any(re.search(r"\.\d+\.", name) for name, group in groups.items() if group == last)
        return {f"trunk.{name}": last - group for name, group in groups.items()} | {"proj.weight": 0}


def _count_again(tower: nn.Module, _: Any) -> None:
    """Compute timm's buffers that no state dict stores (indices of windows): a tower built on "meta" lacks them."""
    for module in tower.modules():
        getattr(module, "init_non_persistent_buffers", lambda: None)()


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch fails with the latter
        raise UserError(
            f"model=timm needs the package timm with torchvision ({error}): install them with"
            ' `pip install -e ".[timm]"`, or take another model, such as model=vit_b16.'
        ) from error


def _look_up(name: str) -> dict[str, Any]:
    """timm's description of a model: image_size, fixed_input_size, mean, std, classifier."""
    timm = _timm()
    known = timm.list_models()
    if not isinstance(name, str) or name.partition(".")[0] not in known:  # so no `hf-hub:`, no path
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = (
            f"did you mean {near[0]}?" if near else "`python -c 'import timm; print(timm.list_models())'` lists them."
        )
        raise UserError(f"model.image.name={name} is not in timm's list of models: {hint}")
    try:
        cfg = importlib.import_module("timm.models").get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise UserError(
            f"timm has no description of model.image.name={name} ({error}): take another tag or model."
        ) from error
    classifier = [cfg.classifier] if isinstance(cfg.classifier, str) else list(cfg.classifier or ())
    return {
        "image_size": cfg.input_size[-1],
        "fixed_input_size": cfg.fixed_input_size,
        "mean": tuple(cfg.mean),
        "std": tuple(cfg.std),
        "classifier": tuple(classifier),
    }


def command(name: str) -> str:
    """The overrides to type to train with timm's model `name`."""
    given = _look_up(name)
    named = {"model.image.name": name, "model.image.image_size": given["image_size"]}
    pixels = {f"model.{key}": list(given[key]) for key in ("mean", "std")}
    return " ".join(["model=timm", *(to_type(key, value) for key, value in (named | pixels).items())])


if __name__ == "__main__":
    try:
        say("\n".join(command(name) for name in sys.argv[1:]) or __doc__)
    except UserError as error:
        sys.exit(f"diptych: {error}")
