"""`diptych.create_model`: a model from Python, by the name of its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.base.terminal import hydra
from diptych.building.build import check_arguments
from diptych.commands.boundary import sentence
from diptych.commands.overrides import compose_config
from diptych.commands.resolvers import register_resolvers


def create_model(name: str, overrides: dict[str, object]) -> Any:
    """The model of `conf/model/NAME.yaml`, with overrides of its keys, dotted or nested. Raises UserError for unknown
    keys, and for values that a part doesn't take."""
    from hydra.utils import instantiate

    register_resolvers()
    given = [f"model.{key}={hydra(value)}" for key, value in _dotted(overrides)]
    try:
        cfg = compose_config(ROOT / "conf", None, [f"+model={name}", *given])
        check_arguments("model", OmegaConf.to_container(cfg.model, resolve=True))
        return instantiate(cfg.model, _convert_="all")
    except Exception as error:
        text = sentence(error, ROOT / "conf", "train", [f"model={name}", *given])
        if text is None:
            raise
        raise UserError(text) from error


def _dotted(overrides: Mapping[str, object], part: str = "") -> Iterator[tuple[str, object]]:
    """The keys of nested mappings, joined with dots. Raises UserError for a value that no config can hold."""
    for name, value in overrides.items():
        key = f"{part}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{key}.")
        elif key in ("image", "text"):
            raise UserError(
                f"{key}={value!r} is no tower: give a mapping of its keys, such as {key}={{'layers': 2}}."
            )
        elif not isinstance(value, str | int | float | list | tuple | None):
            raise UserError(
                f"{key}={value!r} is a {type(value).__name__}, which no config can hold: give plain data."
            )
        else:
            yield key, value
