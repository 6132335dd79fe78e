"""Write a checkpoint in another format: `python src/convert.py checkpoint=… format=… out=…`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diptych.base.terminal import say
from diptych.building.targets import trusting


def convert(cfg: DictConfig) -> Path:
    """Write a checkpoint in another format; returns the file or folder."""
    from diptych.interop.formats import convert as converted

    arguments = {str(key): value for key, value in cfg.items() if key != "allow_targets"}
    with trusting(cfg.allow_targets):
        out = converted(**arguments)
    say(f"converted: {out}")
    return out
