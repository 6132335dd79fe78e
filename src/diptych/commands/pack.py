"""Write shards from a source: `python src/pack.py source=folder …`."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig


def pack(cfg: DictConfig) -> None:
    """Write shards and their index from a source."""
    instantiate(cfg.source, _convert_="all")
