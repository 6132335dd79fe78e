"""What Hydra itself writes of a command, a sweep's multirun.yaml above all: no secret is in it, nothing is lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from diptych.base.masking import masked
from diptych.base.terminal import complain


class OneSweep(Callback):
    """A sweep takes a folder of its own, as a run does: its record is not written over another's."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        record = Path(config.hydra.sweep.dir) / "multirun.yaml"
        if record.exists():
            complain(f"{record.parent} holds a sweep already: give another folder, or move that one away.")
            sys.exit(2)  # Hydra makes a warning of any other exception here


@contextmanager
def masked_records() -> Iterator[None]:
    """Whatever Hydra writes or shows of a config in here (multirun.yaml, .hydra/*.yaml, --cfg) is masked.

    It makes all of them with `OmegaConf.to_yaml`, before any code of ours runs in a job.
    """
    plain = OmegaConf.to_yaml

    def to_yaml(cfg: Any, *, resolve: bool = False, sort_keys: bool = False) -> str:
        content = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
        return plain(OmegaConf.create(masked(content)), sort_keys=sort_keys)

    OmegaConf.to_yaml = staticmethod(to_yaml)  # type: ignore[method-assign]
    try:
        yield
    finally:
        OmegaConf.to_yaml = staticmethod(plain)  # type: ignore[method-assign]
